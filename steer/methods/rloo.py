"""REINFORCE leave-one-out (2402.14740, equation 7): the other responses to a prompt are the baseline.

-sg(r_i - mean_{j != i} r_j) log p_i, r less kl [log p - ref], averaged over responses; ref is the base without any
adapter, also where --init names the one to start from.
Differs from the official code: rewards are clipped as in ReMax, so that one outlier is not a whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steer.errors import SteerError
from steer.groups import Group, Row, prompts
from steer.objective import Array, Candidates, Method, OnPolicy, Terms, policy_gradient

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """`k`: responses per prompt; `kl`: weight of the penalty; `clip`: rewards are clipped to +-clip."""

    k: int = 4
    kl: float = 0.05
    clip: float = 5.0

    def __post_init__(self) -> None:
        if not (self.k >= 2 and self.kl >= 0 and self.clip > 0):
            raise SteerError("k is 2 or more, kl not negative, and clip positive.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """A row of every prompt; its response is not used."""
    return prompts(rows)


def advantage(rewards: Array, greedy: Array | None, s: Settings) -> Array:
    """r_i less the mean of the others: [B, K] -> [B, K]."""
    others = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return np.asarray(rewards - others)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Terms:
    """-a log p: [B, K, T] -> sum over responses and the number of responses."""
    return policy_gradient(logps, c)


METHOD = Method(
    groups=groups,
    loss=loss,
    settings=Settings,
    reference=True,
    fresh="step",
    on_policy=OnPolicy(advantage),
    rate=0.25,
)
