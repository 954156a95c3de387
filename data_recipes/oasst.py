"""Read OpenAssistant's conversations: trees, and flat messages whose ancestors `joined.py` has put into `thread`.

One row per assistant message. Its labels (0 to 1, means of several people) and its rank among its siblings (0 is the
best: lower is better) are scores; siblings share a group, so they are candidates of one prompt. Messages that were
deleted or failed their review, and all that are below them, are dropped and counted.
"""

from __future__ import annotations

from typing import Any

from data_recipes.cells import number
from data_recipes.marks import LEFT_OUT, Row, Turn
from data_recipes.parts import text
from data_recipes.scores import attribute
from data_recipes.speakers import ROLES
from data_recipes.streams import DataError
from data_recipes.turns import objects, turns

STOPPED = ("aborted_low_grade", "halted_by_moderator")  # trees that people gave up


def message(record: Row) -> list[Row]:
    """Return the row of a flat message; none for a user's, which is part of the prompts below it."""
    if record["role"] != "assistant":
        return []
    row = _row(record, turns(record["thread"], "thread"), str(record.get("parent_id") or ""), {"thread", "gone"})
    return [{**row, LEFT_OUT: record["gone"]} if record.get("gone") else row]


def gone(node: Row, above: str = "") -> str:
    """Return why a message is dropped, or "" if it is kept; `above`: why the one that it answers is dropped."""
    name = f"message '{node.get('message_id')}'"
    if number(node.get("deleted")):
        return f"{name} was deleted"
    if number(node.get("review_result")) == 0:
        return f"{name} failed its review"
    if node.get("tree_state") in STOPPED:
        return f"{name} is of a tree that was stopped ({node['tree_state']})"
    return f"{name} is below one that is left out" if above else ""


def tree(record: Row) -> list[Row]:
    """Return the rows of a whole tree, parents before their replies."""
    root = record["prompt"]
    if not isinstance(root, dict) or "replies" not in root:
        raise DataError("column 'prompt': wanted a message {text, role, replies}. Give the tree as it was exported.")
    shared = {column: record[column] for column in ("message_tree_id", "tree_state", "split") if record.get(column)}
    rows: list[Row] = []
    root = {"tree_state": record.get("tree_state"), **root}
    waiting: list[tuple[Row, list[Turn], str, str]] = [(root, [], "", "")]
    while waiting:
        node, before, parent, above = waiting.pop()
        why = gone(node, above)
        if node.get("role") == "assistant":
            row = _row(node, before, parent, {"replies", "tree_state"})
            rows.append({**shared, **row, **({LEFT_OUT: why} if why else {})})
        thread = [*before, turn(node)]
        replies = objects(node.get("replies"), "replies")
        waiting += [(reply, thread, str(node.get("message_id")), why) for reply in reversed(replies)]
    return rows


def turn(node: Row) -> Turn:
    """Return a message as a turn."""
    role = str(node.get("role"))
    return {"role": ROLES.get(role, role), "content": text(node.get("text"), "text") or ""}


def _row(node: Row, before: list[Turn], parent: str, used: set[str]) -> Row:
    scores: Row = {attribute(name): value for name, value in _labels(node.get("labels")).items()}
    if (rank := number(node.get("rank"))) is not None:
        scores["rank"] = rank
    used = {*used, "text", "role", "message_id", "parent_id", "labels", "rank"}
    rest = {column: value for column, value in node.items() if column not in used and value is not None}
    own = {"id": node.get("message_id"), "prompt": before, "response": text(node.get("text"), "text")}
    return {**rest, **own, "scores": scores, **({"group": parent} if parent else {})}


def _labels(labels: Any) -> Row:
    """Read {"quality": {"value": .5, "count": 3}} of the exports, or {"name": [..], "value": [..]} of the hub."""
    if isinstance(labels, list):
        labels = {note.get("name"): note for note in labels if isinstance(note, dict)}
    if not isinstance(labels, dict):
        return {}
    if isinstance(labels.get("name"), list):
        values = labels.get("value")
        pairs = list(zip(labels["name"], values if isinstance(values, list) else []))
    else:
        pairs = [(name, note.get("value") if isinstance(note, dict) else note) for name, note in labels.items()]
    return {str(name): score for name, value in pairs if (score := number(value)) is not None}
