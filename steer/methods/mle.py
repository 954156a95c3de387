"""Offline maximum likelihood on every logged response: the baseline that ignores quality.

-log p(y | x), averaged over the response tokens of an optimizer step.
Differs from the official code: nothing, it is plain fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.methods.base import Method, weighted_nll
from steer.methods.groups import Group, singles
from steer.rows import Row


@dataclass(frozen=True)
class Settings:
    """None."""


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Every row."""
    return singles(rows)


METHOD = Method(groups=groups, loss=weighted_nll, settings=Settings, per="token")
