"""MLE with filtering: likelihood of the best share of the logs only (the `%BC` of Decision Transformer, 2106.01345).

Differs from the official code: the share is taken over the whole data set by reward, not per prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.errors import SteerError
from steer.methods.base import Method, weighted_nll
from steer.methods.groups import Group, top
from steer.rows import Row


@dataclass(frozen=True)
class Settings:
    """`keep`: the share of rows that is kept, highest reward first."""

    keep: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise SteerError(f"keep is a share between 0 and 1, not {self.keep}.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """The top share by reward."""
    return top(rows, settings.keep)


METHOD = Method(groups=groups, loss=weighted_nll, settings=Settings, per="token")
