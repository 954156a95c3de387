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
            recent = np.fromiter(self.recent, np.int64)
            both = np.concatenate([np.frombuffer(self.sorted, np.int64), np.sort(recent)])
            both.sort(kind="stable")  # two runs, which are merged
            self.sorted, self.recent = array("q", both.tobytes()), set()
