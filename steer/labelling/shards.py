"""Score rows part by part: each part is a file, so a run that was killed goes on where it stopped.

One process reads the rows and hands parts to the processes that score: no more parts are in memory than workers, and
two. One worker scores a whole part, so the bytes do not depend on how many workers there are, nor where.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

import attribute_models
from steer.errors import SteerError
from steer.labelling.scorer import Scorer, Scores, load_scorer
from steer.progress import progress
from steer.rows import Row
from steer.run_folder import folder_errors

Part = tuple[int, list[Row]]
Scored = Iterator[tuple[int, Scores]]
Load = Callable[[], Scorer]


@dataclass(frozen=True)
class Parts:
    """The files that hold the scores of `total` rows, `size` rows each.

    `shard` (i, n): this process scores every n-th part from the i-th, counted from 0.
    """

    folder: Path
    size: int
    total: int
    shard: tuple[int, int] = (0, 1)

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def path(self, index: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"{index:05d}.npy"

    @property
    def missing(self) -> int:
        """Count the parts that are not scored yet."""
        return sum(not self.path(i).is_file() for i in range(len(self)))

    def unscored(self, rows: Iterable[Row], bar: Any) -> Iterator[Part]:
        """Yield the parts of this shard that are not on disk; move the bar past the others."""
        reader, (shard, shards) = iter(rows), self.shard
        for index in count():
            part = list(islice(reader, self.size))
            if not part:
                return
            if index % shards == shard and not self.path(index).is_file():
                yield index, part
            else:
                bar.resume(len(part))

    def write(self, index: int, scores: Scores) -> None:
        """Write the scores and flags [n, A + 1] of a part, whole or not at all."""
        with folder_errors(self.folder.parent), attribute_models.replacing(self.path(index)) as file:
            np.save(file, scores, allow_pickle=False)

    def read(self) -> Scores:
        """Read scores and flags [n, A + 1] of all rows."""
        parts = []
        for path in map(self.path, range(len(self))):
            try:
                parts.append(np.load(path, allow_pickle=False))
            except (OSError, ValueError) as error:
                raise SteerError(
                    f"{path}: cannot be read ({error}). Remove it and run the same command again."
                ) from None
        return np.concatenate(parts)


def score_parts(
    parts: Parts, rows: Iterable[Row], scorer: Scorer, names: Sequence[str], *, num_proc: int = 1, ray: bool = False
) -> None:
    """Score the parts that are not on disk yet and write them; `ray`: by actors of a Ray cluster, not processes."""
    workers = min(num_proc, len(parts)) if scorer.model is not None else 1
    if (ray or workers > 1) and not scorer.spec:
        raise SteerError(
            f"scorer {scorer.id}: other processes cannot load it. Name a saved one, or use one process (num_proc=1)."
        )
    again = partial(load_scorer, scorer.spec, **scorer.access)
    with progress(total=parts.total, what="score") as bar:
        todo = parts.unscored(rows, bar)
        if ray:
            scored = _by_ray(again, names, todo, workers)
        elif workers > 1:
            scored = _by_processes(again, names, todo, workers)
        else:
            scored = ((index, scorer.score_and_flag(part, names)) for index, part in todo)
        done = 0
        for index, scores in scored:
            parts.write(index, scores)
            done += len(scores)
            bar.reach(bar.start + done)  # not every scorer counts


def _by_processes(load: Load, names: Sequence[str], todo: Iterator[Part], workers: int) -> Scored:
    context = multiprocessing.get_context("spawn")
    torch = sys.modules.get("torch")  # the scorer is loaded in this process too: if torch is not, it needs none
    threads = max(1, torch.get_num_threads() // workers) if torch else 0
    start = (load, names, context.Value("i", 0), threads)
    try:
        with ProcessPoolExecutor(workers, context, _start, start) as pool:
            waiting: set[Future[tuple[int, Scores]]] = set()
            for part in todo:
                if len(waiting) > workers:
                    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in ready)
                waiting.add(pool.submit(_score, part))
            yield from (future.result() for future in as_completed(waiting))
    except BrokenProcessPool:
        raise SteerError(
            "a process that scored has died. Lower --num-proc if memory ran out, and run the same command again."
        ) from None


class _Worker:
    """A scorer in another process, of this machine or of a Ray cluster."""

    def __init__(self, load: Load, names: Sequence[str]) -> None:
        self.scorer, self.names = load(), names

    def score(self, part: Part) -> tuple[int, Scores]:
        return part[0], self.scorer.score_and_flag(part[1], self.names)


WORKER: list[_Worker] = []  # the only one of a process that scores


def _start(load: Load, names: Sequence[str], number: Any, threads: int) -> None:
    """Load the scorer in a new process: on its share of the cores, and on the next of several GPUs."""
    follow()
    with number.get_lock():
        own, number.value = number.value, number.value + 1
    if threads:
        import torch

        from steer import device

        torch.set_num_threads(threads)
        device.take(own)
    WORKER.append(_Worker(load, names))


def processes(count: int) -> ProcessPoolExecutor:
    """Start processes for whole runs, each on its share of the cores; they end with this one."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _share, (count,))


def _share(count: int) -> None:
    """Use this process's share of the cores only."""
    follow()
    import torch

    from steer import device

    if device.kind() == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))


def follow() -> None:
    """End with the process that started this one: if it is killed, nothing else ends this one."""
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(part: Part) -> tuple[int, Scores]:
    return WORKER[0].score(part)


def _by_ray(load: Load, names: Sequence[str], todo: Iterator[Part], workers: int) -> Scored:
    """Score with actors of a Ray cluster, each on a GPU if there are any.

    Ray Data is not used: it would read on the CPUs that its actors hold, and wait for ever if they hold all.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.exceptions import RayError
        from ray.util import ActorPool
    except ImportError:
        raise SteerError('--workers ray: Ray is not installed. pip install "steer-lm[ray]".') from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    resources = ray.cluster_resources()
    gpus = int("GPU" in resources)
    unit = "GPU" if gpus else "CPU"
    if workers > (most := int(resources.get(unit, 0))):
        raise SteerError(f"--workers ray: --num-proc {workers}, but the cluster has {most} {unit}s. Lower --num-proc.")
    actor = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
    pool = ActorPool([actor.remote(load, names) for _ in range(workers)])
    try:
        for part in todo:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda one, part: one.score.remote(part), part)
        while pool.has_next():
            yield pool.get_next_unordered()
    except RayError as error:
        reason = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
        raise SteerError(f"--workers ray: {reason}. Run the same command again to go on.") from None
