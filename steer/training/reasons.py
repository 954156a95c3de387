"""Why a launched training failed, in its own words: a file beside its folder, to which each process adds a line.

A launcher does not pass on which process failed first, nor why: torchrun prints a long table after it, others nothing.
Every machine of a training sees its folder, so the file needs no variable, which `ray job submit` would not pass on.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steer.errors import SteerError
from steer.progress import PREFIX


def reasons_of(folder: str | Path) -> Path:
    """Return the file for the reasons of a training in a folder; only whoever launches it makes one."""
    folder = Path(folder)
    return folder.parent / f"{folder.name}.reasons"


@contextmanager
def explained(folder: str | Path) -> Iterator[None]:
    """Add an error that passes to the reasons of the training in `folder`, if a launcher waits for them."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):  # the error itself matters more
            if (file := reasons_of(folder)).is_file():
                with file.open("a", encoding="utf-8") as stream:  # the first one stays first: it is the cause
                    stream.write(_line(error) + "\n")
        raise


def _line(error: Exception) -> str:
    known = isinstance(error, SteerError)
    text = PREFIX + str(error) if known else traceback.format_exception_only(error)[-1]
    return " ".join(text.split())
