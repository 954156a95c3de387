"""Read whole conversations, `messages` and the `conversations` of ShareGPT and SteerLM: the last answer, or every one.

Scores of the record are those of the conversation, and go to every answer that is a row. A turn may have scores of its
own, which come first: SteerLM's `label`, objects `scores` or `attributes`, or what feedback is called in logs and
grades in tables (`user_rating`, `helpfulness`).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from data_recipes.answers import content_id, make_row
from data_recipes.endings import deleted
from data_recipes.logs import FEEDBACK, SCORES, feedback
from data_recipes.marks import LEFT_OUT, NOTED, OWN_SCORES, Row, Turn
from data_recipes.parts import hide
from data_recipes.scores import GRADED, NUMBER, attribute
from data_recipes.speakers import ROLES, spoken
from data_recipes.streams import DataError
from data_recipes.turns import NEMO_TURN, TURN, conversation, cut, from_cell

COLUMNS = ("messages", "conversations")
RATES = re.compile(r"((user|human)[ _-]?)?(feedback|thumbs?([ _-]?(up|down))*)")
LABEL = re.compile(rf"([^:,]+):({NUMBER.pattern})")


def read(record: Row, column: str, *, every: bool = False) -> list[Row]:
    """Return a row for the last assistant turn that may be learned, for each that SteerLM labelled, or for `every` one.

    Rows of every turn share a `conversation`; those that cannot be learned say why in LEFT_OUT. In OpenAI's fine-tuning
    files turns of weight 0 are not learned.
    """
    talk, scores, labelled = _talk(record, column)
    used = {column}
    if "mask" in record and column == "conversations":  # NeMo's own: numbers next to the labels are no scores
        record, used = {"scores": {}, **record}, {column, "mask"}
    answers = [i for i, turn in enumerate(talk) if turn["role"] == "assistant"]
    places: list[int | None] = [*(answers if every else labelled)] or [None]
    name = "" if record.get("id") in (None, "") else str(record["id"])
    rows = []
    for number, at in enumerate(places):
        prompt, response, after = cut(talk, at)
        row = make_row(record, used, prompt, response, after)
        own = scores.get(len(prompt), {}) if response is not None else {}
        row |= {name: {**row.get(name, {}), **own[name]} for name in own}
        if name and (len(places) > 1 or every):
            row["id"] = f"{name}:{number}"
        if every:
            row = {"conversation": name or content_id({"prompt": talk}), **row, OWN_SCORES: [*own.get("scores", ())]}
            row = _of_turn(row, len(prompt) + 1, last=number + 1 == len(places))
        rows.append(row)
    if scores.keys() - {len(row["prompt"]) for row in rows}:
        earlier = "left out: scores of earlier answers of a conversation (--turns all reads them)"
        rows[-1] = {**rows[-1], NOTED: [*rows[-1].get(NOTED, ()), earlier]}
    return rows


def _of_turn(row: Row, number: int, *, last: bool) -> Row:
    """Return the row of a turn as one of several; say why it cannot be learned.

    What follows it is in the rows of later turns, and what the record says about the end is so of the last one.
    """
    if not last:
        row = {**row, "finished": row.get("finished") is not False}
        row.pop("after_response", None)
    before = row["prompt"][-1]["role"] if row["prompt"] else ""
    why = ""
    if LEFT_OUT in row or "response" not in row:
        return row
    if not row["response"].strip() and not row.get("tool_calls"):
        why = "is blank"
    elif before not in ("user", "tool"):
        why = "answers no turn of the user"
    return {**row, LEFT_OUT: f"turn {number} {why}"} if why else row


def _talk(record: Row, column: str) -> tuple[list[Turn], dict[int, Row], list[int]]:
    """Return the turns, the scores that answers have of their own, and the places of answers that SteerLM labelled."""
    talk: list[Turn] = []
    scores: dict[int, Row] = {}
    labelled: list[int] = []
    value, end = _undeleted(from_cell(record[column], column))
    for turn in conversation(value, column, _kept):
        given = {name: turn.pop(name) for name in [*turn] if _rates(name)}
        first, *more = NEMO_TURN.split(turn["content"]) if column == "conversations" else [turn["content"]]
        talk.append({**turn, "content": first})
        talk.extend({"role": role.lower(), "content": part} for role, part in zip(more[::2], more[1::2]))
        if talk[-1]["role"] != "assistant":
            continue
        label = given.pop("label", None) if column == "conversations" else None
        if label:
            labelled.append(len(talk) - 1)
        own, raters = feedback(given) if given else ({}, {})
        if own := {**own, **(_label(label) if label else {})}:
            scores[len(talk) - 1] = {"scores": own, **raters}
    if end:
        hide(talk[-1], "turns from the first one that was deleted")
    return talk, scores, labelled


def _undeleted(value: Any) -> tuple[Any, bool]:
    """Return the turns before the first one that was deleted, if an answer is among them, and whether that is less."""
    turns = [spoken(turn) if isinstance(turn, dict) else {} for turn in value] if isinstance(value, list) else []
    end = next((i for i, turn in enumerate(turns) if deleted(turn)), 0)
    roles = [str(turn.get("role", turn.get("from"))).lower() for turn in turns[:end]]
    answered = any(ROLES.get(role, role) == "assistant" for role in roles)
    return (value[:end], True) if answered else (value, False)


def _kept(name: str) -> bool:
    return name in TURN or _rates(name)


@cache
def _rates(name: str) -> bool:
    """Whether a key of a turn is a score of it, or SteerLM's label."""
    return name in ("label", *SCORES, *FEEDBACK) or bool(
        GRADED.fullmatch(name.lower()) or RATES.fullmatch(name.lower())
    )


def _label(label: str) -> dict[str, float]:
    """Parse SteerLM's label: "quality:4,toxicity:0"."""
    parts = [LABEL.fullmatch(part.strip()) for part in str(label).split(",")]
    if not all(parts):
        raise DataError(f"column 'conversations': label '{label}' does not read name:number,name:number. Correct it.")
    names = [attribute(part[1].strip()) for part in parts if part]
    if len({*names}) < len(names):
        raise DataError(f"column 'conversations': label '{label}' names an attribute twice. Correct it.")
    return {name: float(part[2]) for name, part in zip(names, parts) if part}
