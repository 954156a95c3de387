"""Rank responses to align (RRHF, 2304.05302, equations 2-4).

sum over r_i < r_j of max(0, p_i - p_j), p the mean log-probability of a response's tokens, plus sft times -log p of the
best response; averaged over prompts.
Differs from the official code: it edits its labels in place (which breaks p), ranks with one row of the batch, and
averages the likelihood over prompts and padding; here all three follow the paper. Its likelihood is a mean over tokens,
the paper's a sum: on T tokens the ranks weigh about T times as much there, as here with sft = 1 / T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, averaged, existing, summed
from steer.methods.groups import ranked
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of rrhf."""

    sft: float = option(1.0, "Weight of the likelihood of the best; without it the policy collapses.", least=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """Ranks that are wrong, and -sft log p of the best response: [B, K, T] -> [B]."""
    real = existing(c.mask)
    p = averaged(logps, c.mask)
    worse = (c.reward[:, :, None] < c.reward[:, None, :]) & real[:, :, None] & real[:, None, :]  # [B, i, j]
    rank = (p[:, :, None] - p[:, None, :]).clamp(min=0).masked_fill(~worse, 0.0).sum((1, 2))
    return rank - s.sft * summed(logps, c.mask)[:, 0]


METHOD = Method(
    rows="several",
    groups=ranked,
    loss=loss,
    settings=Settings,
    per="prompt",
)
