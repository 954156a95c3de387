"""Lines that say what reading dropped, set to unknown or took for no score."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from data_recipes.scores import attribute

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
    """Yield lines on turns and on columns that look like scores and hold none, and one a note "done: with what"."""
    yield from _turns(tally.turns)
    mixed = {column: attribute(column) for column in tally.words if tally.numbers[attribute(column)]}
    for column, name in mixed.items():
        example, rows = tally.example[column], tally.numbers[name]
        yield f"unknown: {tally.words[column]} x '{column}', words such as {example!r:.30}; {rows} rows hold a number."
    kinds: dict[str, list[str]] = {}
    for column, reason in tally.not_scores.items():
        if column not in mixed:
            kinds.setdefault(reason, []).append(column)
    if kinds:
        shown = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in kinds.items())
        yield f"no scores: {shown}. --map NAME=COLUMN makes one a score."
    yield from (note.replace(": ", f": {rows} x ", 1) + "." for note, rows in tally.notes.items())


def _turns(counts: Counter[str]) -> Iterator[str]:
    """Yield lines on what became of the assistant turns of conversations, where all of them become rows."""
    if counts["conversations"] or counts["left out"]:
        unlearned = f"; {counts['left out']} assistant turns are not learned" if counts["left out"] else ""
        yield f"turns: {counts['conversations']} conversations gave {counts['rows']} rows{unlearned}."
    if counts["scored as a whole"]:
        yield f"turns: {counts['scored as a whole']} rows have scores of their whole conversation, not of their turn."
    if counts["asked"]:
        yield (
            f"turns: {counts['asked']} rows are of layouts with a response of their own: that is learned, and not the "
            "answers in their prompts."
        )
