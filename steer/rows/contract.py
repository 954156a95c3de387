"""The row contract: what a row must be, and the first fault of one that is not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from data_recipes.streams import kind
from steer.errors import SteerError

Row = dict[str, Any]

PREFERENCE = "preference"  # the score that compares the responses of one `group`: it means nothing outside of it
ROLES = ("system", "developer", "user", "assistant", "tool")
ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
NAMES = ("id", "group", "source", "split")
HELD_OUT = ("test", "val", "dev", "eval", "held")  # how the name of a split begins that is not for training
SIDE = re.compile(rf"(?<![a-z])(train|{'|'.join(HELD_OUT)})")  # "330k_train" and "test_sft" are sides too
ENCODER = json.JSONEncoder(allow_nan=False)
TOO_DEEP = "is too deep: a list in a list, hundreds of times. Remove the row."
MOST = 1e100  # a score beyond it: sums of squares would no longer be numbers


def check(row: Row, place: str, *, answered: bool = True, blank: bool = False, response: str = "response") -> None:
    """Refuse a row that breaks the contract, with a SteerError: "place: column 'x': what is wrong. What to do."

    Scores are finite numbers or null; true and false are refused here, because `read` has made them 1 and 0. A response
    may be absent when it is not `answered`, and empty when it may be `blank`; `response` is the column that it was read
    from. Columns that the contract does not name are not looked at.
    """
    faults = chain(_name_faults(row), _prompt_faults(row), _response_faults(row, answered, blank), _value_faults(row))
    for column, problem in faults:
        raise SteerError(f"{place}: column '{response if column == 'response' else column}': {problem}.")


def _name_faults(row: Row) -> Iterator[tuple[str, str]]:
    """Yield faults as (column, what is wrong). The first is right; later ones may follow from it."""
    for column in NAMES:
        value = row.get(column)
        if not isinstance(value, str) and (column == "id" or value is not None):
            yield column, f"holds {kind(value)}, wanted a text. Write it in quotes"
    split = row.get("split")
    if split and not SIDE.search(split.lower()):
        yield "split", f"'{split}' is neither train nor test. Rename the split"


def _prompt_faults(row: Row) -> Iterator[tuple[str, str]]:
    prompt = row.get("prompt")
    if not isinstance(prompt, list):
        problem = f"is missing (there are: {', '.join(row)})" if prompt is None else f"holds {kind(prompt)}"
        yield "prompt", f"{problem}, wanted a list of turns {{role, content}}"
        return
    for i, turn in enumerate(prompt, start=1):
        if not isinstance(turn, dict):
            yield "prompt", f"turn {i} is {kind(turn)}, wanted {{role, content}}"
        elif turn.get("role") not in ROLES:
            yield "prompt", f"turn {i} has the role '{turn.get('role')}'. Use one of {', '.join(ROLES)}"
        else:
            yield from _text_faults(turn.get("content"), "prompt", f"turn {i} ")
    if not any(turn["content"].strip() for turn in prompt):
        yield "prompt", "is empty. Write what was asked, such as 'Write a sentence', or give --default-prompt for all"
    elif prompt[-1]["role"] not in ("user", "tool"):
        yield "prompt", f"ends with a turn of the {prompt[-1]['role']}. End it with the user's, or remove the row"


def _response_faults(row: Row, answered: bool, blank: bool) -> Iterator[tuple[str, str]]:
    response: Any = row.get("response")
    if not answered and response in (None, ""):
        return
    if response is None:
        yield "response", f"is missing (there are: {', '.join(row)}). Add it, or use the file for prompts only"
    yield from _text_faults(response, "response")
    if not response.strip() and not blank and not row.get("tool_calls"):
        yield "response", "is blank. Write what was answered, or remove the row"


def text_faults(text: Any) -> Iterator[str]:
    """Yield what is wrong with a text of a row: it is none, or cannot be written to a file."""
    if not isinstance(text, str):
        yield f"holds {kind(text)}, wanted a text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        yield f"has half a surrogate pair (a cut emoji) as character {error.start + 1}. Remove it"


def _text_faults(text: Any, column: str, part: str = "") -> Iterator[tuple[str, str]]:
    yield from ((column, f"{part}{fault}") for fault in text_faults(text))


def _value_faults(row: Row) -> Iterator[tuple[str, str]]:
    yield from _rater_faults(row.get("raters"))
    for column, wanted in (("scores", "a number or null"), ("levels", "an integer"), ("target", "an integer")):
        values = row.get(column)
        if not isinstance(values, dict | None):
            yield column, f"holds {kind(values)}, wanted an object {{attribute: {wanted}}}. Rename the column"
            return
        for name, value in (values or {}).items():
            if not ATTRIBUTE.fullmatch(name):
                yield column, f"'{name}' cannot name an attribute. Use a letter, then letters, digits, _ or -"
            # A target may lie between levels: some conditions print any number.
            number = isinstance(value, int if column == "levels" else (int, float)) and not isinstance(value, bool)
            if not number and (value is not None or column != "scores"):
                yield column, f"attribute '{name}' holds {value!r:.40}, wanted {wanted}"
            if isinstance(value, float) and not math.isfinite(value):
                yield column, f"attribute '{name}' is {value}. Write null where a score is unknown"
            if value is not None and abs(value) > MOST:
                yield column, f"attribute '{name}' is beyond {MOST:g}. Write it in a larger unit, or null"
            if isinstance(value, int) and value < 0 and column != "scores":
                yield column, f"attribute '{name}' is {value}, but the lowest level is 0. Count levels from 0"


def _rater_faults(raters: Any) -> Iterator[tuple[str, str]]:
    """Check {attribute: [a score of each rater, or null]}: several people scored the same response."""
    if not isinstance(raters, dict | None):
        yield "raters", f"holds {kind(raters)}, wanted an object {{attribute: [numbers]}}. Rename the column"
        return
    for name, each in (raters or {}).items():
        numbers = isinstance(each, list) and all(
            v is None or (isinstance(v, (int, float)) and not isinstance(v, bool) and -MOST <= v <= MOST) for v in each
        )
        if not numbers:
            yield "raters", f"attribute '{name}' holds {each!r:.40}, wanted a list of numbers or null"


def check_json(row: Row, place: str) -> None:
    """Refuse a row that could not be written: infinite numbers, bytes of Parquet, lists in lists without end."""
    try:
        ENCODER.encode(row)
    except RecursionError:
        raise SteerError(f"{place}: {TOO_DEEP}") from None
    except (TypeError, ValueError) as error:
        column = next((name for name, value in row.items() if not _is_json(value)), "id")
        remedy = "Write null for unknown numbers, and texts for bytes"
        raise SteerError(f"{place}: column '{column}': cannot be written as JSON ({error}). {remedy}.") from None


def _is_json(value: Any) -> bool:
    try:
        ENCODER.encode(value)
    except (TypeError, ValueError):
        return False
    return True
