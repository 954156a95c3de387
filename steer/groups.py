"""Rows -> groups of candidates: which responses a loss sees together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from steer.errors import SteerError

Row = dict[str, Any]


class Group(NamedTuple):
    """Candidates of one prompt, better first, and their weights in the loss."""

    rows: tuple[Row, ...]
    weights: tuple[float, ...]


def singles(rows: Sequence[Row]) -> list[Group]:
    """Every row by itself, weight 1."""
    return [Group((row,), (1.0,)) for row in rows]


def rewarded(rows: Sequence[Row], method: str) -> list[Row]:
    """The rows whose reward is known; an error where there is none, or where all are alike."""
    known = [row for row in rows if row.get("reward") is not None]
    for row in known:
        value = row["reward"]
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise SteerError(f"{method}: the reward of row '{row['id']}' is {value!r}, wanted a number or null.")
    if not known:
        raise SteerError(f'{method}: none of the {len(rows)} rows has a reward. Run "steer label" first.')
    if len({row["reward"] for row in known}) == 1:
        raise SteerError(f"{method}: all {len(known)} rewards are equal, so none is better than another.")
    return known


def top(rows: Sequence[Row], keep: float, method: str) -> list[Group]:
    """The share `keep` of the rows with the highest reward, as singles; ties keep the order of the rows."""
    known = rewarded(rows, method)
    count = max(1, int(keep * len(known) + 1e-9))  # .29 of 100 rows are 29, whatever floats say
    order = sorted(range(len(known)), key=lambda i: -known[i]["reward"])[:count]
    return singles([known[i] for i in sorted(order)])
