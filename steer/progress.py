"""Progress of long steps with the time left, notes, and `quiet`."""

from __future__ import annotations

from functools import cache

from attribute_models.noise import quiet
from attribute_models.progress import duration, progress, write

__all__ = ["duration", "note", "note_once", "progress", "quiet", "write"]


def note(text: str) -> None:
    """Say one line to the user on standard error: what was dropped, guessed or chosen."""
    write(f"steer: {text}")


@cache
def note_once(text: str) -> None:
    """Say one line unless this process has said it: for what every call would repeat."""
    note(text)
