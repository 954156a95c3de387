"""What losses on pairs and thumbs share: settings, pairs, and what becomes of a loss if some labels are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steer.methods.groups import PAIRINGS, Group, pairs
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FlipSettings(Checked):
    """Settings for labels of which some are wrong."""

    flips: float = option(0.0, "Share of the labels that are taken to be wrong: label smoothing.", least=0, most=0.49)
    robust: bool = option(False, "Correct the loss for flips (rDPO) instead of smoothing it (cDPO).", needs=("flips",))


def pairing(default: str) -> Any:
    """A setting: which responses to a prompt become pairs."""
    return option(
        default,
        "Pairs of a prompt: its best and worst response, best and a random worse (Zephyr), or all.",
        choices=PAIRINGS,
    )


@dataclass(frozen=True, kw_only=True)
class Pairing(Checked):
    """Settings of methods that make pairs."""

    pairing: str = pairing("best-random")


@dataclass(frozen=True, kw_only=True)
class PairSettings(Pairing, FlipSettings):
    """Settings of losses on pairs of which some may be the wrong way round."""


def groups(rows: Sequence[Row], settings: Pairing) -> list[Group]:
    """Pairs of a prompt's candidates."""
    return pairs(rows, settings.pairing)


def unsure(right: Tensor, wrong: Tensor, s: FlipSettings) -> Tensor:
    """Combine the losses of labels as they are (`right`) and the other way round (`wrong`), by a share e of flips.

    Smoothed, (1 - e) right + e wrong (cDPO, E. Mitchell 2023); or robust, ((1 - e) right - e wrong) / (1 - 2 e), whose
    mean over flipped labels is the loss of those as they were before (rDPO, 2403.00409). What a loss adds to
    that, such as the likelihood of the better response, and its weights take the labels as they are.
    """
    if not s.flips:
        return right
    if s.robust:
        return ((1 - s.flips) * right - s.flips * wrong) / (1 - 2 * s.flips)
    return (1 - s.flips) * right + s.flips * wrong


def hinge(margin: Tensor, s: FlipSettings) -> Tensor:
    """How far a margin is below 1, at least 0, with a share of labels that may be wrong."""
    return unsure((1 - margin).clamp(min=0), (1 + margin).clamp(min=0), s)


def logistic(margin: Tensor, s: FlipSettings, offset: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid of how far a margin is above the offset, with a share of labels that may be wrong."""
    from torch.nn.functional import logsigmoid

    return unsure(-logsigmoid(margin - offset), -logsigmoid(-margin - offset), s)
