"""Sequence likelihood calibration from feedback, on ranked pairs (SLiC-HF, 2305.10425, equation 4).

max(0, 1 - gamma [lp_w - lp_l]) - reg lp_w, averaged over pairs: gamma times the paper's, whose margin is 1 / gamma nats
and whose likelihood weighs reg / gamma.
Differs from the official code: none was released; the likelihood is of the better response, there of the supervised
target or the best candidate. The paper's margin is 1 nat; the default is the 20 nats of RSO (2309.06657, equation 9),
which drops the likelihood, for weights from .5 to 500 changed little there; here it weighs 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, summed
from steer.methods.preferences import PairSettings, hinge
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
    return hinge(margin, s) - s.reg * logp[:, 0]


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    rate=0.25,
)
