"""Rows per second of CPU time and memory of `steer data`, `steer label` and the rows of `steer train`, for many rows.

    python benchmarks/rows.py [--rows 10000 100000] [--scorer countable:words,type_token_ratio] [--num-proc 1]

The rows are made on the spot: one prompt of a turn, two responses of 10 to 60 random words with a rating of their own.
`data` reads, checks and splits them; `label` counts attributes in what `data` wrote. Each command is a process of its
own with one thread; what is printed is rows over its CPU time (user and system, its workers included, imports too), and
the largest memory that a process of it had (RSS). CPU time, because that of a clock depends on who else is at work.

`train` is what `steer train` does before it loads a model: it reads the labelled rows, puts them and their token ids
into files of the cache, and counts their tokens. Memory is its own (RssAnon) at the end: pages of mapped files are
given back when others need them. `train, again` is another process with the same rows, which finds the files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

STAGES = ("data", "label", "train")
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


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Run a command of steer; return its seconds of CPU time and its largest process in MiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, "-m", "steer", *command], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"steer {' '.join(command)} failed.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, usage.ru_maxrss / 1024


TRAIN = """
import re, sys
from pathlib import Path
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
print(int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


STORED = """
from steer.models import token_store
from steer.rows import lazy
lazy.LARGE = token_store.MANY = 0
lazy.WINDOW = 16  # full from the first rows on, so that it does not grow with them
"""


def prepared(labels: Path, cache: Path, *, stored: bool = False) -> tuple[float, float]:
    """Read labelled rows as `steer train` does; return seconds of CPU time and MiB of its own memory at the end.

    `stored`: as many rows are read, however few there are.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "STEER_CACHE": str(cache)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", STORED * stored + TRAIN, str(labels), str(cache / "model")]
    memory = float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="numbers of rows")
    parser.add_argument("--scorer", default=SCORER, help="what `steer label` counts")
    parser.add_argument("--num-proc", type=int, default=1, help="processes of `steer label`")
    parser.add_argument("--output-format", default="jsonl", help="form of the files that hold rows: jsonl or parquet")
    parser.add_argument("--only", nargs="+", default=STAGES, choices=STAGES, help="these stages only")
    parser.add_argument("--keep", default="", help="a folder to keep what is written in")
    options = parser.parse_args()
    processor = platform.processor() or platform.machine()
    print(f"`{options.scorer}`, {options.num_proc} process(es), {options.output_format}, {processor}\n")
    print("| command | rows | CPU s | rows / CPU s | MiB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for count in options.rows:
            folder = Path(options.keep or temporary) / str(count)
            folder.mkdir(parents=True)
            with (folder / "log.jsonl").open("w") as log:
                log.writelines(made(count))
            form = ["--output-format", options.output_format]
            label = [str(folder / "data"), "--scorer", options.scorer, "--num-proc", str(options.num_proc)]
            commands = {
                "data": ["data", str(folder / "log.jsonl"), "--output", str(folder / "data"), *form],
                "label": ["label", *label, "--output", str(folder / "labels"), *form],
            }
            for name, command in commands.items():
                if name in options.only:
                    show(name, count, *measured(command))
            for name in ("train", "train, again") if "train" in options.only else ():
                show(name, count, *prepared(folder / "labels", folder / "cache"))


def show(name: str, count: int, seconds: float, memory: float) -> None:
    """Print a line of the table."""
    print(f"| {name} | {count:,} | {seconds:.1f} | {count / seconds:,.0f} | {memory:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
