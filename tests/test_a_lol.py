"""A-LoL: what is left is better than its prompt promises, weighted by how much, and by how much likelier it became."""

from __future__ import annotations

import math

import pytest
import torch

from steer.errors import SteerError
from steer.methods import a_lol, awr
from steer.methods.base import Candidates
from steer.rows import Row
from tests.conftest import mean


def rows(*rewards: float) -> list[Row]:
    """Return responses to as many prompts: fewer than folds, so that V is their mean reward."""
    return [
        {"id": str(i), "prompt": [{"role": "user", "content": f"{i}"}], "response": "x", "reward": r}
        for i, r in enumerate(rewards)
    ]


def test_responses_above_their_value_are_left_and_weighted_by_how_far() -> None:
    kept = a_lol.groups(rows(1.0, 5.0, 3.5, 0.5), a_lol.Settings())  # V is 2.5
    assert [group.rows[0]["id"] for group in kept] == ["1", "2"]
    assert [group.weights[0] for group in kept] == pytest.approx([2.5 / 1.75, 1.0 / 1.75])


def test_the_value_is_that_of_awr() -> None:
    some = [
        {
            "id": str(i),
            "prompt": [{"role": "user", "content": f"{'hard' if i % 3 else 'easy'} {i}"}],
            "reward": float(i),
        }
        for i in range(30)
    ]
    better = [(row, row["reward"] - v) for row, v in zip(some, awr.values(some)) if row["reward"] > v]
    scale = math.fsum(a for _, a in better) / len(better)
    found = [(group.rows[0]["id"], group.weights[0]) for group in a_lol.groups(some, a_lol.Settings())]
    assert found == [(row["id"], pytest.approx(a / scale)) for row, a in better]
    assert 0 < len(found) < 30


@pytest.mark.parametrize(
    ("clip", "importance"), [(0.9, (math.exp(-0.5), 1.9, 0.1)), (0.2, (0.8, 1.2, 0.8)), (0.0, (1, 1, 1))]
)
def test_the_gradient_is_that_of_the_likelihood_times_a_clamped_importance(
    clip: float, importance: tuple[float, ...]
) -> None:
    # Two tokens each: half a nat less likely than at the start, three nats likelier, nine nats less likely.
    logps = torch.tensor([[[-1.0, -2.0]], [[-0.5, -1.5]], [[-6.0, -5.0]]], requires_grad=True)
    ref, weight = torch.tensor([[-2.5], [-5.0], [-2.0]]), torch.tensor([[1.5], [1.0], [0.5]])
    c = Candidates(torch.ones(3, 1, 2, dtype=torch.bool), torch.zeros(3, 1), ref=ref, weight=weight)
    total = a_lol.METHOD.total(logps, c, a_lol.Settings(clip))
    terms = [w * r * (1 + gain - math.log(r)) for w, r, gain in zip((1.5, 1.0, 0.5), importance, (-0.5, 3.0, -9.0))]
    assert float(total.detach()) == pytest.approx(-sum(terms))
    (gradient,) = torch.autograd.grad(total, logps)
    slopes = [-w * rho for w, rho in zip((1.5, 1.0, 0.5), importance)]
    assert gradient[..., 0].flatten().tolist() == gradient[..., 1].flatten().tolist() == pytest.approx(slopes)


def test_between_the_bounds_the_loss_is_how_much_likelier_a_response_became() -> None:
    c = Candidates(torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1), ref=torch.tensor([[-2.5]]))
    assert mean(a_lol.METHOD, torch.tensor([[[-1.0, -2.0]]]), c) == pytest.approx(-math.exp(-0.5) / 2)


@pytest.mark.parametrize(("gain", "clip", "reached"), [(898, 0.9, 1.9 * (899 - math.log(1.9))), (-898, 1.0, 0.0)])
def test_a_response_that_became_far_likelier_or_less_likely_is_no_infinity(
    gain: float, clip: float, reached: float
) -> None:
    logps = torch.tensor([[[-1.0, -1.0]]])
    c = Candidates(torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1), ref=torch.tensor([[-2.0 - gain]]))
    assert mean(a_lol.METHOD, logps, c, clip=clip) == pytest.approx(-reached / 2)


def test_what_it_cannot_use_is_refused() -> None:
    with pytest.raises(SteerError, match="all 3 rewards are equal"):
        a_lol.groups(rows(1.0, 1.0, 1.0), a_lol.Settings())
    with pytest.raises(SteerError, match=r"clip 1.5: wanted from 0 to 1"):
        a_lol.Settings(clip=1.5)
