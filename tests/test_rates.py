"""The learning rate of a run that names none: a share by method, less for all weights, said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steer.config.iteration import IterateConfig
from steer.config.training import TrainConfig
from steer.iteration.iterate import training_of
from steer.methods import METHODS, likelihood_rate, peak_rate
from steer.models.policy import load_policy
from steer.run_folder import read_json
from steer.training.command import train_command


@pytest.mark.parametrize(
    ("method", "adapter", "rate"),
    [
        ("mle", "lora", 2e-4),
        ("conditional", "qlora", 2e-4),
        ("conditional", "none", 2e-5),
        ("dpo", "lora", 0.05 * 2e-4),  # published for adapters: 5e-6 to 5e-5
        ("dpo", "none", 0.05 * 2e-5),  # published for all weights: 5e-7 to 5e-6
        ("rso", "lora", 0.05 * 2e-4),
        ("reward-augmented", "lora", 0.05 * 2e-4),
        ("quark", "none", 3e-6),  # AlpacaFarm's
        ("steerlm2", "lora", 0.1 * 2e-4),
        ("ppo", "lora", 0.25 * 2e-4),
        ("unlikelihood", "lora", 0.25 * 2e-4),
    ],
)
def test_a_run_without_a_rate_takes_the_share_of_its_method(method: str, adapter: str, rate: float) -> None:
    assert peak_rate(method, likelihood_rate(adapter, 4096)) == pytest.approx(rate)


def test_preference_and_on_policy_methods_train_slower_than_likelihood() -> None:
    slow = {name for name, m in METHODS.items() if m.rate < 1}
    likelihood = {"mle", "filtered", "rwr", "awr", "raft", "rejection", "expert-iteration", "conditional"}
    assert {"dpo", "ipo", "rso", "slic", "contrastive", "reward-augmented", "remax", "rloo", "ppo", "grpo"} <= slow
    assert not slow & likelihood


def test_the_rate_that_was_chosen_is_said_and_kept(
    labels: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    width = load_policy(str(base), device="meta").width
    whole = likelihood_rate("lora", width)
    rate = 0.05 * whole
    assert whole > 2e-4
    more: dict[str, Any] = {"method": "dpo", "lora_r": 4, "max_steps": 1, "limit": 40}
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "own"), **more))
    [line] = [x for x in capsys.readouterr().err.splitlines() if "learning rate" in x]
    assert line == (
        f"steer: learning rate {rate:g}: likelihood methods train adapters of a base of width {width} at {whole:g}, "
        "of which dpo takes 0.05 (--learning-rate sets another)."
    )
    assert read_json(tmp_path / "own" / "done.json")["learning_rate"] == pytest.approx(rate)
    assert (
        read_json(tmp_path / "own" / "config.json")["learning_rate"] is None
    )  # rounds by another method have their own
    planned = train_command(TrainConfig(str(labels), str(base), str(tmp_path / "plan"), dry_run=True, **more))
    assert line.removeprefix("steer: ").removesuffix(".") in planned
    capsys.readouterr()
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "given"), learning_rate=3e-3, **more))
    assert "learning rate" not in capsys.readouterr().err
    assert read_json(tmp_path / "given" / "done.json")["learning_rate"] == 3e-3


def test_rounds_by_another_method_say_whose_rate_they_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"learning_rate": 4e-3, "method": "mle"}))
    config = IterateConfig("rows", "model", "words", "out", method="dpo", n=2, train=str(file))
    assert training_of(config.rows, config.model, "", config).learning_rate == 4e-3
    said = capsys.readouterr().err
    assert "learning rate 0.004 is what" in said
    assert "says for mle; dpo wants about 0.05 of what suits likelihood methods" in said
    file.write_text(json.dumps({"learning_rate": None, "method": "mle"}))
    assert training_of(config.rows, config.model, "", config).learning_rate is None
    assert not capsys.readouterr().err
