"""What a round trains on: logged rows and the fresh ones of its rounds, with levels of one scorer and one schema."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from steer.errors import SteerError
from steer.labelling.label import labelled
from steer.labelling.scorer import Scorer
from steer.rows import Row, read, read_rows, write_rows
from steer.rows.binning import fitted
from steer.rows.schema import Schema

LEVELS = 5  # relative ones: the quantiles of Quark


def mixed(rows: str | Path, share: float, seed: int, limit: int = 0) -> Iterator[Row]:
    """The logged rows with a share of those that train, the same in every round: a row's id decides.

    `limit`: of the first so many that train (0: of all), which are those that `steer train --limit` takes.
    """
    train = 0
    for row in read(rows):
        if row["split"] == "train":
            train += 1
            drawn = hashlib.blake2b(f"{seed}:{row['id']}".encode(), digest_size=8).digest()
            if (limit and train > limit) or int.from_bytes(drawn) >= share * 2**64:
                continue
        yield row


def relabelled(rows: Sequence[Row], schema: Schema, scorer: Scorer) -> list[Row]:
    """Rows as this scorer sees them, whoever labelled them before."""
    scores = scorer.score(rows, schema.own)
    return [labelled(row, schema, s, s, scorer.id, row["split"]) for row, s in zip(rows, scores)]


def requantised(rows: Sequence[Row], schema: Schema, scorer: Scorer) -> tuple[list[Row], Schema]:
    """Rows with levels that are quantiles of the scores of those that train, and their schema."""
    if other := next((r for r in rows if r["scorer"] != scorer.id), None):
        raise SteerError(
            f"--relative-levels: row '{other['id']}' was labelled by {other['scorer']}, fresh ones by "
            f"{scorer.id}, and quantiles of both mean nothing. Label the rows with the same scorer."
        )
    scores = np.array([[r["predicted"].get(n, np.nan) for n in schema.own] for r in rows])
    train = np.array([r["split"] == "train" for r in rows])
    schema = fitted(schema, scores[train], bins="quantile", levels=LEVELS, minimum=schema.minimum)
    return [labelled(r, schema, s, s, r["scorer"], r["split"]) for r, s in zip(rows, scores)], schema


def pooled(rows: Iterator[Row], folder: Path, schema: Schema, scorer: Scorer, *, relative: bool, relabel: bool) -> Path:
    """Write the rows of a round with their schema, unless they are there.

    Absolute levels stay what they are, with a new count of the support; `relative` ones are quantiles of this pool.
    `relabel`: all rows are scored anew first, because the scorer is not the one that labelled them.
    """
    if (folder / "schema.json").is_file():
        return folder
    if relative or relabel:
        found = list(rows)
        found = relabelled(found, schema, scorer) if relabel else found
        found, schema = requantised(found, schema, scorer) if relative else (found, schema)
        rows = iter(found)
    write_rows(rows, folder / "rows.jsonl")
    train = [row for row in read_rows(folder / "rows.jsonl") if row["split"] == "train"]
    schema.recounted(train).save(folder / "schema.json")
    return folder
