"""Statistical rejection sampling optimisation (2309.06657): pairs that a sampler accepted, beta in sd of the reward.

The sampler (algorithm 1) turns a prompt's candidates into what is nearly draws from p(y) exp(r(y) / beta), p the law of
the candidates: that of the policy that drew them, the reference of the loss, at temperature 1, and another one at
others. Rounds start from that policy and train on the candidates of the last one only; without rounds the logs stand
for its draws. Equal responses count once, so p is lost where answers repeat. Pairs of accepted ones are ranked by
reward. r is what `steer label` standardises, so beta counts standard deviations of the logs; equation 7 has it in
logits of a win, the unit of a `bradley-terry` scorer before it is standardised. The paper draws 64 (`--n 64`) and keeps
8. Losses (equations 8, 10 and 9): sigmoid-norm: -log sigmoid(gamma delta); hinge-norm: max(0, 1 - gamma delta), delta
as in dpo; hinge: the same without the reference.
Differs from the official code: none was released; the paper's listing visits the candidates in their order and takes
the highest reward once a pass, here it falls within a pass as soon as the best is accepted. In either, what is accepted
of few candidates is only near the tilted law, which many draws with `--n` approach where none repeats. Rounds drop
responses that were cut off and, without `--any-form`, malformed ones. TRL's `sigmoid_norm` is another loss (it divides
by length).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, gains, summed
from steer.methods.groups import Group, random_of, ranked
from steer.methods.preferences import FlipSettings, hinge, logistic
from steer.rows import Row
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = ("sigmoid-norm", "hinge-norm", "hinge")


@dataclass(frozen=True)
class Settings(FlipSettings):
    """Settings of rso."""

    beta: float = option(0.5, "Temperature of the sampler in sd of the reward (0: the best).", least=0, most=math.inf)
    keep: int = option(8, "Candidates that are accepted of a prompt.", least=2)
    gamma: float = option(0.05, "Slope of the loss.", above=0)
    loss: str = option("sigmoid-norm", "Loss on the margin.", choices=LOSSES)


def accepted(rewards: Sequence[float], beta: float, keep: int, rng: np.random.Generator) -> list[int]:
    """Indices in the order of acceptance, without replacement.

    Passes in random order accept a candidate y with probability exp((r(y) - r_max) / beta), r_max the highest reward of
    those *not yet accepted* (as in algorithm 1 of 2309.06657, but at every candidate); beta 0 takes the best, infinity
    draws uniformly.
    """
    left = list(range(len(rewards)))
    chosen: list[int] = []
    while left and len(chosen) < keep:
        high = max(rewards[i] for i in left)
        if beta == 0:
            chosen.append(next(i for i in left if rewards[i] == high))
            left.remove(chosen[-1])
            continue
        for i in rng.permutation(left).tolist():
            if rng.random() < math.exp((rewards[i] - high) / beta):
                chosen.append(i)
                left.remove(i)
                if len(chosen) == keep:
                    break
                high = max((rewards[j] for j in left), default=high)
    return chosen


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Disjoint pairs of accepted candidates in random order, without ties."""
    result = []
    for group in ranked(rows):
        c, rng = group.rows, random_of(group.rows[0])
        kept = rng.permutation(accepted([row["reward"] for row in c], settings.beta, settings.keep, rng)).tolist()
        for i, j in zip(kept[::2], kept[1::2]):
            better, worse = min(i, j), max(i, j)  # candidates stand better first
            if c[better]["reward"] > c[worse]["reward"]:
                result.append(Group((c[better], c[worse]), (1.0, 1.0)))
    if not result:
        raise SteerError("all accepted pairs are tied. Raise --set keep or --set beta.")
    return result


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """The loss that the settings name, of the margin between the two responses: [B, 2, T] -> [B]."""
    gain = summed(logps, c.mask) if s.loss == "hinge" else gains(logps, c)
    margin = s.gamma * (gain[:, 0] - gain[:, 1])
    if s.loss == "sigmoid-norm":
        return logistic(margin, s)
    return hinge(margin, s)


METHOD = Method(
    rows="several drawn",
    groups=groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref", "drawer"},
    pool="last",
    rate=0.05,
)
