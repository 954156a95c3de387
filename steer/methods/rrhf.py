"""Rank responses to align (RRHF, 2304.05302, equations 2-4).

sum over r_i < r_j of max(0, p_i - p_j), p the mean log-probability of a response's tokens, plus sft times -log p of the
best response; averaged over prompts.
Differs from the official code: it edits its labels in place (which breaks p), ranks with one row of the batch, and
averages the likelihood over padding; here all three follow the paper. Its likelihood is a mean over tokens, the
paper's a sum: on T tokens the ranks weigh about T times as much there, as here with sft = 1 / T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, averaged, existing, summed
from steer.methods.groups import Group, ranked
from steer.rows import Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """`sft`: weight of the likelihood of the best response; without it the policy collapses."""

    sft: float = 1.0

    def __post_init__(self) -> None:
        if not self.sft >= 0:
            raise SteerError(f"sft is not negative, not {self.sft}.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """All candidates of a prompt."""
    return ranked(rows)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """Ranks that are wrong, and -sft log p of the best response: [B, K, T] -> [B]."""
    real = existing(c.mask)
    p = averaged(logps, c.mask)
    worse = (c.reward[:, :, None] < c.reward[:, None, :]) & real[:, :, None] & real[:, None, :]  # [B, i, j]
    rank = (p[:, :, None] - p[:, None, :]).clamp(min=0).masked_fill(~worse, 0.0).sum((1, 2))
    return rank - s.sft * summed(logps, c.mask)[:, 0]


METHOD = Method(groups=groups, loss=loss, settings=Settings, per="prompt", fresh="rounds")
