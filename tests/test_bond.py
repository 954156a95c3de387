"""Best-of-n distillation: the chances of order statistics, and the two divergences."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from steer.errors import SteerError
from steer.methods import bond
from steer.methods.base import Candidates

REWARD = torch.tensor([[2.0, 1.0, 1.0, -1.0], [3.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
REAL = torch.tensor([[True] * 4, [True, True, False, False]])


@pytest.mark.parametrize("n", [2, 3])
def test_the_aim_is_what_the_best_of_n_draws_would_be(n: int) -> None:
    found = bond.best_of(REWARD, REAL, n)
    for rewards, real, row in zip(REWARD.tolist(), REAL.tolist(), found.tolist()):
        k = sum(real)
        expected = [0.0] * len(rewards)
        for draw in product(range(k), repeat=n):  # all draws with replacement; ties share the win
            best = [i for i in range(k) if rewards[i] == max(rewards[j] for j in draw)]
            for i in best:
                expected[i] += 1 / k**n / len(best)
        assert row == pytest.approx(expected)


def test_without_ties_the_aim_is_equation_4() -> None:
    """2407.14622: p(y) P<=(y)^(N-1) sum_i (P<(y) / P<=(y))^(i-1), shares of the draws for the three chances."""
    n, k = 5, 4
    for place, found in enumerate(bond.best_of(torch.tensor([[3.0, 1.0, 0.5, -2.0]]), torch.ones(1, 4).bool(), n)[0]):
        below, upto = (k - 1 - place) / k, (k - place) / k
        expected = 1 / k * upto ** (n - 1) * sum((below / upto) ** (i - 1) for i in range(1, n + 1))
        assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backward", [0.0, 0.5, 1.0])
def test_the_loss_is_what_the_paper_prints(backward: float) -> None:
    gain = [0.5, -0.25, 0.0, 1.0]
    c = Candidates(torch.ones(1, 4, 1, dtype=torch.bool), REWARD[:1], torch.full((1, 4), -3.0, dtype=torch.float64))
    logps = torch.tensor(gain, dtype=torch.float64)[None, :, None] - 3.0
    q = [math.exp(g) / sum(map(math.exp, gain)) for g in gain]
    t = bond.best_of(REWARD[:1], REAL[:1], 4)[0].tolist()
    forward = sum(a * math.log(a / b) for a, b in zip(t, q))
    back = sum(b * math.log(b / a) for a, b in zip(t, q))
    [found] = bond.loss(logps, c, bond.Settings(4, backward)).tolist()
    assert found == pytest.approx((1 - backward) * forward + backward * back)


def test_what_a_policy_draws_often_counts_as_often() -> None:
    """Nine draws in ten are the worse answer; where the loss is least, the better one is as likely as the best of n."""
    prompt = [{"role": "user", "content": "which?"}]
    rows = [{"id": str(i), "prompt": prompt, "response": "ab"[i == 9], "reward": float(i == 9)} for i in range(10)]
    [group] = bond.METHOD.groups(rows, bond.Settings())
    rewards = torch.tensor([[row["reward"] for row in group.rows]], dtype=torch.float64)
    assert len(group.rows) == 10
    for n in (2, 4, 16):
        aim = bond.best_of(rewards, torch.ones_like(rewards).bool(), n)[0]
        assert float(aim[rewards[0] == 1].sum()) == pytest.approx(1 - 0.9**n)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"temperature": 0.7, "top_p": 0.95}, "drawn at temperature 0.7, top_p 0.95"),
        ({"temperature": 0.0}, "drawn at temperature 0,"),
        ({"best_of": 4}, "drawn at best_of 4"),
        ({"top_k": 20, "guidance": 2.0}, "drawn at guidance 2, top_k 20"),
    ],
)
def test_shares_of_draws_that_the_policy_did_not_make_itself_are_refused(how: dict[str, float], told: str) -> None:
    """At T = .5 probabilities of .6, .3 and .1 were learned from shares of .78, .2 and .02."""
    prompt = {"prompt": [{"role": "user", "content": "which?"}]}
    rows = [{"id": str(i), "response": str(i), "reward": float(i)} for i in range(3)]
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "guidance": None}
    [group] = bond.METHOD.groups([row | prompt | plain for row in rows], bond.Settings())
    assert len(group.rows) == 3
    assert bond.METHOD.groups([row | prompt for row in rows], bond.Settings()), "logs stand for draws"
    with pytest.raises(SteerError, match=told):
        bond.METHOD.groups([row | prompt | how for row in rows], bond.Settings())


def test_a_policy_that_is_the_best_of_n_has_no_loss() -> None:
    aim = bond.best_of(REWARD[:1], REAL[:1], 4)
    c = Candidates(torch.ones(1, 4, 1, dtype=torch.bool), REWARD[:1], torch.zeros(1, 4, dtype=torch.float64))
    assert float(bond.loss(aim.log()[..., None], c, bond.Settings(4))) == pytest.approx(0.0, abs=1e-9)
