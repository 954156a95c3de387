"""Records of a training: metrics.jsonl, a progress bar, trackers, and the loss on held-out rows."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steer.device import widest
from steer.errors import SteerError
from steer.methods.base import Method
from steer.models.log_probs import ResponseLogps, seen
from steer.progress import progress
from steer.run_folder import folder_errors, write_text
from steer.training.baselines import compared
from steer.training.batches import UNKNOWN, Known, Plan
from steer.training.references import base_states
from steer.training.settings import TrainSettings


def installed(name: str) -> None:
    """Refuse a tracker that is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise SteerError(f'--track {name}: is not installed. Run "pip install {name}".')


class Log:
    """Writer of metrics.jsonl and the progress bar, in the main process only."""

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
        self.bar = progress(total=steps, what="train", unit="steps").open()
        self.bar.resume(step)

    def step(self, facts: dict[str, Any]) -> None:
        """Move the bar, with the loss and tokens per second."""
        self.bar.update()
        rate = facts["tokens"] / max(facts["seconds"], 1e-9)
        held = f", held out {facts['held_out_loss']:.3f}" if "held_out_loss" in facts else ""
        self.bar.tell(f"loss {facts['loss']:.3f}{held}, {rate:.0f} tokens/s")

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


@dataclass(frozen=True)
class HeldOut:
    """The loss on held-out groups, one step of a plan: under whole conditions, without dropout."""

    plan: Plan
    method: Method
    settings: Any

    @torch.no_grad()
    def loss(self, module: ResponseLogps, accelerator: Any, known: Known | None, figure: float | None = None) -> float:
        """The method's loss over all held-out groups, with the weights as they are; `figure`: see `Baseline.at`."""
        rank, world = accelerator.process_index, accelerator.num_processes
        sums = torch.zeros(2, dtype=widest(accelerator.device), device=accelerator.device)
        module.eval()
        for indices, batch in self.plan.batches(0, rank, world, known or UNKNOWN):
            batch = batch.to(accelerator.device)
            base = base_states(module, self.plan, indices, batch, accelerator) if "kl" in self.method.needs else None
            logps, c = seen(module, batch, base)
            sums[0] += self.method.total(logps, compared(c, figure), self.settings)
            sums[1] += self.method.counted(batch.candidates.mask).sum()
        module.train()
        total, count = accelerator.reduce(sums, "sum").tolist()
        return float(total / max(count, 1))


@dataclass
class Patience:
    """The best held-out loss, its step, and the number of losses since."""

    best: float | None = None
    step: int = 0
    since: int = 0

    def see(self, loss: float, step: int) -> bool:
        """Record a loss; return whether it is the best so far."""
        if self.best is None or loss < self.best:
            self.best, self.step, self.since = loss, step, 0
            return True
        self.since += 1
        return False
