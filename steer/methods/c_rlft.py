"""Conditioned reinforcement learning fine-tuning (C-RLFT, OpenChat, 2309.11235): weighted likelihood.

-w log p(y | x, levels), w = 1 for good responses and `bad` for the others, averaged over the tokens of a step. A good
one has a standardised reward of at least `threshold`.
Differs from the official code: there a response is good by the model that wrote it, and its condition names that model;
here both follow from its scores; it divides by the sum of the weights of a step, here by its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steer.methods import conditional
from steer.methods.groups import Group, levelled, rewarded, standardised
from steer.rows import Row
from steer.settings import Checked, option


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of c-rlft."""

    threshold: float = option(0.0, "Lowest reward of a good response, in standard deviations.")
    bad: float = option(0.1, "Weight of a response that is not good.", least=0)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Every row that has levels and a reward, weighted."""
    scored = rewarded(levelled(rows))
    z = standardised([row["reward"] for row in scored])
    return [Group((row,), (1.0 if x >= settings.threshold else settings.bad,)) for row, x in zip(scored, z)]


METHOD = replace(conditional.METHOD, rows="levels and rewards", groups=groups, settings=Settings)
