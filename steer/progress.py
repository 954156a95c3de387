"""Progress bars with rate and time left; on a log file a line every half minute."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable
from typing import Any


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
