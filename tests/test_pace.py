"""The time that a dry run foresees: all tokens that are trained on or drawn, at the speed of a few."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steer.comparison import plan
from steer.comparison.command import compare_command
from steer.config.comparison import CompareConfig
from steer.config.generation import GenerateConfig
from steer.config.iteration import IterateConfig
from steer.config.training import TrainConfig
from steer.generation import pace as drawing
from steer.generation.command import generate_command
from steer.generation.requests import Request, Response
from steer.generation.settings import Sampling
from steer.iteration.command import iterate_command
from steer.models.policy import Policy, load_policy
from steer.models.tokenization import Tokens
from steer.options import resolve
from steer.progress import duration
from steer.rows import read_rows
from steer.training import pace
from steer.training.command import train_command
from steer.training.pace import Pace
from steer.training.prepare import chosen


def planned(labels: Path, base: Path, folder: Path, **more: Any) -> dict[str, str]:
    """Lines of a dry run by their first word."""
    said = train_command(TrainConfig(str(labels), str(base), str(folder / "run"), dry_run=True, batch_size=16, **more))
    return {line.split()[0]: line for line in said.splitlines() if line.strip()}


def test_the_time_is_that_of_all_tokens_at_the_measured_speed(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "measured", lambda *_: Pace(tokens=100, forward=1.0, both=4.0))
    more: dict[str, Any] = {"attribute_dropout": 0.0, "condition_dropout": 0.0, "max_steps": 30}
    lines = planned(labels, base, tmp_path, **more)
    tokens, groups = (int(lines[name].split()[1].replace(",", "")) for name in ("tokens", "rows"))
    seconds = tokens / groups * 16 * 30 * 4.0 / 100
    assert f"about {duration(seconds)} for the steps, at 25 tokens/s: measured" in lines["time"]
    lines = planned(labels, base, tmp_path, method="dpo", max_steps=30)
    tokens = int(lines["tokens"].split()[1].replace(",", ""))
    assert f"{duration(tokens / 100)} before them for log-probs of the starting policy" in lines["time"]


@pytest.mark.parametrize(
    "more", [{"method": "dpo"}, {"method": "quark"}, {"adapter": "none"}, {"method": "pro"}, {"plain_layout": True}]
)
def test_one_pass_is_measured_for_every_kind_of_batch(
    more: dict[str, Any], labels: Path, base: Path, tmp_path: Path
) -> None:
    assert "measured on one forward and backward pass of" in planned(labels, base, tmp_path, **more)["time"]


def test_fresh_responses_are_not_foreseen(labels: Path, base: Path, tmp_path: Path) -> None:
    more = {"method": "remax", "scorer": "data_recipes.world_text:Gold"}
    assert "not estimated: fresh responses" in planned(labels, base, tmp_path, **more)["time"]


def asked(count: int) -> list[Request]:
    return [
        Request({"id": f"p{i}", "prompt": [{"role": "user", "content": f"tell me {i}."}]}, {}) for i in range(count)
    ]


def test_drawing_is_measured_by_the_first_token_and_some_later_ones(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(drawing.time, "monotonic", lambda: now)

    def engine(_: Policy, requests: Any, sampling: Sampling) -> list[Response]:
        """Takes 0.5 s for each prompt and 0.25 s for each token after the first; one response ends at once."""
        nonlocal now
        lengths = [1, *[sampling.max_new_tokens] * (len(requests) - 1)]
        now += sum(0.5 + 0.25 * (length - 1) for length in lengths)
        return [Response("", False, tuple(range(length))) for length in lengths]

    found = drawing.measured(policy, asked(9), Sampling(batch_size=4), engine)
    assert found == drawing.Pace(4, 1 + 3 * (1 + drawing.LATER), 0.5, 0.25)
    assert found.seconds(100, 41) == pytest.approx(100 * (0.5 + 40 * 0.25))
    said = found.foreseen(100, 41)
    assert said.startswith(f"up to about {duration(1050)} to draw 100 responses of at most 41 tokens, at 4 tokens/s: ")
    monkeypatch.setattr(
        drawing, "READ", 1
    )  # one prompt is more than can be read quickly: it is read for all of a batch
    assert drawing.measured(policy, asked(9), Sampling(batch_size=4), engine) == found


def test_later_tokens_are_measured_in_batches_as_large_as_those_in_earnest(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(drawing.time, "monotonic", lambda: now)
    monkeypatch.setattr(drawing, "READ", 30)

    def engine(_: Policy, requests: Any, sampling: Sampling) -> list[Response]:
        """Takes 0.5 s for each different prompt, and 0.25 s for a token of all responses together."""
        nonlocal now
        now += 0.5 * len({r.row["id"] for r in requests}) + 0.25 * (sampling.max_new_tokens - 1)
        return [Response("", False, tuple(range(sampling.max_new_tokens))) for _ in requests]

    found = drawing.measured(policy, asked(9), Sampling(batch_size=8), engine)
    assert found == drawing.Pace(8, 8 * (1 + drawing.LATER), 0.5, 0.25 / 8)


def test_generate_foresees_its_responses(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more: dict[str, Any] = {"prompt": ("tell me about bees.", "hello."), "n": 3, "best_of": 2, "max_new_tokens": 20}
    more |= {"output": str(tmp_path / "out"), "scorer": "data_recipes.world_text:Gold"}
    config = GenerateConfig(str(trained), dry_run=True, target=("best", "verbosity=0"), **more)
    assert "tokens/s: measured on " in generate_command(config)
    monkeypatch.setattr(
        "steer.generation.command.measured", lambda *_: drawing.Pace(responses=2, tokens=18, first=1.0, later=0.5)
    )
    lines = generate_command(config).splitlines()
    assert lines[0] == f"Plan: 2 prompts x 2 targets x 3, each the best of 2, from {trained}; nothing is written."
    seconds = 2 * 2 * 3 * 2 * (1.0 + 19 * 0.5)
    assert lines[1].startswith(f"time        up to about {duration(seconds)} to draw 24 responses of at most 20 tokens")
    assert lines[1].endswith("; scoring comes on top.")
    assert "tell me about bees." in "".join(lines[3:])  # as the policy reads it
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "sizes"),
    [
        ({"pool": "last", "n": 2}, [20, 20, 20]),
        ({"pool": "rounds"}, [10, 20, 30]),
        ({"log_share": 0.5}, [110, 120, 130]),
        ({"method": "raft", "n": 2}, [20, 20, 20]),  # which the logs alone, with one response a prompt, can show too
    ],
)
def test_iterate_foresees_draws_and_trainings(
    more: dict[str, Any],
    sizes: list[int],
    labels: Path,
    base: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "measured", lambda *_: Pace(tokens=100, forward=1.0, both=4.0))
    monkeypatch.setattr(
        "steer.iteration.plan.measured", lambda *_: drawing.Pace(responses=2, tokens=18, first=1.0, later=0.5)
    )
    train = tmp_path / "train.yaml"
    train.write_text(
        "limit: 200\nnum_train_epochs: 2\nbatch_size: 16\nadapter: none\nattribute_dropout: 0\ncondition_dropout: 0\n"
    )
    where = (str(labels), str(base), "data_recipes.world_text:Gold", str(tmp_path / "out"), str(trained))
    config = IterateConfig(
        *where, rounds=3, prompts_per_round=10, watch=5, max_new_tokens=20, train=str(train), dry_run=True, **more
    )
    lines = {line.split()[0]: line for line in iterate_command(config).splitlines()}
    draws = (10 * config.n) * 3 + 5 * 4
    assert f"up to about {duration(draws * (1.0 + 19 * 0.5))} to draw {draws} responses" in lines["drawing"]
    assert lines["rows"].endswith(", ".join(map(str, sizes)))
    alone = planned(
        labels, base, tmp_path, limit=200, num_train_epochs=2.0, adapter="none", attribute_dropout=0.0,
        condition_dropout=0.0, method=config.method or "conditional",
    )  # fmt: skip
    tokens, rows, steps = (int(alone[name].split()[1].replace(",", "")) for name in ("tokens", "rows", "steps"))
    seconds = tokens / rows * 16 * steps * 4.0 / 100 * sum(sizes) / rows
    assert lines["training"].startswith(f"training    up to about {duration(seconds)}: measured on")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_without_a_folder_names_none(
    labels: Path, base: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)  # the folder where one is, which holds something else, is not that of the run
    shared: dict[str, Any] = {
        "model": str(base),
        "scorer": "data_recipes.world_text:Gold",
        "rows": str(labels),
        "dry_run": True,
    }
    few: dict[str, Any] = {"num_prompts": 4, "max_new_tokens": 4, "max_steps": 2, "method": ("mle",)}
    rounds: dict[str, Any] = {"policy": str(trained), "prompts_per_round": 4, "watch": 4, "max_new_tokens": 4}
    prompt: dict[str, Any] = {
        "policy": str(trained),
        "prompt": ("hello.",),
        "max_new_tokens": 4,
        "num_proc": 2,
        "dry_run": True,
    }
    for said in (
        train_command(resolve(TrainConfig, shared | {"max_steps": 2})),
        iterate_command(resolve(IterateConfig, shared | rounds)),
        compare_command(resolve(CompareConfig, shared | few)),
        generate_command(resolve(GenerateConfig, prompt)),
    ):
        assert "othing " in said
        assert os.devnull not in said
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_compare_foresees_every_run(labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "measured", lambda *_: Pace(tokens=100, forward=1.0, both=4.0))
    monkeypatch.setattr(
        "steer.generation.pace.measured", lambda *_: drawing.Pace(responses=2, tokens=18, first=1.0, later=0.5)
    )
    train = tmp_path / "train.yaml"
    train.write_text("max_steps: 20\nbatch_size: 4\nlimit: 100\n")
    clock = iter([10.0, 10.25])
    monkeypatch.setattr(plan, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    methods = ("prompted", "mle", "dpo", "kto", "remax", "raft:rounds=2,n=4,prompts_per_round=10")
    config = CompareConfig(
        str(labels), str(base), str(tmp_path / "out"), method=methods, gold="data_recipes.world_text:Gold",
        num_prompts=6, grid=0, seeds=2, max_new_tokens=20, train=str(train), dry_run=True,
    )  # fmt: skip
    lines = compare_command(config).splitlines()
    mean = int(planned(labels, base, tmp_path, method="mle", limit=100)["tokens"].split()[1].replace(",", "")) / 100
    rows = [row for row in read_rows(labels) if row["split"] == "train"][:100]
    tokens = Tokens(rows, load_policy(str(base)).tokenizer)
    prompt = sum(len(tokens.prefix(row)) for row in rows) / 100
    draw, loading = 1.0 + 19 * 0.5, 0.25
    answer = draw + 2 * (prompt + 20) * 1.0 / 100  # read by the policy and by its base
    method, own = chosen("dpo", ())
    pairs = min(20 * 4, len(method.groups(rows, own)))
    step = 4 * mean / 100  # forward
    times = {
        "prompted": 6 * answer,
        "mle": 6 * answer + 20 * step * 4.0 + 2 * loading,
        "dpo": 6 * answer + 20 * 2 * step * 4.0 + pairs * 2 * mean / 100 + 2 * loading,
        "kto": 6 * answer + 20 * step * 4.0 + (20 + 2 * 20) * step + 2 * loading,
        "remax": 6 * answer,
        "raft:rounds=2,n=4,prompts_per_round=10": 6 * answer + 80 * draw + 2 * 20 * 4 * step * 4.0 + 3 * loading,
    }
    for line, (name, seconds) in zip(lines[1:-2], times.items()):
        assert line.startswith(f"  {name}: ")
        ending = "the time of its fresh responses is not estimated: they end where the policy ends them"
        assert line.endswith(ending if name == "remax" else f"; up to about {duration(seconds)}"), line
    whole = 2 * (6 * answer + sum(times.values()))
    assert lines[-2].startswith(f"Time: up to about {duration(whole)} with one run at a time; remax as far as known (")
    assert not (tmp_path / "out").exists()
