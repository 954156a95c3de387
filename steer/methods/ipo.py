"""Identity preference optimisation (2310.12036, equation 17).

(delta - 1 / (2 beta))^2 with delta = (lp_w - ref_w) - (lp_l - ref_l), averaged over pairs.
Differs from the official code: none by the authors; sums of log-probabilities as in the paper, not means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, gains
from steer.methods.groups import Group, pairs
from steer.rows import Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """`beta`: the margin aimed at is 1 / (2 beta); `pairing`: as in dpo."""

    beta: float = 0.1
    pairing: str = "best-random"

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise SteerError(f"beta is positive, not {self.beta}.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Pairs of a prompt's candidates."""
    return pairs(rows, settings.pairing)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """(delta - 1 / (2 beta))^2: [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    return (gain[:, 0] - gain[:, 1] - 1 / (2 * s.beta)) ** 2


METHOD = Method(groups=groups, loss=loss, settings=Settings, per="prompt", needs={"ref"}, rate=0.25)
