"""Labelled rows: rows with levels, the schema that the levels belong to, and the scorer that gave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from steer.errors import SteerError
from steer.rows import Row, Source, content_hash, read_rows, split_of, write_rows
from steer.rows.lazy import rows_on_disk
from steer.rows.schema import Schema
from steer.run_folder import read_done, write_json
from steer.settings import SHARE

if TYPE_CHECKING:
    import datasets

ROWS, SCHEMA, DONE = "rows.jsonl", "schema.json", "done.json"
LABEL_FIRST = 'Run "steer label" first.'


@dataclass(frozen=True)
class Labelled:
    """Rows with levels and a split, and the schema that the levels belong to.

    Plain rows can be held too, for methods that need no levels: `schema` then has no attributes.
    """

    rows: Sequence[Row] = field(repr=False)
    schema: Schema = field(default=Schema(()), repr=False)
    scorer: str = ""  # identity of the scorer that labelled the rows
    spec: str = ""  # what `load_scorer` finds it by; "human" for the scores in the rows, "" if unknown
    name: str = "rows"  # what messages call the rows

    @classmethod
    def of(cls, source: Source | Labelled, stored_as: str = "") -> Labelled:
        """Take rows as they are (a path, dicts, a datasets.Dataset), with the schema and scorer stored with a path.

        Levels that the schema does not have raise SteerError; rows without levels are allowed. `stored_as`: fingerprint
        of the path, by which many rows are put into a file that several processes share, and are not held.
        """
        if isinstance(source, Labelled):
            return source
        rows = rows_on_disk(source, stored_as) if stored_as else read_rows(source)
        stored = cls.without_rows(source)
        if stored.schema.levelled:
            for row in rows:
                levels = row.get("levels") or {}
                place = f"{source}: row '{row['id']}'"
                stored.schema.check_levels({n: levels[n] for n in stored.schema.names if n in levels}, place)
        return replace(stored, rows=rows)

    @classmethod
    def without_rows(cls, source: Source | Labelled) -> Labelled:
        """Read the schema and the scorer stored with rows, but no rows; what is not stored stays empty."""
        if isinstance(source, Labelled):
            return replace(source, rows=[])
        if not isinstance(source, str | Path):
            return cls([])
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        schema = Schema.load(folder / SCHEMA) if (folder / SCHEMA).is_file() else Schema(())
        facts = read_done(folder)
        return cls([], schema, str(facts.get("scorer", "")), str(facts.get("spec", "")), str(source))

    @classmethod
    def read(cls, path: str | Path, stored_as: str = "") -> Labelled:
        """Read what `save` or "steer label" wrote: a folder, or a file of rows with its schema.json beside it.

        A missing schema, or a row without levels or split, raises SteerError. `stored_as`: as of `of`.
        """
        labelled = cls.of(path, stored_as)
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
    def content(self) -> str:
        """Return 16 hex digits of rows, schema and scorer: all that a result depends on that is made from them."""
        return content_hash([*self.rows, {"schema": self.schema.to_json(), "scorer": self.scorer}])

    @property
    def support(self) -> dict[tuple[int, ...], int]:
        """Return joint levels over `schema.own` that enough rows have (`schema.minimum`), with the number of rows."""
        return self.schema.supported(self.schema.own)

    def to_dataset(self) -> datasets.Dataset:
        """Return the rows as a `datasets.Dataset`; a column or key that a row lacks is null there."""
        from datasets import Dataset

        names = dict.fromkeys(name for row in self.rows for name in row)
        return Dataset.from_dict({name: [row.get(name) for row in self.rows] for name in names})

    def training(self, held_out: float = SHARE, seed: int = 0, limit: int = 0) -> list[Row]:
        """Return the rows of the training split, the first `limit` of them (0: all).

        `held_out` is the share of prompts kept for evaluation among rows that name no split.
        """
        rows = [row for row in self.rows if split_of(row, held_out, seed) == "train"]
        if not rows:
            raise SteerError(f"{self.name}: all {len(self.rows)} rows are held out; nothing is left to train on.")
        return rows[: limit or None]

    def held_out(self, held_out: float = SHARE, seed: int = 0) -> list[Row]:
        """Return the rows that `training` leaves for evaluation."""
        return [row for row in self.rows if split_of(row, held_out, seed) != "train"]

    def require_levels(self) -> Schema:
        """Return the schema; SteerError if there is none, or it has no levels."""
        if not self.schema.attributes:
            raise SteerError(f"{self.name}: has no schema.json beside it. {LABEL_FIRST}")
        if not self.schema.levelled:
            raise SteerError(f"{self.name}: the schema beside it has no levels. {LABEL_FIRST}")
        return self.schema

    def require_labels(self) -> None:
        """Refuse rows of which one has no levels or no split."""
        for row in self.rows:
            if "split" not in row or "levels" not in row:
                raise SteerError(f"{self.name}: row '{row['id']}' has no levels or no split. {LABEL_FIRST}")


def content_of(rows: Sequence[Row], source: Source | Labelled) -> str:
    """Return the `content` of rows that were read from a source, with the schema and scorer that are stored there."""
    return replace(Labelled.without_rows(source), rows=rows).content
