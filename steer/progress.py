"""Progress of long steps with the time left, notes, and `quiet`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from attribute_models.noise import quiet
from attribute_models.progress import duration, progress, write

__all__ = ["duration", "note", "note_once", "notes_kept", "progress", "quiet", "write"]

_KEPT: list[list[str]] = []  # notes that another process says


def note(text: str) -> None:
    """Say one line to the user on standard error: what was dropped, guessed or chosen."""
    if _KEPT:
        _KEPT[-1].append(text)
    else:
        write(f"steer: {text}")


@cache
def note_once(text: str) -> None:
    """Say one line unless this process has said it: for what every call would repeat."""
    note(text)


@contextmanager
def notes_kept() -> Iterator[list[str]]:
    """Give a list of the notes in place of saying them: of a process whose work another one asked for."""
    _KEPT.append([])
    try:
        yield _KEPT[-1]
    finally:
        _KEPT.pop()
