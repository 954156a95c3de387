"""Sequence likelihood calibration from feedback, on ranked pairs (SLiC-HF, 2305.10425, equation 1).

max(0, 1 - gamma [lp_w - lp_l]) - reg lp_w, averaged over pairs.
Differs from the official code: none was released; the margin is 1 / gamma nats, the regulariser the better response.
The defaults are those of its comparison in RSO (2309.06657), a margin of 20 nats and a likelihood of reg / gamma = 1
beside it, not SLiC-HF's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, summed
from steer.methods.preferences import PairSettings, unsure
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of slic."""

    gamma: float = option(0.05, "Slope of the loss: 1 / gamma is the margin.", above=0)
    reg: float = option(0.05, "Weight of the likelihood.", least=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """max(0, 1 - gamma [lp_w - lp_l]) - reg lp_w: [B, 2, T] -> [B]."""
    logp = summed(logps, c.mask)
    margin = s.gamma * (logp[:, 0] - logp[:, 1])
    return unsure((1 - margin).clamp(min=0), (1 + margin).clamp(min=0), s) - s.reg * logp[:, 0]


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    rate=0.25,
)
