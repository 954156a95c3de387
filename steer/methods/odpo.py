"""Direct preference optimisation with an offset (ODPO, 2402.10571): a clearer preference, a larger margin.

-log sigmoid(beta delta - alpha log(r_w - r_l)), delta as in dpo and r the reward, averaged over pairs.
Differs from the official code: rewards are the standardised ones of `steer label`, and no gap counts as less than
`LEAST`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, gains
from steer.methods.groups import one_gap
from steer.methods.preferences import PairSettings, logistic
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-3  # the smallest gap of rewards that counts, whose offset is -6.9


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of odpo."""

    beta: float = option(0.1, "Strength of the pull to the reference.", above=0)
    alpha: float = option(1.0, "Weight of the offset.", least=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-log sigmoid(beta delta - alpha log(r_w - r_l)): [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    margin = s.beta * (gain[:, 0] - gain[:, 1])
    offset = s.alpha * (c.reward[:, 0] - c.reward[:, 1]).clamp(min=LEAST).log()
    return logistic(margin, s, offset)


METHOD = Method(
    rows="several",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref"},
    rate=0.05,
    caveat=one_gap,
)
