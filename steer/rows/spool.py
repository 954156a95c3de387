"""Rows that were read and checked, on disk until a stage has ended: reading them again is decoding JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO
from weakref import finalize

from steer.rows.contract import Row
from steer.rows.lines import line_of
from steer.run_folder import folder_errors

DECODER = json.JSONDecoder()
BLOCK = 1 << 20  # bytes of rows that are decoded at a time


def nameless(output: str | Path) -> BinaryIO:
    """Open a file without a name beside the output, which goes when nothing holds it, however a process ends."""
    folder = next(parent for parent in Path(output).resolve().parents if parent.is_dir())
    with folder_errors(folder):
        return TemporaryFile(dir=folder)


def decoded(line: bytes) -> Row:
    """Return the row that a line holds."""
    return DECODER.raw_decode(str(line, "utf-8"))[0]  # type: ignore[no-any-return]


class Spool:
    """Rows in a nameless file beside the output.

    They can be iterated over several times. What JSON does not tell apart is not told apart here: a tuple is a list.
    """

    def __init__(self, output: str | Path) -> None:
        self.file = nameless(output)
        finalize(self, self.file.close)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.add_line(line_of(row, "rows"))

    def add_line(self, line: bytes) -> None:
        """Keep a row that is a line already, as `line_of` makes it."""
        self.file.write(line)

    def add_lines(self, lines: Iterable[bytes]) -> None:
        """Keep rows that are lines already."""
        self.file.writelines(lines)

    def __iter__(self) -> Iterator[Row]:
        return map(decoded, self.lines())

    def lines(self) -> Iterator[bytes]:
        """Yield the rows as `write_rows` writes them."""
        place = 0
        while True:
            self.file.seek(place)  # another iteration may have moved it
            lines = self.file.readlines(BLOCK)
            place = self.file.tell()
            if not lines:
                return
            yield from lines
