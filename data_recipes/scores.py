"""Read scores from the values of a record: numbers, grades, thumbs, ratings of several raters, named lists."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any

from data_recipes.cells import graded, number
from data_recipes.endings import tells_end
from data_recipes.marks import NOTED, OURS, Row
from data_recipes.metadata import metadata
from data_recipes.parts import parsed
from data_recipes.streams import DataError, kind

TOKENS = ("input_ids", "attention_mask", "labels", "tokens")  # lists of numbers that are no ratings
MOST_RATERS = 20  # a longer list of numbers is something else
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
SIGNS = {"+": "plus_", "-": "minus_", "_": "", "%": "percent_"}
THUMBED = re.compile(
    r"rating|thumbs?|score|quality|feedback|label|vote|reaction|kto ?(tag|label)|(user|human) ?(rating|feedback)"
)
GRADED = re.compile(  # columns where 4/5 and 4 stars are grades
    r"(.*[ _-])?(ratings?|scores?|stars?|grades?|quality|overall|helpful(ness)?|correct(ness)?|coherence|complexity|"
    r"verbosity)"
)
FEEDBACK_OBJECT = re.compile(r"((user|human)[ _-]?)?(feedback|ratings?|score)")
UP = re.compile(r"(thumbs? ?)?up|like[ds]?|good|positive|desirable|desired|chosen|accept(ed)?|upvoted?|👍.?")
DOWN = re.compile(r"(thumbs? ?)?down|dislike[ds]?|bad|negative|undesirable|undesired|rejected|reject|downvoted?|👎.?")


def thumbs(record: Row) -> Row:
    """Replace thumbs, likes and other words of praise and blame in columns of feedback by true or false."""
    replaced = {c: t for c, v in record.items() if isinstance(v, str) and (t := thumb(c, v)) is not None}
    return {**record, **replaced} if replaced else record


def thumb(column: str, value: Any) -> bool | None:
    """Return whether a word praises or blames, in a column of feedback; None for any other value or column."""
    spaced = column.strip().lower().replace("_", " ").replace("-", " ")
    if not isinstance(value, str) or len(value) > 20 or not THUMBED.fullmatch(spaced):
        return None
    word = re.sub(r"[ _-]+", " ", value.strip().lower())
    if column.lower() == "label" and word in ("positive", "negative"):  # usually the sentiment of the topic
        return None
    return True if UP.fullmatch(word) else False if DOWN.fullmatch(word) else None


@cache
def attribute(name: str) -> str:
    """Return an attribute's name for a column: plus_1 for "+1", hate_speech_threats for "hate speech, threats".

    Accents are taken off: Qualitat for "Qualität".
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        return name
    name = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    name = SIGNS.get(name[:1], name[:1]) + name[1:]
    name = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_-]", "_", name)).strip("_-")
    return name if re.match(r"[A-Za-z]", name) else f"n_{name}"


def _nameless(name: str) -> bool:
    """Whether nothing of a name says what an attribute is: its letters are none from a to z, or it has only signs."""
    made = attribute(name)
    return made[:2] == "n_" and not re.search("[A-Za-z]", name) and (made == "n_" or any(map(str.isalpha, name)))


def ratings(value: Any) -> list[float | None] | None:
    """Return the scores of several raters (null: not rated), or None if a value is no short list of numbers."""
    if not isinstance(value, list) or not 0 < len(value) <= MOST_RATERS:
        return None
    if not all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in value):
        return None
    return None if all(v is None for v in value) else [number(v) for v in value]


