"""Read calls of tools and their results in the tags that Hermes and Qwen write: <tool_call> and <tool_response>."""

from __future__ import annotations

import ast
import json
import re
from contextlib import suppress
from typing import Any

from data_recipes.marks import NOTED, Row, Turn
from data_recipes.parts import call

CALL = re.compile(r"\s*<tool_call>\s*(\{.*?\})\s*</tool_call>\s*", re.DOTALL)
RESULT = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)
TAG = re.compile(  # what families write around calls and results
    r"<tool_(?:call|response|result|use)s?>|<function(?:_?calls?)?[=>]|\[TOOL_CALLS\]|<\|python_tag\|>|<\uff5ctool\S*>"
)
HINTS = ("<tool_", "<function", "[TOOL_", "<|python_tag|>", "<\uff5ctool")  # no other text can hold a tag
NOTE = "kept as text: {} in an answer or a result (<tool_call>{{name, arguments}}</tool_call> at the end is a call)"


def untagged(row: Row) -> Row:
    """Move calls at the end of answers into `tool_calls`, and take the tags off results; note other tags that stay."""
    found: list[str] = []
    if any(_tag(turn["content"]) for turn in row["prompt"]):
        prompt: list[Turn] = []
        for turn in row["prompt"]:
            prompt += _turns(turn, after=prompt[-1] if prompt else {}) if _tag(turn["content"]) else [turn]
        found += [tag for turn in prompt if turn["role"] in ("assistant", "tool") and (tag := _tag(turn["content"]))]
        row = {**row, "prompt": prompt}
    if isinstance(row.get("response"), str) and _tag(row["response"]):
        row = _called(row, "response")
        found += filter(None, [_tag(row["response"])])
    return {**row, NOTED: [*row.get(NOTED, ()), NOTE.format(found[0])]} if found else row


def _tag(text: str) -> str:
    """Return the first tag of a call or a result in a text, "" if it has none."""
    if "<" not in text and "[" not in text:  # as most are
        return ""
    found = TAG.search(text) if any(map(text.__contains__, HINTS)) else None
    return found[0] if found else ""


def _turns(turn: Turn, after: Turn) -> list[Turn]:
    """Return a turn of an answer with its calls, and one of results as a turn for each; others as they are."""
    if turn["role"] == "assistant":
        return [_called(turn, "content")]
    if turn["role"] == "tool" or (turn["role"] == "user" and after.get("tool_calls")):
        each = _blocks(RESULT, turn["content"])
        return [{**turn, "role": "tool", "content": text} for text in each] or [turn]
    return [turn]


def _called(holder: Turn | Row, column: str) -> dict[str, Any]:
    """Move the calls that end a text into `tool_calls`; return the same object unless all of them can be read."""
    text, mark, _ = holder[column].partition("<tool_call>")
    made = [_parsed(block) for block in _blocks(CALL, holder[column][len(text) :])] if mark else []
    if not made or holder.get("tool_calls") or not all(isinstance(each.get("name"), str) for each in made):
        return holder
    return {**holder, column: text.rstrip(), "tool_calls": [*map(call, made)]}


def _blocks(kind: re.Pattern[str], text: str) -> list[str]:
    """Return what is in the tags that a text consists of; empty if it holds anything else."""
    found, end = [], 0
    while block := kind.match(text, end):
        found.append(block[1])
        end = block.end()
    return found if end == len(text) else []


def _parsed(block: str) -> dict[str, Any]:
    """Return the object that a text writes as JSON or as Python does; an empty one if it writes none."""
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError):
            value = read(block)
            return value if isinstance(value, dict) else {}
    return {}
