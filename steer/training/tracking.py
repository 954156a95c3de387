"""The log of a running training: metrics.jsonl, a progress bar, and trackers through accelerate if asked for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from steer.errors import SteerError
from steer.progress import progress
from steer.run_folder import folder_errors, write_text
from steer.training.settings import TrainSettings


def installed(name: str) -> None:
    """Refuse a tracker that is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise SteerError(f'--track {name}: is not installed. Run "pip install {name}".')


class Log:
    """Writes the numbers of a run, in the main process only."""

    def __init__(self, folder: Path, options: TrainSettings, accelerator: Any, *, step: int, steps: int) -> None:
        self.track, self.accelerator = options.track, accelerator
        self.path = folder / "metrics.jsonl"
        if accelerator.is_main_process:
            lines = self.path.read_text().splitlines(keepends=True) if self.path.is_file() else []
            write_text(self.path, "".join(x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step))
        if self.track != "none":
            accelerator.project_configuration.logging_dir = str(folder)
            flat = {k: v if isinstance(v, int | float | bool) else str(v) for k, v in vars(options).items()}
            accelerator.init_trackers("steer", config=flat)
        self.bar = progress(total=steps, what="train", unit="steps")
        self.bar.update(step)

    def step(self, facts: dict[str, Any]) -> None:
        """Move the bar, with the loss and tokens per second."""
        self.bar.update()
        rate = facts["tokens"] / max(facts["seconds"], 1e-9)
        held = f", held out {facts['held_out_loss']:.3f}" if "held_out_loss" in facts else ""
        self.bar.set_postfix_str(f"loss {facts['loss']:.3f}{held}, {rate:.0f} tokens/s", refresh=False)

    def write(self, step: int, **values: Any) -> None:
        """Append a line to metrics.jsonl, and send the same to the tracker."""
        if self.accelerator.is_main_process:
            with folder_errors(self.path.parent), self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        if self.track != "none":
            self.accelerator.log(values, step=step)

    def close(self) -> None:
        """Close the bar and the trackers."""
        self.bar.close()
        if self.track != "none":
            self.accelerator.end_training()
