"""MLE with filtering: which share is kept, and that it is the right one."""

import math
import random

import pytest
import torch

from steer.errors import SteerError
from steer.methods import filtered
from steer.methods.base import Candidates
from tests.conftest import mean


def kept(rewards: list[float | None], keep: float) -> list[str]:
    rows = [{"id": str(i), "reward": r} for i, r in enumerate(rewards)]
    return [g.rows[0]["id"] for g in filtered.groups(rows, filtered.Settings(keep=keep))]


def test_the_top_share_is_kept_in_the_order_of_the_rows() -> None:
    assert kept([0.1, 0.9, 0.5, 0.7, 0.3], 0.4) == ["1", "3"]
    assert kept([0.1, 0.9, 0.5, 0.7, 0.3], 1.0) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("keep", "count"), [(0.2, 20), (0.29, 29), (0.295, 29), (0.57, 57), (0.001, 1), (1.0, 100)])
def test_the_share_is_exact(keep: float, count: int) -> None:
    # .29 * 100 is 28.999999999999996 in floats.
    assert len(kept([float(i) for i in range(100)], keep)) == count


def test_ties_keep_the_order_of_the_rows() -> None:
    assert kept([1.0, 1.0, 0.0, 1.0], 0.5) == ["0", "1"]


def test_the_share_is_of_the_rows_whose_reward_is_known() -> None:
    assert kept([None, 0.2, None, 0.8], 0.5) == ["3"]


def test_equal_or_absent_rewards_are_refused() -> None:
    with pytest.raises(SteerError, match="all 3 rewards are equal"):
        kept([0.5, 0.5, 0.5], 0.5)
    with pytest.raises(SteerError, match=r'none of the 2 rows has a reward\. Run "steer label ROWS --scorer SCORER '):
        kept([None, None], 0.5)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, math.nan])
def test_a_share_outside_0_to_1_is_refused(keep: float) -> None:
    with pytest.raises(SteerError, match=r"keep .*: wanted above 0 and at most 1"):
        filtered.Settings(keep=keep)


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_tokens() -> None:
    logps = torch.tensor([[[-1.0, -2.0]], [[-4.0, 5.0]]])
    mask = torch.tensor([[[True, True]], [[True, False]]])
    assert mean(filtered.METHOD, logps, Candidates(mask, torch.zeros(2, 1))) == pytest.approx((1.0 + 2.0 + 4.0) / 3)


@pytest.mark.parametrize(("keep", "mean"), [(0.5, 0.80), (0.2, 1.40), (0.1, 1.755)])
def test_selection_from_a_gaussian_gains_what_the_closed_form_says(keep: float, mean: float) -> None:
    # The mean of a standard normal above its (1 - q) quantile is pdf(quantile) / q.
    rng = random.Random(0)
    rewards = [rng.gauss(0, 1) for _ in range(40_000)]
    chosen = [rewards[int(i)] for i in kept(rewards, keep)]  # type: ignore[arg-type]  # no None among them
    assert math.fsum(chosen) / len(chosen) == pytest.approx(mean, abs=0.02)
