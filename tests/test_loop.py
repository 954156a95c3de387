"""The steps of the loop: schedule, learning, references, and a clear stop where the loss is no number."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS
from steer.methods.base import Candidates, Method, gains, summed
from steer.methods.groups import singles
from steer.models.policy import load_policy
from steer.models.tokenization import Tokens
from steer.rows import read_rows, write_rows
from steer.training.command import train_command
from steer.training.loop import learning_rate

FAST: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 3e-3, "batch_size": 16, "max_steps": 6}


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    return TrainConfig(str(labels), str(base), str(output), **FAST | more)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("warmup", [0.25, 5.0])
@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_learning_rate_rises_and_falls_as_its_name_says(shape: str, warmup: float) -> None:
    c = TrainConfig("", "", "", learning_rate=0.5, warmup_steps=warmup, lr_scheduler_type=shape)
    rates = [learning_rate(step, 20, c) for step in range(20)]
    assert rates[:5] == pytest.approx([0.5 * k / 6 for k in range(1, 6)])
    falls = {"constant": lambda x: 1.0, "linear": lambda x: 1 - x, "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2}
    assert rates[5:] == pytest.approx([0.5 * falls[shape](k / 15) for k in range(15)])
    assert all(r > 0 for r in rates)


def test_eight_rows_are_learned_by_heart(labels: Path, base: Path, tmp_path: Path) -> None:
    more = {"limit": 8, "batch_size": 8, "max_steps": 120, "logging_steps": 1, "learning_rate": 1e-2, "adapter": "none"}
    train_command(config(labels, base, tmp_path, attribute_dropout=0.0, condition_dropout=0.0, **more))
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert losses[-1] < 0.2 * losses[0]


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(labels: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=r"^step 2: the loss is nan .* in rows world:1:\d+, .* Lower --learning-rate"):
        train_command(config(labels, base, tmp_path, learning_rate=1e30, warmup_steps=0.0, save_steps=1))
    assert (tmp_path / "checkpoint-1" / "state.json").is_file()
    assert not (tmp_path / "done.json").exists()
    assert not (tmp_path / "adapter_model.safetensors").exists()


@dataclass(frozen=True)
class Settings:
    """What the methods defined here have: nothing."""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a loss a method on single rows, whose name it returns."""

    def add(loss: Callable[..., Tensor], per: str, **more: Any) -> str:
        made = Method(groups=lambda rows, settings: singles(rows), loss=loss, settings=Settings, per=per, **more)
        monkeypatch.setitem(METHODS, loss.__name__, made)
        return loss.__name__

    return add


def test_the_row_that_spoils_the_loss_is_named(labels: Path, base: Path, tmp_path: Path, registered: Any) -> None:
    def divided(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
        return -summed(logps, c.mask) / c.reward

    rows = [{**r, "reward": float(r["id"] != "world:1:5")} for r in read_rows(labels)][:16]
    write_rows(rows, tmp_path / "rows.jsonl")
    more = {"method": registered(divided, "response"), "micro_batch_tokens": 1, "held_out": 0.0}
    setup = config(tmp_path / "rows.jsonl", base, tmp_path / "run", **more)
    with pytest.raises(SteerError, match=r"step 1: the loss is inf .* in rows world:1:5\. "):
        train_command(setup)


def test_reference_log_probs_are_those_of_the_base(labels: Path, base: Path, tmp_path: Path, registered: Any) -> None:
    def of_reference(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
        assert c.ref is not None
        return gains(logps, c).square() - c.ref

    more = {"batch_size": 400, "max_steps": 1, "micro_batch_tokens": 700}
    train_command(config(labels, base, tmp_path, method=registered(of_reference, "response", needs={"ref"}), **more))
    policy = load_policy(str(base))
    rows = [r for r in read_rows(labels) if r["split"] == "train"]
    tokens, total = Tokens(rows, policy.tokenizer), 0.0
    for r in rows:
        prefix, response = tokens.sequence(r)
        with torch.no_grad():
            logps = policy.model(torch.tensor([prefix + response])).logits[0].log_softmax(-1)
        total -= float(logps[len(prefix) - 1 : -1].gather(1, torch.tensor(response)[:, None]).sum())
    # At the start the policy is the reference, so the gap adds nothing.
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(total / len(rows), rel=1e-5)


def test_references_stay_when_a_run_is_resumed(labels: Path, base: Path, tmp_path: Path, registered: Any) -> None:
    calls = 0

    def margin(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return gains(logps, c).square() - summed(logps, c.mask)

    more = {"method": registered(margin, "response", needs={"ref"}), "save_steps": 1, "micro_batch_tokens": 100_000}
    setup = config(labels, base, tmp_path / "broken", **more)
    with pytest.raises(KeyboardInterrupt):
        train_command(setup)
    train_command(setup)
    train_command(replace(setup, output=str(tmp_path / "whole")))
    assert calls == 4 + 1 + 2 + 6
    broken, whole = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("broken", "whole"))
    assert broken.keys() == whole.keys()
    assert all(torch.equal(broken[name], whole[name]) for name in whole)
