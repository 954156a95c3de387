"""Unlikelihood: -log p on good responses, -log(1 - p) on bad ones."""

from __future__ import annotations

import math

import pytest
import torch

from steer.errors import SteerError
from steer.methods import unlikelihood
from steer.methods.base import Candidates
from tests.conftest import mean

GOOD, BAD = [-1.0, -0.25], [-2.0, -0.1]


def test_the_loss_is_what_the_paper_prints() -> None:
    logps = torch.tensor([[GOOD], [BAD]], dtype=torch.float64)
    mask = torch.ones(2, 1, 2, dtype=torch.bool)
    c = Candidates(mask, torch.zeros(2, 1), weight=torch.tensor([[1.0], [-0.5]], dtype=torch.float64))
    expected = -sum(GOOD) - 0.5 * sum(math.log(1 - math.exp(x)) for x in BAD)
    assert mean(unlikelihood.METHOD, logps, c) == pytest.approx(expected / 4)


def test_a_bad_token_that_is_certain_stays_finite() -> None:
    logps = torch.zeros(1, 1, 2, requires_grad=True)
    c = Candidates(torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1), weight=torch.tensor([[-1.0]]))
    terms = unlikelihood.loss(logps, c, unlikelihood.Settings())
    terms.sum().backward()
    assert terms[0, 0].tolist() == pytest.approx([-math.log(1e-6)] * 2, rel=1e-3)
    assert logps.grad is not None
    assert logps.grad.isfinite().all()


def test_rows_above_the_threshold_are_good() -> None:
    rows = [{"id": str(i), "reward": float(r)} for i, r in enumerate(range(5))]
    found = {t: [g.weights[0] for g in unlikelihood.groups(rows, unlikelihood.Settings(t, 0.3))] for t in (0.0, 1.0)}
    assert found == {0.0: [-0.3, -0.3, 1.0, 1.0, 1.0], 1.0: [-0.3, -0.3, -0.3, -0.3, 1.0]}
    unweighted = torch.tensor([[unlikelihood.groups(rows, unlikelihood.Settings(alpha=0.0))[0].weights[0]]])
    c = Candidates(torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1), weight=unweighted)
    assert not unlikelihood.loss(torch.tensor([[GOOD]]), c, unlikelihood.Settings(alpha=0.0)).any()
    with pytest.raises(SteerError, match=r"alpha -1.0: wanted 0 or more"):
        unlikelihood.Settings(alpha=-1.0)


def test_a_bad_token_that_is_impossible_costs_nothing() -> None:
    logps = torch.full((1, 1, 2), -math.inf)
    c = Candidates(torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1), weight=torch.tensor([[-1.0]]))
    assert not unlikelihood.loss(logps, c, unlikelihood.Settings()).any()
    with pytest.raises(SteerError, match="threshold nan: wanted a finite number"):
        unlikelihood.Settings(threshold=math.nan)
