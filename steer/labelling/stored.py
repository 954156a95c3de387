"""Rows of a file that are labelled: read and checked once, by one process or several, and never held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from steer.progress import note
from steer.rows import Reading, Row, pieces, split_of
from steer.rows.reading import InOrderError
from steer.rows.spool import Spool, decoded

Scores = np.ndarray[Any, Any]


@dataclass
class StoredRows:
    """Rows of a file in any known layout, never held in memory: checked once, then read again as they were.

    `output`: where room for them is needed as long as this object lives; `processes` read them and write their labels.
    """

    path: str
    output: str
    limit: int = 0
    turns: str = "last"
    processes: int = 1
    checked: Spool | None = None

    def __iter__(self) -> Iterator[Row]:
        return map(decoded, self.lines())

    def lines(self) -> Iterator[bytes]:
        """Yield the rows as lines."""
        if self.checked is None:
            yield from (row.line for piece in self.pieces(_plain) for row in piece.rows)
        else:
            yield from self.checked.lines()

    def pieces(self, look: pieces.Look) -> Iterator[pieces.Piece]:
        """Read the rows for the first time, and yield them by the piece."""
        checked, reading = Spool(self.output), Reading(turns=self.turns)
        for piece in pieces.read_pieces(self.path, look, reading=reading, limit=self.limit, processes=self.processes):
            checked.add_lines(row.line for row in piece.rows)
            yield piece
        self.checked = checked

    def read_alone(self, why: InOrderError) -> None:
        """Have the rows read again by one process, and say why."""
        note(f"--num-proc: the rows were read by one process, for {why}.")
        self.processes = 1


def _plain(rows: list[Row]) -> tuple[list[Row], None]:
    """Look at nothing."""
    return rows, None


class Found(NamedTuple):
    """What is to be known of some rows before they are scored."""

    scores: Scores  # [k, A], the human ones
    train: list[bool]
    targets: dict[tuple[str, float], int]  # (attribute, level) -> number of the first row that has this target


@dataclass(frozen=True)
class Look:
    """Find what is to be known of rows, in whatever process."""

    names: Sequence[str]
    held_out: float
    seed: int

    def __call__(self, rows: list[Row]) -> tuple[list[Row], Found]:
        """Return the rows as they are, and what was found in them."""
        targets: dict[tuple[str, float], int] = {}
        for i, row in enumerate(rows):
            for target in (row.get("target") or {}).items():
                targets.setdefault(target, i)
        train = [split_of(row, self.held_out, self.seed) == "train" for row in rows]
        return rows, Found(matrix(rows, self.names), train, targets)


def looked(rows: Iterable[Row], look: Look) -> Iterator[tuple[list[str], Found]]:
    """Yield the ids of some rows after the other, and what was found in them."""
    if isinstance(rows, StoredRows) and rows.checked is None:
        yield from (([row.id for row in piece.rows], piece.found) for piece in rows.pieces(look))
        return
    reader = iter(rows)
    while some := list(islice(reader, pieces.MOST)):
        yield [row["id"] for row in some], look(some)[1]


def matrix(rows: Sequence[Row], names: Sequence[str]) -> Scores:
    """Return human scores [n, A]; NaN where unknown."""
    values = [[row["scores"].get(n) for n in names] for row in rows]
    return np.array(values, dtype=float).reshape(len(rows), len(names))
