"""Contrastive preference optimisation (CPO, 2401.08417, equations 3, 5): dpo under a uniform reference, and likelihood.

-log sigmoid(beta (lp_w - lp_l)) - sft p_w, lp the log-probability of a response and p its mean over tokens, averaged
over pairs.
Differs from the official code: that averages the likelihood over the tokens of a batch, so long responses count more
(TRL's does too), where the paper sums it over those of a response, so that it weighs about T times as much there on T
tokens, as here with sft = T; since X-ALMA it also weighs lp_l by how far the means are apart, which is another loss
(ARPO).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, averaged, summed
from steer.methods.preferences import PairSettings, logistic
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of cpo."""

    beta: float = option(0.1, "Scale of the margin.", above=0)
    sft: float = option(1.0, "Weight of the likelihood of the chosen response, by token.", least=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-log sigmoid(beta (lp_w - lp_l)) - sft p_w: [B, 2, T] -> [B]."""
    logp = summed(logps, c.mask)
    margin = s.beta * (logp[:, 0] - logp[:, 1])
    return logistic(margin, s) - s.sft * averaged(logps, c.mask)[:, 0]


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    rate=0.5,
)  # 1e-4 for adapters
