"""Rows onto disk: whole or not at all, and the same bytes for the same rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import attribute_models
from data_recipes.streams import form, part_names
from steer.errors import SteerError
from steer.rows.contract import Row
from steer.run_folder import folder_errors

ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def write_rows(rows: Iterable[Row], path: str | Path) -> int:
    """Write rows as .jsonl (also .gz, .zst; streamed) or .parquet (from memory) and return how many.

    Atomic: the file appears when it is complete, or not at all. The same rows give the same bytes.
    """
    return _write(rows, path)


def _write(rows: Iterable[Row | bytes], path: str | Path) -> int:
    """Do what `write_rows` does; rows may be lines already, as `line_of` makes them."""
    suffix, packing = form(path := Path(path))
    lines = suffix in (".jsonl", ".ndjson") and packing != ".xz"
    if not lines and (suffix, packing) != (".parquet", ""):
        raise SteerError(f"{path}: rows are written as .jsonl, .jsonl.gz, .jsonl.zst or .parquet. Change the suffix.")
    with folder_errors(path, "Choose another folder"), attribute_models.replacing(path) as file:
        if suffix == ".parquet":
            return _write_parquet(file, path, [json.loads(row) if isinstance(row, bytes) else row for row in rows])
        count = 0
        with _packed(file, packing) as out:
            for row in rows:
                out.write(row if isinstance(row, bytes) else line_of(row, path))
                count += 1
        return count


def write_parts(rows: Iterable[Row | bytes], folder: Path, parts: int, total: int) -> int:
    """Write rows.jsonl, or its parts with equal shares of at most `total` rows in their order; return how many."""
    size, reader = -(-total // parts), iter(rows)
    return sum(_write(islice(reader, size), folder / name) for name in part_names(parts))


def read_back(path: str | Path) -> list[Row]:
    """Read rows of a .jsonl file that `write_rows` wrote, unchecked: a response that a model left blank is one too."""
    with Path(path).open(encoding="utf-8") as file:  # splitlines() would cut at U+2028, which JSON leaves as it is
        return [json.loads(line) for line in file]


def _packed(file: BinaryIO, packing: str) -> AbstractContextManager[Any]:
    if packing == ".gz":
        return gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0)
    if packing == ".zst":
        import zstandard

        return zstandard.ZstdCompressor().stream_writer(file, closefd=False)
    return nullcontext(file)


def line_of(row: Row, path: str | Path) -> bytes:
    """Return a row as a line; a lone surrogate in an extra column becomes its JSON escape, which reads back."""
    try:
        return ENCODER.encode(row).encode("utf-8", "backslashreplace") + b"\n"
    except (TypeError, ValueError) as error:
        remedy = "Write null for unknown numbers, and no objects of Python"
        raise SteerError(f"{path}: row '{row.get('id')}' cannot be written as JSON ({error}). {remedy}.") from None


def _write_parquet(file: BinaryIO, path: Path, rows: list[Row]) -> int:
    import pyarrow.parquet

    for row in rows:
        line_of(row, path)  # the same rows are refused in either format
    try:
        table = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            if {} in values and not any(values):  # Parquet has no empty object, only one whose keys are all null
                values = [None if value is None else {"_": None} for value in values]
            table[name] = pyarrow.array(values)
        pyarrow.parquet.write_table(pyarrow.table(table), file)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise SteerError(f"{path}: column '{name}' fits no Parquet type ({error}). Write .jsonl.") from None
    return len(rows)
