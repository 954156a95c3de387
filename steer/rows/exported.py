"""Rows as other trainers read them: train.jsonl and test.jsonl in a folder for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data_recipes import exports
from data_recipes.streams import DataError
from steer.rows.contract import Row
from steer.rows.reading import read
from steer.rows.writing import write_rows


def exported(folder: Path, name: str, value: Callable[[Row], float | None]) -> dict[str, tuple[int, int]]:
    """Write the rows of a run in the form `name`, by side: (records, rows that are in none of them).

    `value` orders the candidates of a prompt for trl-preference.
    """
    counts = {}
    for side in ("train", "test"):
        rows = (row for row in read(folder, unique=False) if row["split"] == side)
        unused: set[str] = set()
        if name == "trl-preference":
            records: Iterable[Row] = exports.preferences(rows, value, unused)
        else:
            records = _converted(exports.steerlm if name == "steerlm" else exports.prompt_completion, rows, unused)
        path = folder / name / f"{side}.jsonl"
        count = write_rows(records, path)
        if not count:  # an empty file would be refused by those who read the folder
            path.unlink()
        counts[side] = (count, len(unused))
    return counts


def _converted(convert: Callable[[Row], Row], rows: Iterable[Row], unused: set[str]) -> Iterator[Row]:
    for row in rows:
        try:
            yield convert(row)
        except DataError:
            unused.add(row["id"])
