"""Progress bars with rate and time left, a line every half minute on a log file; and third-party noise kept quiet."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import warnings
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


def note(text: str) -> None:
    """Say one line to the user on standard error: what was dropped, guessed or chosen."""
    print(f"steer: {text}", file=sys.stderr)


class quiet:  # noqa: N801  # reads as a word in `with quiet():`
    """Silence loading bars and third-party warnings that a user can do nothing about."""

    def __enter__(self) -> None:
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
        import transformers

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: Any) -> None:
        self._caught.__exit__(*error)
