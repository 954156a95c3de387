"""Regression to relative rewards (REBEL, 2404.16767, algorithm 1): margins of log-probabilities equal gaps of reward.

(delta / eta - (r_w - r_l))^2, delta as in dpo and r the reward, averaged over pairs of the last round's responses; the
reference is the policy that drew them, from which every round starts.
Differs from the official code: its loss is eta^2 times this one; it takes .05 of the KL from the first policy off the
rewards and gives a response without an end a fixed low one; here rounds drop responses that were cut off, so that
nothing is learned from them, and without `--any-form` malformed ones; pairs of equal rewards are dropped, and rewards
are the standardised ones of `steer label`. There log-probabilities are at the temperature of the draws (.5 to .8), here
at 1, whatever drew.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, gains
from steer.methods.groups import one_gap
from steer.methods.preferences import Pairing
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Pairing):
    """Settings of rebel."""

    eta: float = option(1.0, "Change of log-probability for one standard deviation of the reward.", above=0)
    _: KW_ONLY
    pairing: str = preferences.pairing("all")


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """Squared error (delta / eta - (r_w - r_l))^2: [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    return ((gain[:, 0] - gain[:, 1]) / s.eta - (c.reward[:, 0] - c.reward[:, 1])) ** 2


METHOD = Method(
    rows="several drawn",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref", "draws", "drawer"},
    pool="last",
    draws=2,  # a pair, as in algorithm 1
    rate=0.05,  # as tuned in the embedded world
    caveat=one_gap,
)
