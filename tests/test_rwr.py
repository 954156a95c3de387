"""Reward-weighted regression: its weights against closed forms, its loss against plain arithmetic."""

import math
import random

import pytest
import torch

from steer.errors import SteerError
from steer.methods import mle, rwr
from steer.methods.base import Candidates
from tests.conftest import Golden, mean

REWARDS = [0.0, 1.0, 3.0]


def gaussian(n: int = 40_000) -> list[float]:
    rng = random.Random(0)
    return [rng.gauss(5.0, 2.0) for _ in range(n)]  # neither centre nor scale may matter


def test_weights_are_exponentials_of_the_standardised_reward_with_mean_one() -> None:
    mean = (0.0 + 1.0 + 3.0) / 3
    sd = math.sqrt((mean**2 + (1 - mean) ** 2 + (3 - mean) ** 2) / 3)
    raw = [math.exp((r - mean) / sd / 0.7) for r in REWARDS]
    expected = [w / (sum(raw) / 3) for w in raw]
    found = rwr.weights(REWARDS, rwr.Settings(beta=0.7))
    assert found == pytest.approx(expected)
    assert sum(found) / 3 == pytest.approx(1.0)


def test_the_loss_is_the_weighted_log_likelihood_over_the_tokens() -> None:
    logps = torch.tensor([[[-1.0, -2.0]], [[-4.0, 5.0]]])
    mask = torch.tensor([[[True, True]], [[True, False]]])
    c = Candidates(mask, torch.zeros(2, 1), weight=torch.tensor([[0.5], [3.0]]))
    assert mean(rwr.METHOD, logps, c) == pytest.approx((0.5 * (1.0 + 2.0) + 3.0 * 4.0) / 3)


@pytest.mark.parametrize(("beta", "gain", "ess"), [(3.0, 0.33, 0.89), (1.0, 1.00, 0.37)])
def test_gaussian_rewards_give_the_closed_forms(beta: float, gain: float, ess: float) -> None:
    # E[w z] = 1 / beta and (E w)^2 / E w^2 = exp(-1 / beta^2) for w = exp(z / beta), z standard normal.
    rewards = gaussian()
    w = rwr.weights(rewards, rwr.Settings(beta=beta, clip=math.inf))
    mean = math.fsum(rewards) / len(rewards)
    z = [(r - mean) / 2.0 for r in rewards]
    assert math.fsum(w) / len(w) == pytest.approx(1.0)
    assert math.fsum(a * b for a, b in zip(w, z)) / len(w) == pytest.approx(gain, abs=0.03)
    assert math.fsum(w) ** 2 / math.fsum(x * x for x in w) / len(w) == pytest.approx(ess, abs=0.03)


def test_an_infinite_beta_is_maximum_likelihood() -> None:
    rows = [{"id": str(i), "reward": r} for i, r in enumerate(REWARDS)]
    groups = rwr.groups(rows, rwr.Settings(beta=math.inf))
    assert groups == mle.METHOD.groups(rows, None)
    assert rwr.weights(REWARDS, rwr.Settings(beta=1e6)) == pytest.approx([1.0] * 3, abs=1e-5)


def test_a_small_beta_stays_finite_and_picks_the_best() -> None:
    assert rwr.weights(REWARDS, rwr.Settings(beta=1e-4, clip=100.0)) == [0.0, 0.0, 3.0]


def test_weights_are_clipped_after_they_were_scaled_to_mean_one() -> None:
    plain = rwr.weights(gaussian(500), rwr.Settings(beta=0.5, clip=math.inf))
    clipped = rwr.weights(gaussian(500), rwr.Settings(beta=0.5, clip=4.0))
    assert clipped == [min(4.0, w) for w in plain]
    assert max(plain) > 4.0
    assert max(rwr.weights(gaussian(500), rwr.Settings(beta=0.2))) == 20.0  # the default


def test_rows_without_reward_are_left_out_and_equal_rewards_refused() -> None:
    rows = [{"id": "a", "reward": 1.0}, {"id": "b", "reward": None}, {"id": "c", "reward": 2.0}]
    groups = rwr.groups(rows, rwr.Settings())
    assert [g.rows[0]["id"] for g in groups] == ["a", "c"]
    assert [g.weights[0] for g in groups] == rwr.weights([1.0, 2.0], rwr.Settings())
    with pytest.raises(SteerError, match=r"all 2 rewards are equal.*--scorer SCORER.*or take mle"):
        rwr.groups([rows[0], {"id": "d", "reward": 1.0}], rwr.Settings())


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"beta": -1.0}, {"beta": math.nan}, {"clip": 0.0}])
def test_settings_without_meaning_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(SteerError, match=r"(beta|clip) .*: wanted above 0"):
        rwr.Settings(**setting)


def test_the_loss_equals_the_official_number(golden: Golden) -> None:
    """tomekkorbak/pretraining-with-human-feedback: mean over tokens of exp(r / beta) times cross-entropy."""
    official = golden.official["rwr_beta2"]
    logps, c = golden.of(1)
    found = mean(rwr.METHOD, logps, c._replace(weight=torch.exp(c.reward / official["beta"])))
    assert found == pytest.approx(official["value"], rel=1e-6)
