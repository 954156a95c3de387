"""Join the scores that Langfuse exports in a file of their own to its observations and traces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_recipes.endings import plain
from data_recipes.marks import NOTED, Row
from data_recipes.parts import objects, parsed
from data_recipes.streams import DataError, Record, refuse
from data_recipes.traces import NO_CALL

OF = ("observation", "trace", "session")  # what a score is of; scores of the first that has a name count
SCORE = {"name", "datatype"}  # columns of a score, beside the id of what it is of


def is_score(record: Record) -> bool:
    """Whether a record is a score of Langfuse, whose columns are written as in its API or as in its tables."""
    names = {plain(column) for column in record if isinstance(column, str)}
    return names >= SCORE and "input" not in names and any(f"{of}id" in names for of in OF)


class Scores:
    """Scores by what they are of. They come before the observations, which are too many to be kept."""

    def __init__(self) -> None:
        self.scores: dict[tuple[str, str], list[Row]] = {}
        self.places: dict[tuple[str, str], list[str]] = {}  # of scores whose observation has not come
        self.passed = False  # whether an observation or a trace has come

    def add(self, place: str, record: Record, bad: list[str] | None) -> None:
        """Keep a score; refuse one that comes after observations."""
        if self.passed:
            remedy = "Name the file of scores with --scores FILE"
            refuse(DataError(f"{place}: holds a score after observations that it may be of. {remedy}."), bad)
            return
        named = {plain(column): value for column, value in record.items()}
        key = next(((of, str(named[f"{of}id"])) for of in OF if named.get(f"{of}id")), ("nothing", ""))
        score = {"name": named["name"], "value": named.get("value"), "dataType": named["datatype"]}
        self.scores.setdefault(key, []).append(score | {"stringValue": named.get("stringvalue")})
        self.places.setdefault(key, []).append(place)

    def joined(self, record: Record) -> Record:
        """Return an observation or a trace with its scores; what has none of a name gets those of its trace."""
        if not {"input", "output"} <= record.keys() or "id" not in record:
            return record
        self.passed = True
        if not self.scores:
            return record
        trace = record.get("traceId") or record.get("trace_id")
        ids = (
            record["id"] if trace else None,
            trace or record["id"],
            record.get("sessionId", record.get("session_id")),
        )
        scores = _listed(record.get("scores"))
        notes = list(record.get(NOTED, ()))
        for of, name in zip(OF, ids):
            own = {score["name"] for score in scores}
            more = [each for each in self.scores.get((of, str(name)), ()) if of == OF[0] or each["name"] not in own]
            self.places.pop((of, str(name)), None)
            notes += [f"given: scores of its whole {of}"] if more and trace and of != OF[0] else []
            scores += more
        return {**record, "trace_id": trace or record["id"], "scores": scores, NOTED: notes} if scores else record

    def rest(self, bad: list[str] | None) -> Iterator[tuple[str, Record]]:
        """Yield scores of what is not there, to be left out and counted; refuse scores alone."""
        for (of, _), places in self.places.items():
            for place in places:
                if self.passed:
                    yield place, {NO_CALL: f"it is a score of a {of} that is not there"}
                    continue
                remedy = "Read the file of observations, and name this one with --scores"
                refuse(DataError(f"{place}: holds a score without the observation that it is of. {remedy}."), bad)


def _listed(scores: Any) -> list[Row]:
    scores = parsed(scores)
    if isinstance(scores, dict):
        return [{"name": name, "value": value} for name, value in scores.items()]
    return [each for each in objects(scores) if "name" in each]
