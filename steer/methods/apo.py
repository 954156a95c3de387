"""Anchored preference optimisation (APO, 2408.06266, equations 7 and 8): says where the chosen response should go.

zero: 1 - sigmoid(beta g_w) + sigmoid(beta g_l), for chosen responses that are better than the policy's own, which
become likelier; down: sigmoid(beta g_w) + 1 - sigmoid(beta (g_w - g_l)), for chosen ones that are worse than its own,
which become less likely, and rejected ones even less. g = lp - ref; averaged over pairs.
Differs from the official code: nothing. `flips` wants `anchor=down`: at zero the loss of a pair the other way round is
2 less that of the pair, so that flips would only scale it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.errors import SteerError
from steer.methods import preferences
from steer.methods.base import Candidates, Method, gains
from steer.methods.preferences import PairSettings, unsure
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of apo."""

    beta: float = option(0.1, "Strength of the pull to the reference.", above=0)
    anchor: str = option(
        "zero", "zero: chosen responses are better than the policy's; down: worse.", choices=("zero", "down")
    )

    def __post_init__(self) -> None:
        """Refuse flips where they would only scale the loss."""
        super().__post_init__()
        if self.flips and self.anchor == "zero":
            raise SteerError("flips: only scale the loss with anchor=zero. Leave them out, or set anchor=down.")


def anchored(gain: Tensor, s: Settings) -> Tensor:
    """The loss of gains, better response first: [B, 2] -> [B]."""
    better, worse = s.beta * gain[:, 0], s.beta * gain[:, 1]
    if s.anchor == "zero":
        return (-better).sigmoid() + worse.sigmoid()
    return better.sigmoid() + (worse - better).sigmoid()


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """The anchored loss: [B, 2, T] -> [B]."""
    gain = gains(logps, c)[:, :2]
    return unsure(anchored(gain, s), anchored(gain.flip(1), s), s)


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref"},
    rate=0.05,
)
