"""Rows onto disk as Parquet: what is alike in all rows has a type of its own, everything else is JSON as text.

Which type a column has depends on every row, so rows wait in a `Spool` until all have been seen. Memory does not grow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import attribute_models
from data_recipes.parquet import JSON_TEXT, NO_NULLS
from steer.rows.contract import Row
from steer.rows.spool import DECODER, Spool

TURNS = ("prompt", "after_response")  # columns of lists of objects, whose keys become columns
OBJECTS = ("scores", "raters", "predicted", "levels", "target")  # and of objects by attribute
SCALARS = {str: "string", bool: "bool_", int: "int64", float: "float64"}
BLOCK = 4 << 20  # bytes of rows that become columns at a time
GROUP = 64 << 20  # bytes of columns in a row group

Stored = Callable[[Any], Any]  # a value that is not null -> what is stored of it


@dataclass
class Column:
    """The kinds of values in a column, or in a part of its values."""

    kinds: set[Any] = field(default_factory=set)  # types of Python, without that of null
    items: Column | None = None  # of lists
    parts: dict[str, Column] = field(default_factory=dict)  # of objects

    def add(self, value: Any) -> None:
        """Look at a value."""
        if value is None:
            return
        kind = type(value)
        self.kinds.add(kind)
        if kind is list:
            self.items = self.items or Column()
            for item in value:
                self.items.add(item)
        elif kind is dict:
            for name, inner in value.items():
                if (part := self.parts.get(name)) is None:
                    part = self.parts[name] = Column()
                part.add(inner)
        elif kind is int and not -(2**63) <= value < 2**63:
            self.kinds.add(object)  # no number of Parquet

    def refuse_halves(self, value: Any) -> None:
        """Take a text with half a surrogate pair, in itself or within, for what Parquet has no type of."""
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                self.kinds.add(object)
        elif isinstance(value, list) and self.items:
            for item in value:
                self.items.refuse_halves(item)
        elif isinstance(value, dict):
            for name, inner in value.items():
                self.parts[name].refuse_halves(inner)

    def type(self, *, objects: bool) -> tuple[Any, Stored | None] | None:
        """Return the Arrow type and what is stored of a value (None: itself); None if values have no common type.

        `objects`: keys of objects become columns.
        """
        import pyarrow

        if len(self.kinds) != 1:
            return None
        [kind] = self.kinds
        if kind in SCALARS:
            return getattr(pyarrow, SCALARS[kind])(), None
        if kind is list:
            inner = self.items.type(objects=objects) if self.items and self.items.kinds else (pyarrow.string(), None)
            return inner and (pyarrow.list_(inner[0]), inner[1] and _of_each(inner[1]))
        if not objects:
            return None
        fields, stored = columns_of(self.parts)
        if not fields:  # Parquet has no object without keys
            return pyarrow.struct([pyarrow.field("_", pyarrow.null())]), None
        return pyarrow.struct(fields), _of_parts(stored) if stored else None


def _of_each(stored: Stored) -> Stored:
    return lambda values: [None if value is None else stored(value) for value in values]


def _of_parts(stored: dict[str, Stored]) -> Stored:
    return lambda value: {n: stored[n](v) if n in stored and v is not None else v for n, v in value.items()}


def columns_of(columns: dict[str, Column], objects: Iterable[str] = ()) -> tuple[list[Any], dict[str, Stored]]:
    """Return the fields of columns that have a value, and what is stored of those whose values are changed.

    `objects`: columns whose keys become columns too.
    """
    import pyarrow

    fields, stored = [], {}
    for name, column in columns.items():
        if not column.kinds:
            continue
        kind, change = column.type(objects=name in objects) or (None, _json)
        metadata = None if kind is not None else JSON_TEXT
        fields.append(pyarrow.field(name, pyarrow.string() if kind is None else kind, metadata=metadata))
        if change:
            stored[name] = change
    return fields, stored


def _json(value: Any) -> str:
    """Return a value as JSON, as it reads, or in ASCII if half a surrogate pair is in it."""
    text = json.dumps(value, ensure_ascii=False)
    with suppress(UnicodeEncodeError):
        text.encode()
        return text
    return json.dumps(value)


class Table:
    """Rows on their way into Parquet files, on disk beside `output` until all have been seen."""

    def __init__(self, output: str | Path) -> None:
        self.rows = Spool(output)
        self.seen = Column()  # whose values are the rows

    def add(self, line: bytes) -> None:
        """Take a row, as `line_of` writes it."""
        self.rows.add_line(line)
        row = DECODER.raw_decode(str(line, "utf-8"))[0]
        self.seen.add(row)
        if b"\\ud" in line:
            self.seen.refuse_halves(row)

    def write(self, paths: Sequence[Path], size: int | None) -> int:
        """Write the rows in their order, `size` to a file (None: all), all with the same columns; return how many."""
        import pyarrow

        fields, stored = columns_of(self.seen.parts, (*TURNS, *OBJECTS))
        schema = pyarrow.schema(fields, metadata=NO_NULLS)
        lines, written = self.rows.lines(), 0
        for path in paths:
            with attribute_models.replacing(path) as file, _writer(file, schema) as writer:
                batches: list[Any] = []
                for rows in _blocks(islice(lines, size)):
                    batches.append(_batch(rows, schema, stored))
                    written += len(rows)
                    if sum(batch.nbytes for batch in batches) > GROUP:
                        writer.write_table(pyarrow.Table.from_batches(batches))
                        batches = []
                if batches:
                    writer.write_table(pyarrow.Table.from_batches(batches))
        return written


def _writer(file: Any, schema: Any) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetWriter(file, schema, compression="zstd")


def _blocks(lines: Iterable[bytes]) -> Iterator[list[Row]]:
    """Decode about BLOCK bytes at a time."""
    rows: list[Row] = []
    size = 0
    for line in lines:
        rows.append(DECODER.raw_decode(str(line, "utf-8"))[0])
        size += len(line)
        if size > BLOCK:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _batch(rows: Sequence[Row], schema: Any, stored: dict[str, Stored]) -> Any:
    import pyarrow

    columns = []
    for each in schema:
        values = [row.get(each.name) for row in rows]
        if change := stored.get(each.name):
            values = [None if value is None else change(value) for value in values]
        columns.append(pyarrow.array(values, type=each.type))
    return pyarrow.record_batch(columns, schema=schema)
