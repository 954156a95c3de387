"""What losses on pairs and thumbs share: settings, pairs, and what becomes of a loss if some labels are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.groups import Group, pairs
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FlipSettings(Checked):
    """Settings for labels of which some are wrong."""

    flips: float = option(0.0, "Share of the labels that are taken to be wrong: label smoothing.", least=0, most=0.49)
    robust: bool = option(False, "Correct the loss for flips (rDPO) instead of smoothing it (cDPO).")


@dataclass(frozen=True, kw_only=True)
class PairSettings(FlipSettings):
    """Settings that every loss on pairs has."""

    pairing: str = option("best-random", "Pairs of a prompt: best-worst, best-random (Zephyr) or all.")


def groups(rows: Sequence[Row], settings: PairSettings) -> list[Group]:
    """Pairs of a prompt's candidates."""
    return pairs(rows, settings.pairing)


def unsure(right: Tensor, wrong: Tensor, s: FlipSettings) -> Tensor:
    """Combine the losses of labels as they are (`right`) and the other way round (`wrong`), by a share e of flips.

    Smoothed, (1 - e) right + e wrong (cDPO, E. Mitchell 2023); or robust, ((1 - e) right - e wrong) / (1 - 2 e), whose
    mean over flipped labels is the loss of those as they were before (rDPO, 2403.00409).
    """
    if not s.flips:
        return right
    if s.robust:
        return ((1 - s.flips) * right - s.flips * wrong) / (1 - 2 * s.flips)
    return (1 - s.flips) * right + s.flips * wrong
