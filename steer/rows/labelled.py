"""Labelled rows: rows with levels, the schema that the levels belong to, and the scorer that gave them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer.errors import SteerError
from steer.rows import Row, Source, read_rows, split_of, write_rows
from steer.rows.schema import Schema
from steer.run_folder import read_done, write_json

if TYPE_CHECKING:
    import datasets

ROWS, SCHEMA, DONE = "rows.jsonl", "schema.json", "done.json"
LABEL_FIRST = 'Run "steer label" first.'


@dataclass(frozen=True)
class Labelled:
    """Rows with levels and a split, and the schema that the levels belong to.

    Plain rows can be held too, for methods that need no levels: `schema` then has no attributes.
    """

    rows: list[Row] = field(repr=False)
    schema: Schema = field(default=Schema(()), repr=False)
    scorer: str = ""  # identity of the scorer that labelled the rows
    spec: str = ""  # what `load_scorer` finds it by; "human" for the scores in the rows, "" if unknown
    name: str = "rows"  # what messages call the rows

    @classmethod
    def of(cls, source: Source | Labelled) -> Labelled:
        """Take rows as they are (a path, dicts, a datasets.Dataset), with the schema and scorer stored with a path.

        Levels that the schema does not have raise SteerError; rows without levels are allowed.
        """
        if isinstance(source, Labelled):
            return source
        rows = read_rows(source)
        if not isinstance(source, str | Path):
            return cls(rows)
        schema, done = stored_schema(source), _stored_facts(source)
        if schema.levelled:
            for row in rows:
                levels = row.get("levels") or {}
                place = f"{source}: row '{row['id']}'"
                schema.check_levels({n: levels[n] for n in schema.names if n in levels}, place)
        return cls(rows, schema, str(done.get("scorer", "")), str(done.get("spec", "")), str(source))

    @classmethod
    def read(cls, path: str | Path) -> Labelled:
        """Read what `save` or "steer label" wrote: a folder, or a file of rows with its schema.json beside it.

        A missing schema, or a row without levels or split, raises SteerError.
        """
        labelled = cls.of(path)
        labelled.require_levels()
        labelled.require_labels()
        return labelled

    def save(self, folder: str | Path) -> None:
        """Write rows.jsonl, schema.json and, last, done.json with the scorer."""
        folder = Path(folder)
        count = write_rows(self.rows, folder / ROWS)
        self.schema.save(folder / SCHEMA)
        summary = f"label: {count} rows out; scorer {self.scorer or 'unknown'}."
        write_json(folder / DONE, {"summary": summary, "rows": count, "scorer": self.scorer, "spec": self.spec})

    @property
    def support(self) -> dict[tuple[int, ...], int]:
        """Return joint levels over `schema.own` that enough rows have (`schema.minimum`), with the number of rows."""
        return self.schema.supported(self.schema.own)

    def to_dataset(self) -> datasets.Dataset:
        """Return the rows as a `datasets.Dataset`; a column or key that a row lacks is null there."""
        from datasets import Dataset

        names = dict.fromkeys(name for row in self.rows for name in row)
        return Dataset.from_dict({name: [row.get(name) for row in self.rows] for name in names})

    def training(self, held_out: float = 0.1, seed: int = 0, limit: int = 0) -> list[Row]:
        """Return the rows of the training split, the first `limit` of them (0: all).

        `held_out` is the share of prompts kept for evaluation among rows that name no split.
        """
        rows = [row for row in self.rows if split_of(row, held_out, seed) == "train"]
        if not rows:
            raise SteerError(f"{self.name}: all {len(self.rows)} rows are held out; nothing is left to train on.")
        return rows[: limit or None]

    def held_out(self, held_out: float = 0.1, seed: int = 0) -> list[Row]:
        """Return the rows that `training` leaves for evaluation."""
        return [row for row in self.rows if split_of(row, held_out, seed) != "train"]

    def require_levels(self) -> Schema:
        """Return the schema; SteerError if there is none, or it has no levels."""
        if not self.schema.attributes:
            raise SteerError(f"{self.name}: has no schema.json beside it. {LABEL_FIRST}")
        if not self.schema.levelled:
            raise SteerError(f"{self.name}: the schema beside it has no levels. {LABEL_FIRST}")
        return self.schema

    def require_labels(self) -> list[Row]:
        """Return the rows; SteerError if one has no levels or no split."""
        for row in self.rows:
            if "split" not in row or "levels" not in row:
                raise SteerError(f"{self.name}: row '{row['id']}' has no levels or no split. {LABEL_FIRST}")
        return self.rows


def _folder_of(path: str | Path) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent


def stored_schema(path: str | Path) -> Schema:
    """Load the schema.json beside rows; without one the schema has no attributes."""
    file = _folder_of(path) / SCHEMA
    return Schema.load(file) if file.is_file() else Schema(())


def _stored_facts(path: str | Path) -> Mapping[str, Any]:
    """Read what done.json beside rows says of their scorer."""
    return read_done(_folder_of(path))


def schema_of(path: str | Path) -> Schema:
    """Load the schema beside labelled rows, without reading the rows."""
    if not Path(path).exists():
        raise SteerError(f"{path}: no such file or folder. Check the path.")
    return Labelled([], stored_schema(path), name=str(path)).require_levels()


def spec_of(path: str | Path) -> str:
    """Return what `load_scorer` finds the scorer of labelled rows by; empty where their folder does not say."""
    return str(_stored_facts(path).get("spec", ""))


def scorer_of(path: str | Path) -> str:
    """Return the identity of the scorer that labelled rows; empty where their folder does not say."""
    return str(_stored_facts(path).get("scorer", ""))


def labelled_rows(path: str) -> list[Row]:
    """Read the rows of `steer label`, held-out ones too."""
    return Labelled.of(path).require_labels()


def beside(rows: str, name: str) -> Path:
    """Find a file in the run folder that holds the rows."""
    if not Path(rows).exists():
        raise SteerError(f"{rows}: no such file or folder. Check the path.")
    path = _folder_of(rows) / name
    if not path.is_file():
        raise SteerError(f"{rows}: has no {name} beside it. {LABEL_FIRST}")
    return path
