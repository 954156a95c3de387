"""Names of the arrays that go in and out of attribute models, and their standardisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]


class Ballots(NamedTuple):
    """Votes of a pool of annotators on pairs [n], one drawn for each."""

    share: Array  # 1: the first response is better; 0: the second; .5: neither; NaN: no answer
    voter: Indices  # number of the annotator in the pool
    flipped: Mask  # whether the vote is the opposite of what the annotator said


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of columns, by which they become comparable."""

    mean: Array  # [D]
    deviation: Array  # [D], 1 where a column is constant

    @classmethod
    def of(cls, x: Array) -> Self:
        """Learn them from x [n, D]; NaN is skipped."""
        deviation = np.nanstd(x, 0)
        return cls(np.nanmean(x, 0), np.where(deviation > 1e-9, deviation, 1.0))

    def apply(self, x: Array, **_: Any) -> Array:
        """Standardise x [n, D]."""
        return (x - self.mean) / self.deviation


def common(sequences: Sequence[Any]) -> int:
    """Length of the common beginning of texts, or of lists of numbers.

    >>> common(["steer", "steel", "stem"]), common([[1, 2], [1, 2, 3]]), common(["", "a"])
    (3, 2, 0)
    """
    first, last = min(sequences), max(sequences)  # what these two have in common, all in between have too
    return next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
