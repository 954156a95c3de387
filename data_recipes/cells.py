"""Read the number that a cell of a table writes, and how it writes it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

WORDS = {"true or false": ("true", "false"), "yes or no": ("yes", "no"), "y or n": ("y", "n")}
EMPTY = ("NULL", "null", "None", "NaN", "nan", "<NA>", r"\N")  # what databases and pandas write into an empty cell
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


GRADE = re.compile(
    r"(\d+(?:\.\d+)?) ?(?:(?:/|out of) ?(\d+)(?: ?stars?)?|stars?)|(★{1,10})(☆*)", re.ASCII | re.IGNORECASE
)


def graded(value: Any) -> tuple[float, str] | None:
    """Return the grade that a text writes and how it writes it; None for any other value.

    Only in a column of scores: elsewhere 4/5 is a fraction or a date.

    >>> graded("4/5"), graded("8 out of 10"), graded("3 stars"), graded("★★★★☆"), graded("6/5")
    ((4.0, 'a grade out of 5'), (8.0, 'a grade out of 10'), (3.0, 'stars'), (4.0, 'a grade out of 5'), None)
    """
    match = GRADE.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= 20 else None
    if not match:
        return None
    number = float(match[1] or len(match[3]))
    best = match[2] or (str(len(match[3]) + len(match[4])) if match[4] else "")
    if best and number > float(best):
        return None
    return number, f"a grade out of {best}" if best else "stars"


ONE_WAY = ({"a whole number", "a decimal point", "a number"}, {"a whole number", "a decimal comma"})


def form(cell: Any) -> str:
    """Return how a cell writes a number, "a number" for one that is no text; "" for true, false and everything else."""
    if isinstance(cell, str):
        form = written(cell) or (graded(cell) or (0, ""))[1]
        return "true or false" if form in WORDS else form
    return "a number" if isinstance(cell, (int, float)) and not isinstance(cell, bool) else ""


def one_way(forms: Iterable[str]) -> bool:
    """Whether cells in these forms are on one scale: 50% and 5 are not, nor are 3,5 and 3.5 surely."""
    forms = {*forms}
    return len(forms) < 2 or any(forms <= each for each in ONE_WAY)