def named_once(names: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each column as an attribute; DataError if one can have none, or two are alike: one is lost."""
    attributes = {column: attribute(name) for column, name in names.items()}
    if unnamed := next((column for column in attributes if _nameless(names[column])), ""):
        raise DataError(
            f"column '{unnamed}': an attribute has a name of letters from a to z. Give it one, for example with "
            f"--map quality={unnamed}, or rename the column."
        )
    first: dict[str, str] = {}
    for column, name in attributes.items():
        other = first.setdefault(re.sub("[_-]+", "_", name.lower()), column)
        if other != column:
            raise DataError(f"columns '{other}', '{column}': both name the attribute '{name}'. Rename one of them.")
    return attributes


def scored(offered: Row) -> tuple[Row, Row]:
    """Return the `scores` among values, and `raters` for values that list several ratings: their mean is the score."""
    scores: Row = {}
    raters: Row = {}
    for column, value in offered.items():
        each = ratings(value)
        if each is not None:
            known = [v for v in each if v is not None]
            raters[column], scores[column] = each, sum(known) / len(known)
        elif (score := number(value)) is not None:
            scores[column] = score
        elif GRADED.fullmatch(column.lower()) and (grade := graded(value)):
            scores[column] = grade[0]
    names = named_once({column: column for column in scores})
    scores = {names[column]: score for column, score in scores.items()}
    raters = {names[column]: each for column, each in raters.items()}
    return scores, {"raters": raters} if raters else {}


def figures(value: Any) -> Row:
    """Return the numbers, thumbs too, of {name: 4}, {name: {value: 4}} or [{name, value}]; empty for anything else.

    A value may be called `score` too, and a name `key`; several values of one name are a list of numbers.
    """
    if isinstance(value, list) and all(named_as(each) for each in value):
        found: dict[str, list[Any]] = {}
        for each in value:
            for name, given in figures({named_as(each): each}).items():
                found.setdefault(name, []).append(given)
        return {name: each[0] if len(each) == 1 else [number(v) for v in each] for name, each in found.items()}
    if not isinstance(value, dict):
        return {}
    plain = {n: v.get("value", v.get("score")) if isinstance(v, dict) else v for n, v in value.items()}
    return {n: v for n, v in thumbs(plain).items() if number(v) is not None and may_score(n)}


def named_as(entry: Any) -> str:
    """Return the name that an entry of a list of scores has; "" if it has none."""
    name = entry.get("name", entry.get("key")) if isinstance(entry, dict) else ""
    return name if isinstance(name, str) else ""


def inside(record: Row) -> tuple[Row, Row]:
    """Return the figures in objects of feedback, and the record without them; its own columns come first.

    >>> inside({"prompt": "Hi", "feedback": {"rating": 4, "thumbs": "up", "comment": "nice"}})
    ({'rating': 4, 'thumbs': True}, {'prompt': 'Hi', 'feedback': {'comment': 'nice'}})
    """
    found: Row = {}
    for column, value in record.items():
        if not isinstance(value, dict | list) or not FEEDBACK_OBJECT.fullmatch(column.lower()):
            continue
        whole = value if isinstance(value, dict) else {}
        one = next((key for key in ("value", "type") if figures({column: whole.get(key)})), "")
        offered = {column: whole[one]} if one else value
        numbers = {n: v for n, v in figures(offered).items() if n not in {*record, *found} - {column}}
        found |= numbers
        entries = value if isinstance(value, list) else []
        left: Any = {n: v for n, v in whole.items() if n not in (*numbers, one)}
        left = left or [each for each in entries if named_as(each) not in numbers]
        if numbers:
            record = {c: left if c == column else v for c, v in record.items() if c != column or left}
    return found, record


def all_named(rest: Row) -> tuple[Row, bool, Row]:
    """Return the columns without the one that names all scores, whether there is one, and what it offers."""
    for column in ("scores", "attributes"):
        if (found := named_scores(rest.get(column))) is not None:
            offered, notes = found
            rest = {**rest, **({NOTED: [*rest.get(NOTED, ()), *notes]} if notes else {})}
            return {c: v for c, v in rest.items() if c != column}, True, offered
    value = parsed(rest.get("scores"))
    if isinstance(value, list) and all(v is None for v in value):  # nobody rated it
        return {c: v for c, v in rest.items() if c != "scores"}, False, {}
    if value is not None and ratings(value) is None and number(value) is None:
        raise DataError(
            f"column 'scores': holds {kind(value)}, wanted an object {{attribute: number}}. Rename the column."
        )
    return rest, False, {}


def named_scores(value: Any) -> tuple[Row, list[str]] | None:
    """Return what a column `scores` says of each attribute, and what is to be noted; None if it names none.

    It is {name: 4}, {name: {value: 4}}, a list of {name, value}, or one of them as JSON in a cell.
    """
    value = parsed(value)
    if isinstance(value, dict):
        inner = {n: v for n, v in value.items() if isinstance(v, dict)}
        nested = figures(inner) if inner else {}
        found, more = {**value, **nested}, any(len(inner[n]) > 1 for n in nested)
    elif isinstance(value, list) and value and all(map(named_as, value)):
        found = figures(value)
        more = any(
            named_as(entry) not in found and entry.get("value", entry.get("score")) is not None for entry in value
        )
    else:
        return None
    return found, ["left out: what 'scores' holds beside numbers"] if more else []


@cache
def may_score(column: str) -> bool:
    """Whether a number in this column can be a score."""
    return column not in (*OURS, *TOKENS) and not metadata(column) and not tells_end(column)
