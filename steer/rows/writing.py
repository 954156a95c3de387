"""Rows onto disk: whole or not at all, and the same bytes for the same rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import attribute_models
from data_recipes.streams import form, part_names
from steer.errors import SteerError
from steer.rows.contract import Row
from steer.rows.lines import line_of
from steer.run_folder import folder_errors


def write_rows(rows: Iterable[Row], path: str | Path) -> int:
    """Write rows as .jsonl (also .gz, .zst) or .parquet, one at a time, and return how many.

    Atomic: the file appears when it is complete, or not at all. The same rows give the same bytes. In Parquet, a column
    whose values have no type in common, and objects with keys of their own (`tools`), are JSON as text; what is null is
    read as absent.
    """
    path = Path(path)
    return _write_parquet(rows, [path]) if form(path) == (".parquet", "") else _write_lines(rows, path)


def write_parts(rows: Iterable[Row | bytes], folder: Path, parts: int, total: int, written_as: str = "jsonl") -> int:
    """Write the rows of a folder in one file, or in parts with equal shares of at most `total` rows; return how many.

    `written_as`: a form in FORMS. Rows may be lines already, as `line_of` makes them.
    """
    size, reader, paths = -(-total // parts), iter(rows), [folder / name for name in part_names(parts, written_as)]
    if written_as == "parquet":
        return _write_parquet(reader, paths, size)
    return sum(_write_lines(islice(reader, size), path) for path in paths)


def _write_lines(rows: Iterable[Row | bytes], path: Path) -> int:
    suffix, packing = form(path)
    if suffix not in (".jsonl", ".ndjson") or packing == ".xz":
        raise SteerError(f"{path}: rows are written as .jsonl, .jsonl.gz, .jsonl.zst or .parquet. Change the suffix.")
    with folder_errors(path, "Choose another folder"), attribute_models.replacing(path) as file:
        count = 0
        with _packed(file, packing) as out:
            for row in rows:
                out.write(row if isinstance(row, bytes) else line_of(row, path))
                count += 1
        return count


def _write_parquet(rows: Iterable[Row | bytes], paths: Sequence[Path], size: int | None = None) -> int:
    """Write `size` rows to each file, all rows if there is one."""
    from steer.rows.parquet import Table

    with folder_errors(paths[0], "Choose another folder"):
        table = Table(paths[0])
        for row in rows:
            table.add(row if isinstance(row, bytes) else line_of(row, paths[0]))
        return table.write(paths, size)


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
