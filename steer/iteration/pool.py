"""Training rows of a round: logged and fresh ones, with levels of one scorer and one schema."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from steer.errors import SteerError
from steer.labelling.scorer import Scorer
from steer.labelling.writer import labelled
from steer.rows import Row, read, write_rows
from steer.rows.binning import fitted
from steer.rows.schema import Schema

LEVELS = 5  # relative levels: the quantiles of Quark


def mixed(rows: str | Path, share: float, seed: int, limit: int = 0) -> Iterator[Row]:
    """Yield held-out rows and a share of the training rows, chosen by their ids and so the same in every round.

    `limit`: first drop all but so many training rows, as `steer train --limit` does (0: none).
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
    """Label rows again with this scorer."""
    scores = scorer.score(rows, schema.own)
    return [labelled(row, schema, s, s, scorer.id, row["split"]) for row, s in zip(rows, scores)]


def requantised(rows: Sequence[Row], schema: Schema, scorer: Scorer) -> tuple[list[Row], Schema]:
    """Make levels quantiles of the training rows' scores; return rows and schema."""
    if other := next((r for r in rows if r["scorer"] != scorer.id), None):
        raise SteerError(
            f"--relative-levels: row '{other['id']}' was labelled by {other['scorer']}, fresh ones by "
            f"{scorer.id}, and quantiles over two scorers mean nothing. Label the rows with the same scorer."
        )
    scores = np.array([[r["predicted"].get(n, np.nan) for n in schema.own] for r in rows])
    train = np.array([r["split"] == "train" for r in rows])
    schema = fitted(schema, scores[train], bins="quantile", levels=LEVELS, minimum=schema.minimum)
    # A target of before is on a scale of before.
    rows = [row | {"target": {}} if row.get("target") else row for row in rows]
    return [labelled(r, schema, s, s, r["scorer"], r["split"]) for r, s in zip(rows, scores)], schema


def pooled(rows: Iterator[Row], folder: Path, schema: Schema, scorer: Scorer, *, relative: bool, relabel: bool) -> Path:
    """Write the rows of a round with their schema, unless they are there.

    The support is counted again; `relative` levels are quantiles of this pool. `relabel`: the scorer is not the one
    that labelled the rows, so it scores all of them first.
    """
    if (folder / "schema.json").is_file():
        return folder
    if relabel:
        rows = iter(relabelled(list(rows), schema, scorer))
    if relative:
        quantised, schema = requantised(list(rows), schema, scorer)
        rows = iter(quantised)
    write_rows(rows, folder / "rows.jsonl")
    train = (row for row in read(folder / "rows.jsonl") if row["split"] == "train")
    schema.recounted(train).save(folder / "schema.json")
    return folder
