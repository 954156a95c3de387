"""Losses on thumbs, kto and bco: the formulas, their weights, mismatched pairs, and steps that resume exactly."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS, bco, kto
from steer.methods.base import Candidates
from steer.rows import Row, prompt_key
from steer.training.baselines import Middle, mates
from steer.training.command import train_command
from tests.conftest import stopped

MASK = torch.tensor([[[True, True, False]], [[True, True, True]], [[True, False, False]]])
LOGPS = torch.tensor([[[-1.0, -2.0, 9.0]], [[-3.0, -1.0, -2.0]], [[-2.0, 9.0, 9.0]]])
REF = torch.tensor([[-5.0], [-5.5], [-1.0]])
GAINS = [-3.0 + 5.0, -6.0 + 5.5, -2.0 + 1.0]
WEIGHT = torch.tensor([[1.5], [-1.0], [-2.0]])
C = Candidates(MASK, torch.zeros(3, 1), REF, WEIGHT, baseline=torch.full((3,), 0.75))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_kto_is_what_the_paper_prints() -> None:
    found = kto.loss(LOGPS, C, kto.Settings(beta=0.3))[:, 0].tolist()
    good = 1.5 * (1 - sigmoid(0.3 * (GAINS[0] - 0.75)))
    bad = [w * (1 - sigmoid(0.3 * (0.75 - g))) for w, g in zip((1.0, 2.0), GAINS[1:])]
    assert found == pytest.approx([good, *bad])


def test_bco_is_what_the_paper_prints() -> None:
    found = bco.loss(LOGPS, C, bco.Settings(beta=0.3))[:, 0].tolist()
    good = -1.5 * math.log(sigmoid(0.3 * (GAINS[0] - 0.75)))
    bad = [-w * math.log(sigmoid(0.3 * (0.75 - g))) for w, g in zip((1.0, 2.0), GAINS[1:])]
    assert found == pytest.approx([good, *bad])


def row(name: str, prompt: str, reward: float) -> Row:
    turns = [{"role": "user", "content": prompt}]
    return {"id": name, "prompt": turns, "response": name, "reward": reward}


@pytest.mark.parametrize(("ups", "downs"), [(2, 6), (6, 2), (4, 4), (11, 9)])
@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_all_good_responses_weigh_ratio_times_what_all_bad_ones_do(ups: int, downs: int, ratio: float) -> None:
    rows = [row(str(i), str(i), float(i < ups)) for i in range(ups + downs)]
    weights = [g.weights[0] for g in kto.groups(rows, kto.Settings(ratio=ratio))]
    assert [w > 0 for w in weights] == [r["reward"] > 0 for r in rows]
    good, bad = sum(w for w in weights if w > 0), -sum(w for w in weights if w < 0)
    assert good / bad == pytest.approx(ratio)
    assert min(map(abs, weights)) == pytest.approx(1.0)  # only one kind is raised
    if (ups, ratio) == (11, 1.5):  # the commoner kind, for 9 bad ones of weight 1 are to weigh 1 / 1.5 of the good ones
        assert (max(weights), min(weights)) == pytest.approx((1.5 * 9 / 11, -1.0))
    plain = [g.weights[0] for g in kto.groups(rows, kto.Settings(ratio=0.0))]
    assert {abs(w) for w in plain} == {1.0}


@pytest.mark.parametrize("name", ["kto", "bco", "c-rlft", "unlikelihood"])
def test_a_response_at_the_threshold_is_good(name: str) -> None:
    given = [{"id": str(r), "reward": r, "levels": {"words": 1}} for r in (1.0, 0.0, -1.0)]
    best, middle, worst = (group.weights[0] for group in METHODS[name].groups(given, METHODS[name].settings()))
    assert best == middle > worst


def test_responses_of_one_kind_are_refused() -> None:
    rows = [row(str(i), str(i), float(i)) for i in range(4)]
    with pytest.raises(SteerError, match=r"all 4 responses are bad: change --set threshold\."):
        kto.groups(rows, kto.Settings(threshold=9.0))


def test_a_mismatched_response_is_never_one_to_the_same_prompt() -> None:
    """Of logs sorted by prompt a shift by one would give each prompt its own responses."""
    rows = [row(f"{p}{i}", p, 0.0) for p, n in (("a", 3), ("b", 2), ("c", 1)) for i in range(n)]
    found = mates(rows, rows, seed=0)
    assert sorted(m["id"] for m in found) == sorted(r["id"] for r in rows)  # each once, as in the batch
    assert all(prompt_key(m) != prompt_key(r) for m, r in zip(found, rows))
    alone = rows[:3]  # a step of one prompt borrows
    assert all(prompt_key(m) != prompt_key(r) for m, r in zip(mates(alone, rows, seed=0), alone))
    with pytest.raises(SteerError, match="all rows answer one prompt"):
        mates(alone, alone, seed=0)


class Alone:
    """What one process has of accelerate."""

    device = torch.device("cpu")

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return tensor


def test_the_middle_moves_by_a_tenth_and_does_not_see_how_many_there_are_of_a_kind() -> None:
    whole, cut = Middle(), Middle()
    whole.see(LOGPS, C)
    cut.see(LOGPS[:1], Candidates(MASK[:1], C.reward[:1], REF[:1], WEIGHT[:1]))
    cut.see(LOGPS[1:], Candidates(MASK[1:], C.reward[1:], REF[1:], WEIGHT[1:]))
    for middle in (whole, cut):
        middle.move(Alone())
        assert middle.value == pytest.approx(0.1 * (GAINS[0] + (GAINS[1] + GAINS[2]) / 2) / 2)
    whole.see(LOGPS[:1], Candidates(MASK[:1], C.reward[:1], REF[:1], WEIGHT[:1]))
    whole.move(Alone())
    assert whole.bad == cut.bad  # none of them in the second step


def config(rows: Path, model: Path, output: Path, method: str, **more: Any) -> TrainConfig:
    known: dict[str, Any] = {"lora_r": 4, "learning_rate": 1e-2, "batch_size": 8, "logging_steps": 1, "limit": 60}
    return TrainConfig(str(rows), str(model), str(output), method=method, **(known | more))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("method", ["kto", "bco"])
def test_neither_resuming_nor_micro_batches_change_a_step(
    method: str, labels: Path, base: Path, tmp_path: Path
) -> None:
    """The figure is of the whole step, and moves on from where it was."""
    whole, cut = (config(labels, base, tmp_path / n, method, max_steps=5, save_steps=2) for n in ("whole", "cut"))
    train_command(whole)
    stopped(cut, 3)
    train_command(cut)
    small = replace(whole, output=str(tmp_path / "small"), micro_batch_tokens=64, save_steps=50)
    train_command(small)
    one, two, three = (weights(tmp_path / n) for n in ("whole", "cut", "small"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.allclose(one[name], three[name], atol=2e-4) for name in one)


@pytest.mark.parametrize("method", ["kto", "bco"])
def test_the_loss_goes_down_from_where_the_policy_is_its_reference(
    method: str, labels: Path, base: Path, tmp_path: Path
) -> None:
    train_command(config(labels, base, tmp_path / "run", method, max_steps=12, eval_steps=12, set=("ratio=0",)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    first = {"kto": 0.5, "bco": math.log(2)}[method]
    assert losses[0] == pytest.approx(first, rel=1e-5)
    assert sum(losses[-4:]) / 4 < first
    assert "ref" in METHODS[method].needs
