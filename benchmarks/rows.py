"""Rows per second and memory of `steer data`, `steer label` and the rows of `steer train`, for many rows.

    python benchmarks/rows.py [--rows 10000 100000] [--scorer countable:words,type_token_ratio] [--num-proc 1 2]

The rows are made on the spot: one prompt of a turn, two responses of 10 to 60 random words with a rating of their own.
`data` reads, checks and splits them; `label` counts attributes in what `data` wrote. Each command is started anew, with
one thread, once for each number of processes; if there are several numbers, the files that they wrote are compared, and
bytes that differ end the benchmark. `s` are seconds of a clock from start to end, so whoever else is at work is in
them; `CPU s` are user and system time, workers and imports included. `MiB` is the largest memory (RSS) of the command's
own process, `MiB children` the largest sum of those of its children at one moment (looked at ten times a second; what
processes share counts in each).

`train` is what `steer train` does before it loads a model: it reads the labelled rows, puts them and their token ids
into files of the cache, and counts their tokens. Memory is its own (RssAnon) at the end: pages of mapped files are
given back when others need them. `train, again` is another process with the same rows, which finds the files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

STAGES = ("data", "label", "train")
SETTINGS = ("config.json", "done.json")  # of a run folder
SCORER = "countable:words,type_token_ratio,question_share,prompt_overlap"


def made(count: int) -> Iterator[str]:
    """Yield lines of JSON: two responses to each prompt, with a rating."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(5000)]
    prompt = ""
    for i in range(count):
        if i % 2 == 0:
            prompt = " ".join(rng.choices(words, k=rng.randint(4, 20))) + "?"
        sentences = [" ".join(rng.choices(words, k=rng.randint(5, 15))) for _ in range(rng.randint(2, 4))]
        response = " ".join(f"{sentence.capitalize()}{rng.choice('...?!')}" for sentence in sentences)
        yield json.dumps({"prompt": prompt, "response": response, "helpfulness": rng.randint(1, 5)}) + "\n"


class Cost(NamedTuple):
    """What a command took."""

    wall: float  # seconds
    cpu: float  # seconds, its children's included
    memory: float  # MiB of its own process
    children: float = 0.0  # MiB of all children together


class Watch(threading.Thread):
    """The memory of a process and of its children, until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.own, self.children, self.over = pid, 0, 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            self.own = max(self.own, kilobytes(self.pid, "VmHWM"))
            self.children = max(self.children, sum(kilobytes(pid, "VmRSS") for pid in descendants(self.pid)))


def descendants(pid: int) -> Iterator[int]:
    """Yield the children of a process, and theirs."""
    for threads in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            for child in map(int, threads.read_text().split()):
                yield child
                yield from descendants(child)


def kilobytes(pid: int, name: str) -> int:
    """Return a figure of a process's memory; 0 when it has ended."""
    try:
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Append the seconds of a clock and those of the CPU that the processes started within took."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    yield
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    times += [end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]


def measured(command: Sequence[str]) -> Cost:
    """Run a command of steer; return what it took."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    times: list[float] = []
    with timed(times):
        process = subprocess.Popen(
            [sys.executable, "-m", "steer", *command], env=environment, stdout=subprocess.DEVNULL
        )
        watch = Watch(process.pid)
        watch.start()
        failed = process.wait()
    watch.over.set()
    if failed:
        raise SystemExit(f"steer {' '.join(command)} failed.")
    wall, cpu = times
    return Cost(wall, cpu, watch.own / 1024, watch.children / 1024)


def content(folder: Path) -> dict[str, str]:
    """Return the hash of each file that a command wrote, but for those that name its settings and folders."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in SETTINGS)
    return {str(path.relative_to(folder)): hash_of(path) for path in files}


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MEMORY = """
import re, sys
from pathlib import Path
def memory():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
"""


