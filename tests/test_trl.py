"""Our pair losses against TRL's own function, where TRL is installed."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from steer.methods import apo, dpo, ipo, rso
from steer.methods.base import Candidates

LENGTHS = ((4, 2), (1, 5), (3, 3))
BETA = 0.3
FLIPS = 0.25


def example(lengths: tuple[tuple[int, int], ...] = LENGTHS) -> tuple[Tensor, Candidates]:
    """Pairs of responses with the log-probs of policy and reference."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[[t < n for t in range(5)] for n in pair] for pair in lengths])
    logps = -3 * torch.rand(mask.shape, generator=generator, dtype=torch.float64)
    ref = -4 * torch.rand(len(lengths), 2, generator=generator, dtype=torch.float64)
    return logps.masked_fill(~mask, 0.0), Candidates(mask, torch.zeros(len(lengths), 2), ref)


def theirs(loss_type: str, logps: Tensor, c: Candidates) -> float:
    """What `DPOTrainer` makes of the same log-probs; its metrics are computed and not looked at."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: its losses are compared where it is")
    rows = logps.transpose(0, 1).flatten(0, 1)  # all chosen, then all rejected
    mask = torch.nn.functional.pad(c.mask.transpose(0, 1).flatten(0, 1), (1, 0))  # one prompt token in front

    def model(**inputs: Any) -> Any:
        other = torch.zeros_like(rows)
        return SimpleNamespace(log_probs=rows, entropy=other, mean_logits=other, is_top1=other.bool())

    model.training = False  # type: ignore[attr-defined]
    plain = SimpleNamespace(device=rows.device, gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=model,
        accelerator=plain,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=BETA,
        label_smoothing=FLIPS,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    assert c.ref is not None
    inputs = {"input_ids": torch.zeros_like(mask, dtype=torch.long), "completion_mask": mask.long()}
    inputs |= {"ref_chosen_logps": c.ref[:, 0], "ref_rejected_logps": c.ref[:, 1]}
    return float(trl.DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False))


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down"])
def test_pair_losses_are_those_of_trl(name: str) -> None:
    # TRL divides ipo's margins by length, the paper does not: of one token both are the same
    logps, c = example(((1, 1), (1, 1)) if name == "ipo" else LENGTHS)
    expected = theirs(name, logps, c)
    found = {
        "sigmoid": lambda: dpo.loss(logps, c, dpo.Settings(beta=BETA)),
        "hinge": lambda: rso.loss(logps, c, rso.Settings(gamma=BETA, loss="hinge-norm")),
        "ipo": lambda: ipo.loss(logps, c, ipo.Settings(beta=BETA)),
        "robust": lambda: dpo.loss(logps, c, dpo.Settings(beta=BETA, flips=FLIPS, robust=True)),
        "apo_zero": lambda: apo.loss(logps, c, apo.Settings(beta=BETA)),
        "apo_down": lambda: apo.loss(logps, c, apo.Settings(beta=BETA, anchor="down")),
    }[name]()
    assert float(found.mean()) == pytest.approx(expected, rel=1e-6)


def test_sigmoid_norm_of_rso_is_not_the_one_of_trl() -> None:
    logps, c = example()
    terms = rso.loss(logps, c, rso.Settings(gamma=BETA))
    assert float(terms.mean()) != pytest.approx(theirs("sigmoid_norm", logps, c), rel=1e-3)
    assert float(terms.mean()) == pytest.approx(theirs("sigmoid", logps, c), rel=1e-6)
