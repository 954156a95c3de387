"""Find the numeric columns of a file that are scores, where only their names and numbers can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from data_recipes import lists, votes
from data_recipes.layouts import LAYOUTS
from data_recipes.metadata import Values, metadata
from data_recipes.turns import OURS, attribute, number, ratings
from steer.rows.contract import Row
from steer.rows.directions import named_score

BY_NAME = "metadata, by the name"
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
        if layout != ", ".join(LAYOUTS[layout][0]) or "scores" in record or isinstance(record.get("attributes"), dict):
            return row
        say = layout.rpartition(", ")[2]  # of several responses, lists of the same length hold a value for each
        columns = {_name(column, say): column for column in record if isinstance(column, str)}
        scores = dict(row.get("scores") or {})
        back: Row = {}
        for name, column in columns.items():
            if column in OURS:
                continue
            value = _value(record[column])
            if value is None:
                unread = isinstance(record[column], str) and record[column] and row.get(column) == record[column]
                if unread and name not in scores and named_score(name):
                    self.unrated.setdefault(column, f"no number, such as {record[column]!r:.30}")
                continue
            if name in self.wanted or column in self.wanted:
                scores.setdefault(name, value)
            elif name in scores and (why := self._fault(name, say)):
                self.unrated[column] = why
                own = scores.pop(name)
                back |= {name: own} if say in lists.LISTS else {column: record[column]}
            elif name not in scores and metadata(column) and not votes.ONE_HOT.fullmatch(column):
                self.unrated[column] = BY_NAME
        if scores == (row.get("scores") or {}):
            return row
        raters = {name: each for name, each in (row.get("raters") or {}).items() if name in scores}
        rest = {column: value for column, value in row.items() if column != "raters"}
        return {**rest, **back, "scores": scores, **({"raters": raters} if raters else {})}

    def _fault(self, name: str, say: str) -> str:
        """Return why the numbers of a column are no scores, or "" if they may be."""
        if named_score(name):
            return ""
        if self.values is None:
            self.values = {}
            for record in self.again():
                for column, value in record.items():
                    each = value if say in lists.LISTS and isinstance(value, list) else [value]
                    for number in map(_value, each) if not metadata(column) else ():
                        if number is not None:
                            self.values.setdefault(_name(column, say), Values()).add(number)
        return self.values[name].fault() if name in self.values else ""


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
