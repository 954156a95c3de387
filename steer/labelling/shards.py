"""Score rows part by part, with `steer.parts`; a part is a file of scores and truncation flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import attribute_models
from steer.errors import SteerError
from steer.labelling.scorer import Scorer, Scores, load_scorer
from steer.parts import Parts, Task, Workers, fill
from steer.rows import Row
from steer.rows.spool import decoded
from steer.run_folder import folder_errors

SCORE = Task("score", "scored")


def score_parts(
    parts: Parts, rows: Iterable[Row | bytes], scorer: Scorer, names: Sequence[str], workers: Workers
) -> None:
    """Score the parts that are not on disk yet and write them; rows may be lines, as `line_of` makes them."""
    workers = parts.busy(workers if scorer.model is not None else workers._replace(number=1), SCORE)
    if workers.elsewhere and not scorer.spec:
        raise SteerError(
            f"scorer {scorer.id}: other processes cannot load it. Name a saved one, or use one process (num_proc=1)."
        )
    start: Any = (
        partial(_again, scorer.spec, scorer.access, names) if workers.elsewhere else partial(_with, scorer, names)
    )
    fill(parts, rows, start, workers, _write, SCORE)


def scored(
    rows: Sequence[Row], scorer: Scorer, names: Sequence[str], folder: Path, workers: Workers, size: int
) -> Scores:
    """Score rows [n, A], in this process or by others; those keep parts of `size` rows in the folder."""
    if not workers.elsewhere or not rows:
        return scorer.score(rows, names)
    parts = Parts(folder, size, len(rows), ".npy")
    score_parts(parts, rows, scorer, names, workers)
    return np.concatenate([block[:, :-1] for block in read_blocks(parts)])


def _again(spec: str, access: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Load the scorer in the process that scores."""
    return _with(load_scorer(spec, **access), names)


def _with(scorer: Scorer, names: Sequence[str]) -> Any:
    def work(_: int, part: list[Row | bytes]) -> Scores:
        return scorer.score_and_flag([decoded(row) if isinstance(row, bytes) else row for row in part], names)

    return work


def _write(path: Path, scores: Scores) -> None:
    """Write the scores and flags [n, A + 1] of a part, whole or not at all."""
    with folder_errors(path.parent.parent), attribute_models.replacing(path) as file:
        np.save(file, scores, allow_pickle=False)


def read_blocks(parts: Parts) -> Iterator[Scores]:
    """Read the scores and flags [k, A + 1] of one part after the other."""
    return map(_read, parts.paths)


def _read(path: Path) -> Scores:
    try:
        scores: Scores = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SteerError(f"{path}: cannot be read ({error}). Remove it and run the same command again.") from None
    return scores
