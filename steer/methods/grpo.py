"""Group relative policy optimisation (GRPO, 2402.03300, equations 3-4); also Dr. GRPO (2503.20783), DAPO (2503.14476).

max(-A rho, -A clip(rho, 1 - clip, 1 + clip_high)) + kl k on every token, rho = p / p_old and k = ref / p - log(ref / p)
- 1. A = (r - mean) / sd over a prompt's K responses. The mean over tokens is each response's own, and then that over
the responses of a step. ref is the policy that training starts from.
Dr. GRPO: `sd=false`, `average=token`, `kl=0`. DAPO's loss: `average=token`, `clip_high=0.28`, `kl=0`.
Differs from the official code (none by DeepSeek; verl's for DAPO): with average=token the tokens of the step divide, as
in DAPO, where Dr. GRPO divides by a constant; there is no third clip of verl's (dual clip); a response without an end
loses `missing_end`; prompts whose responses have equal rewards count in the mean, where DAPO draws others instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, surrogate
from steer.methods.groups import prompts
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-6  # added to the sd, so that a gap of rewards that is none stays one


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of grpo."""

    k: int = option(8, "Responses to a prompt.", least=2)
    epochs: int = option(1, "Optimizer steps on the same responses.", least=1)
    clip: float = option(0.2, "Lower bound of the ratio, 1 - clip.", above=0, most=1)
    clip_high: float = option(0.2, "Upper bound of the ratio, 1 + clip_high (DAPO: 0.28).", above=0, most=math.inf)
    kl: float = option(0.04, "Weight of the KL in the loss.", least=0)
    sd: bool = option(True, "Divide by the standard deviation of a prompt's rewards (Dr. GRPO: false).")
    average: str = option("response", "Mean over tokens: of each response, or of all.", choices=("response", "token"))
    missing_end: float = option(1.0, "Loss of reward without an end, in its standard deviations.", least=0)


def weigh(c: Candidates, s: Settings) -> Candidates:
    """Add advantages, and to `weight` what makes a mean over tokens one over responses.

    Without a step (`length`) its responses are these.
    """
    import torch

    advantage = c.reward - c.reward.mean(1, keepdim=True)
    if s.sd:
        advantage = advantage / (c.reward.std(1, keepdim=True, correction=1) + TINY)
    equal = c.reward.amax(1, keepdim=True) == c.reward.amin(1, keepdim=True)
    advantage = advantage.masked_fill(equal, 0.0)  # what rounding leaves of no gap, the sd would make large
    lengths = c.mask.sum(-1)
    mean = lengths.float().mean() if c.length is None else c.length[:, None]
    weight = mean / lengths.clamp(min=1) if s.average == "response" else torch.ones_like(c.reward)
    return c._replace(advantage=advantage[..., None].expand(c.mask.shape), weight=weight)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """The clipped surrogate and the KL of each token: [B, K, T] -> [B, K, T]; without a draw A is 1 and p_old is p."""
    import torch

    advantage = torch.ones_like(logps) if c.advantage is None else c.advantage
    terms = surrogate(logps, c, advantage, s.clip, s.clip_high)
    if s.kl and c.ref is not None and c.ref.ndim == 3:
        gap = (c.ref - logps).masked_fill(~c.mask, 0.0).clamp(-20, 20)
        terms = terms + s.kl * (gap.exp() - gap - 1)
    return terms if c.weight is None else c.weight[..., None] * terms


METHOD = Method(
    rows="prompts",
    groups=prompts,
    loss=loss,
    settings=Settings,
    per="token",
    needs={"ref", "old", "length"},
    fresh="step",
    weigh=weigh,
    rate=0.05,  # 1e-6 in the paper
)
