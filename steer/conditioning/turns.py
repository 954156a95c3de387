"""Turns through a chat template: what it would leave out is refused, or counted where it is no text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from steer.conditioning.chat import fitted, lost, rendered
from steer.errors import SteerError

Turn = Mapping[str, Any]


class UnprintedError(SteerError):
    """A turn whose text does not come out of the chat template."""


def printed(turns: Sequence[Turn], tokenizer: Any) -> str:
    """The turns through the template, up to and including the assistant marker; refused where it leaves one out."""
    text: str = rendered(tokenizer, turns, add_generation_prompt=True)
    for i, what in lost(turns, tokenizer):
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
        kept_out = {what for _, what in lost(fitted(row["prompt"], tokenizer), tokenizer)}
        for what in (kept_out | ({"tools"} if row.get("tools") else set())) & kinds.keys():
            counts[kinds[what]] += 1
    return [f"{n} prompts hold {what} that the model does not see." for what, n in counts.items() if n]


def say_unprinted(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> None:
    """Say on stderr what of the prompts the model does not see."""
    for line in unprinted(rows, tokenizer):
        click.echo(f"steer: {line}", err=True)
