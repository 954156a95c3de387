"""Identity preference optimisation (2310.12036, equation 17).

(delta - 1 / (2 beta))^2 with delta = (lp_w - ref_w) - (lp_l - ref_l), averaged over pairs.
Differs from the official code: none by the authors; sums of log-probabilities as in the paper, not means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import dpo
from steer.methods.base import Candidates, Method, gains
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of ipo."""

    beta: float = option(0.1, "The margin aimed at is 1 / (2 beta).", above=0)
    pairing: str = option("best-random", "As in dpo.")


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """Squared error (delta - 1 / (2 beta))^2: [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    return (gain[:, 0] - gain[:, 1] - 1 / (2 * s.beta)) ** 2


METHOD = Method(groups=dpo.groups, loss=loss, settings=Settings, per="prompt", needs={"ref"}, rate=0.25)
