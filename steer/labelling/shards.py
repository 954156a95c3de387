"""Scores of rows, part by part: each part is a file, so a run that was killed goes on where it stopped.

One process reads the rows and hands parts to those that score: more are never in memory than workers, and two. A part
is scored whole by one worker, so the bytes do not depend on how many there are, nor where.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

import attribute_models
from steer.config import LabelConfig
from steer.errors import SteerError
from steer.labelling.scorer import Scorer, Scores, load_scorer
from steer.progress import progress
from steer.rows import Row
from steer.run_folder import folder_errors

Part = tuple[int, list[Row]]
Scored = Iterator[tuple[int, Scores]]


def shard_of(config: LabelConfig) -> tuple[int, int]:
    """ "2/4" -> (1, 4)."""
    found = re.fullmatch(r"(\d+)/(\d+)", config.shard or "1/1")
    shard, shards = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= shard <= shards:
        raise SteerError(f"--shard {config.shard}: wanted i/n with i from 1 to n, such as 1/4.")
    if config.shard and config.overwrite:
        raise SteerError("--shard with --overwrite would remove the other shards. Remove the folder yourself first.")
    return shard - 1, shards


def part_file(config: LabelConfig, index: int) -> Path:
    """Where the scores of a part are."""
    return Path(config.output) / "parts" / f"{index:05d}.npy"


def score_parts(config: LabelConfig, scorer: Scorer, names: Sequence[str], rows: Iterator[Row], total: int) -> None:
    """Write scores and flags [n, A + 1] of every part of the shard that is not on disk yet; `total` rows there are."""
    with progress(total=total, what="label") as bar:
        todo = _todo(config, rows, bar)
        workers = min(config.num_proc, -(-total // config.shard_size)) if scorer.model is not None else 1
        if config.workers == "ray":
            scored = _by_ray(config.scorer, names, todo, workers)
        elif workers > 1:
            scored = _by_processes(config.scorer, names, todo, workers)
        else:
            scored = ((index, scorer.score_and_flag(part, names)) for index, part in todo)
        for index, found in scored:
            data = io.BytesIO()
            np.save(data, found, allow_pickle=False)
            with folder_errors(Path(config.output)):
                attribute_models.write(part_file(config, index), data.getvalue())
            bar.update(len(found))


def read_parts(config: LabelConfig, total: int) -> Scores:
    """Scores and flags [n, A + 1] of all parts."""
    parts = []
    for path in (part_file(config, i) for i in range(-(-total // config.shard_size))):
        try:
            parts.append(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise SteerError(f"{path}: cannot be read ({error}). Remove it and run the same command again.") from None
    return np.concatenate(parts)


def _todo(config: LabelConfig, rows: Iterator[Row], bar: Any) -> Iterator[Part]:
    shard, shards = shard_of(config)
    for index in count():
        part = list(islice(rows, config.shard_size))
        if not part:
            return
        if index % shards == shard and not part_file(config, index).is_file():
            yield index, part
        else:
            bar.update(len(part))


def _by_processes(spec: str, names: Sequence[str], todo: Iterator[Part], workers: int) -> Scored:
    context = multiprocessing.get_context("spawn")
    torch = sys.modules.get("torch")  # the scorer is loaded here too: without torch by now it wants none
    threads, devices = (torch.get_num_threads(), torch.cuda.device_count()) if torch else (0, 0)
    start = (spec, names, context.Value("i", 0), max(1, threads // workers) if threads else 0, devices)
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
        remedy = "Lower --num-proc if memory ran out, and run the same command again to go on"
        raise SteerError(f"a process that scored has died. {remedy}.") from None


WORKER: list[Any] = []  # scorer and names in a process that scores


def _start(spec: str, names: Sequence[str], number: Any, threads: int, devices: int) -> None:
    """Load the scorer in a process of its own: on a share of the cores, and on the next of several GPUs."""
    follow()
    with number.get_lock():
        own, number.value = number.value, number.value + 1
    if threads:
        import torch

        torch.set_num_threads(threads)
        if devices:
            torch.cuda.set_device(own % devices)
    WORKER.extend((load_scorer(spec), names))


def processes(count: int) -> ProcessPoolExecutor:
    """Processes that do whole runs, each on its share of the cores; they end with this one."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _share, (count,))


def _share(count: int) -> None:
    """Leave the other processes their cores."""
    follow()
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))


def follow() -> None:
    """End with the process that started this one: where it was killed, nobody else would end it."""
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(part: Part) -> tuple[int, Scores]:
    scorer, names = WORKER
    return part[0], scorer.score_and_flag(part[1], names)


class _Actor:
    """A scorer in a process of a Ray cluster."""

    def __init__(self, spec: str, names: Sequence[str]) -> None:
        self.scorer, self.names = load_scorer(spec), names

    def score(self, part: Part) -> tuple[int, Scores]:
        return part[0], self.scorer.score_and_flag(part[1], self.names)


def _by_ray(spec: str, names: Sequence[str], todo: Iterator[Part], workers: int) -> Scored:
    """Actors of a Ray cluster, a GPU each where there are any; the parts come and go through its object store.

    Ray Data is not used: it would read on the CPUs that its actors hold, and wait for ever where they hold all.
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
    there = ray.cluster_resources()
    gpus = int("GPU" in there)
    room = int(there.get("GPU" if gpus else "CPU", 0))
    if workers > room:
        what = "GPUs" if gpus else "CPUs"
        raise SteerError(
            f"--workers ray: --num-proc {workers}, but the cluster has {room} {what}. Give at most {room}."
        )
    actor = ray.remote(num_cpus=1, num_gpus=gpus)(_Actor)
    pool = ActorPool([actor.remote(spec, names) for _ in range(workers)])
    try:
        for part in todo:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda one, part: one.score.remote(part), part)
        while pool.has_next():
            yield pool.get_next_unordered()
    except RayError as error:
        told = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
        raise SteerError(f"--workers ray: {told}. Run the same command again to go on.") from None
