"""Part what a model thought from what it answered, where both are one text."""

from __future__ import annotations

import re
from typing import Any

from data_recipes.turns import LEFT_OUT, Row, Turn

# Families write <think>, <thinking>, <thought>, <reasoning>, <seed:think> or [THINK].
BLOCK = re.compile(
    r"\s*(?:<(think|thinking|thought|reasoning|seed:think)>(.*?)</\1>|\[THINK\](.*?)\[/THINK\])(.*)", re.DOTALL
)
OPEN = re.compile(r"\s*(?:<(think|thinking|thought|reasoning|seed:think)>|\[THINK\])")
HINT = re.compile("think|thought|reasoning", re.IGNORECASE)  # no other text can hold a block


def parted(row: Row) -> Row:
    """Move thinking blocks at the beginning of answers, in the prompt and in the response, into `reasoning_content`.

    A row whose block does not end, or is all that there is, has no answer: LEFT_OUT says so.
    """
    if any(_thinks(turn) for turn in row["prompt"]):
        prompt = [_parted(turn, "content") if _thinks(turn) else turn for turn in row["prompt"]]
        row = {**row, "prompt": prompt}
    response = row.get("response")
    if not isinstance(response, str) or not HINT.search(response):
        return row
    changed = _parted(row, "response")
    if changed is row:
        return {**row, LEFT_OUT: "its thought does not end, so it has no answer"} if OPEN.match(response) else row
    row = changed
    if not row["response"].strip() and not row.get("tool_calls"):
        row[LEFT_OUT] = "it ends with its thought and has no answer"
    return row


def _thinks(turn: Turn) -> bool:
    return turn["role"] == "assistant" and HINT.search(turn["content"]) is not None


def _parted(holder: Turn | Row, column: str) -> dict[str, Any]:
    """Move the block at the beginning of a text into `reasoning_content`; return the same object if there is none."""
    text = holder[column]
    block = BLOCK.fullmatch(text)
    late = None if block or "<think>" in text else _late(text)
    if not block and not late:
        return holder
    thought, answer = late or ("", text)
    if block:
        thought, answer = block[2] or block[3] or "", block[4]
    thoughts = [part.strip() for part in (holder.get("reasoning_content"), thought) if part and part.strip()]
    return {**holder, column: answer.lstrip()} | ({"reasoning_content": "\n".join(thoughts)} if thoughts else {})


def _late(text: str) -> tuple[str, str] | None:
    """Part a text whose block the prompt of a server has opened; None if it only speaks of the tag, within a line."""
    for tag in re.finditer("</think>", text):
        before, after = text[: tag.start()], text[tag.end() :]
        begins = not before.strip() or before.rstrip(" \t").endswith("\n")
        if begins or after.strip(" \t")[:1] in ("", "\n", "\r"):
            return before, after
    return None
