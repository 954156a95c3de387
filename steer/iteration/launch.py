"""Train by a launcher: `steer train` as a command of its own, on its own folder, in as many processes as it starts."""

from __future__ import annotations

import dataclasses
import gc
import re
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path

from steer import device
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.parts import led
from steer.progress import PREFIX, progress, write
from steer.run_folder import HOW, read_done, write_json, write_text
from steer.training.command import train_command
from steer.training.reasons import reasons_of

LOOKS, PAUSE = 10, 1.0  # for done.json, and seconds between them: NFS remembers for a while that a file is absent
KEPT = 1000  # lines of a launcher that failed: torchrun ends with a table that has seven for each process
# What torchrun says of the process that failed first, and SLURM of a step for which memory ran out.
KILLED = re.compile(r"Root Cause.{,400}?Signal \d+ \((SIG\w+)\)|oom[-_]kill", re.DOTALL)
TELLING = re.compile(rf"{PREFIX}.|(?:error|exception): \S|: no |not found", re.IGNORECASE)
SIGNALS = {number.value: number.name for number in signal.Signals}


def train_by(launch: str, config: TrainConfig) -> str:
    """Train in this process, or as a command that `launch` starts; return the summary line.

    SteerError if the command fails. What it wrote stays, and the same call resumes it.
    """
    folder = Path(config.output)
    if not launch or (folder / "done.json").is_file():
        return train_command(config)
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in HOW}
    file = folder.parent / f"{folder.name}.json"
    write_json(file, settings)
    words = [*shlex.split(launch), "-m", "steer", "train", "--config", str(file), "--output", str(folder)]
    gc.collect()
    device.release()  # the training has the GPUs for itself
    place = reasons_of(folder)
    write_text(place, "")
    try:
        code, lines = _ran(words)
        reasons = place.read_text(encoding="utf-8", errors="replace").splitlines() if place.is_file() else []
    finally:
        place.unlink(missing_ok=True)
    if code:
        raise SteerError(
            f"--launch: the training in {folder} ended with exit code {code}.{_reason(code, reasons, lines)} "
            "What it wrote stays, and the same command goes on."
        )
    return _summary(folder)


def _summary(folder: Path) -> str:
    """Return the summary line of a training that a launcher ended well."""
    for _ in range(LOOKS):
        if summary := read_done(folder).get("summary"):
            return str(summary)
        time.sleep(PAUSE)
    raise SteerError(
        f"--launch: it ended without a done.json in {folder}. Use a launcher that waits for what it starts (srun, "
        "sbatch --wait, ray job submit without --no-wait), and starts it where this folder is seen."
    )


def _reason(code: int, reasons: Collection[str], lines: Collection[str]) -> str:
    """Return why a launched command failed, after a space; empty if nothing says it.

    `reasons`: those of its processes, the first one first. A process that was killed adds none, and those of the
    others follow from that, unless they are meant for people. `lines`: what the launcher printed.
    """
    sentences = [line for line in reasons if line.startswith(PREFIX)]
    match = KILLED.search("\n".join(lines))
    killed = [match[1] or "SIGKILL"] if match else [SIGNALS[-code]] if -code in SIGNALS else []
    shell = [SIGNALS[code - 128]] if code - 128 in SIGNALS else []  # also of those that were ended for the first one
    telling = [line for line in lines if TELLING.search(line)][-1:]
    for reason in (*sentences, *map(_killed, killed), *reasons, *map(_killed, shell), *telling):
        text = reason.rpartition(PREFIX)[2].strip()
        return f" {text}" if text.endswith((".", "!", "?")) else f" {text}."
    return ""


def _killed(name: str) -> str:
    remedy = " Lower --micro-batch-tokens or start fewer processes if memory ran out." if name == "SIGKILL" else ""
    return f"A process was killed by {name}.{remedy}"


def _ran(words: list[str]) -> tuple[int, deque[str]]:
    """Run a command that ends with this process; pass on what it says; return its exit code and its last lines."""
    last: deque[str] = deque(maxlen=KEPT)
    both = subprocess.PIPE
    try:
        process = subprocess.Popen(words, text=True, errors="replace", env=led(), stdout=both, stderr=subprocess.STDOUT)
    except OSError as error:
        raise SteerError(f"--launch: {words[0]} cannot be started ({error.strerror}). Check the words.") from None
    with process, progress(what="launched training", unit=""):
        try:
            assert process.stdout
            for line in process.stdout:
                last.append(line.rstrip())
                write(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    return process.returncode, last
