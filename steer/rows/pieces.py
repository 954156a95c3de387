"""Rows by the piece: some records become checked rows and their lines, in this process or in several, in their order.

What a row needs to know of those before it (which ids are taken, how a column writes its numbers) is looked at where
the pieces come together. So rows, counts and messages depend neither on the processes nor on where a piece ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from data_recipes.cells import one_way
from steer.errors import SteerError
from steer.parts import in_order
from steer.progress import note_once, notes_kept
from steer.rows.contract import Row
from steer.rows.lines import line_of
from steer.rows.reading import TWO_WAYS, InOrderError, Reader, Reading, Source, Tally
from steer.rows.spool import decoded

MOST, BYTES = 512, 1 << 18  # records of a piece, and about how many bytes of rows

Item = tuple[str, Row | None]  # a record with its place; without one, why a record was skipped
Look = Callable[[list[Row]], tuple[list[Row], Any]]  # rows -> the rows to be written, and what is found in them


class Made(NamedTuple):
    """A row as a line, as `line_of` makes it, with its id and the place of its record."""

    id: str
    line: bytes
    place: str = ""

    def renamed(self, name: str) -> Made:
        """Return the row with another id."""
        return self._replace(id=name, line=line_of({**decoded(self.line), "id": name}, "rows"))


@dataclass
class Piece:
    """Rows of records that follow each other, and what a look at them found."""

    rows: list[Made]
    found: Any
    skipped: list[tuple[int, str]] = field(default_factory=list)  # rows before a record that was skipped, and why
    failed: str = ""  # why reading ends here
    notes: list[str] = field(default_factory=list)  # of a process that works apart, and what its Reader counted
    tally: Tally = field(default_factory=Tally)
    forms: dict[str, dict[str, str]] = field(default_factory=dict)

    def keep(self, rows: list[Made], look: Look) -> None:
        """Keep these rows only."""
        if len(rows) < len(self.rows):
            self.found = look([decoded(row.line) for row in rows])[1]
        self.rows = rows


def of_rows(rows: Iterable[Row], look: Look) -> Iterator[Piece]:
    """Yield the pieces of checked rows with ids that occur once."""
    reader = iter(rows)
    while some := list(islice(reader, MOST)):
        some, found = look(some)
        yield Piece([Made(row["id"], line_of(row, "rows")) for row in some], found)


def read_pieces(
    source: Source,
    look: Look,
    *,
    reading: Reading,
    tally: Tally | None = None,
    skipped: list[str] | None = None,
    limit: int = 0,
    processes: int = 1,
) -> Iterator[Piece]:
    """Yield the rows that `read` gives by the piece, the first `limit` of them if that is not 0.

    Other `processes` work on all but the first pieces; none does with a `limit`, for no record beyond it is looked at.
    InOrderError if records cannot be read apart from those before them: start again with one process.
    """
    processes = 1 if limit else processes
    reader = Reader(source, skipped, reading, tally)
    blocks = _Blocks(reader, 1 if limit else MOST)
    work, start = partial(_piece, reader, look), partial(_Apart, source, skipped is None, reading, look)
    left = limit
    for piece in in_order(blocks, work, start, processes, "read rows"):
        blocks.fit(piece)
        _join(piece, reader, look)
        if limit and len(piece.rows) >= left:
            piece.keep(piece.rows[:left], look)
            yield piece
            return
        left -= len(piece.rows)
        yield piece
        if piece.failed:
            raise SteerError(piece.failed)
    if blocks.failed:
        raise SteerError(blocks.failed)
    if not reader.quiet:
        reader.note()


class _Blocks:
    """Records in lists: one at first, later as many as give about BYTES of rows."""

    def __init__(self, reader: Reader, most: int) -> None:
        self.items = self._items(reader)
        self.most, self.size, self.failed = most, 1, ""

    def _items(self, reader: Reader) -> Iterator[Item]:
        bad: list[str] | None = None if reader.skipped is None else []
        told = 0
        try:
            for place, record in reader.records(bad):
                for message in bad[told:] if bad else ():
                    told += 1
                    yield message, None
                yield place, record
        except SteerError as error:
            self.failed = str(error)
        yield from ((message, None) for message in (bad or [])[told:])

    def __iter__(self) -> Iterator[list[Item]]:
        return self

    def __next__(self) -> list[Item]:
        if block := list(islice(self.items, self.size)):
            return block
        raise StopIteration

    def fit(self, piece: Piece) -> None:
        """Choose the size of the next lists by the rows of one."""
        size = sum(len(row.line) for row in piece.rows) // max(1, len(piece.rows))
        self.size = min(self.most, 2 * self.size, BYTES // (size + 1) + 1)


class _Apart:
    """What makes pieces in another process."""

    def __init__(self, source: Source, stops: bool, reading: Reading, look: Look) -> None:
        self.reader, self.look = Reader(source, None if stops else [], reading, Tally(), apart=True), look

    def __call__(self, _: int, block: list[Item]) -> Piece:
        reader = self.reader
        reader.count_anew()
        with notes_kept() as notes:
            piece = _piece(reader, self.look, block)
        piece.notes, piece.tally, piece.forms = notes, reader.tally, reader.forms
        return piece


def _piece(reader: Reader, look: Look, block: list[Item]) -> Piece:
    """Make rows of records; one that cannot be used is skipped, or ends the piece."""
    every, reader.skipped = reader.skipped, None if reader.skipped is None else []
    rows: list[Row] = []
    places: list[str] = []
    skipped: list[tuple[int, str]] = []
    failed = ""
    for place, record in block:
        if record is None:
            skipped.append((len(rows), place))
            continue
        try:
            rows += reader.usable(record, place)
        except SteerError as error:
            failed = str(error)
            break
        places += [place] * (len(rows) - len(places))
        if reader.skipped:
            skipped.append((len(rows), reader.skipped.pop()))
    reader.skipped = every
    rows, found = look(rows)
    made = [Made(row["id"], line_of(row, "rows"), place) for row, place in zip(rows, places)]
    return Piece(made, found, skipped, failed)


def _join(piece: Piece, reader: Reader, look: Look) -> None:
    """Count a piece behind those that the reader has, and give its rows ids that occur once."""
    for text in piece.notes:
        note_once(text)
    reader.tally.add(piece.tally)
    for name, forms in piece.forms.items():
        known = reader.forms.setdefault(name, {})
        if not all(one_way((one, other)) for one in forms for other in known):
            raise InOrderError(TWO_WAYS.format(name))
        reader.forms[name] = {**forms, **known}
    rows, skipped = [], deque(piece.skipped)
    for i, row in enumerate(piece.rows):
        while skipped and skipped[0][0] <= i:
            reader.refuse(skipped.popleft()[1])
        if hash(row.id) in reader.seen:
            other = reader.other_id(decoded(row.line), row.place)
            if other is None:
                continue
            row = row.renamed(other)
        reader.seen.add(hash(row.id))
        rows.append(row)
    for _, message in skipped:
        reader.refuse(message)
    piece.keep(rows, look)
