"""Simple preference optimisation (SimPO, 2405.14734, equation 6): the mean log-probability of a token is the reward.

-log sigmoid(beta (p_w - p_l) - gamma), p the mean log-probability of a response's tokens, averaged over pairs; there is
no reference.
Differs from the official code: nothing without `flips`, which swap the pair here and the sign of the whole there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, averaged
from steer.methods.preferences import PairSettings, logistic
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of simpo."""

    beta: float = option(2.0, "Scale of the margin.", above=0)
    gamma: float = option(
        1.0, "Margin that is asked for, after scaling; the authors' is 0.1 to 0.8 times beta.", least=0
    )


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-log sigmoid(beta (p_w - p_l) - gamma): [B, 2, T] -> [B]."""
    p = averaged(logps, c.mask)
    margin = s.beta * (p[:, 0] - p[:, 1])
    return logistic(margin, s, s.gamma)


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    rate=0.05,
)  # 3e-7 to 1e-6
