"""MLE with filtering: likelihood of the best share of the logs only (the `%BC` of Decision Transformer, 2106.01345).

The share is taken over the whole data set by reward, not per prompt.
Differs from the official code: it is a share of the rows, there of their time steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.methods.base import Method, weighted_nll
from steer.methods.groups import Group, top
from steer.rows import Row
from steer.settings import Checked, option


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of filtered."""

    keep: float = option(0.2, "Share of the rows that is kept, highest reward first.", above=0, most=1)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """The top share by reward."""
    return top(rows, settings.keep)


METHOD = Method(rows="rewards", groups=groups, loss=weighted_nll, settings=Settings, per="token")
