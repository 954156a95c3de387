"""Sequence likelihood calibration from feedback, on ranked pairs (SLiC-HF, 2305.10425, equation 1).

max(0, 1 - gamma [lp_w - lp_l]) - reg lp_w, averaged over pairs.
Differs from the official code: none was released; the margin is 1 / gamma nats, the regulariser the better response.
The defaults are those of its comparison in RSO (2309.06657), a margin of 20 nats and a likelihood of reg / gamma = 1
beside it, not SLiC-HF's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, summed
from steer.methods.groups import Group, pairs
from steer.rows import Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """`gamma`: slope, so that 1 / gamma is the margin; `reg`: weight of the likelihood; `pairing`: as in dpo."""

    gamma: float = 0.05
    reg: float = 0.05
    pairing: str = "best-random"

    def __post_init__(self) -> None:
        if not (self.gamma > 0 and self.reg >= 0):
            raise SteerError(f"gamma is positive and reg not negative, not {self.gamma} and {self.reg}.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Pairs of a prompt's candidates."""
    return pairs(rows, settings.pairing)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """max(0, 1 - gamma [lp_w - lp_l]) - reg lp_w: [B, 2, T] -> [B]."""
    logp = summed(logps, c.mask)
    return (1 - s.gamma * (logp[:, 0] - logp[:, 1])).clamp(min=0) - s.reg * logp[:, 0]


METHOD = Method(groups=groups, loss=loss, settings=Settings, per="prompt", rate=0.25)
