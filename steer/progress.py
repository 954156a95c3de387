"""Progress bars with rate and time left (a line every half minute in a log file), notes, and `quiet`."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from attribute_models.noise import quiet

__all__ = ["note", "progress", "quiet"]


def progress(items: Iterable[Any] | None = None, *, total: int | None = None, what: str, unit: str = "rows") -> Any:
    """A tqdm bar over `items`, or a bar to `update` by hand when `items` is None."""
    from tqdm import tqdm

    live = sys.stderr.isatty()
    worker = multiprocessing.parent_process() is not None  # several bars at once can't be read
    return tqdm(
        items,
        total=total,
        desc=what,
        unit=f" {unit}",
        mininterval=0.2 if live else 30,
        maxinterval=1 if live else 60,
        delay=0 if live else 10,
        leave=False,
        dynamic_ncols=live,
        disable=worker or os.environ.get("RANK", "0") != "0",  # under torchrun one process shows its bar
    )


def note(text: str) -> None:
    """Say one line to the user on standard error: what was dropped, guessed or chosen."""
    print(f"steer: {text}", file=sys.stderr)


@cache
def note_once(text: str) -> None:
    """Say one line unless this process has said it: for what every call would repeat."""
    note(text)
