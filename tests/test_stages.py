"""A likelihood stage in front of conditioned methods: what is trained is what two trainings by hand give."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steer.comparison import runs
from steer.comparison.command import compare_command
from steer.comparison.comparison import Comparison
from steer.comparison.entry import Entry
from steer.comparison.plan import planned
from steer.comparison.tuning import phases
from steer.config.comparison import CompareConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS, peak_rate
from steer.models.card import Card
from steer.models.policy import load_policy
from steer.run_folder import read_json, write_json
from steer.training.command import train_command

GOLD = "data_recipes.world_text:Gold"
RATE = 1e-3
HOW: dict[str, Any] = {"max_steps": 2, "lora_r": 4, "batch_size": 4, "logging_steps": 1, "warmup_steps": 0}
ENTRIES = (
    "quark:after=mle,rounds=1,prompts_per_round=9",
    "binary-reward-conditioning:after=mle",
    "raft:after=mle,rounds=1,n=4,prompts_per_round=10",
)


def config(labels: Path, model: Path, folder: Path, **more: Any) -> CompareConfig:
    write_json(folder / "train.json", {**HOW, "learning_rate": RATE, **more.pop("train", {})})
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 4, "grid": 0, "max_new_tokens": 60, "resamples": 20}
    how |= {"train": str(folder / "train.json"), "method": ENTRIES} | more
    return CompareConfig(str(labels), str(model), str(folder / "out"), **how)


def losses(policy: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (policy / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(labels: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    how = config(labels, trained / "model", tmp_path_factory.mktemp("stages"))
    compare_command(how)
    return Path(how.output)


@pytest.fixture(scope="module")
def unconditioned(labels: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of mle."""
    out = tmp_path_factory.mktemp("unconditioned") / "mle"
    how = {**HOW, "learning_rate": RATE, "max_new_tokens": 60}
    train_command(TrainConfig(str(labels), str(trained / "model"), str(out), "mle", **how))
    return out


@pytest.mark.parametrize("method", ["quark", "binary-reward-conditioning"])
def test_a_stage_before_a_conditioned_method_is_two_trainings_by_hand(
    method: str, done: Path, unconditioned: Path, labels: Path, trained: Path, tmp_path: Path
) -> None:
    assert losses(done / "runs" / "mle-seed0" / "policy") == losses(unconditioned)
    how: dict[str, Any] = {**HOW, "learning_rate": peak_rate(method, RATE), "init": str(unconditioned)}
    how |= {"max_new_tokens": 60}
    train_command(TrainConfig(str(labels), str(trained / "model"), str(tmp_path / "second"), method, **how))
    found = losses(done / "runs" / f"{method}-after=mle-seed0" / "policy")
    assert found == losses(tmp_path / "second")
    how |= {"init": "", "output": str(tmp_path / "alone")}
    train_command(TrainConfig(str(labels), str(trained / "model"), method=method, **how))
    assert found != losses(tmp_path / "alone"), "a start from the base would be another one"


def test_every_round_starts_from_the_stage_and_its_steps_are_counted(done: Path) -> None:
    report = read_json(done / "report.json")
    assert report["failures"] == []
    steps = {s["name"].split(" @ ")[0]: s["steps"] for s in report["systems"]}
    assert [steps[name] for name in ENTRIES] == [3 * 2, 2 * 2, 2 * 2], "mle, quark on the logs, its round; mle and one"
    stage = str(done / "runs" / "mle-seed0" / "policy")
    rounds = [*done.glob("runs/*/round-1-*/policy/config.json")]
    assert len(rounds) == 2
    assert {read_json(path)["init"] for path in rounds} == {stage}
    (answers,) = done.glob("runs/quark-after=mle-seed0/round-1-*/fresh.jsonl")
    assert all(json.loads(line)["asked"] for line in answers.read_text().splitlines()), "asked of what reads targets"


def test_every_conditioned_method_but_one_takes_a_stage_that_reads_no_condition() -> None:
    refused = []
    for name, method in METHODS.items():
        try:
            entry = Entry.of(f"{name}:after=mle")
        except SteerError as error:
            refused.append((name, str(error)))
            continue
        assert entry.stage == Entry.of("mle")
        assert entry.front == (entry.start if method.conditioned and entry.iterate else entry.stage)
    ((name, told),) = refused
    assert name == "steerlm2"
    assert "weighs what the policy in front drew at targets, and after=mle reads none. Use after=conditional." in told


