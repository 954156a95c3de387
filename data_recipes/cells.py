"""Read the number that a cell of a table writes, and how it writes it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

WORDS = {"true or false": ("true", "false"), "yes or no": ("yes", "no"), "y or n": ("y", "n")}
BEGINS = frozenset("+-.0123456789")  # of a number
CELL = re.compile(r"[+-]?(\d+|\d*\.\d+|\d+\.|(?:0|\d{4,}),\d+|\d+,(?!\d{3}\b)\d+)(?:[eE][+-]?\d+)?( ?%)?", re.ASCII)


def number(value: Any) -> float | None:
    """Return the score that a value is, or None if it is no number.

    Texts are read as cells of a table have them: 4, 3.5, 3,5 (a decimal comma), 50%, true, yes.
    """
    if isinstance(value, str):
        form = written(value)
        if form in WORDS:
            return float(value.strip().lower() in WORDS[form][:1])
        return float(value.strip().rstrip("% ").replace(",", ".")) if form else None
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


def written(value: str) -> str:
    """Return the form in which a text writes a number, or "" if it writes none.

    1,234 is none: its comma may end the thousands or the ones.
    """
    if len(value) > 400:  # the longest that a float is printed as
        return ""
    cell = value.strip()
    if cell[:1] not in BEGINS:  # most texts: nothing else needs to be looked at
        return next((form for form, words in WORDS.items() if cell.lower() in words), "") if len(cell) <= 5 else ""
    match = CELL.fullmatch(cell)
    if not match:
        return ""
    if match[2]:
        return "a percentage"
    return "a decimal comma" if "," in match[1] else "a decimal point" if "." in cell else "a whole number"


ONE_WAY = ({"a whole number", "a decimal point", "a number"}, {"a whole number", "a decimal comma"})


def form(cell: Any) -> str:
    """Return how a cell writes a number, "a number" for one that is no text; "" for true, false and everything else."""
    if isinstance(cell, str):
        form = written(cell)
        return "true or false" if form in WORDS else form
    return "a number" if isinstance(cell, (int, float)) and not isinstance(cell, bool) else ""


def one_way(forms: Iterable[str]) -> bool:
    """Whether cells in these forms are on one scale: 50% and 5 are not, nor are 3,5 and 3.5 surely."""
    forms = {*forms}
    return len(forms) < 2 or any(forms <= each for each in ONE_WAY)
