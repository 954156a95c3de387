"""REINFORCE leave-one-out (RLOO, 2402.14740): the other responses to a prompt are the baseline.

-sg(r_i - mean_{j != i} r_j) log p_i, r less kl [log p - ref], averaged over responses; ref is the policy that training
starts from.
Differs from the official code: the difference is clipped before the KL counts, so that one outlier is not a whole step;
responses without an end lose `missing_end`, in TRL nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, drift, summed
from steer.methods.groups import prompts
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of rloo."""

    k: int = option(4, "Responses to a prompt.", least=2)
    kl: float = option(0.05, "Weight of the KL.", least=0)
    clip: float = option(5.0, "Bound of a reward less the mean of the others, either way.", above=0, most=math.inf)
    missing_end: float = option(1.0, "Loss of reward without an end, in its standard deviations.", least=0)


def weigh(c: Candidates, s: Settings) -> Candidates:
    """Weigh by advantages: r_i less the mean of the others, clipped, less the same of the KL."""
    return c._replace(weight=_beyond_others(c.reward).clamp(-s.clip, s.clip) - _beyond_others(s.kl * drift(c)))


def _beyond_others(values: Tensor) -> Tensor:
    others = (values.sum(1, keepdim=True) - values) / (values.shape[1] - 1)
    return values - others


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-a log p, a the advantage in `weight`: [B, K, T] -> [B, K]."""
    return -(1.0 if c.weight is None else c.weight) * summed(logps, c.mask)


METHOD = Method(
    rows="prompts",
    groups=prompts,
    loss=loss,
    settings=Settings,
    per="response",
    needs={"ref"},
    fresh="step",
    weigh=weigh,
    rate=0.25,  # as tuned in the embedded world
)
