"""Rounds as a knob of a comparison: one loop for all their numbers, counted in the budget, resumed, failing alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steer.comparison.command import compare_command
from steer.comparison.comparison import Comparison
from steer.comparison.entry import Entry, cost, swept, unique
from steer.comparison.tuning import tried
from steer.config.comparison import CompareConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.iteration.settings import IterateSettings
from steer.methods import METHODS as FIELD
from steer.rows import prompt_key, read_back, read_rows
from steer.run_folder import read_json
from steer.settings import explained

GOLD = "data_recipes.world_text:Gold"
STEPS, TOKENS = 3, 60
METHODS = ("conditional:rounds=1,prompts_per_round=9", "conditional", "raft:rounds=2/1,n=4,prompts_per_round=10")


def config(labels: Path, trained: Path, folder: Path, **more: Any) -> CompareConfig:
    settings = folder / "train.yaml"
    settings.write_text(f"max_steps: {STEPS}\nlora_r: 4\n")  # which leaves the length of responses to compare
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 6, "grid": 0, "max_new_tokens": TOKENS, "train": str(settings)}
    how |= {"method": METHODS, "resamples": 20, "output": str(folder / "out")}
    return CompareConfig(str(labels), str(trained / "model"), **(how | more))


@pytest.fixture(scope="module")
def done(labels: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareConfig:
    how = config(labels, trained, tmp_path_factory.mktemp("rounds"))
    compare_command(how)
    return how


def test_one_loop_serves_all_numbers_of_rounds(done: CompareConfig, labels: Path) -> None:
    out = Path(done.output)
    report = read_json(out / "report.json")
    assert report["failures"] == []
    systems = {s["name"]: s for s in report["systems"]}
    one, two = systems["raft:rounds=1,n=4,prompts_per_round=10"], systems["raft:rounds=2,n=4,prompts_per_round=10"]
    plain, again = systems["conditional @ best"], systems["conditional:rounds=1,prompts_per_round=9 @ best"]
    found = sorted(p.parent.relative_to(out / "runs").as_posix() for p in out.glob("runs/*/*/took.json"))
    assert [f.rpartition("-")[0] for f in found] == [
        "conditional-seed0/round-1",
        "raft-seed0/round-1",
        "raft-seed0/round-2",
    ]
    assert [s["steps"] for s in (one, two, plain, again)] == [STEPS, 2 * STEPS, STEPS, 2 * STEPS]
    assert [s["drawn"] for s in (one, two, plain, again)] == [40, 80, 0, 9]
    assert [s["drawn_tokens"] for s in (one, two)] == [40 * TOKENS, 80 * TOKENS]
    fresh = [len(read_rows(out / "runs" / f / "fresh.jsonl")) for f in found]
    assert [again["scored"], one["scored"], two["scored"] - one["scored"]] == fresh
    assert one["family"] == two["family"]
    several = {f["name"] for f in report["frontiers"]["families"] if f["points"] > 1}
    assert several == {"raft", "conditional @ best"}
    assert {"base", "raft"} <= {f["name"] for f in report["frontiers"]["families"]}
    test = {prompt_key(row) for row in read_rows(labels) if row["split"] == "test"}
    assert all(prompt_key(row) not in test for f in found for row in read_rows(out / "runs" / f / "fresh.jsonl"))
    asked = [[r["prompt"] for r in read_back(p)] for p in sorted(out.glob("runs/*/answers-*/answers.jsonl"))]
    assert len(asked) == 4
    assert all(prompts == asked[0] for prompts in asked)
    assert "Every round, and every stage in front" in report["notes"][-1]


def test_a_killed_comparison_keeps_the_rounds_it_has_and_ends_the_same(done: CompareConfig) -> None:
    out = Path(done.output)
    before = read_json(out / "report.json")["systems"]
    (out / "done.json").unlink()
    (last,) = out.glob("runs/raft-seed0/round-2-*")
    (first,) = out.glob("runs/raft-seed0/round-1-*")  # killed between its training and this file
    for path in (
        first / "took.json",
        last / "took.json",
        last / "policy" / "done.json",
        *out.glob("runs/raft-rounds=2*/*/answers.jsonl"),
    ):
        path.unlink()
    kept = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/round-1-*/policy/done.json")}
    compare_command(done)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert len(kept) == 2
    assert read_json(first / "took.json")["seconds"] >= read_json(first / "policy" / "done.json")["seconds"]
    assert read_json(out / "report.json")["systems"] == before


@pytest.mark.slow  # two processes that import torch
def test_rounds_of_one_loop_do_not_meet_in_two_processes(done: CompareConfig, tmp_path: Path) -> None:
    compare_command(replace(done, num_proc=2, output=str(tmp_path / "out")))
    one, two = (read_json(Path(p) / "report.json")["systems"] for p in (done.output, tmp_path / "out"))
    assert two == one


def test_rounds_that_fail_or_cost_too_much_lose_nobody_else(labels: Path, trained: Path, tmp_path: Path) -> None:
    methods = ("raft:rounds=1,n=2,prompts_per_round=5", "raft:rounds=3,n=9,prompts_per_round=5", "mle")
    how = config(labels, trained, tmp_path, method=methods, budget_calls=100)
    Path(how.train).write_text("max_steps: 1\nlora_r: 2\nmax_new_tokens: 1\n")
    said = compare_command(how)
    report = read_json(Path(how.output) / "report.json")
    lost = {f["name"]: f["error"] for f in report["failures"]}
    assert lost.pop("raft:rounds=3,n=9,prompts_per_round=5") == (
        "over budget: training takes up to 135 scorer calls, and 100 are allowed."
    )
    ((name, error),) = lost.items()
    assert name == "raft:rounds=1,n=2,prompts_per_round=5, seed 0"
    assert "none of the 10 responses can be used" in error
    assert "mle" in {s["name"] for s in report["systems"]}
    assert "1 run failed and 1 method skipped" in said


@pytest.mark.parametrize("method", ["bond", "rebel", "rest-em", "spin", "sppo"])
def test_what_has_to_be_drawn_is_drawn_in_two_rounds_where_none_are_named(method: str) -> None:
    draws = {"spin": 1, "rebel": 2, "sppo": 5}.get(method, 8)  # as in the papers of these three
    assert Entry.of(method).iterate == IterateSettings(rounds=2, n=draws)
    assert Entry.of(f"{method}:after=mle,n=4").iterate == IterateSettings(rounds=2, n=4)
    assert Entry.of(f"{method}:rounds=3").iterate == IterateSettings(rounds=3, n=draws)
    trial = tried(Entry.of(f"{method}:after=mle,prompts_per_round=9"))  # tuned where it can train: in a round
    assert trial == Entry.of(f"{method}:after=mle,prompts_per_round=9,rounds=1")
    assert trial == tried(Entry.of(f"{method}:after=mle,prompts_per_round=9,rounds=3"))
    assert Entry.of("rso").iterate is None, "the logs stand for its draws"


def test_folders_of_rounds_keep_their_names(done: CompareConfig) -> None:
    key = hashlib.blake2b(b"4:10:base:2", digest_size=4).hexdigest()  # since a comparison has rounds
    assert [p.name for p in Path(done.output).glob("runs/raft-seed0/round-2-*")] == [f"round-2-{key}"]


def test_rounds_are_read_from_the_entry() -> None:
    assert Entry.of("raft:rounds=2").iterate == IterateSettings(
        rounds=2, n=8
    )  # one of eight, where something must be chosen
    assert Entry.of("dpo:rounds=1").iterate == IterateSettings(rounds=1, n=8)
    assert Entry.of("conditional:rounds=1").iterate == IterateSettings(rounds=1, n=1)
    one, two = swept("rwr:rounds=1/2,beta=0.5,n=4")
    assert one.start.spec == two.start.spec == "rwr:beta=0.5"
    assert one.start.iterate is None
    assert cost(two, TrainConfig("rows", "model", "out", max_new_tokens=10), 5000) == (8000, 80000, 8000)
    assert len(unique(("raft:rounds=1/2", "raft"))) == 3
    for spec, told in (
        ("raft:n=4", "there is no rounds="),
        ("raft:rounds=0", "rounds 0: wanted 1 or more"),
        ("raft:rounds=1.5", "is not a whole number"),
        ("mle:best_of=nan", "best_of=nan: wanted a whole number of 1 or more"),
        ("mle:best_of=inf", "best_of=inf: wanted a whole number"),
        ("mle:best_of=4/4.7", r"best_of=4\.7: wanted a whole number"),
        ("mle:best_of=0", "best_of=0: wanted a whole number"),
        ("mle:best_of=4,best_of=16", "best_of is given twice"),
        ("prompted:guidance=nan", "guidance=nan: wanted a number of 0 or more"),
        ("mle:rate=-1", "rate=-1: wanted a number above 0"),
        ("mle:learning_rate=nan", "learning_rate=nan: wanted a number above 0"),
        ("raft:rounds=1,n=1", "Raise n, to 8"),
        ("bond:rounds=2,start_from=base", "'bond' compares with the policy that drew, so every round starts from that"),
        ("steerlm2:start_from=base", "'steerlm2' compares with the policy that drew"),
        ("remax:rounds=2", "draws fresh responses at every step by itself"),
    ):
        with pytest.raises(SteerError, match=told):
            swept(spec)


@pytest.mark.parametrize("name", [name for name, method in FIELD.items() if not method.on_policy])
def test_every_method_may_go_round_and_draws_several_where_it_compares_them(name: str) -> None:
    """Those that were marked as never drawing went round all the same, with one response where dpo had eight."""
    iterate = Entry.of(f"{name}:rounds=1").iterate
    assert iterate is not None
    alone = FIELD[name].rows in ("any", "rewards", "levels", "levels and rewards", "logs and draws")
    assert iterate.n == {"rebel": 2, "sppo": 5}.get(name, 1 if alone else 8)


@pytest.mark.parametrize("name", FIELD)
def test_no_setting_of_a_method_has_a_name_that_entries_take_for_themselves(name: str) -> None:
    """`bond:n=4` set the draws of a round, and its own `n` stayed at 16."""
    for setting, default, *_ in explained(FIELD[name].settings):
        [entry] = swept(f"{name}:{setting}={default}")
        assert entry.settings == (f"{setting}={default}",)


def test_draws_and_target_of_bond_are_two_knobs() -> None:
    few, many = swept("bond:target_n=4,n=16/64")
    assert [e.iterate and e.iterate.n for e in (few, many)] == [16, 64]
    assert few.settings == many.settings == ("target_n=4",)


def test_rounds_that_read_how_likely_draws_are_are_skipped_at_another_temperature(
    labels: Path, trained: Path, tmp_path: Path
) -> None:
    how = config(labels, trained, tmp_path, method=("bond", "steerlm2", "rebel", "remax"), temperature=0.7)
    for name, wanted in (("bond", "skip"), ("steerlm2", "skip"), ("rebel", ""), ("remax", "")):
        reason = Comparison(how, tmp_path).refusal(Entry.of(name))
        assert reason[:4] == wanted
        assert not wanted or reason.endswith("at temperature 1. Leave temperature out.")
        assert Comparison(replace(how, temperature=1.0), tmp_path).refusal(Entry.of(name)) == ""


def test_spin_plays_its_two_rounds_where_none_are_named(labels: Path, trained: Path, tmp_path: Path) -> None:
    how = config(labels, trained, tmp_path, method=("spin:prompts_per_round=5",))
    compare_command(how)
    report = read_json(Path(how.output) / "report.json")
    assert report["failures"] == []
    [spin] = [system for system in report["systems"] if system["method"] == "spin"]
    assert (spin["steps"], spin["drawn"]) == (2 * STEPS, 2 * 5 * 1)
