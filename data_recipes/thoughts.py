"""Part what a model thought from what it answered, where both are one text."""

from __future__ import annotations

import re
from typing import Any

from data_recipes.turns import LEFT_OUT, Row, Turn

BLOCK = re.compile(r"\s*<(think|thinking)>(.*?)</\1>(.*)", re.DOTALL)
LATE = re.compile(r"(.*?)</think>(.*)", re.DOTALL)  # the prompt of a server has opened the block
OPEN = re.compile(r"\s*<think(ing)?>")


def parted(row: Row) -> Row:
    """Move thinking blocks at the beginning of answers, in the prompt and in the response, into `reasoning_content`.

    A row whose block does not end, or is all that there is, has no answer: LEFT_OUT says so.
    """
    if any(_thinks(turn) for turn in row["prompt"]):
        prompt = [_parted(turn, "content") if _thinks(turn) else turn for turn in row["prompt"]]
        row = {**row, "prompt": prompt}
    response = row.get("response")
    if not isinstance(response, str) or "think" not in response:
        return row
    changed = _parted(row, "response")
    if changed is row:
        return {**row, LEFT_OUT: "its thought does not end, so it has no answer"} if OPEN.match(response) else row
    row = changed
    if not row["response"].strip() and not row.get("tool_calls"):
        row[LEFT_OUT] = "it ends with its thought and has no answer"
    return row


def _thinks(turn: Turn) -> bool:
    return turn["role"] == "assistant" and "think" in turn["content"]


def _parted(holder: Turn | Row, column: str) -> dict[str, Any]:
    """Move the block at the beginning of a text into `reasoning_content`; return the same object if there is none."""
    text = holder[column]
    block = BLOCK.fullmatch(text)
    late = None if block or "<think>" in text else LATE.fullmatch(text)
    if not block and not late:
        return holder
    thought, answer = block.groups()[1:] if block else late.groups() if late else ("", text)
    thoughts = [part.strip() for part in (holder.get("reasoning_content"), thought) if part and part.strip()]
    return {**holder, column: answer.lstrip()} | ({"reasoning_content": "\n".join(thoughts)} if thoughts else {})
