"""Preference ranking optimisation (PRO, 2306.17492, equations 8-10).

sum_{k<K} -log [e^{p_k T_k} / (e^{p_k T_k} + sum_{i>k} e^{p_i (r_k - r_i)})], T_k = max_{i>k} (r_k - r_i), p the mean
log-probability of a response's tokens; plus sft (K-1)^2 times -log p of the best; averaged over prompts.
Differs from the official code: rewards are the standardised ones of `steer label`; K is each prompt's own; the end of
a response always counts, there only where padding follows, which has the same token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, averaged, existing, summed
from steer.methods.groups import one_gap, ranked
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of pro."""

    sft: float = option(0.05, "Weight of the likelihood of the best response, times (K - 1)^2.", least=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """Every response against those ranked below it, and the likelihood of the best: [B, K, T] -> [B]."""
    import torch

    real = existing(c.mask)
    p = averaged(logps, c.mask)
    k = p.shape[1]
    total = p.new_zeros(p.shape[0])
    for i in range(k - 1):
        after = real[:, i + 1 :] & real[:, i : i + 1]  # [B, K - 1 - i]
        gap = (c.reward[:, i : i + 1] - c.reward[:, i + 1 :]).masked_fill(~after, 0.0)
        own = p[:, i] * gap.max(-1).values
        others = (p[:, i + 1 :] * gap).masked_fill(~after, -math.inf)
        every = torch.cat([own[:, None], others], -1)
        total = total + (every.logsumexp(-1) - own).masked_fill(~after.any(-1), 0.0)
    best = s.sft * (real.sum(-1) - 1).clamp(min=0) ** 2 * -summed(logps, c.mask)[:, 0]
    return total + best


# The rate is as tuned in the embedded world; the authors' 5e-6 beside 2e-5 is .25.
METHOD = Method(rows="several", groups=ranked, loss=loss, settings=Settings, per="prompt", caveat=one_gap)
