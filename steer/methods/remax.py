"""ReMax (2310.10505, algorithm 1): REINFORCE with the reward of the greedy response as baseline.

-sg(r(y) - r(greedy) - kl [log p(y) - ref(y)]) log p(y), averaged over tokens as in the official code; ref is the base
without any adapter, also where --init names the one to start from.
Differs from the official code: the KL penalty is one number per response, not a reward-to-go per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steer.errors import SteerError
from steer.groups import Group, Row, prompts
from steer.objective import Array, Candidates, Method, OnPolicy, Terms, weighted_nll

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """`k`: responses per prompt; `kl`: weight of the penalty; `clip`: rewards are clipped to +-clip."""

    k: int = 1
    kl: float = 0.05
    clip: float = 5.0

    def __post_init__(self) -> None:
        if not (self.k >= 1 and self.kl >= 0 and self.clip > 0):
            raise SteerError("k is 1 or more, kl not negative, and clip positive.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """A row of every prompt; its response is not used."""
    return prompts(rows)


def advantage(rewards: Array, greedy: Array | None, s: Settings) -> Array:
    """r(y) - r(greedy): [B, K] and [B] -> [B, K]."""
    assert greedy is not None
    return np.asarray(rewards - greedy[:, None])


def loss(logps: Tensor, c: Candidates, s: Settings) -> Terms:
    """-a log p: [B, K, T] -> sum over tokens and the number of tokens."""
    return weighted_nll(logps, c)


METHOD = Method(
    groups=groups,
    loss=loss,
    settings=Settings,
    reference=True,
    fresh="step",
    on_policy=OnPolicy(advantage, greedy=True),
    rate=0.25,
)
