"""Work part by part: each part is a file, so what was killed goes on where it stopped, in any number of processes.

One process reads the items and hands parts to the processes that work: no more parts are in memory than workers, and
two. One worker does a whole part, so the bytes do not depend on how many workers there are, nor where.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import platform
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from steer.cluster import by_actors
from steer.errors import SteerError
from steer.progress import note_once, progress
from steer.run_folder import write_json

Part = tuple[int, list[Any]]  # its number, and its items
Work = Callable[[int, list[Any]], Any]  # what becomes of a part
LEADER = "STEER_LEADER"  # the variable that names the process which a launched command ends with
FIRST = 10  # parts in order that one process does before it starts others
BEAT = 0.5  # seconds between two looks at it

Open = Callable[[], Work]  # sets up the work in the process that does it; other processes unpickle it


class Workers(NamedTuple):
    """How many work at the same time: processes of this machine, or actors of a Ray cluster.

    `apart`: also a single one is another process, which gives back what it holds when it ends.
    """

    number: int = 1
    ray: bool = False
    apart: bool = False

    @staticmethod
    def of(settings: Any) -> Workers:
        """Read the settings `num_proc` and `workers`."""
        return Workers(settings.num_proc, settings.workers == "ray")

    @property
    def elsewhere(self) -> bool:
        """Whether the work is done in other processes than this one."""
        return self.ray or self.apart or self.number > 1


class Task(NamedTuple):
    """What is done to the items, in words: "score", "scored"."""

    verb: str
    past: str
    unit: str = "rows"


@dataclass(frozen=True)
class Parts:
    """The files that hold what became of `total` items, `size` items each.

    `shard` (i, n): this process does every n-th part from the i-th, counted from 0.
    """

    folder: Path
    size: int
    total: int
    suffix: str
    shard: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def path(self, index: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"{index:05d}{self.suffix}"

    @property
    def paths(self) -> list[Path]:
        """Return the files of all parts, in their order."""
        return [self.path(i) for i in range(len(self))]

    @property
    def missing(self) -> int:
        """Count the parts that are not done yet, by whatever process."""
        return sum(not path.is_file() for path in self.paths)

    def busy(self, workers: Workers, task: Task) -> Workers:
        """Return as many of the workers as have a part of this shard to do, and say if that is not all of them."""
        shard, shards = self.shard
        parts = sum(not self.path(i).is_file() for i in range(shard, len(self), shards))
        if 0 < parts < workers.number:
            note_once(
                f"{task.verb}: {parts} of {workers.number} processes have work, for --shard-size, what one does at a "
                f"time, is {self.size} {task.unit}."
            )
        return workers._replace(number=min(workers.number, parts))

    def length(self, index: int) -> int:
        """Count the items of a part."""
        return min(self.size, self.total - index * self.size)

    def undone(self, items: Iterable[Any], bar: Any) -> Iterator[Part]:
        """Yield the parts of this shard that are not on disk; move the bar past the others."""
        reader, (shard, shards) = iter(items), self.shard
        for index in count():
            part = list(islice(reader, self.size))
            if not part:
                return
            if index % shards == shard and not self.path(index).is_file():
                yield index, part
            else:
                bar.resume(len(part))

    def note_done(self) -> None:
        """Write that this shard is done, in a file of its own beside its parts."""
        shard, shards = self.shard
        facts = {"parts": len(range(shard, len(self), shards)), "of": len(self)}
        write_json(self.folder / f"done-{shard + 1}-of-{shards}.json", facts)

    def pending(self, stage: str, output: str, *, done: str) -> str:
        """Return the summary of a shard when others are still to come; `done`: what became of its parts."""
        shard, shards = self.shard
        return (
            f"{stage}: shard {shard + 1} of {shards} is {done}; {self.missing} of {len(self)} parts are still to come. "
            f'When all shards are done, the same command without --shard writes the rows to "{output}".'
        )


def shard_of(text: str, *, overwrite: bool = False) -> tuple[int, int]:
    """Parse --shard: "2/4" -> (1, 4); empty is all."""
    match = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    shard, shards = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= shard <= shards:
        raise SteerError(f"--shard {text}: wanted i/n with i from 1 to n, such as 1/4.")
    if text and overwrite:
        raise SteerError("--shard with --overwrite would remove the other shards. Remove the folder yourself first.")
    return shard - 1, shards


def fill(
    parts: Parts,
    items: Iterable[Any],
    start: Open,
    workers: Workers,
    write: Callable[[Path, Any], None],
    task: Task,
) -> None:
    """Do the missing parts of this shard and write what becomes of each; `workers`: as from `parts.busy`."""
    if not workers.number:
        return
    with progress(total=parts.total, what=task.verb, unit=task.unit) as bar:
        done = 0
        for index, result in results(start, parts.undone(items, bar), workers, task.past):
            write(parts.path(index), result)
            done += parts.length(index)
            bar.reach(bar.start + done)  # not whatever works counts


def results(start: Open, todo: Iterator[Part], workers: Workers, done: str) -> Iterator[tuple[int, Any]]:
    """Yield what became of each part, with its number, in any order; `done` is what workers did, for messages."""
    if workers.ray:
        return by_actors(_Worker, start, todo, workers.number, done)
    if workers.elsewhere:
        return _by_processes(start, todo, workers.number, done)
    work = start()
    return ((index, work(index, part)) for index, part in todo)


def in_order(todo: Iterable[Any], work: Callable[[Any], Any], start: Open, workers: int, done: str) -> Iterator[Any]:
    """Yield what became of each part, in their order.

    This process does all parts by `work` if there is one worker, else the first, unless others are `kept` and running;
    those do the rest by what `start` sets up, which is given a number too. They need no GPU; `done` as in `results`.
    """
    parts = iter(todo)
    alone = None if workers == 1 else 0 if KEPT and KEPT[-1] else FIRST
    yield from map(work, islice(parts, alone))
    if (part := next(parts, None)) is None:
        return
    with _pool(start, workers, done, threads=0) as submit:
        waiting: deque[Future[tuple[int, Any]]] = deque()
        for item in enumerate(chain([part], parts)):
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()[1]
            waiting.append(submit(item))
        yield from (future.result()[1] for future in waiting)


def _by_processes(start: Open, todo: Iterator[Part], workers: int, done: str) -> Iterator[tuple[int, Any]]:
    torch = sys.modules.get("torch")  # if this process needed none to check the work, the others need none
    threads = max(1, torch.get_num_threads() // workers) if torch else 0
    with _pool(start, workers, done, threads) as submit:
        waiting: set[Future[tuple[int, Any]]] = set()
        for part in todo:
            if len(waiting) > workers:
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)
            waiting.add(submit(part))
        yield from (future.result() for future in as_completed(waiting))


KEPT: list[ProcessPoolExecutor | None] = []  # one for each block that keeps processes, once they were started


@contextmanager
def kept() -> Iterator[None]:
    """Keep processes that were started for one kind of work until the block ends: they do the next kinds too."""
    KEPT.append(None)
    try:
        yield
    finally:
        if pool := KEPT.pop():
            pool.shutdown()


@contextmanager
def _pool(start: Open, workers: int, done: str, threads: int) -> Iterator[Callable[[Part], Future[tuple[int, Any]]]]:
    """Yield a function that gives a part to processes with so many threads of torch each (0: they load none).

    They are started, unless some are `kept`, and read from a file what they set up. SteerError if one dies.
    """
    with TemporaryDirectory(prefix="steer-") as folder, ExitStack() as stack:
        file = Path(folder) / "start"
        file.write_bytes(pickle.dumps(start))
        if not (pool := KEPT[-1] if KEPT else None):
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, context, _start, (context.Value("i", 0),))
            if KEPT:
                KEPT[-1] = pool
            else:
                stack.enter_context(pool)
        try:
            yield lambda part: pool.submit(_do, file, threads, part)
        except BrokenProcessPool:
            raise SteerError(
                f"a process that {done} has died. Lower --num-proc if memory ran out, and run the same command again."
            ) from None


class _Worker:
    """The work in another process, of this machine or of a Ray cluster.

    Why it cannot be set up is raised with the first part: whoever starts processes would only say that one has died.
    """

    def __init__(self, start: Open) -> None:
        self.failed: SteerError | None = None
        try:
            self.work = start()
        except SteerError as error:
            self.failed = error

    def do(self, part: Part) -> tuple[int, Any]:
        if self.failed:
            raise self.failed
        return part[0], self.work(*part)


OWN: list[int] = []  # the number of a process that works
WORKER: dict[Path, _Worker] = {}  # what it works by now, and the file that said so


def _start(number: Any) -> None:
    """Number a new process."""
    follow()
    with number.get_lock():
        OWN.append(number.value)
        number.value += 1


def _do(start: Path, threads: int, part: Part) -> tuple[int, Any]:
    """Do a part; the first one of a kind sets the work up: on a share of the cores, and on the next of several GPUs."""
    if start not in WORKER:
        WORKER.clear()
        if threads:
            import torch

            from steer import device

            torch.set_num_threads(threads)
            device.take(OWN[0])
        WORKER[start] = _Worker(pickle.loads(start.read_bytes()))
    return WORKER[start].do(part)


def processes(count: int) -> ProcessPoolExecutor:
    """Start processes for whole runs, each on its share of the cores or the next GPU; they end with this one."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, _share, (context.Value("i", 0), count))


def _share(number: Any, count: int) -> None:
    """Number a new process; use its share of the cores only, or the next of several GPUs."""
    _start(number)
    import torch

    from steer import device

    if device.kind() == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    device.take(OWN[0])


def follow() -> None:
    """End with the process that started this one: if it is killed, nothing else ends this one."""
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def led() -> dict[str, str]:
    """Return the environment for a command that ends with this process, whatever starts it: see `follow_leader`."""
    return {**os.environ, LEADER: f"{os.getpid()}@{platform.node()}"}


def follow_leader() -> None:
    """End with what started this process and with the command that had it started, if one did: see `led`.

    A launcher that is killed leaves its workers behind. Those on other machines see the launcher's process there only.
    """
    if leader := os.environ.get(LEADER):
        pid, _, node = leader.partition("@")
        watched = int(pid) if node == platform.node() else os.getpid()
        threading.Thread(target=_follow_leader, args=(watched, os.getppid()), daemon=True).start()


def _follow_leader(leader: int, parent: int) -> None:
    while os.getppid() == parent and _runs(leader):
        time.sleep(BEAT)
    os._exit(1)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
