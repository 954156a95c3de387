"""Identity of rows: their prompt, their side of the split, and their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from data_recipes.answers import asked_with, called_with
from steer.progress import note_once
from steer.rows.contract import SIDE, Row
from steer.rows.reading import Source, read
from steer.settings import Unsaid


def prompt_key(row: Row) -> str:
    """Return 16 hex digits that all candidates of one prompt share.

    Prompts that differ only in calls of tools, in `tools` or in `chat_template_kwargs` are different prompts.
    """
    return _prompt_key(tuple([(turn["role"], turn["content"]) for turn in row["prompt"]]), asked_with(row))


@lru_cache(maxsize=64)
def _prompt_key(turns: tuple[tuple[str, str], ...], beside: str) -> str:
    """Return the key of turns (role, content); what asks for a row's key several times asks in a row."""
    return hashlib.blake2b((json.dumps(turns) + beside).encode(), digest_size=8).hexdigest()


def response_key(row: Row) -> str:
    """Return what tells responses apart: the text without white space around it, and what it calls; ids say nothing."""
    return json.dumps([str(row["response"]).strip(), called_with(row)], sort_keys=True, default=str)


def conversation_of(row: Row) -> str:
    """Return what the row names its conversation, whose turns are rows of their own; empty if it names none."""
    name = row.get("conversation")
    return str(name) if isinstance(name, str | int) else ""


def round_source(number: int) -> str:
    """Return what the column `source` says of responses that a round of `steer iterate` drew."""
    return f"round-{number}"


def round_of(row: Row) -> int:
    """Return the number of the round that drew a row, as its `source` says; 0 if none did, so it is logged."""
    drawn = re.fullmatch(round_source(0).replace("0", r"(\d+)"), str(row.get("source") or ""))
    return int(drawn[1]) if drawn else 0


def drawn(row: Row) -> bool:
    """Whether a row records that a policy drew it: in a round, or by `steer generate`."""
    return bool(round_of(row)) or row.get("target") is not None


def split_key(row: Row) -> str:
    """Return the `prompt_key` of what is split as one: the prompt, or of a turn the opening of its conversation.

    The opening ends with the first turn of a user, so rows with the same prompt have the same one.
    """
    if not conversation_of(row):
        return prompt_key(row)
    first = next((i for i, turn in enumerate(row["prompt"]) if turn["role"] == "user"), len(row["prompt"]))
    return prompt_key({"prompt": row["prompt"][: first + 1]})


def named_side(row: Row) -> Literal["train", "test", ""]:
    """Return the side that the column `split` of a row names, any but training is "test"; empty if it names none."""
    if not (split := (row.get("split") or "").lower()):
        return ""
    side = SIDE.search(split)
    return "train" if side and side[1] == "train" else "test"


def split_of(row: Row, held_out: float, seed: int) -> Literal["train", "test"]:
    """Return the side of a row: that of its column `split`, else one drawn by the hash of its prompt.

    All rows of a prompt are on one side, and all turns of a conversation. `held_out` is the share of prompts, 0 to 1,
    that become "test"; if somebody says it and the row names its split, that is noted. A split named as in HELD_OUT is
    "test" too.
    """
    if side := named_side(row):
        if not isinstance(held_out, Unsaid):
            note_once(
                f"--held-out {held_out:g} has no effect on rows that name their split. "
                '"steer data --resplit" splits them again.'
            )
        return side
    drawn = hashlib.blake2b(f"{seed}:{split_key(row)}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(drawn) < held_out * 2**64 else "train"


def content_hash(rows: Source) -> str:
    """Return 16 hex digits of rows in their order, or of what `read` gives of a path.

    File format, column order and nulls do not count.
    """
    digest = hashlib.blake2b(digest_size=8)
    for row in read(rows) if isinstance(rows, (str, Path)) else rows:
        digest.update(json.dumps(_without_nulls(row), sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, (list, tuple)) else value
