"""Notes, and progress of long steps: a bar on a terminal, in a log a line now and then; each with the time left."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Self
from weakref import WeakSet

FIRST, EVERY = 4.0, 30.0  # seconds until a step's first line in a log, and between two of its lines
BEAT = 0.5  # seconds between two looks at what runs
PREFIX = "steer: "  # of a line for people
_KEPT: list[list[str]] = []  # notes that another process says
_LOCK = threading.RLock()
_OPEN: WeakSet[Step] = WeakSet()  # a step that nobody holds any more has ended
_BEATING = threading.Event()


class Step:
    """A step that may take long, as a context manager: `update` it, or iterate over its `items`.

    `total`: how many units there are, if known; without any `unit` only the time so far is shown. A step inside one of
    the same name, in the same thread, counts towards that one and shows nothing itself.
    """

    def __init__(self, what: str, *, items: Iterable[Any] = (), total: int | None = None, unit: str = "rows") -> None:
        self.what, self.items, self.total, self.unit = what, items, total, unit
        self.n, self.start, self.facts = 0, 0, ""
        self.began = self.updated = time.monotonic()
        self.said = 0.0  # when its last line was written
        self.thread = threading.get_ident()
        self.outer: Step | None = None  # the step of the same name
        self.bar: Any = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> Self:
        """Begin the step: what is not closed ends when nothing holds it."""
        worker = multiprocessing.parent_process() is not None  # several bars at once can't be read
        if worker or os.environ.get("RANK", "0") != "0":  # under torchrun one process shows its bar
            return self
        with _LOCK:
            around = [s for s in _OPEN if s.thread == self.thread and s.what == self.what]
            self.outer = around[0] if around else None
            if not self.outer:
                _OPEN.add(self)
                if not _BEATING.is_set():
                    _BEATING.set()
                    threading.Thread(target=_beat, daemon=True).start()
        return self

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.items:
                yield item
                self.update()

    def over(self, items: Iterable[Any], unit: str) -> Iterator[Any]:
        """Yield items, counting them as the step's units."""
        self.total, self.unit = len(items) if isinstance(items, Sized) else None, unit
        for item in items:
            yield item
            self.update()

    def update(self, n: int = 1) -> None:
        """Count units that are done."""
        self.n, self.updated = self.n + n, time.monotonic()
        if self.outer:
            self.outer.update(n)

    def resume(self, n: int) -> None:
        """Count units that were done before: they took no time here."""
        self.n, self.start = self.n + n, self.start + n
        if self.outer:
            self.outer.resume(n)

    def reach(self, n: int) -> None:
        """Count what steps inside have not counted, up to `n` units."""
        self.update(max(0, n - self.n))

    def tell(self, facts: str) -> None:
        """Set what is shown after the time, such as a loss."""
        self.facts = facts

    def close(self) -> None:
        """End the step and remove its bar."""
        with _LOCK:
            _OPEN.discard(self)
            if self.bar is not None:
                self.bar.close()
                self.bar = None

    def line(self, now: float) -> str:
        """Describe the step: what is done, for how long it has run and how much time is left."""
        units = f" {self.unit}" if self.unit else ""
        facts = f", {self.facts}" if self.facts else ""
        spent = duration(now - self.began)
        if not self.unit or (self.total is None and not self.n):
            return f"{self.what}: {spent} so far{facts}"
        if self.total is None:
            return f"{self.what}: {self.n:,}{units} in {spent}{facts}"
        if self.n == self.start:
            done = f"the first of {self.total - self.n:,}{units} is running" if self.total > self.n else "ending"
            return f"{self.what}: {done}, {spent} so far{facts}"
        left = (self.updated - self.began) / (self.n - self.start) * (self.total - self.n) - (now - self.updated)
        late = left < 0 < self.total - self.n
        then = "the one that runs takes longer than those before it" if late else f"{duration(left)} left"
        return f"{self.what}: {self.n:,} of {self.total:,}{units} in {spent}, {then}{facts}"

    def show(self, now: float, steps: list[Step]) -> None:
        """Draw the bar, or write a line if it is time; `steps`: all that run, the outermost first."""
        if sys.stderr.isatty():
            if now - self.began >= BEAT:
                self._draw()
            return
        around = [s for s in steps if s.began < self.began and s.thread == self.thread and s.unit]
        inside = [s for s in steps if s.began > self.began and s.thread == self.thread]
        if not self.unit and inside:  # which say more
            return
        if now - (self.said or self.began) >= (EVERY if self.said or around else FIRST):
            self.said = now
            write(self.line(now))

    def _draw(self) -> None:
        from tqdm import tqdm

        if self.bar is None:
            shape = {} if self.unit else {"bar_format": "{desc}: {elapsed}{postfix}"}
            more: dict[str, Any] = {"leave": False, "dynamic_ncols": True, "initial": self.start, **shape}
            self.bar = tqdm(total=self.total, desc=self.what, unit=f" {self.unit}", file=sys.stderr, **more)
            self.bar.start_t -= time.monotonic() - self.began
        self.bar.n, self.bar.total, self.bar.unit = self.n, self.total, f" {self.unit}"
        self.bar.set_postfix_str(self.facts)  # draws it


def progress(items: Iterable[Any] | None = None, *, total: int | None = None, what: str, unit: str = "rows") -> Step:
    """Return a step over `items`, or one to `update` by hand in a `with` block; no `unit`: its end is not known."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    return Step(what, items=() if items is None else items, total=total, unit=unit)


def duration(seconds: float) -> str:
    """Write a time: `12 s`, `3 min`, `2 h 5 min`.

    >>> duration(12.3), duration(179), duration(7500)
    ('12 s', '2 min 59 s', '2 h 5 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def write(text: str) -> None:
    """Write a line on standard error, above the bars."""
    with _LOCK:
        if any(step.bar is not None for step in _OPEN):
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Say one line to the user on standard error: what was dropped, guessed or chosen."""
    if _KEPT:
        _KEPT[-1].append(text)
    else:
        write(PREFIX + text)


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


def _beat() -> None:
    """Show what runs until nothing does."""
    try:
        with suppress(ValueError, OSError):  # standard error was closed
            while _look():
                time.sleep(BEAT)
    finally:
        _BEATING.clear()


def _look() -> bool:
    """Show every step that runs; return whether any does. Steps are not held between two looks."""
    with _LOCK:
        steps = sorted(_OPEN, key=lambda step: step.began)
        for step in steps:
            step.show(time.monotonic(), steps)
        if not steps:
            _BEATING.clear()
        return bool(steps)
