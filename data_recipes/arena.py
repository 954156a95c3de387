"""Two answers side by side and a vote: arena logs, whole conversations or one answer each.

What the vote says is read where all votes are. It is about both conversations as a whole, so answers that follow
different turns are no answers to one prompt: they are left out and counted.
"""

from __future__ import annotations

import json
from typing import Any

from data_recipes import preferences
from data_recipes.asked import question
from data_recipes.streams import DataError
from data_recipes.turns import LEFT_OUT, Row, Turn, answered, conversation, cut, number, turns

SAID = ("response", "answer", "output", "completion")  # response_a, response_b


def talks(record: Row) -> list[Row]:
    """Read conversation_a and conversation_b (chatbot arena, MT-bench); `turn` says which answer was judged."""
    sides = []
    for column in ("conversation_a", "conversation_b"):
        said = conversation(_read(record[column]), column)
        asked = [i for i, turn in enumerate(said) if turn["role"] == "user"]
        judged = number(record.get("turn"))
        if judged is not None and 1 <= judged < len(asked):
            said = said[: asked[int(judged)]]
        sides.append(cut(said))
    return _compared(record, {"conversation_a", "conversation_b"}, sides)


def answers(record: Row) -> list[Row]:
    """Read a prompt and an answer of each side: texts, turns, or lists of texts (JSON in a table), one per turn."""
    name = next(name for name in SAID if f"{name}_a" in record and f"{name}_b" in record)
    columns = [f"{name}_a", f"{name}_b"]
    said = [_read(record[column]) for column in columns]
    asked = _read(record.get("prompt"))
    if _texts(asked) and all(map(_texts, said)):
        return _compared(record, {"prompt", *columns}, [cut(_alternating(asked, each)) for each in said])
    prompt, used = question(record)
    said = [record[column] if _texts(each) else each for each, column in zip(said, columns)]
    sides = [answered(prompt, each, column) for each, column in zip(said, columns)]
    return _compared(record, {*used, *columns}, sides)


def _compared(record: Row, used: set[str], sides: list[tuple[list[Turn], str | None, Row]]) -> list[Row]:
    (prompt, a, after_a), (other, b, after_b) = sides
    rest = {column: value for column, value in record.items() if column not in used}
    made = preferences.compared({**rest, "prompt": prompt, "response_a": a, "response_b": b})
    made = [{**row, **after} for row, after in zip(made, (after_a, after_b))]
    said = [[(turn["role"], turn["content"].strip()) for turn in side] for side in (prompt, other)]
    if said[0] != said[1]:
        why = "its two answers follow different turns, so they are not answers to one prompt"
        return [{**row, LEFT_OUT: why} for row in made]
    return made


def _alternating(asked: list[str], said: list[str]) -> list[Turn]:
    if len(asked) != len(said):
        raise DataError(f"column 'prompt': holds {len(asked)} turns for {len(said)} answers. Correct the record.")
    pairs = zip(asked, said)
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
