"""Odds ratio preference optimisation (ORPO, 2403.07691, equations 6 and 7): likelihood and preference in one stage.

-p_w - weight log sigmoid(log odds_w - log odds_l), p the mean log-probability of a response's tokens and the odds
e^p / (1 - e^p), averaged over pairs; there is no reference.
Differs from the official code: that averages the likelihood over all tokens of a micro-batch, the prompts' too unless
`--disable_prompt_loss` is given, and never over the end, whose token is that of padding there; p counts one token of
padding where there is one. Here a prompt is never a target, the end always is, padding never counts, and every pair
counts alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, averaged, log_not
from steer.methods.preferences import PairSettings, logistic
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of orpo."""

    weight: float = option(0.1, "Weight of the odds ratio (lambda in the paper).", least=0)


def log_odds(p: Tensor) -> Tensor:
    """log(e^p / (1 - e^p)) of log-probabilities."""
    return p - log_not(p)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-p_w - weight log sigmoid(log odds_w - log odds_l): [B, 2, T] -> [B]."""
    p = averaged(logps, c.mask)
    odds = log_odds(p)
    ratio = odds[:, 0] - odds[:, 1]
    return -p[:, 0] + s.weight * logistic(ratio, s)


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    rate=0.4,
)  # 8e-6 beside 2e-5
