"""DPO-positive (DPOP, Smaug, 2402.13228): dpo that does not let the chosen response become less likely.

-log sigmoid(beta (g_w - g_l - penalty max(0, -g_w))), g = lp - ref, averaged over pairs.
Differs from the official code: none was released. `flips` change the comparison, g_w - g_l; the penalty holds the
response that the label calls better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, gains
from steer.methods.preferences import PairSettings, logistic
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of dpop."""

    beta: float = option(0.3, "Strength of the pull to the reference.", above=0)
    penalty: float = option(50.0, "Weight of what the chosen response loses (lambda in the paper).", least=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-log sigmoid(beta (g_w - g_l - penalty max(0, -g_w))): [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    return logistic(s.beta * (gain[:, 0] - gain[:, 1]), s, s.beta * s.penalty * (-gain[:, 0]).clamp(min=0))


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref"},
    rate=0.05,
)
