"""Lines that say what reading dropped, set to unknown or took for no score."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steer.rows.reading import Tally

SHOWN = 5  # kinds of messages that are shown one by one


def reasons(messages: Iterable[str], label: str) -> Iterator[str]:
    """Yield the most frequent kinds of messages "place: reason", each with its number and its first message."""
    kinds: dict[str, list[str]] = {}
    for message in messages:
        kinds.setdefault(re.sub(r"\d+|'[^']*'", "..", message.split(": ", 1)[-1]), []).append(message)
    by_number = sorted(kinds.values(), key=len, reverse=True)
    for alike in by_number[:SHOWN]:
        yield f"{label}: {len(alike)} like {alike[0]}"
    if len(by_number) > SHOWN:
        yield f"{label}: {sum(map(len, by_number[SHOWN:]))} for {len(by_number) - SHOWN} other reasons"


def noted(tally: Tally) -> Iterator[str]:
    """Yield a line on the columns that look like scores and hold none, and one for each note "done: with what"."""
    kinds: dict[str, list[str]] = {}
    for column, reason in tally.not_scores.items():
        kinds.setdefault(reason, []).append(column)
    if kinds:
        shown = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in kinds.items())
        yield f"no scores: {shown}. --map NAME=COLUMN makes one a score."
    yield from (note.replace(": ", f": {rows} x ", 1) + "." for note, rows in tally.notes.items())
