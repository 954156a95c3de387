"""What a chat template makes of turns: roles and calls as it wants them, and what it would leave out.

A template is asked with marks in place of the texts, once for every sequence of roles: a mark that does not come out
again is a text that would be lost, whatever the template does to the texts that it prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import click

from steer.chat import rendered
from steer.errors import SteerError

Turn = Mapping[str, Any]


class Shape(NamedTuple):
    """What a turn holds, without its texts."""

    role: str
    text: bool
    reasoning: bool
    calls: int
    answers: bool  # a call, by its id


class UnprintedError(SteerError):
    """A turn whose text does not come out of the chat template."""


def fitted(prompt: Sequence[Turn], tokenizer: Any) -> list[dict[str, Any]]:
    """The turns as the template wants them.

    A developer speaks as the system where the template knows no developer, behind what the system says before; the
    arguments of a call are an object.
    """
    developer = "developer" in str(tokenizer.chat_template)
    turns: list[dict[str, Any]] = []
    for turn in prompt:
        each = {key: value for key, value in turn.items() if key != "weight"}
        if each["role"] == "developer" and not developer:
            each["role"] = "system"
            if turns and turns[-1]["role"] == "system":
                turns[-1]["content"] += f"\n\n{each['content']}"
                continue
        if each.get("tool_calls"):
            each["tool_calls"] = [_call(call) for call in each["tool_calls"]]
        turns.append(each)
    return turns


def _call(call: Any) -> Any:
    """OpenAI writes the arguments of a call as text, which templates would encode a second time."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        read = json.loads(function["arguments"] or "{}")
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": read}} if isinstance(read, dict) else call


def printed(turns: Sequence[Turn], tokenizer: Any) -> str:
    """The turns through the template, up to and including the assistant marker; refused where it leaves one out."""
    text: str = rendered(tokenizer, turns, add_generation_prompt=True)
    for i, what in _lost(turns, tokenizer):
        turn = turns[i]
        if what == "text" and turn["content"].strip() not in text:
            raise UnprintedError(
                f"the model's chat template leaves out turn {i + 1}, which is of the {turn['role']} "
                f"({turn['content'].strip()[:40]!r}). Put its text into a turn that the template prints"
            )
    return text


def unprinted(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> list[str]:
    """What prompts hold beside texts and the template does not print: a line for each kind, with how many do."""
    counts = dict.fromkeys(("reasoning of earlier turns", "calls of tools", "declarations of tools"), 0)
    kinds = dict(zip(("reasoning", "calls", "tools"), counts))
    for row in rows:
        lost = {what for _, what in _lost(fitted(row["prompt"], tokenizer), tokenizer)}
        for what in (lost | ({"tools"} if row.get("tools") else set())) & kinds.keys():
            counts[kinds[what]] += 1
    return [f"{n} prompts hold {what} that the model does not see." for what, n in counts.items() if n]


def say_unprinted(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> None:
    """Say on stderr what of the prompts the model does not see."""
    for line in unprinted(rows, tokenizer):
        click.echo(f"steer: {line}", err=True)


def _lost(turns: Sequence[Turn], tokenizer: Any) -> tuple[tuple[int, str], ...]:
    shapes = tuple(
        Shape(
            turn["role"],
            bool(turn["content"].strip()),
            bool(turn.get("reasoning_content")),
            len(turn.get("tool_calls") or ()),
            "tool_call_id" in turn,
        )
        for turn in turns
    )
    return _lost_of(tokenizer, str(tokenizer.chat_template), shapes)


@lru_cache(maxsize=10_000)
def _lost_of(tokenizer: Any, template: str, shapes: Sequence[Shape]) -> tuple[tuple[int, str], ...]:
    """What does not come out, as (number of a turn, "text", "reasoning" or "calls"); `template` is for the cache."""
    from jinja2 import TemplateError

    marks: list[tuple[int, str, str]] = []

    def mark(i: int, what: str) -> str:
        marks.append((i, what, f"mark{len(marks)}of"))
        return marks[-1][2]

    turns: list[dict[str, Any]] = []
    for i, shape in enumerate(shapes):
        turn: dict[str, Any] = {"role": shape.role, "content": mark(i, "text") if shape.text else ""}
        if shape.reasoning:
            turn["reasoning_content"] = mark(i, "reasoning")
        if shape.calls:
            calls = [{"name": mark(i, "calls"), "arguments": {}} for _ in range(shape.calls)]
            turn["tool_calls"] = [{"id": "000000000", "type": "function", "function": call} for call in calls]
        if shape.answers:
            turn["tool_call_id"] = "000000000"
        turns.append(turn)
    try:
        text = rendered(tokenizer, turns, add_generation_prompt=True)
    except TemplateError:  # what refuses the marks refuses the texts, and says so then
        return ()
    return tuple((i, what) for i, what, name in marks if name not in text)
