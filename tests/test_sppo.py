"""SPPO: chances to win against the draws of one's own prompt, and the squares of what log-probabilities lack."""

from __future__ import annotations

import math

import pytest
import torch

from steer.errors import SteerError
from steer.methods import sppo
from steer.methods.base import Candidates

REWARD = torch.tensor([[2.0, 1.0, 1.0, -1.0], [3.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
REAL = torch.tensor([[True] * 4, [True, True, False, False]])
GAIN = [[0.5, -0.25, 0.0, 1.0], [-2.0, 3.0, 0.0, 0.0]]


def chance(own: float, others: list[float]) -> float:
    return math.fsum(1 / (1 + math.exp(other - own)) for other in others) / len(others)


def candidates() -> tuple[torch.Tensor, Candidates]:
    """Log-probabilities whose gains are GAIN, two tokens each; what is padding holds numbers that must not count."""
    ref = torch.full((2, 4), -3.0, dtype=torch.float64)
    each = torch.where(REAL, (torch.tensor(GAIN, dtype=torch.float64) - 3.0) / 2, 7.0)
    return each[..., None].expand(2, 4, 2), Candidates(REAL[..., None].expand(2, 4, 2), REWARD, ref)


def test_the_chance_to_win_is_the_mean_over_all_draws_of_the_prompt() -> None:
    found = sppo.wins(REWARD, REAL)
    for rewards, real, row in zip(REWARD.tolist(), REAL.sum(-1).tolist(), found.tolist()):
        assert row[:real] == pytest.approx([chance(r, rewards[:real]) for r in rewards[:real]])
    assert float(found[0].mean()) == pytest.approx(0.5), "whoever wins, another loses"


@pytest.mark.parametrize(("ends", "kept"), [(False, ((0, 1, 2, 3), (0, 1))), (True, ((0, 3), (0, 1)))])
def test_the_loss_is_what_the_paper_prints(ends: bool, kept: tuple[tuple[int, ...], ...]) -> None:
    logps, c = candidates()
    found = sppo.loss(logps, c, sppo.Settings(eta=3.0, ends=ends)).tolist()
    for term, which, rewards, gains, real in zip(found, kept, REWARD.tolist(), GAIN, (4, 2)):
        errors = [(gains[i] - 3.0 * (chance(rewards[i], rewards[:real]) - 0.5)) ** 2 for i in which]
        assert term == pytest.approx(math.fsum(errors) / len(errors))


def test_where_the_loss_is_least_log_probabilities_follow_the_chances() -> None:
    """Equation 4.4: the policy is that which drew, times exp(eta P), but for what the normaliser adds."""
    logps, c = candidates()
    gain = (5.0 * (sppo.wins(REWARD, REAL) - 0.5))[..., None]
    at = (gain + c.ref[..., None]).expand(2, 4, 2) / 2 if c.ref is not None else logps
    best = at.clone().requires_grad_()
    [gradient] = torch.autograd.grad(sppo.METHOD.total(best, c, sppo.Settings(eta=5.0)), best)
    assert gradient.abs().max() < 1e-9


def test_padding_has_no_part_in_the_gradient() -> None:
    logps, c = candidates()
    leaf = logps.clone().requires_grad_()
    for ends in (False, True):
        [gradient] = torch.autograd.grad(sppo.METHOD.total(leaf, c, sppo.Settings(ends=ends)), leaf)
        assert not gradient[~c.mask].any()
        assert gradient[0, 0].all()


def test_a_draw_that_came_twice_counts_twice_and_ties_alone_teach_nothing() -> None:
    prompt = [{"role": "user", "content": "which?"}]
    rows = [{"id": str(i), "prompt": prompt, "response": "ab"[i == 2], "reward": float(i == 2)} for i in range(3)]
    [group] = sppo.METHOD.groups(rows, sppo.Settings())
    assert [row["id"] for row in group.rows] == ["2", "0", "1"]
    tied = [{**row, "prompt": [{"role": "user", "content": "other"}], "reward": 1.0} for row in rows]
    assert len(sppo.METHOD.groups([*rows, *tied], sppo.Settings())) == 1
    with pytest.raises(SteerError, match="no prompt has two responses with different rewards"):
        sppo.METHOD.groups([*tied, {**rows[0], "prompt": [{"role": "user", "content": "third"}]}], sppo.Settings())
