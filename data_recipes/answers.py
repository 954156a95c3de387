"""Make rows of a record's answers: what belongs to each, its id, and its group."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from data_recipes.cells import number
from data_recipes.marks import ASKED_WITH, Row, Turn
from data_recipes.parts import parsed
from data_recipes.scores import all_named, attribute, inside, may_score, named_once, scored

ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def content_id(row: Row) -> str:
    """Return 16 hex digits of prompt and response: the same content has the same id in every file."""
    others = [row.get(name) for name in (*ASKED_WITH, "tool_calls")]
    content = ENCODER.encode([row.get("prompt"), row.get("response"), *(others if any(others) else [])])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def asked_with(row: Row) -> str:
    """Return as JSON what a prompt holds beside the texts of its turns: calls, tools, template options; "" for none.

    JSON that is a text counts as what it holds.
    """
    calls = [(i, called) for i, turn in enumerate(row["prompt"]) if (called := called_with(turn))]
    if not calls and not any(map(row.get, ASKED_WITH)):
        return ""
    parts = {"calls": calls, **{name: _unpacked(row.get(name)) for name in ASKED_WITH}}
    parts = {name: part for name, part in parts.items() if part}
    return json.dumps(parts, sort_keys=True, default=str) if parts else ""


def called_with(answer: Row | Turn) -> list[Any]:
    """Return the functions that an answer calls, with their arguments; the ids of calls say nothing.

    JSON that is a text counts as what it holds.
    """
    calls = answer.get("tool_calls") or ()
    return [_unpacked(call.get("function", call) if isinstance(call, dict) else call) for call in calls]


def _unpacked(value: Any) -> Any:
    """Return a value with every text in it that is a JSON object or list as that."""
    if isinstance(value, str):
        return parsed(value)
    if isinstance(value, dict):
        return {name: _unpacked(inner) for name, inner in value.items() if inner is not None}
    return [_unpacked(inner) for inner in value] if isinstance(value, list | tuple) else value


def make_row(record: Row, used: set[str], prompt: list[Turn], response: str | None, after: Row | None = None) -> Row:
    """Return a row whose scores come from the columns that are not used; the others stay as extra columns."""
    rest = {column: value for column, value in record.items() if column not in used and value not in (None, "")}
    rest, named, offered = all_named(rest)
    found, rest = ({}, rest) if named else inside(rest)
    offered = offered if named else {column: rest.pop(column) for column in list(rest) if may_score(column)}
    scores, raters = scored({**offered, **found})
    others = {name: v for name, v in offered.items() if name in found or attribute(name) not in scores}
    words = {name: v for name, v in others.items() if v not in (None, "")}
    rest |= {column: str(rest[column]) for column in ("group", "source", "split") if column in rest}
    row: Row = {**words, **rest, **(after or {}), "prompt": prompt, "scores": scores, **raters}
    return row if response is None else {**row, "response": response}


def candidates(record: Row, used: set[str], prompt: list[Turn], answers: dict[str, Row]) -> list[Row]:
    """Return one row per answer, all of one group: the record's columns, then the answer's own.

    Of records that name their group each comparison is a group of its own, named after both.

    An answer holds `response`, `scores` and what belongs to it alone; its key ends its id. Columns of the record that
    are not used stay as they are, and none of them becomes a score.
    """
    shared = {column: value for column, value in record.items() if column not in used and value not in (None, "")}
    if isinstance(shared.get("source"), list) and all(isinstance(part, str) for part in shared["source"]):
        shared["source"] = ", ".join(shared["source"])
    shared |= {column: str(shared[column]) for column in ("source", "split") if column in shared}
    name = "" if record.get("id") in (None, "") else str(record["id"])
    own_id = name or content_id({"prompt": prompt, "response": [answer["response"] for answer in answers.values()]})
    group = str(record.get("group") or own_id)
    if group != own_id and any("preference" in answer.get("scores", {}) for answer in answers.values()):
        group += f":{own_id}"  # a preference says nothing about the answers of another comparison
    rows = []
    for key, answer in answers.items():
        own = {column: value for column, value in answer.items() if value is not None}
        scores = {n: s for n, v in own.get("scores", {}).items() if (s := number(v)) is not None}
        scores = {name: scores[column] for column, name in named_once({n: n for n in scores}).items()}
        row = {**shared, **own, "prompt": prompt, "scores": scores, "group": group}
        rows.append({**row, "id": f"{name}:{key}" if name else ""})
    return rows
