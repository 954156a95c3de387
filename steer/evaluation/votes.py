"""Votes in a file of AlpacaEval's annotations, as an annotator of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steer.errors import SteerError
from steer.labelling.scorer import readable
from steer.rows import Row
from steer.run_folder import read_json

SYSTEM = "system name"  # column of an answer, by which votes on it are found
COLUMNS = ("instruction", "output_1", "output_2", "preference")


def instruction(row: Row) -> str:
    """Join a prompt to one text, with roles where it has several turns."""
    turns = row["prompt"]
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def cast(path: str) -> Callable[[Sequence[Row], Sequence[Row]], np.ndarray[Any, Any]]:
    """Read annotations; the function returned gives the share of each pair's first row, NaN without an annotation.

    AlpacaEval writes preference 1 for output_1, 2 for output_2, numbers between, and 0 or 1.5 for a tie; null is no
    answer. Several annotations of one pair are averaged. Annotations that name their generators are matched by these
    (`generator` of a row, or the name of its system) and by text. Text alone matches annotations without generators,
    and answers without `generator` of systems that the file does not name.
    """
    shares: dict[tuple[str, ...], list[float]] = {}
    names: set[str] = set()
    content = read_json(Path(path))
    for i, line in enumerate(content if isinstance(content, list) else [content], start=1):
        missing = [c for c in COLUMNS if not isinstance(line, dict) or c not in line]
        if missing:
            raise SteerError(f"{path}: annotation {i} has no {', '.join(missing)}. Give AlpacaEval's annotations.json.")
        left, right = (str(line.get(f"generator_{side}") or "") for side in (1, 2))
        names |= {left, right} - {""}
        value = line["preference"]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or 1 <= value <= 2):
            raise SteerError(f"{path}: annotation {i} has the preference {value!r}; wanted 1 to 2, 0 or null.")
        first = 0.5 if value == 0 else 2.0 - value
        prompt, a, b = (str(line[c]) for c in ("instruction", "output_1", "output_2"))
        for key, share in (((prompt, a, b, left, right), first), ((prompt, b, a, right, left), 1 - first)):
            shares.setdefault(key, []).append(share)
            shares.setdefault(key[:3], []).append(share)

    def share_of(a: Row, b: Row) -> float:
        text = (instruction(a), readable(a)["response"], readable(b)["response"])
        lefts, rights = ([str(row[c]) for c in ("generator", SYSTEM) if row.get(c)] for row in (a, b))
        keys: list[tuple[str, ...]] = [(*text, x, y) for x in lefts for y in rights]
        named = any(row.get("generator") for row in (a, b)) or not names.isdisjoint((*lefts, *rights))
        keys.append((*text, "", "") if named and names else text)
        return next((float(np.mean(shares[key])) for key in keys if key in shares), math.nan)

    def prefer(first: Sequence[Row], second: Sequence[Row]) -> np.ndarray[Any, Any]:
        return np.array([share_of(a, b) for a, b in zip(first, second)], dtype=float)

    return prefer
