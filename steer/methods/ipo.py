"""Identity preference optimisation (2310.12036, equation 17).

(delta - 1 / (2 beta))^2 with delta = (lp_w - ref_w) - (lp_l - ref_l), averaged over pairs.
Differs from the official code: the authors released none. delta is of sums of log-probabilities, as the equation has
it; they told TRL that the paper's results are with means over tokens, where the same beta asks for a margin about T
times as large in sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, gains
from steer.methods.preferences import PairSettings, unsure
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of ipo."""

    beta: float = option(0.1, "The margin aimed at is 1 / (2 beta).", above=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """Squared error (delta - 1 / (2 beta))^2: [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    margin, aim = gain[:, 0] - gain[:, 1], 1 / (2 * s.beta)
    return unsure((margin - aim) ** 2, (-margin - aim) ** 2, s)


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref"},
    rate=0.25,
)
