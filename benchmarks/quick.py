"""Seconds of what should feel quick: `python benchmarks/quick.py [REPEATS]`.

The median and the fastest of some repeats: the help of every command, in a process of its own; a log of 20,000 rows
of the embedded world; 10,000 resamples of a comparison over three seeds, of the ranks of eight systems, and of a
length-controlled win-rate. The tests count calls and imports of the same work, which are alike on all machines.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from data_recipes import world
from steer.cli import cli
from steer.evaluation.statistics import across_seeds
from steer.evaluation.winrate import Votes, length_controlled, pairs, ranking

PROMPTS, SYSTEMS, RESAMPLES = 300, 8, 10_000


def show_help(command: str) -> None:
    """As a user types it."""
    subprocess.run([sys.executable, "-m", "steer", *command.split(), "--help"], check=True, capture_output=True)


def work() -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    rng = np.random.default_rng(0)
    values = [(rng.normal(size=PROMPTS), np.arange(PROMPTS)) for _ in range(3)]
    i, j = np.array(pairs(SYSTEMS, "all")).T
    first, second, names = np.tile(i, PROMPTS), np.tile(j, PROMPTS), np.repeat(np.arange(PROMPTS), len(i))
    share, longer = rng.choice([0, 0.5, 1], len(first)), rng.normal(size=PROMPTS)
    none = np.zeros(len(first))
    votes = Votes(first, second, share, names, none, none, none.astype(int), none > 0)
    helps = {f"steer {name} --help": lambda name=name: show_help(name) for name in ("", *sorted(cli.commands))}
    return helps | {
        "20,000 rows of the world": lambda: sum(1 for _ in world.rows(world.World(20_000))),
        "three seeds": lambda: across_seeds(values, resamples=RESAMPLES),
        "eight systems": lambda: ranking(votes, SYSTEMS, resamples=RESAMPLES),
        "length-controlled": lambda: length_controlled(
            share[:PROMPTS], longer, np.arange(PROMPTS), resamples=RESAMPLES
        ),
    }


def main() -> None:
    """Time, print."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for name, timed in work().items():
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            timed()
            seconds.append(time.perf_counter() - began)
        print(f"{name:28} {statistics.median(seconds):7.2f} s, fastest {min(seconds):7.2f}")
    print(f"{platform.machine()}, {repeats} repeats")


if __name__ == "__main__":
    main()
