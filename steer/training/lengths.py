"""Lengths: which groups fit --max-length, and what --truncate cuts from the rows of those that do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from steer.errors import SteerError
from steer.methods.groups import Group
from steer.models.tokenization import Tokens
from steer.rows import Row, prompt_key
from steer.training.batches import Conditioning

Read = tuple[Row, str]  # a row and the text of its condition


def short_enough(
    groups: Sequence[Group], tokens: Tokens, conditioning: Conditioning | None, longest: int, truncate: str = "none"
) -> tuple[list[Group], int]:
    """Keep the groups whose sequences, under their whole condition, have at most `longest` tokens; count cut rows.

    `truncate`: cut the `prompt` or the `response` of rows that are longer, in `tokens`; "none" cuts nothing.
    """
    unique: dict[str, str] = {}  # rows with the same levels have one text

    def text(row: Row) -> str:
        written = conditioning.text(row["levels"]) if conditioning else ""
        return unique.setdefault(written, written)

    texts = [[text(row) for row in g.rows] for g in groups]
    if conditioning and not any(unique):
        raise SteerError(f"none of the {len(groups)} rows has a level of {', '.join(conditioning.names)}.")
    if len({tuple(tokens.condition(text)) for text in unique}) < len(unique):
        raise SteerError(f"the model's tokenizer reads different conditions as one, such as {min(unique)!r}.")
    read = [pair for g, each in zip(groups, texts) for pair in zip(g.rows, each)]
    cut: set[str] = set()
    if truncate == "prompt":
        cut = _cut_prompts(read, tokens, longest)
    elif truncate == "response":
        cut = _cut_responses(read, tokens, longest)
    short = [g for g, each in zip(groups, texts) if all(tokens.length(r, t) <= longest for r, t in zip(g.rows, each))]
    if not short:
        advice = "" if truncate != "none" else " --truncate prompt or response cuts such rows."
        raise SteerError(
            f"all {len(groups)} rows are longer than {longest} tokens (--max-length, or the model's own).{advice}"
        )
    return short, len(cut & {row["id"] for g in short for row in g.rows})


def prompts_with_room(
    groups: Sequence[Group], tokens: Tokens, longest: int, new: int, truncate: str = "none"
) -> tuple[list[Group], int]:
    """Keep the groups whose prompt leaves room for a response of `new` tokens; count prompts that were cut for it."""
    rows = [(g.rows[0], "") for g in groups]
    cut = _cut_prompts(rows, tokens, longest - new, prompt_only=True) if truncate == "prompt" else set()
    short = [g for g in groups if len(tokens.prefix(g.rows[0])) + new <= longest]
    if not short:
        raise SteerError(f"no prompt leaves {new} of {longest} tokens free. Raise --max-length.")
    return short, len(cut & {g.rows[0]["id"] for g in short})


def _cut_responses(read: Sequence[Read], tokens: Tokens, longest: int) -> set[str]:
    """Cut responses to the room after their prompt; their end is not learned. Return the ids of the rows."""
    cut = set()
    for row, text in read:
        room = longest - len(tokens.prefix(row, text))
        if 0 < room < len(tokens.responses[row["id"]]):
            tokens.responses[row["id"]] = tokens.responses[row["id"]][:room]
            cut.add(row["id"])
    return cut


def _cut_prompts(read: Sequence[Read], tokens: Tokens, longest: int, *, prompt_only: bool = False) -> set[str]:
    """Drop the earliest turns of prompts until all rows that share one fit; return the ids of the rows.

    Instructions of the system at the beginning stay, and so does the last turn: a prompt that is too long even so
    stays whole.
    """

    def fits(rows: Sequence[Read]) -> bool:
        return all((len(tokens.prefix(r, t)) if prompt_only else tokens.length(r, t)) <= longest for r, t in rows)

    shared: dict[str, list[Read]] = {}
    for row, text in read:
        shared.setdefault(json.dumps([row["prompt"], prompt_key(row)]), []).append((row, text))
    cut = set()
    for rows in shared.values():
        if fits(rows):
            continue
        for turns in _shorter(rows[0][0]["prompt"]):
            tokens.replace_prompts([row for row, _ in rows], turns)
            if fits(rows):
                cut |= {row["id"] for row, _ in rows}
                break
        else:
            tokens.replace_prompts([row for row, _ in rows], rows[0][0]["prompt"])
    return cut


def _shorter(prompt: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the prompts that begin with a later turn of the user, the longest first."""
    first = next((i for i, turn in enumerate(prompt) if turn["role"] not in ("system", "developer")), len(prompt))
    starts = [i for i in range(first + 1, len(prompt)) if prompt[i]["role"] == "user"]
    return [[*prompt[:first], *prompt[i:]] for i in starts]