def test_a_stage_is_tuned_first_and_counted_once_for_rounds() -> None:
    quark = Entry.of("quark:after=mle,rounds=3")
    assert (quark.front, quark.start.front, quark.trainings) == (quark.start, Entry.of("mle"), 5)
    assert Entry.of("quark:rounds=3").trainings == 4
    assert Entry.of("steerlm2").trainings == 2
    assert [[e.spec for e in phase] for phase in phases([quark])] == [["mle"], ["quark:after=mle"]]


def test_a_plan_counts_the_stage_and_the_training_on_the_logs_before_the_rounds(
    labels: Path, tiny: Path, tmp_path: Path
) -> None:
    how = config(labels, tiny, tmp_path, tune=2, tune_prompts=6)
    specs = ("quark:after=mle,rounds=2", "coh:after=mle", "steerlm2", "directional:after=mle")
    text = planned(Comparison(how, tmp_path), {Entry.of(s): "" for s in specs})
    assert [line.split(": ")[-1].split(" steps")[0] for line in text.splitlines()[1:5]] == ["8", "4", "4", "4"]
    assert "would fail" not in text, "what a round draws is not looked for in the logs"
    assert "2 learning rates for 6 methods, 24 steps" in text  # mle, conditional, and each of the four once


def test_a_stage_of_entries_with_rounds_is_trained_before_its_runs_start(
    labels: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two processes would train it at the same time in one folder."""
    seen: list[str] = []

    def submit(work: Callable[..., Any], *inputs: Any) -> Future[Any]:
        entries = inputs[2] if isinstance(inputs[2], list) else [inputs[2]]
        seen.append(f"{work.__name__} {' '.join(e.spec for e in entries)}")
        future: Future[Any] = Future()
        future.set_result([])
        return future

    monkeypatch.setattr(runs, "processes", lambda number: nullcontext(SimpleNamespace(submit=submit)))
    specs = ("quark:after=mle", "conditional:after=mle,rounds=1", "mle")
    shared = Comparison(config(labels, tiny, tmp_path, num_proc=2), tmp_path)
    runs._in_processes(shared, [(Entry.of(spec), 0) for spec in specs])
    assert seen[0] == "_train_front mle"
    assert {*seen[1:]} == {f"_runs_in_process {spec}" for spec in (Entry.of(s).spec for s in specs)}


@pytest.mark.parametrize("tokens", ["text", "special"])
def test_a_policy_that_reads_no_condition_learns_to_from_where_it_stands(
    tokens: str, unconditioned: Path, labels: Path, trained: Path, tmp_path: Path
) -> None:
    how: dict[str, Any] = {**HOW, "condition_tokens": tokens, "learning_rate": 1e-12}
    model = str(trained / "model")
    train_command(TrainConfig(str(labels), model, str(tmp_path / "on"), init=str(unconditioned), **how))
    train_command(TrainConfig(str(labels), model, str(tmp_path / "fresh"), **how))
    on, fresh, before = (
        dict(load_policy(str(f)).model.named_parameters()) for f in (tmp_path / "on", tmp_path / "fresh", unconditioned)
    )
    adapters = [name for name in on if "lora_" in name]
    assert adapters
    assert any(not torch.equal(on[name], fresh[name]) for name in adapters)
    for name in adapters:
        torch.testing.assert_close(on[name], before[name], atol=1e-9, rtol=0)
    levels = [name for name in on if "trainable_tokens" in name]
    assert bool(levels) == (tokens == "special")
    for name in levels:  # they are new, so they begin where they would without --init
        torch.testing.assert_close(on[name], fresh[name], atol=1e-9, rtol=0)
    how |= {"condition_tokens": "text", "template": "tags", "init": str(unconditioned)}
    with pytest.raises(SteerError, match="reads conditions of nothing as text; this run would have helpfulness"):
        train_command(TrainConfig(str(labels), model, str(tmp_path / "other"), "steerlm2", **how))  # weighs its draws


def test_all_weights_go_on_from_all_weights(labels: Path, tiny: Path, tmp_path: Path) -> None:
    how = config(labels, tiny, tmp_path, method=("conditional:after=mle",), train={"adapter": "none", "lora_r": 32})
    compare_command(how)
    policy = Path(how.output) / "runs" / "conditional-after=mle-seed0" / "policy"
    stage = str(Path(how.output) / "runs" / "mle-seed0" / "policy")
    assert (read_json(policy / "config.json")["model"], Card.load(policy).base) == (stage, stage)
    assert read_json(Path(how.output) / "report.json")["failures"] == []
