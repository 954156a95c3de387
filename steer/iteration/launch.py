"""Train by a launcher: `steer train` as a command of its own, on its own folder, in as many processes as it starts."""

from __future__ import annotations

import dataclasses
import gc
import shlex
import subprocess
from collections import deque
from pathlib import Path

from steer import device
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.parts import led
from steer.progress import progress, write
from steer.run_folder import HOW, read_done, write_json
from steer.training.command import train_command

KEPT = 20  # lines of a launcher that failed, in which the reason is looked for


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
    code, lines = _ran(words)
    if code:
        said = [line for line in lines if line.startswith("steer: ")]
        reason = f"exit code {code}. {said[-1].removeprefix('steer: ')}" if said else f"exit code {code}."
        raise SteerError(
            f"--launch: the training in {folder} ended with {reason} What it wrote stays, and the same command goes on."
        )
    return str(read_done(folder)["summary"])


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
