"""Find the prompt of a record in its columns: a system turn, earlier turns and the question."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from data_recipes.cells import EMPTY
from data_recipes.endings import plain
from data_recipes.marks import NOTED, Row, Turn
from data_recipes.parts import text
from data_recipes.streams import DataError
from data_recipes.turns import turns

SYSTEM = re.compile(r"(system|sys|developer)(prompt|message|msg|instructions?|content|text)?|preprompt")
QUESTIONS = ("prompt", "conversations", "messages", "instruction", "question", "query", "input", "context")
FIRST = ("prompt", "instruction")  # whatever they hold is what was asked, and else an error
NOTHING = {"<noinput>", *(word.lower() for word in EMPTY)}
NAME = re.compile(r"[\w+:/.-]*[\w+:/-]", re.ASCII)


def question(record: Row) -> tuple[list[Turn], set[str]]:
    """Return the turns that were asked, after those of `history`, and the columns that hold them."""
    filled = [c for c in QUESTIONS if isinstance(record.get(c), (str, list)) or (c in FIRST and record.get(c))]
    column = filled[0] if filled else ""
    if not column:
        return [], {"prompt"}
    if column == "instruction":
        more = "context" if not record.get("input") and isinstance(record.get("context"), str) else "input"
        parts = [text(record.get(c), c) for c in ("instruction", more)]
        prompt, used = turns("\n\n".join(part for part in parts if part), column), {"instruction", "input", more}
    else:
        prompt, used = turns(record[column], column), {column}
    past = _past(record.get("history"), strict=column == "instruction")
    if past and len(prompt) == 1:
        return [*past, *prompt], {*used, "history"}
    return prompt, used


def blanked(record: Row) -> Row:
    """Empty what stands beside an instruction if it is a word for nothing (Alpaca's is <noinput>), which is noted."""
    beside = ("input", "context") if "instruction" in record else ()
    nothing = {c: v for c in beside if isinstance(v := record.get(c), str) and v.strip().lower() in NOTHING}
    if not nothing:
        return record
    notes = [f"read as blank: {word!r} in '{column}'" for column, word in nothing.items()]
    return {**record, **dict.fromkeys(nothing, ""), NOTED: [*record.get(NOTED, ()), *notes]}


def _past(value: Any, strict: bool) -> list[Turn]:
    """Return earlier turns from pairs [[user, assistant], ...] or turns; others give none, or an error if `strict`."""
    if isinstance(value, list) and all(isinstance(v, list) and len(v) == 2 for v in value):
        texts = [(role, part) for pair in value for role, part in zip(("user", "assistant"), pair)]
        return [{"role": role, "content": text(part, "history") or ""} for role, part in texts]
    if isinstance(value, list) and all(isinstance(v, dict) and ({"role", "from"} & {*v}) for v in value):
        return turns(value, "history")
    if strict and value:
        raise DataError("column 'history': wanted pairs [[user, assistant], ...]. Correct it or remove the column.")
    return []


def system_columns(record: Row) -> list[str]:
    """Return the columns that hold a system prompt.

    Outside of Alpaca's and ShareGPT's layouts a single word names the system that answered.
    """
    columns = [c for c in _systems(tuple(record)) if _holds_text(record[c])]
    if not columns:
        return []
    sure = "conversations" in record or "instruction" in record
    named = ("system", "sys", "developer")  # in system_prompt a single word is a prompt too
    return [c for c in columns if sure or plain(c) not in named or not _names(record[c])]


def _names(value: Any) -> bool:
    """Whether a text, or each of a list of them, is a single word, which may name a system."""
    return all(
        isinstance(v, str) and NAME.fullmatch(v.strip()) for v in (value if isinstance(value, list) else [value])
    )


def _holds_text(value: Any) -> bool:
    """Whether a value is a text, a list, or a turn around one of these."""
    value = _inside(value)
    return isinstance(value, (str, list)) and bool(value)


def _inside(value: Any) -> Any:
    """Return what a turn says, in its `content`, `parts` (Google's) or `text`; other values as they are."""
    if not isinstance(value, dict):
        return value
    said = next((value[c] for c in ("content", "parts", "text") if value.get(c) is not None), None)
    return [said] if isinstance(said, dict) else said


def _said(record: Row, column: str) -> str:
    """Return the text of a system prompt: a text, parts of one, several texts, or a turn."""
    value = _inside(record[column])
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        if len(value) > 1 and any(_texts(v, len(value)) for c, v in record.items() if c != column):
            raise DataError(f"column '{column}': holds a text for each of several answers. Give each its own row.")
        value = "\n".join(value)
    return text(value, column) or ""


def _texts(value: Any, count: int) -> bool:
    """Whether a value is a list of so many texts."""
    return isinstance(value, list) and len(value) == count and all(isinstance(part, str) for part in value)


@lru_cache(maxsize=1000)
def _systems(columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns whose names say that they hold a system prompt."""
    return tuple(filter(_is_system, columns))


@cache
def _is_system(column: str) -> bool:
    return not column.endswith("_") and bool(SYSTEM.fullmatch(plain(column)))


def system(record: Row) -> tuple[list[Turn], set[str]]:
    """Return the system turn of a column of its own (none if it is blank), and the columns that hold it."""
    columns = system_columns(record)
    texts = list(dict.fromkeys(part for c in columns if (part := _said(record, c)).strip()))
    if len(texts) > 1:
        raise DataError(f"columns {', '.join(map(repr, columns))}: hold different system prompts. Keep one of them.")
    blank = {c for c in _systems(tuple(record)) if record[c] is None or record[c] == ""}
    return [{"role": "system", "content": part} for part in texts], {*columns, *blank}


def before(system_turns: list[Turn], prompt: list[Turn], column: str = "system") -> list[Turn]:
    """Put the system turn of a column before a prompt, unless it is there already, by itself or within another text."""
    if not system_turns or not prompt or prompt[0]["role"] not in ("system", "developer"):
        return [*system_turns, *prompt]
    if system_turns[0]["content"].strip() not in prompt[0]["content"]:
        raise DataError(
            f"column '{column}': is not the system turn that the conversation begins with. Keep one of the two."
        )
    return prompt
