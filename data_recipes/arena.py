"""Read two answers side by side and a vote: arena logs, whole conversations or one answer each.

The vote (see `votes.py`) is about both conversations as a whole, so answers that follow
different turns are no answers to one prompt: they are left out and counted.
"""

from __future__ import annotations

import json
from typing import Any

from data_recipes import preferences
from data_recipes.asked import question
from data_recipes.cells import number
from data_recipes.marks import LEFT_OUT, Row, Turn
from data_recipes.streams import DataError
from data_recipes.turns import answered, conversation, cut, turns

SAID = ("response", "answer", "output", "completion")  # response_a, response_b


def talks(record: Row) -> list[Row]:
    """Read conversation_a and conversation_b (chatbot arena, MT-bench); `turn` says which answer was judged."""
    preferences.two_alone(record, "conversation")
    sides = []
    for column in ("conversation_a", "conversation_b"):
        turns = conversation(_read(record[column]), column)
        questions = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
        judged = number(record.get("turn"))
        if judged is not None and 1 <= judged < len(questions):
            turns = turns[: questions[int(judged)]]
        sides.append(cut(turns))
    return _compared(record, {"conversation_a", "conversation_b"}, sides)


def answers(record: Row) -> list[Row]:
    """Read a prompt and an answer of each side: texts, turns, or lists of texts (JSON in a table), one per turn."""
    name = next(name for name in SAID if f"{name}_a" in record and f"{name}_b" in record)
    columns = [f"{name}_a", f"{name}_b"]
    preferences.two_alone(record, name)
    responses = [_read(record[column]) for column in columns]
    prompts = _read(record.get("prompt"))
    if _texts(prompts) and all(map(_texts, responses)):
        return _compared(record, {"prompt", *columns}, [cut(_alternating(prompts, each)) for each in responses])
    prompt, used = question(record)
    responses = [record[column] if _texts(each) else each for each, column in zip(responses, columns)]
    sides = [answered(prompt, each, column) for each, column in zip(responses, columns)]
    return _compared(record, {*used, *columns}, sides)


def _compared(record: Row, used: set[str], sides: list[tuple[list[Turn], str | None, Row]]) -> list[Row]:
    (prompt, a, after_a), (other, b, after_b) = sides
    rest = {column: value for column, value in record.items() if column not in used}
    rows = preferences.compared({**rest, "prompt": prompt, "response_a": a, "response_b": b})
    rows = [{**row, **after} for row, after in zip(rows, (after_a, after_b))]
    texts = [[(turn["role"], turn["content"].strip()) for turn in side] for side in (prompt, other)]
    if texts[0] != texts[1]:
        why = "its two answers follow different turns, so they are not answers to one prompt"
        return [{**row, LEFT_OUT: why} for row in rows]
    return rows


def _alternating(prompts: list[str], responses: list[str]) -> list[Turn]:
    if len(prompts) != len(responses):
        raise DataError(
            f"column 'prompt': holds {len(prompts)} turns for {len(responses)} answers. Correct the record."
        )
    pairs = zip(prompts, responses)
    return [turn for q, a in pairs for turn in (*turns(q, "prompt"), {"role": "assistant", "content": a or ""})]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, str | None) for part in value)


def _read(value: Any) -> Any:
    """Return the list that a cell holds as JSON, or the value unchanged."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            read = json.loads(value)
        except ValueError:
            return value
        return read if _texts(read) or (isinstance(read, list) and all(isinstance(v, dict) for v in read)) else value
    return value
