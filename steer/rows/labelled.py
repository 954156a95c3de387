"""What `steer label` left in a run folder, read back: rows, schema, scorer."""

from __future__ import annotations

from pathlib import Path

from steer.config import TrainConfig
from steer.errors import SteerError
from steer.rows import Row, read_all, split_of
from steer.rows.schema import Schema
from steer.run_folder import read_done


def beside(rows: str, name: str) -> Path:
    """A file in the run folder that holds the rows."""
    if not Path(rows).exists():
        raise SteerError(f"{rows}: no such file or folder. Check the path.")
    path = Path(rows) / name if Path(rows).is_dir() else Path(rows).parent / name
    if not path.is_file():
        raise SteerError(f'{rows}: has no {name} beside it. Run "steer label" first.')
    return path


def schema_of(rows: str) -> Schema:
    """The schema beside labelled rows."""
    schema = Schema.load(beside(rows, "schema.json"))
    if not all(a.counts for a in schema.attributes):
        raise SteerError(f'{rows}: the schema beside it has no levels. Run "steer label" first.')
    return schema


def labelled_rows(path: str) -> list[Row]:
    """The rows of `steer label`, held-out ones too."""
    rows = _levelled(path)
    for row in rows:
        if "split" not in row or "levels" not in row:
            raise SteerError(f"{path}: row '{row['id']}' has no levels or no split. Run \"steer label\" first.")
    return rows


def _levelled(path: str) -> list[Row]:
    """All rows, whose levels exist in the schema beside them where there is one."""
    rows = read_all(path)
    schema = (Path(path) if Path(path).is_dir() else Path(path).parent) / "schema.json"
    known = Schema.load(schema) if schema.is_file() else None
    if known is None or not all(a.counts for a in known.attributes):
        return rows
    for row in rows:
        levels = row.get("levels") or {}
        known.check_levels({n: levels[n] for n in known.names if n in levels}, f"{path}: row '{row['id']}'")
    return rows


def scorer_of(rows: str) -> str:
    """Identity of the scorer that labelled the rows, where their folder knows it."""
    return str(read_done(Path(rows)).get("scorer", ""))


def training_rows(config: TrainConfig) -> tuple[list[Row], int]:
    """The rows of the training split, and how many are held out."""
    rows = _levelled(config.rows)
    kept = [r for r in rows if split_of(r, config.held_out, config.seed) == "train"]
    if not kept:
        raise SteerError(f"{config.rows}: all {len(rows)} rows are held out; nothing is left to train on.")
    return kept[: config.limit or None], len(rows) - len(kept)
