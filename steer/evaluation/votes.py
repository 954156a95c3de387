"""Votes that others cast: AlpacaEval's annotations of pairs, to be asked like any annotator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steer.errors import SteerError
from steer.rows import Row
from steer.run_folder import read_json

SYSTEM = "system name"  # column of an answer, for those who look for the votes on it
COLUMNS = ("instruction", "output_1", "output_2", "preference")


def instruction(row: Row) -> str:
    """The prompt as one text: alone as it is, a conversation with its roles."""
    turns = row["prompt"]
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def cast(path: str) -> Callable[[Sequence[Row], Sequence[Row]], np.ndarray[Any, Any]]:
    """What a file of annotations says of pairs: 1 the first, 0 the second, between them a tie, NaN where it is silent.

    AlpacaEval writes preference 1 for output_1, 2 for output_2, numbers between, and 0 or 1.5 for a tie; null is no
    answer. Several annotations of one pair are averaged. A line that names its generators is about these: it is found
    by them (`generator` of a row, or the name of its system) and by the text. By the text alone are found the lines
    that name none, and the answers of systems that the file does not know by name and that do not say who wrote them.
    """
    known: dict[tuple[str, ...], list[float]] = {}
    names: set[str] = set()
    said = read_json(Path(path))
    for i, line in enumerate(said if isinstance(said, list) else [said], start=1):
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
        asked, a, b = (str(line[c]) for c in ("instruction", "output_1", "output_2"))
        for key, part in (((asked, a, b, left, right), first), ((asked, b, a, right, left), 1 - first)):
            known.setdefault(key, []).append(part)
            known.setdefault(key[:3], []).append(part)

    def one(a: Row, b: Row) -> float:
        text = (instruction(a), a["response"], b["response"])
        both = [[str(row[c]) for c in ("generator", SYSTEM) if row.get(c)] for row in (a, b)]
        keys: list[tuple[str, ...]] = [(*text, x, y) for x in both[0] for y in both[1]]
        named = any(row.get("generator") for row in (a, b)) or any(x in names for found in both for x in found)
        keys.append((*text, "", "") if named and names else text)
        return next((float(np.mean(known[key])) for key in keys if key in known), math.nan)

    def prefer(first: Sequence[Row], second: Sequence[Row]) -> np.ndarray[Any, Any]:
        return np.array([one(a, b) for a, b in zip(first, second)], dtype=float)

    return prefer
