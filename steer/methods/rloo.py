"""REINFORCE leave-one-out (2402.14740, equation 7): the other responses to a prompt are the baseline.

-sg(r_i - mean_{j != i} r_j) log p_i, r less kl [log p - ref], averaged over responses; ref is the policy that training
starts from.
Differs from the official code: the difference is clipped before the KL counts, so that one outlier is not a whole step;
responses without an end lose `missing_end` (TRL's `missing_eos_penalty`, which is off there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, drift, summed
from steer.methods.groups import Group, prompts
from steer.rows import Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """`k` responses per prompt; `kl`: weight of the penalty; `clip`: of the reward less that of the others, to +-clip.

    `missing_end`: what a response without an end loses of its reward, in the reward's standard deviations.
    """

    k: int = 4
    kl: float = 0.05
    clip: float = 5.0
    missing_end: float = 1.0

    def __post_init__(self) -> None:
        if not (self.k >= 2 and self.kl >= 0 and self.clip > 0 and self.missing_end >= 0):
            raise SteerError("k is 2 or more, kl and missing_end are not negative, and clip is positive.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """A row of every prompt; its response is not used."""
    return prompts(rows)


def weigh(c: Candidates, s: Settings) -> Candidates:
    """With advantages: r_i less the mean of the others, clipped, less the same of the KL."""
    return c._replace(weight=_beyond_others(c.reward).clamp(-s.clip, s.clip) - _beyond_others(s.kl * drift(c)))


def _beyond_others(values: Tensor) -> Tensor:
    others = (values.sum(1, keepdim=True) - values) / (values.shape[1] - 1)
    return values - others


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-a log p, a the advantage in `weight`: [B, K, T] -> [B, K]."""
    return -(1.0 if c.weight is None else c.weight) * summed(logps, c.mask)


METHOD = Method(
    groups=groups,
    loss=loss,
    settings=Settings,
    per="response",
    needs={"ref"},
    fresh="step",
    weigh=weigh,
    rate=0.25,
)
