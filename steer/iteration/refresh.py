"""Refit the scorer to the policy's fresh responses: measure its drift on rated ones, then fit it on them too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steer.config.labelling import FitConfig
from steer.errors import SteerError
from steer.evaluation.weighted import spearman
from steer.labelling.command import fit_command
from steer.labelling.scorer import Scorer, load_scorer
from steer.methods.base import Array
from steer.options import resolve
from steer.rows import Row, read_rows, write_rows
from steer.rows.schema import Schema
from steer.run_folder import read_json, rows_fingerprint, write_json


def check(scorer: str) -> None:
    """Raise SteerError for a scorer that cannot be refitted, or not on the rows that it was fitted on."""
    config = Path(scorer) / "config.json"
    fitted = read_json(config) if config.is_file() else {}
    if "rows" not in fitted:
        raise SteerError(f'--annotator: refits --scorer, so that must be a folder of "steer fit", not {scorer}.')
    if rows_fingerprint(fitted["rows"]) != dict(fitted.get("inputs") or {}).get("rows"):
        raise SteerError(f"--annotator: refits {scorer}, whose rows {fitted['rows']} are others now. Fit it again.")


def drift(scores: Array, rated: Array, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Mean absolute error, mean error and Spearman correlation of scores with ratings, [n, A] each, per attribute."""
    drifts = {}
    for j, name in enumerate(names):
        defined = ~np.isnan(scores[:, j]) & ~np.isnan(rated[:, j])
        error = scores[defined, j] - rated[defined, j]
        rank = float(spearman(scores[defined, j], rated[defined, j])(np.ones((1, int(defined.sum()))))[0, 0])
        figures = {"mae": float(np.abs(error).mean()), "bias": float(error.mean()), "spearman": rank}
        drifts[name] = {key: None if np.isnan(x) else round(x, 4) for key, x in figures.items()}
    return drifts


def refreshed(
    source: str, before: Scorer, annotator: Scorer, fresh: Sequence[Row], count: int, seed: int, folders: Sequence[Path]
) -> Scorer:
    """Rate `count` fresh responses, write the errors of the scorer `before` on them, then refit it.

    `source`: folder of the first scorer, whose rows are joined by the ratings of all rounds; `folders`: those of the
    rounds so far, this one last. drift.json holds the errors.
    """
    folder, names = folders[-1], before.attributes
    if not (folder / "drift.json").is_file():
        picked = np.sort(np.random.default_rng(seed).permutation(len(fresh))[:count])
        rows = [fresh[i] for i in picked]
        ratings = annotator.score(rows, names)
        scores = [{n: None if np.isnan(x) else float(x) for n, x in zip(names, row)} for row in ratings]
        write_rows(({**row, "scores": s, "split": "train"} for row, s in zip(rows, scores)), folder / "rated.jsonl")
        write_json(folder / "drift.json", drift(before.score(rows, names), ratings, names))
    first = read_json(Path(source) / "config.json")
    data = folder / "ratings"
    if not (data / "schema.json").is_file():
        rows = read_rows(first["rows"])[: first["limit"] or None]
        write_rows([*rows, *(row for f in folders for row in read_rows(f / "rated.jsonl"))], data / "rows.jsonl")
        Schema.load(Path(source) / "schema.json").save(data / "schema.json")
    flags: dict[str, Any] = {"rows": str(data), "output": str(folder / "scorer")}
    fit_command(replace(resolve(FitConfig, flags, str(Path(source) / "config.json")), limit=0, schema=""))
    return load_scorer(str(folder / "scorer"))
