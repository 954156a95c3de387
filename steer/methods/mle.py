"""Offline maximum likelihood on every logged response: the baseline that ignores quality.

-log p(y | x), averaged over the response tokens of an optimizer step.
Differs from the official code: there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, Terms, weighted_nll
from steer.methods.groups import Group, singles
from steer.rows import Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """Nothing to set."""


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Every row."""
    return singles(rows)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Terms:
    """-log p(y | x): [B, 1, T] -> sum over tokens and the number of tokens."""
    return weighted_nll(logps, c)


METHOD = Method(groups=groups, loss=loss, settings=Settings)