TRAIN = """
from transformers import AutoTokenizer
from data_recipes import world_model
from steer.methods.groups import singles
from steer.models.tokenization import Tokens
from steer.rows.labelled import Labelled
from steer.run_folder import rows_fingerprint
from steer.training.lengths import short_enough
labels, model = sys.argv[1:]
if not Path(model).is_dir():
    world_model.save(Path(model), hidden_size=32, layers=1)
rows = Labelled.of(labels, rows_fingerprint(labels)).training()
tokens = Tokens(rows, AutoTokenizer.from_pretrained(model))
groups, _ = short_enough(singles(rows), tokens, None, 10**6)
print(memory())
"""


STORED = """
from steer.models import token_store
from steer.rows import lazy
lazy.LARGE = token_store.MANY = 0
lazy.WINDOW = 16  # full from the first rows on, so that it does not grow with them
"""


def prepared(labels: Path, cache: Path, *, stored: bool = False) -> Cost:
    """Read labelled rows as `steer train` does; return what it took, with its own memory at the end.

    `stored`: as many rows are read, however few there are.
    """
    times: list[float] = []
    with timed(times):
        [memory] = printed(TRAIN, labels, cache, stored=stored)
    wall, cpu = times
    return Cost(wall, cpu, memory)


def printed(script: str, labels: Path, cache: Path, *, stored: bool = False) -> list[float]:
    """Run a script on labelled rows and a folder for a model; return the numbers that it prints, MiB by `memory()`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "STEER_CACHE": str(cache)}
    command = [sys.executable, "-c", MEMORY + STORED * stored + script, str(labels), str(cache / "model")]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return [float(number) for number in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="numbers of rows")
    parser.add_argument("--scorer", default=SCORER, help="what `steer label` counts")
    parser.add_argument("--num-proc", type=int, nargs="+", default=[1], help="processes of `steer data` and `label`")
    parser.add_argument("--output-format", default="jsonl", help="form of the files that hold rows: jsonl or parquet")
    parser.add_argument("--only", nargs="+", default=STAGES, choices=STAGES, help="these stages only")
    parser.add_argument("--keep", default="", help="a folder to keep what is written in")
    options = parser.parse_args()
    processor = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    print(f"`{options.scorer}`, {options.output_format}, {processor}\n")
    print("| command | processes | rows | s | rows / s | CPU s | rows / CPU s | MiB | MiB children |")
    print("|---|---|---|---|---|---|---|---|---|")
    equal: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in options.rows:
            folder = Path(options.keep or temporary) / str(count)
            folder.mkdir(parents=True)
            with (folder / "log.jsonl").open("w") as log:
                log.writelines(made(count))
            by = {processes: folder / f"by-{processes}" for processes in options.num_proc}
            for processes, written in by.items():
                data, labels = str(written / "data"), str(written / "labels")
                commands = {
                    "data": ["data", str(folder / "log.jsonl"), "--output", data],
                    "label": ["label", data, "--scorer", options.scorer, "--output", labels],
                }
                more = ["--num-proc", str(processes), "--output-format", options.output_format]
                for name in filter(options.only.__contains__, commands):
                    show(name, count, processes, measured([*commands[name], *more]))
            if len(by) > 1:
                equal.append(same(by, count))
            for name in ("train", "train, again") if "train" in options.only else ():
                show(name, count, 1, prepared(written / "labels", folder / "cache"))
    print("\n".join(["", *equal]))


def same(by: Mapping[int, Path], count: int) -> str:
    """Return a sentence on folders whose files have equal bytes; end the benchmark if they have not."""
    first, *others = [content(folder) for folder in by.values()]
    numbers = " and ".join(map(str, by))
    if differ := sorted({name for other in others for name, _ in other.items() ^ first.items()}):
        raise SystemExit(f"{count:,} rows: {', '.join(differ)} by {numbers} processes differ.")
    return f"{count:,} rows: the {len(first)} files by {numbers} processes have equal bytes."


def show(name: str, count: int, processes: int, cost: Cost) -> None:
    """Print a line of the table."""
    rates = f"{cost.wall:.1f} | {count / cost.wall:,.0f} | {cost.cpu:.1f} | {count / cost.cpu:,.0f}"
    print(f"| {name} | {processes} | {count:,} | {rates} | {cost.memory:,.0f} | {cost.children:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
