"""quark: likelihood conditioned on levels, the divergence from the base and the entropy over the whole vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import quark
from steer.methods.base import Candidates
from steer.models.log_probs import ResponseLogps
from steer.training.command import train_command
from tests.conftest import mean
from tests.test_policy import batch, model_of


def test_the_loss_adds_divergence_and_takes_off_entropy_per_token() -> None:
    logps = torch.tensor([[[-1.0, -2.0]], [[-4.0, 9.0]]])
    mask = torch.tensor([[[True, True]], [[True, False]]])
    kl, entropy = torch.tensor([[[0.5, 0.25]], [[1.0, 9.0]]]), torch.tensor([[[2.0, 3.0]], [[1.0, 9.0]]])
    c = Candidates(mask, torch.zeros(2, 1), kl=kl, entropy=entropy)
    assert mean(quark.METHOD, logps, c, kl=0.1, entropy=0.01) == pytest.approx((7.0 + 0.1 * 1.75 - 0.01 * 6.0) / 3)


@pytest.mark.parametrize("chunk", [1 << 24, 64 * 5])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_divergence_and_entropy_are_those_of_the_models_logits(kind: str, chunk: int) -> None:
    model, other = model_of(kind), model_of(kind)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.9)
    ids, attention, positions, targets = batch()
    module = ResponseLogps(model, chunk)
    with torch.no_grad():
        base = ResponseLogps(other).states(ids, attention, positions)
        # the head is the policy's own, as with LoRA, which leaves it alone
        theirs = torch.distributions.Categorical(logits=module._logits(model.get_output_embeddings(), base))
    ours = torch.distributions.Categorical(
        logits=model(input_ids=ids, attention_mask=attention).logits.flatten(0, 1)[positions].float()
    )
    logps, kl, entropy = module(ids, attention, positions, targets, base=base)
    torch.testing.assert_close(logps, ours.log_prob(targets), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(theirs, ours), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, ours.entropy(), atol=1e-5, rtol=1e-5)


def test_the_divergence_starts_at_nothing_but_the_condition(labels: Path, base: Path, tmp_path: Path) -> None:
    losses = {}
    for kl in (0.0, 1e3):
        out, how = tmp_path / str(kl), (f"kl={kl}", "entropy=0")
        flags = {"max_steps": 1, "logging_steps": 1, "condition_dropout": 1.0}
        train_command(TrainConfig(str(labels), str(base), str(out), "quark", set=how, **flags))  # type: ignore[arg-type]
        losses[kl] = json.loads((out / "metrics.jsonl").read_text())["loss"]
    # without a condition a fresh adapter is the base: KL is 0
    assert losses[1e3] == pytest.approx(losses[0.0], abs=1e-3)


def test_the_divergence_is_from_the_policy_that_training_starts_from(labels: Path, base: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"max_steps": 10, "learning_rate": 1e-2}
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "first"), "conditional", **more))
    losses = {}
    for kl in (0.0, 1e3):
        out, how = tmp_path / str(kl), (f"kl={kl}", "entropy=0")
        more = {"max_steps": 1, "logging_steps": 1, "condition_dropout": 1.0, "init": str(tmp_path / "first")}
        train_command(TrainConfig(str(labels), str(base), str(out), "quark", set=how, **more))
        losses[kl] = json.loads((out / "metrics.jsonl").read_text())["loss"]
    assert losses[1e3] == pytest.approx(losses[0.0], abs=1e-3)  # no condition and no update: KL is 0


def test_full_fine_tuning_has_no_base_left(labels: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="quark: its reference is the model without its adapter"):
        train_command(TrainConfig(str(labels), str(base), str(tmp_path / "run"), "quark", adapter="none"))
