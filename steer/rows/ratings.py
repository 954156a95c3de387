"""Find the numeric columns of a file that are scores, where only their names and numbers can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from data_recipes import lists, votes
from data_recipes.cells import form, number
from data_recipes.layouts import LAYOUTS
from data_recipes.marks import ASKED_WITH, OURS
from data_recipes.metadata import Values, metadata
from data_recipes.scores import attribute, figures, may_score, named_as, ratings
from steer.rows.contract import Row
from steer.rows.directions import named_score

BY_NAME = "metadata, by the name"
PLAIN = {name for name, (columns, _) in LAYOUTS.items() if name == ", ".join(columns)}  # layouts of no published set
UNMAPPED = "not named by --map"
BESIDE = "numbers beside a log"
UNREAD = "no number, such as "
LOGGED = ("response", "completion", "generation", "choices")  # columns of a log's answer
RATED = ("scores", "attributes")  # columns that hold several scores
ASKED = ("prompt", "response", "completion", "messages", "conversations", "instruction", "output", "chosen", "rejected")


class Ratings:
    """Sift the scores of rows: `wanted` columns are scores; known metadata and what is on no scale of ratings is not.

    `again` gives all records of the file once more; it is called where the name of a column says nothing. `unrated`
    collects the columns that look like scores and are none, with the reason.
    """

    def __init__(self, wanted: Iterable[str], again: Callable[[], Iterable[Row]], unrated: dict[str, str]) -> None:
        self.wanted = {*wanted} - {*ASKED, *OURS}
        self.again = again
        self.unrated = unrated
        self.values: dict[str, Values] | None = None

    def sift(self, layout: str, record: Row, row: Row) -> Row:
        """Return the row with its true scores; other numbers stay as columns. Named sets name theirs."""
        if layout not in PLAIN or "scores" in record or isinstance(record.get("attributes"), dict):
            return row
        say = layout.rpartition(", ")[2]  # of several responses, lists of the same length hold a value for each
        scores = dict(row.get("scores") or {})
        back: Row = {}
        for name, column in _names(tuple(record), say).items():
            value = _value(record[column])
            if value is None:
                unread = isinstance(record[column], str) and record[column] and row.get(column) == record[column]
                if unread and name not in scores and named_score(name):
                    self.unrated.setdefault(column, f"{UNREAD}{record[column]!r:.30}")
                deep = column in row and column not in (*ASKED, *ASKED_WITH)
                if column not in self.unrated and (path := _inside(column, record[column], scores, deep=deep)):
                    self.unrated[column] = f"numbers inside, {path}"
                continue
            if name in self.wanted or column in self.wanted:
                scores.setdefault(name, value)
            elif name in scores and (why := self._fault(name, record[column], say)):
                self.unrated[column] = why
                own = scores.pop(name)
                back |= {name: own} if say in lists.LISTS else {column: record[column]}
            elif name not in scores and metadata(column) and not votes.ONE_HOT.fullmatch(column):
                self.unrated[column] = BY_NAME
            elif name not in scores and say in LOGGED and may_score(column) and named_score(name):
                self.unrated[column] = BESIDE
        if scores == (row.get("scores") or {}):
            return row
        raters = {name: each for name, each in (row.get("raters") or {}).items() if name in scores}
        rest = {column: value for column, value in row.items() if column != "raters"}
        return {**rest, **back, "scores": scores, **({"raters": raters} if raters else {})}

    def note_unmapped(self, rest: Row, *, alone: bool) -> None:
        """Note the columns of numbers that --map does not name; `scores` of the only response are read all the same."""
        for column, value in rest.items():
            rated = isinstance(value, dict) and column in RATED and not (alone and column == "scores")
            if rated or (column not in OURS and _value(value) is not None and not metadata(column)):
                self.unrated[column] = UNMAPPED

    def _fault(self, name: str, cell: object, say: str) -> str:
        """Return why the numbers of a column are no scores, or "" if they may be; `cell`: the number, as it is written.

        A name that says score is believed, but "yes" among other words is a word under any name.
        """
        named, word = named_score(name), isinstance(cell, str) and form(cell) == "true or false"
        if named and not word:
            return ""
        if self.values is None:
            self.values = {}
            for record in self.again():
                for column, value in record.items():
                    if not metadata(column):
                        self._look(
                            _name(column, say), value if say in lists.LISTS and isinstance(value, list) else [value]
                        )
        values = self.values.get(name, Values())
        return values.spoken() if named else values.fault() if values.count else ""

    def _look(self, name: str, cells: list[object]) -> None:
        """Count what a column holds in one record."""
        values = self.values.setdefault(name, Values()) if self.values is not None else Values()
        for cell in cells:
            number = _value(cell)
            if number is not None:
                values.add(number)
                values.forms.update({form(cell): repr(cell)} if form(cell) and form(cell) not in values.forms else {})
            elif isinstance(cell, str) and cell.strip():
                values.words += 1


def _inside(column: str, cell: object, scores: Row, *, deep: bool = False) -> str:
    """Return where a column holds a number whose name says score, and that is none yet, as --map writes it; else "".

    `deep`: it may be a list of objects, each with numbers.
    """
    if not isinstance(cell, dict | list):
        return ""
    places = cell.items() if isinstance(cell, dict) else [(i, v) for i, v in enumerate(cell)]
    for name in figures(cell):
        if named_score(name) and attribute(name) not in scores:
            at, value = next((k, v) for k, v in places if k == name or (isinstance(v, dict) and named_as(v) == name))
            keys = [key for key in ("value", "score") if isinstance(value, dict) and key in value]
            return ".".join([column, str(at), *keys[:1]])
    each = enumerate(cell) if deep and isinstance(cell, list) else ()
    return next((path for i, v in each if (path := _inside(f"{column}.{i}", v, scores))), "")


@lru_cache(maxsize=1000)
def _names(columns: tuple[str, ...], say: str) -> dict[str, str]:
    """Return the columns that may hold a score by its name."""
    names = {_name(column, say): column for column in columns if isinstance(column, str)}
    return {name: column for name, column in names.items() if column not in OURS}


def _name(column: str, say: str) -> str:
    """Return the name of a column's number as a score; `say`: the column of the response, or of several."""
    return attribute(lists.one(column, say) if say in lists.LISTS else column)


def _value(value: object) -> float | None:
    """Return the number of a cell, or the mean of a short list of them."""
    each = ratings(value)
    if each is None:
        return number(value)
    numbers = [v for v in each if v is not None]
    return sum(numbers) / len(numbers)
