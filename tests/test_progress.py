"""Progress: lines in a log with the time left, the first one soon; a bar on a terminal."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from conftest import until

from attribute_models import progress as lines
from steer.progress import duration, note, progress


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Standard error of a log, where lines come at once and often."""
    log = io.StringIO()
    for name, seconds in {"FIRST": 0.0, "EVERY": 0.01, "BEAT": 0.001}.items():
        monkeypatch.setattr(lines, name, seconds)
    monkeypatch.setattr(lines, "sys", SimpleNamespace(stderr=log))  # pytest sets that of sys
    yield log
    until(lambda: not lines._BEATING.is_set())


def test_a_line_says_what_is_done_and_how_long_the_rest_takes_at_this_rate() -> None:
    step = progress(total=400, what="train", unit="steps")
    step.began = step.updated = 1000.0
    assert step.line(1004) == "train: the first of 400 steps is running, 4 s so far"
    step.resume(100)  # steps of an earlier run took no time in this one
    assert step.line(1004) == "train: the first of 300 steps is running, 4 s so far"
    step.update(50)
    step.updated = 1100.0  # 2 s a step, 250 steps left
    step.tell("loss 2.100")
    assert step.line(1110) == "train: 150 of 400 steps in 1 min 50 s, 8 min 10 s left, loss 2.100"
    late = step.line(1700)
    assert (
        late
        == "train: 150 of 400 steps in 11 min 40 s, the one that runs takes longer than those before it, loss 2.100"
    )
    assert 2.0 * 250 - 10 == 8 * 60 + 10


def test_steps_of_unknown_length_show_the_time_so_far() -> None:
    load, read = progress(what="load model", unit=""), progress(iter("ab"), what="read rows")
    load.began = read.began = 0.0
    assert load.line(65) == "load model: 1 min 5 s so far"
    read.update(1200)
    assert read.line(65) == "read rows: 1,200 rows in 1 min 5 s"
    assert [duration(s) for s in (-1, 59.4, 3600, 90061)] == ["0 s", "59 s", "1 h 0 min", "25 h 1 min"]


def test_the_first_line_does_not_wait_for_the_first_unit(soon: io.StringIO) -> None:
    with progress(total=3, what="draw", unit="responses") as step:
        until(lambda: "draw: the first of 3 responses is running" in soon.getvalue())
        step.update()
        until(lambda: "draw: 1 of 3 responses in " in soon.getvalue())
        note("a row was dropped.")
    assert "\r" not in soon.getvalue()
    assert all(line.startswith(("draw: ", "steer: a row was dropped.")) for line in soon.getvalue().splitlines())


def test_a_step_inside_one_of_the_same_name_counts_towards_it(soon: io.StringIO) -> None:
    with progress(total=4, what="score") as whole:
        assert list(progress("ab", what="score")) == ["a", "b"]
        whole.reach(2)
        assert whole.n == 2
        whole.reach(4)
        assert whole.n == 4


def test_a_step_that_was_left_by_an_error_is_not_shown_any_more(soon: io.StringIO) -> None:
    step = progress(total=2, what="broken").open()
    until(lambda: "broken" in soon.getvalue())
    del step
    gc.collect()
    until(lambda: not lines._BEATING.is_set())


def test_a_terminal_has_a_bar_that_disappears(soon: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soon, "isatty", lambda: True, raising=False)
    with progress(total=3, what="train", unit="steps") as step:
        step.update()
        step.tell("loss 2.100")
        until(lambda: "1/3" in soon.getvalue() and "loss 2.100" in soon.getvalue())
        note("said above the bar")
    assert "steer: said above the bar\n" in soon.getvalue()
    assert soon.getvalue().rpartition("\r")[2].strip() == ""


def test_a_worker_shows_nothing(soon: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with progress(total=3, what="train", unit="steps") as step:
        step.update()
        assert not lines._OPEN
