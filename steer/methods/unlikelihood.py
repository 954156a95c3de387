"""Unlikelihood training on poor responses (1908.04319; 2302.08582, section 2).

-log p on the tokens of good responses, -alpha log(1 - p) on those of bad ones, averaged over the tokens of a step; good
is a standardised reward of at least `threshold`.
Differs from the official code: a response is good or bad as a whole, by its reward; a bad token that is certain costs
13.8 nats, there 46.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, log_not
from steer.methods.groups import Group, rewarded, standardised
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of unlikelihood."""

    threshold: float = option(0.0, "Lowest reward of a good response, in standard deviations.")
    alpha: float = option(1.0, "Weight of bad responses.", least=0)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Every row with a known reward; the weight is 1 for good ones and -alpha for bad ones."""
    scored = rewarded(rows)
    z = standardised([row["reward"] for row in scored])
    return [Group((row,), (1.0 if x >= settings.threshold else -settings.alpha,)) for row, x in zip(scored, z)]


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-w log p, or w log(1 - p) where w is negative: [B, 1, T] -> [B, 1, T]."""
    import torch

    inside = logps.masked_fill(~c.mask, -1.0)
    weight = logps.new_ones(logps.shape[:2]) if c.weight is None else c.weight
    weight = weight[..., None]
    return torch.where(weight >= 0, -weight * inside, weight * log_not(inside))


METHOD = Method(rows="rewards", groups=groups, loss=loss, settings=Settings, per="token", rate=0.25)
