"""Part what a model thought from what it answered, in responses that are one text."""

from __future__ import annotations

import re

from data_recipes.turns import LEFT_OUT, Row

BLOCK = re.compile(r"\s*<(think|thinking)>(.*?)</\1>(.*)", re.DOTALL)
LATE = re.compile(r"(.*?)</think>(.*)", re.DOTALL)  # the prompt of a server has opened the block
OPEN = re.compile(r"\s*<think(ing)?>")


def parted(row: Row) -> Row:
    """Move a thinking block at the beginning of a response into `reasoning_content`.

    A row whose block does not end, or is all that there is, has no answer: LEFT_OUT says so.
    """
    response = row.get("response")
    if not isinstance(response, str) or "think" not in response:
        return row
    block = BLOCK.fullmatch(response)
    late = None if block or "<think>" in response else LATE.fullmatch(response)
    if not block and not late:
        return {**row, LEFT_OUT: "its thought does not end, so it has no answer"} if OPEN.match(response) else row
    thought, answer = block.groups()[1:] if block else late.groups() if late else ("", response)
    thoughts = [part.strip() for part in (row.get("reasoning_content"), thought) if part and part.strip()]
    row = {**row, "response": answer.lstrip()} | ({"reasoning_content": "\n".join(thoughts)} if thoughts else {})
    if not answer.strip() and not row.get("tool_calls"):
        row[LEFT_OUT] = "it ends with its thought and has no answer"
    return row
