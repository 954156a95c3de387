"""Records of Argilla: fields, what annotators answered, and what a model suggested, in its three forms on disk.

Numbers that annotators submitted are ratings of several raters; a suggestion counts only without an answer, and
stays in the column `suggestions` elsewhere. Answers in words stay extra columns.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from data_recipes.cells import number
from data_recipes.marks import Row

FLAT = re.compile(r"(.+)(?:\.(responses|suggestion)(\..+)?|-(suggestion)(-metadata)?)")  # quality.responses.status


def is_record(record: Row) -> bool:
    """Whether a record holds answers to questions of Argilla."""
    return _answers(tuple(record))


@lru_cache(maxsize=1000)
def _answers(columns: tuple[str, ...]) -> bool:
    return any(column.endswith((".responses", ".suggestion", "-suggestion")) for column in columns)


def plain(record: Row) -> Row:
    """Return the fields as columns, and the scores of every question in `attributes`."""
    record = dict(record)
    answers, suggested = _records(record) if isinstance(record.get("fields"), dict) else _columns(record)
    scores: Row = {}
    suggestions: Row = {}
    words: Row = {}
    for name in dict.fromkeys([*answers, *suggested]):
        numbers = [n for value in answers.get(name, []) if (n := number(value)) is not None]
        offered = number(suggested.get(name))
        if numbers:
            scores[name] = numbers
        elif offered is not None and not answers.get(name):
            scores[name] = offered
        elif answers.get(name):
            words[name] = answers[name]
        if suggested.get(name) is not None and scores.get(name) is not offered:
            suggestions[name] = suggested[name]
    more = {**words, **({"suggestions": suggestions} if suggestions else {})}
    return {**record, **{c: v for c, v in more.items() if c not in record}, "attributes": scores}


def _records(record: Row) -> tuple[dict[str, list[Any]], Row]:
    """Take answers and suggestions out of a record {fields, responses, suggestions}; its fields become columns."""
    responses, suggestions = record.pop("responses", None), record.pop("suggestions", None)
    record |= record.pop("fields")
    answers: dict[str, list[Any]] = {}
    if isinstance(responses, list):  # [{values: {question: {value}}, status}]
        for one in responses:
            for name, answer in (one.get("values") or {}).items() if isinstance(one, dict) else ():
                answers.setdefault(name, []).extend(_submitted([{"status": one.get("status"), **_value(answer)}]))
    elif isinstance(responses, dict):  # {question: [{value, user_id, status}]}
        answers = {name: _submitted(values) for name, values in responses.items() if isinstance(values, list)}
    if isinstance(suggestions, list):
        named = {one.get("question_name", one.get("question")): one for one in suggestions if isinstance(one, dict)}
        suggestions = {str(name): one for name, one in named.items()}
    return answers, {name: _value(one)["value"] for name, one in (suggestions or {}).items()}


def _columns(record: Row) -> tuple[dict[str, list[Any]], Row]:
    """Take answers and suggestions out of columns such as quality.responses and quality-suggestion."""
    answers: dict[str, list[Any]] = {}
    suggested: Row = {}
    for column in list(record):
        match = FLAT.fullmatch(column)
        name = match[1] if match else column
        if not match or match[3] or match[5]:
            continue
        value = record.pop(column)
        if match[2] == "responses":
            value, status = value or [], record.get(f"{name}.responses.status")
            if not isinstance(status, list) or len(status) != len(value):
                status = [None] * len(value)
            answers[name] = _submitted([{"value": v, "status": s} for v, s in zip(value, status)])
        else:
            suggested[name] = value
            values = record.get(name)
            if match[4] and isinstance(values, list):
                answers[name] = _submitted(record.pop(name))
    return answers, suggested


def _submitted(answers: list[Any]) -> list[Any]:
    """Return the values of submitted answers, without drafts and discarded ones."""
    values = [_value(a) for a in answers]
    return [v["value"] for v in values if v.get("status") in (None, "submitted") and v["value"] is not None]


def _value(answer: Any) -> Row:
    return {"value": None, **answer} if isinstance(answer, dict) else {"value": answer}
