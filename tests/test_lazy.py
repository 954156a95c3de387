"""Many rows in training: in files that processes share, with the batches and losses of rows in memory."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from steer import cache
from steer.addresses import fetched
from steer.comparison.comparison import Comparison
from steer.comparison.runs import permuted
from steer.comparison.tuning import on_training_rows
from steer.config.comparison import CompareConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.generate import Generation, prompts_in
from steer.generation.requests import Request, Response
from steer.generation.settings import GenerateSettings, Sampling
from steer.iteration.rounds import Rounds
from steer.iteration.settings import IterateSettings
from steer.methods import METHODS
from steer.models import token_store
from steer.models.policy import load_policy
from steer.models.tokenization import Tokens
from steer.rows import Row, lazy, read_rows, write_rows
from steer.rows.labelled import Labelled
from steer.rows.lazy import LazyRow, LazyRows, batches_of
from steer.rows.schema import Schema
from steer.run_folder import files_in, rows_fingerprint
from steer.training.command import train_command
from steer.training.prepare import Hashes
from steer.training.settings import TrainSettings
from steer.training.train import prepare


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """However few rows there are, they are stored; returns the cache."""
    monkeypatch.setattr(lazy, "LARGE", 0)
    monkeypatch.setattr(token_store, "MANY", 0)
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_stored_row_reads_as_the_row(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "AT_ONCE", 7)
    rows: list[Any] = read_rows(labels)[:20]
    rows[3] = {**rows[3], "note": "half \ud83d", "tools": [{"a": None}]}
    kept: Any = LazyRows(list(batches_of(rows)))
    assert isinstance(kept[5], LazyRow)
    assert list(kept) == rows
    assert [{**row} for row in kept[2:-1]] == rows[2:-1]
    assert kept[-1]["prompt"] == rows[-1]["prompt"]
    changed, same = kept[4] | {"levels": {}, "more": 1}, rows[4] | {"levels": {}, "more": 1}
    assert (changed, kept[4]) == (same, rows[4])
    assert changed | {"more": 2} == same | {"more": 2}
    assert ("more" in changed, "more" in kept[4], kept[4].get("more")) == (True, False, None)


def test_a_stored_row_is_written_and_sent_as_the_row(labels: Path, tmp_path: Path) -> None:
    rows: list[Any] = read_rows(labels)[:20]
    rows[3] = {"response": "first", **rows[3], "tools": [{"a": None}], "note": 1}
    kept: Any = LazyRows(list(batches_of(rows)))
    changed = {"note": 2, "split": "test"}
    write_rows((row | changed for row in rows), tmp_path / "held.jsonl")
    write_rows((row | changed for row in kept), tmp_path / "stored.jsonl")
    assert (tmp_path / "stored.jsonl").read_bytes() == (tmp_path / "held.jsonl").read_bytes()
    assert [list(row) for row in kept] == [list(row) for row in rows]
    sent = pickle.loads(pickle.dumps(kept[3]))
    assert (type(sent), sent) == (dict, rows[3])


CASES: dict[str, dict[str, Any]] = {
    "conditional": {"eval_steps": 2, "truncate": "response", "max_length": 60},
    "decision-transformer": {"method": "conditional", "template": "decision-transformer"},
    "dpo": {"set": ("pairing=all",)},
    "gedi": {},
    "coh": {},
    "quark": {"truncate": "response", "max_length": 20},
    "kto": {},
    "grpo": {"scorer": "data_recipes.world_text:Gold", "max_new_tokens": 6},
}


@pytest.mark.parametrize("case", CASES)
def test_training_is_the_same_to_the_bit(
    case: str, labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: Path
) -> None:
    settings: dict[str, Any] = {"method": case, "max_steps": 3, "limit": 60, "batch_size": 8} | CASES[case]

    def trained(name: str) -> list[Any]:
        train_command(TrainConfig(str(labels), str(base), str(tmp_path / name), **settings))
        steps = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        timed = ("seconds", "tokens_per_second", "time")
        figures = [{n: v for n, v in step.items() if not n.startswith(timed)} for step in steps]
        return [figures, (tmp_path / name / "adapter_model.safetensors").read_bytes()]

    there = trained("stored")
    assert len([*on_disk.glob("rows/*/batches.arrow")]) == 1
    assert len([*on_disk.glob("tokens/*/batches.arrow")]) == (2 if "eval_steps" in settings else 1)
    with monkeypatch.context() as patch:
        patch.setattr(Tokens, "_batches", None)  # nothing is tokenised again
        patch.setattr(lazy, "batches_of", None)
        assert trained("again") == there
    monkeypatch.undo()
    assert trained("held") == there


def many(root: Path, count: int) -> Path:
    """Write so many rows with 2,400 bytes of text, each with a prompt of its own, as a stage does."""
    folder, split = root / str(count), {"split": "train", "scores": {}, "levels": {}}
    text = {"response": "bees give honey. " * 25, "note": "x" * 2000}
    asked = [[{"role": "user", "content": f"tell me about {i} bees."}] for i in range(count)]
    write_rows(({"id": f"row {i}", "prompt": asked[i], **text, **split} for i in range(count)), folder / "rows.jsonl")
    (folder / "done.json").write_text('{"summary": ""}')
    return folder


def rounds_on(rows: Path, base: Path) -> Rounds:
    training = TrainConfig(str(rows), str(base), "-")
    schema = Labelled.without_rows(rows).schema
    return Rounds(
        rows=str(rows),
        model=str(base),
        scorer="",
        root=rows,
        settings=IterateSettings(),
        training=training,
        schema=schema,
        scorers={},
        key="",
    )


def compared_on(rows: Path, base: Path, output: Path) -> Comparison:
    gold = "data_recipes.world_text:Gold"
    return Comparison(CompareConfig(str(rows), str(base), str(output), gold=gold, max_steps=1, tune_prompts=6), output)


def of_rounds(rows: Path, base: Path) -> list[Sequence[Row]]:
    rounds = rounds_on(rows, base)
    return [rounds.labelled.rows, rounds.logs, rounds.prompts("train")]


def of_a_comparison(rows: Path, base: Path) -> list[Sequence[Row]]:
    comparison = compared_on(rows, base, rows / "out")
    return [comparison.labelled.rows, comparison.logs, comparison.examination.rows]


@pytest.mark.parametrize("rows_of", [of_rounds, of_a_comparison])
def test_rounds_and_comparisons_hold_places_of_rows_and_no_texts(
    rows_of: Callable[[Path, Path], list[Sequence[Row]]],
    labels: Path,
    base: Path,
    tmp_path: Path,
    on_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lazy, "WINDOW", 50)
    held = []
    for count in (300, 1500):
        folder = many(tmp_path, count)
        Schema.load(labels / "schema.json").save(folder / "schema.json")
        tracemalloc.start()
        before = pyarrow.total_allocated_bytes()
        lists = rows_of(folder, base)
        held.append(tracemalloc.get_traced_memory()[0] + pyarrow.total_allocated_bytes() - before)
        tracemalloc.stop()
        assert [len(rows) for rows in lists] == [count] * 3
        del lists
    assert (held[1] - held[0]) / 1200 < 600  # bytes; a row has 2,400 of text


def test_rounds_and_comparisons_read_and_write_the_same_rows(
    labels: Path, base: Path, tmp_path: Path, on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str) -> list[Any]:
        rounds, comparison = rounds_on(labels, base), compared_on(labels, base, tmp_path / name)
        written = [Path(permuted(comparison)), Path(on_training_rows(comparison).config.rows)]
        trained = [Labelled.of(folder, rows_fingerprint(str(folder))).rows for folder in written]
        assert [isinstance(rows, LazyRows) for rows in trained] == [name == "stored"] * 2
        read = [rounds.logs, rounds.prompts("train"), rounds.prompts("test", 5), comparison.logs]
        assert {isinstance(row, LazyRow) for rows in read for row in rows} == {name == "stored"}
        return [read, comparison.labelled.content, *((folder / "rows.jsonl").read_bytes() for folder in written)]

    there = made("stored")
    monkeypatch.undo()
    assert made("held") == there


def test_a_process_holds_places_of_rows_and_no_texts(
    base: Path, tmp_path: Path, on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "WINDOW", 50)
    held = []
    for count in (300, 1500):
        folder, options = many(tmp_path, count), TrainSettings()
        tracemalloc.start()
        before = pyarrow.total_allocated_bytes()
        labelled = Labelled.of(folder, rows_fingerprint(str(folder)))
        training = prepare(labelled, str(base), "mle", options, Hashes.of(str(base), ""))
        held.append(tracemalloc.get_traced_memory()[0] + pyarrow.total_allocated_bytes() - before)
        tracemalloc.stop()
        assert len(training.loop.plan.groups) == count
        del training, labelled
    assert (held[1] - held[0]) / 1200 < 600  # bytes; a row has 2,400 of text


def test_what_answers_prompts_holds_places_of_them_and_one_part_of_what_it_drew(
    base: Path, tmp_path: Path, on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WINDOW", "AT_ONCE"):
        monkeypatch.setattr(lazy, name, 50)
    policy: Any = load_policy(str(base))

    def echo(policy: Any, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        return [Response(request.row["prompt"][-1]["content"], True) for request in requests]

    held = []
    for count in (100, 300, 1500):  # the first imports and compiles
        folder, settings = many(tmp_path, count), GenerateSettings(n=2, shard_size=50)
        tracemalloc.start()
        before = pyarrow.total_allocated_bytes()
        rows = prompts_in(folder, settings, rows_fingerprint(str(folder)))
        generation = replace(Generation.of(policy, rows, settings, None), engine=echo)
        written = generation.written(tmp_path / f"drawn-{count}", files=3)
        held.append(tracemalloc.get_traced_memory()[1] + pyarrow.total_allocated_bytes() - before)
        tracemalloc.stop()
        assert (written.good, written.empty, written.cut) == (2 * count, 0, 0)
        assert len(read_rows(tmp_path / f"drawn-{count}")) == 2 * count
        del rows, generation, written
    assert (held[2] - held[1]) / 1200 < 600  # bytes at most at any time, for a row of 2,400 of text and two responses


def test_prompts_from_disk_are_answered_alike(base: Path, tmp_path: Path, on_disk: Path) -> None:
    folder, settings = many(tmp_path, 30), GenerateSettings()
    stored = prompts_in(folder, settings, rows_fingerprint(str(folder)))
    assert {isinstance(row, LazyRow) for row in stored} == {True}
    assert stored == prompts_in(folder, settings)


def refuse_locks(monkeypatch: pytest.MonkeyPatch, *, all_of_them: bool) -> None:
    """Refuse all locks, or keep those of folders from nobody, as NFS does: from no other machine."""
    fcntl = pytest.importorskip("fcntl")
    lock = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if all_of_them:
            raise OSError(errno.ENOLCK, "No locks available")
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            lock(descriptor, how)

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize("nfs", [False, True])
def test_one_process_writes_and_the_others_wait(on_disk: Path, nfs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if nfs:
        refuse_locks(monkeypatch, all_of_them=False)
    began, calls, found = threading.Barrier(2), [], []

    def batches() -> Iterator[Any]:
        calls.append(1)
        yield pyarrow.record_batch({"a": pyarrow.array([1, 2])})

    def want() -> None:
        began.wait()
        found.append([batch.to_pylist() for batch in cache.shared("tokens", "key", batches)])

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[[{"a": 1}, {"a": 2}]]] * 2
    assert len(calls) == 1
    assert files_in(on_disk) == [on_disk / "tokens" / "key" / "batches.arrow"], "a lock is no content"


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_cache_whose_file_system_refuses_locks_is_written_all_the_same(
    on_disk: Path,
    all_of_them: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse_locks(monkeypatch, all_of_them=all_of_them)
    batch = pyarrow.record_batch({"a": pyarrow.array([1])})
    assert cache.shared("tokens", "key", lambda: [batch]) == cache.shared("tokens", "key", list) == [batch]
    assert capsys.readouterr().err == ""
    (tmp_path / "log.jsonl").write_text("{}\n")
    assert Path(fetched(f"file://{tmp_path}/log.jsonl")).read_text() == "{}\n"


def test_what_fails_leaves_nothing_behind(on_disk: Path) -> None:
    def broken() -> Iterator[Any]:
        yield pyarrow.record_batch({"a": pyarrow.array([1])})
        raise SteerError("no")

    with pytest.raises(SteerError):
        cache.shared("tokens", "key", broken)
    assert not files_in(on_disk)


def test_a_cache_that_cannot_be_written_is_said(on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_disk.write_text("a file")
    batch = pyarrow.record_batch({"a": pyarrow.array([1])})
    assert cache.shared("tokens", "key", lambda: [batch]) == [batch]
    assert "tokens are held in memory" in capsys.readouterr().err


def test_what_nobody_used_for_a_month_goes(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pyarrow.record_batch({"a": pyarrow.array([1])})
    cache.shared("tokens", "old", lambda: [batch])
    monkeypatch.setattr(cache, "MONTH", -3600.0)
    kept = cache.shared("tokens", "old", list)
    assert kept == [batch], "what is used stays"
    cache.shared("tokens", "new", lambda: [batch])
    assert {path.name for path in (on_disk / "tokens").iterdir()} == {"new"}


def test_other_rows_templates_or_ends_are_tokenised_by_themselves(tiny: Path, on_disk: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    row: dict[str, Any] = {
        "id": "a",
        "prompt": [{"role": "user", "content": "tell me about bees."}],
        "response": "bees.",
    }
    Tokens([row], tokenizer)
    for rows, more in (([row], {}), ([row | {"unread": 1}], {})):
        Tokens(rows, tokenizer, **more)
    assert len([*on_disk.glob("tokens/*")]) == 1
    others: list[tuple[list[Any], dict[str, Any]]] = [
        ([row | {"response": "honey."}], {}),
        ([row | {"finished": False}], {}),
        ([row], {"template": "words"}),
        ([row], {"thinking": "keep"}),
        ([row, row], {}),
    ]
    for number, (rows, more) in enumerate(others, start=2):
        tokens = Tokens(rows, tokenizer, **more)
        assert len([*on_disk.glob("tokens/*")]) == number
        assert tokens.length(rows[0]) > 1
    tokenizer.chat_template = "{# other #}" + tokenizer.chat_template
    Tokens([row], tokenizer)
    assert len([*on_disk.glob("tokens/*")]) == len(others) + 2


def test_methods_read_stored_rows(labels: Path) -> None:
    rows = read_rows(labels)
    kept: Any = LazyRows(list(batches_of(rows)))
    tried = 0
    for method in METHODS.values():
        try:
            groups = method.groups(rows, method.settings())
        except SteerError:
            continue
        tried += 1
        assert method.groups(list(kept), method.settings()) == groups
    assert tried > 20
