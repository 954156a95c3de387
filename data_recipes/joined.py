"""Join records that belong together: messages of an OASST tree, the two files of a batch, observations and scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from data_recipes import langfuse, oasst, spans
from data_recipes.marks import Turn
from data_recipes.streams import DataError, Record, refuse

Placed = tuple[str, Record]
JOINED = {"parent_id", "custom_id", "key", "input", *spans.OTLP[0]}  # each kind of record below has one of them


def joined(
    records: Iterable[Placed], bad: list[str] | None = None, *, alone: bool = False, scores: Iterable[Placed] = ()
) -> Iterator[Placed]:
    """Yield records that can be read alone, in their order; those that wait for another follow it.

    A flat OASST message gets `thread`, the turns before it, and `gone`, why it is left out; a result of a batch gets
    the `request` of its custom_id (Google's: its key), or passes without one if it may stand `alone`. An object of
    OTLP is its spans, and observations of Langfuse get their `scores`, which come before them or apart.
    All others pass. Memory: the texts of flat messages, the requests that still wait for their results, and scores.
    """
    tree, batch, rated = Tree(), Batch(), langfuse.Scores()
    for place, record in scores:
        if langfuse.is_score(record):
            rated.add(place, record, bad)
        else:
            wanted = "wanted scores of Langfuse, with name, data_type, and trace_id or observation_id"
            refuse(DataError(f"{place}: holds no score; {wanted}. Correct --scores."), bad)
    for whole in records:
        if _alone(tuple(whole[1])):  # as most are
            yield whole
            continue
        for place, record in _spread(*whole, bad):
            record = _as_openai(record) if "custom_id" in record else _from_google(record)
            if {"message_id", "parent_id", "text", "role"} <= set(record) and "thread" not in record:
                yield from tree.add(place, record, bad)
            elif "custom_id" in record and {"body", "response"} & {*record} and not {"request", "prompt"} & {*record}:
                yield from batch.add(place, record, bad)
            elif langfuse.is_score(record):
                rated.add(place, record, bad)
            else:
                yield place, rated.joined(record)
    yield from tree.rest(bad)
    yield from batch.rest(bad, alone)
    yield from rated.rest(bad)


@lru_cache(maxsize=1000)
def _alone(columns: tuple[str, ...]) -> bool:
    """Whether records with these columns neither hold others nor wait for any."""
    return JOINED.isdisjoint(columns) and not langfuse.is_score(dict.fromkeys(columns))


def _spread(place: str, record: Record, bad: list[str] | None) -> Iterator[Placed]:
    """Yield a record, of OTLP's object the spans in it."""
    try:
        yield from spans.expanded(place, record)
    except DataError as error:
        refuse(error, bad)


def _as_openai(record: Record) -> Record:
    """Return a request or a result of Anthropic's batches in the columns of OpenAI's."""
    record = dict(record)
    if isinstance(record.get("params"), dict) and "body" not in record:
        record["body"] = record.pop("params")
    result = record.get("result")
    if isinstance(result, dict) and "type" in result and "response" not in record:
        del record["result"]
        done = isinstance(result.get("message"), dict)
        record["response"] = (
            result["message"] if done else {"error": {"message": str(result["type"]), **_error(result)}}
        )
    return record


def _from_google(record: Record) -> Record:
    """Return a request or a result of Google's batches, which a key joins, in the columns of OpenAI's."""
    sides = [c for c in ("request", "response", "error") if isinstance(record.get(c), dict)]
    if "key" not in record or len(sides) != 1:
        return record
    side, value = sides[0], record[sides[0]]
    known = {"contents", "candidates", "message", "promptFeedback"} & value.keys()
    column, value = (
        ("body", value) if side == "request" else ("response", {"error": value} if side == "error" else value)
    )
    return {"custom_id": str(record["key"]), column: value} if known else record


def _error(result: Record) -> Record:
    inner = result.get("error")
    inner = inner.get("error", inner) if isinstance(inner, dict) else {}
    return {"message": inner["message"]} if isinstance(inner, dict) and inner.get("message") else {}


class Tree:
    """Flat messages by their id: those whose ancestors are known, and those that wait for theirs."""

    def __init__(self) -> None:
        self.turns: dict[str, tuple[str | None, Turn]] = {}  # message -> its parent and its turn
        self.waiting: dict[str, list[Placed]] = {}
        self.gone: dict[str, str] = {}  # message -> why it and all below it are left out

    def add(self, place: str, record: Record, bad: list[str] | None) -> Iterator[Placed]:
        """Yield the message and all that waited for it; nothing while it waits itself."""
        record = {**record, "parent_id": record["parent_id"] or None}  # blank in a table
        name, parent = record["message_id"], record["parent_id"]
        if not isinstance(name, str) or not isinstance(parent, str | None) or name in self.turns or name == parent:
            problem = f"{place}: columns 'message_id', 'parent_id': wanted texts, and every message once"
            refuse(DataError(f"{problem}. Correct the record."), bad)
            return
        ready = [(place, record)]
        while ready:
            place, record = ready.pop(0)
            parent = record.get("parent_id")
            if parent is not None and parent not in self.turns:
                self.waiting.setdefault(parent, []).append((place, record))
                continue
            try:
                self.turns[record["message_id"]] = (parent, oasst.turn(record))
            except DataError as error:
                refuse(DataError(f"{place}: {error}"), bad)
                continue
            why = oasst.gone(record, self.gone.get(parent or "", ""))
            if why:
                self.gone[record["message_id"]] = why
            yield place, {**record, "thread": self.thread(parent), **({"gone": why} if why else {})}
            ready += self.waiting.pop(record["message_id"], [])

    def thread(self, name: str | None) -> list[Turn]:
        """Return the turns from the root down to a message."""
        turns: list[Turn] = []
        while name is not None:
            name, turn = self.turns[name]
            turns.insert(0, turn)
        return turns

    def rest(self, bad: list[str] | None) -> Iterator[Placed]:
        """Refuse messages whose parent never came."""
        for parent, waiting in self.waiting.items():
            for place, _ in waiting:
                problem = f"{place}: column 'parent_id': there is no message '{parent}'"
                refuse(DataError(f"{problem}. Give the file with all messages of its trees."), bad)
        return iter(())


class Batch:
    """Requests and results of a batch by their custom_id; either may come first."""

    def __init__(self) -> None:
        self.requests: dict[str, Placed] = {}
        self.results: dict[str, Placed] = {}
        self.matched = 0

    def add(self, place: str, record: Record, bad: list[str] | None) -> Iterator[Placed]:
        """Yield the exchange once its request and its result are there."""
        name = str(record["custom_id"])
        same, other = (self.requests, self.results) if "body" in record else (self.results, self.requests)
        if name in same:
            problem = f"{place}: column 'custom_id': '{name}' is also at {same[name][0]}"
            refuse(DataError(f"{problem}. Every request of a batch wants its own."), bad)
            return
        if name not in other:
            same[name] = (place, record)
            return
        request, result = (record, other.pop(name)[1]) if "body" in record else (other.pop(name)[1], record)
        self.matched += 1
        rest = {c: v for c, v in {**request, **result}.items() if c not in ("body", "method", "url", "id")}
        yield place, {**rest, "response": result.get("response") or {}, "request": request["body"]}

    def rest(self, bad: list[str] | None, alone: bool) -> Iterator[Placed]:
        """Yield requests as prompts if there are no results at all, and results that may stand alone; refuse others."""
        for name, (place, record) in self.requests.items():
            if self.matched or self.results:
                refuse(DataError(f"{place}: request '{name}' has no result. Send it again, or leave it out."), bad)
            else:
                yield place, {"custom_id": name, "request": record["body"]}
        for name, (place, record) in self.results.items():
            if alone:
                yield place, {c: v for c, v in record.items() if c not in ("method", "url", "id")}
                continue
            problem = f"{place}: result '{name}' has no request"
            remedy = (
                "Name the file that was sent with --requests FILE, or what all of them answer with --default-prompt"
            )
            refuse(DataError(f"{problem}. {remedy}."), bad)
