"""Scores of many rows on disk: in memory are one column, or one block of rows, at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

Scores = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
BLOCK = 1 << 16  # rows that are read at a time


@dataclass
class Table:
    """Scores [n, A] in a file, such as one without a name; `kept` [n]: which rows are looked at, all if it is None."""

    file: BinaryIO
    width: int  # A
    total: int = 0  # n
    kept: Mask | None = None

    @staticmethod
    def of(scores: Scores | Table) -> Table:
        """Return the table of scores [n, A] that are in memory; a table as it is."""
        if isinstance(scores, Table):
            return scores
        table = Table(io.BytesIO(), scores.shape[1])
        table.add(scores)
        return table

    def __len__(self) -> int:
        return self.total if self.kept is None else int(np.count_nonzero(self.kept))

    def add(self, rows: Scores) -> None:
        """Add rows [k, A]."""
        self.file.seek(self.total * self.width * 8)
        self.file.write(np.ascontiguousarray(rows, dtype=np.float64).tobytes())
        self.total += len(rows)

    def blocks(self, size: int = BLOCK) -> Iterator[Scores]:
        """Yield the rows that are kept of each `size` rows: [k, A]."""
        for first in range(0, self.total, size):
            count = min(size, self.total - first)
            self.file.seek(first * self.width * 8)
            block = np.frombuffer(self.file.read(count * self.width * 8)).reshape(count, self.width)
            yield block if self.kept is None else block[self.kept[first : first + size]]

    def column(self, j: int) -> Scores:
        """Return one column of the rows that are kept: [n], the caller's own."""
        out, place = np.empty(len(self)), 0
        for block in self.blocks():
            out[place : place + len(block)] = block[:, j]
            place += len(block)
        return out
