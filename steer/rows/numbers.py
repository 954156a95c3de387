"""A set of numbers that takes little memory, for hashes of many rows."""

from __future__ import annotations

from array import array
from bisect import bisect_left

import numpy as np

RECENT = 1 << 16  # numbers that are kept as Python keeps them, about 80 bytes each


class Numbers:
    """A set of signed 64-bit numbers, of which all but the last take 8 bytes each."""

    def __init__(self) -> None:
        self.recent: set[int] = set()
        self.sorted = array("q")

    def __contains__(self, number: int) -> bool:
        if number in self.recent:
            return True
        at = bisect_left(self.sorted, number)
        return at < len(self.sorted) and self.sorted[at] == number

    def add(self, number: int) -> None:
        """Add a number that is not in the set."""
        self.recent.add(number)
        if len(self.recent) >= RECENT:
            recent, known = np.sort(np.fromiter(self.recent, np.int64)), np.frombuffer(self.sorted, np.int64)
            both = array("q", [0]) * (len(known) + len(recent))  # filled in its place: a copy would take as much again
            merged, old = np.frombuffer(both, np.int64), np.ones(len(both), np.bool_)
            at = np.searchsorted(known, recent) + np.arange(len(recent))
            merged[at], old[at] = recent, False
            merged[old] = known
            self.sorted, self.recent = both, set()
