"""The loss on held-out rows while training goes on: the same loss, whole conditions, no dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from steer.methods.base import Method
from steer.models.log_probs import ResponseLogps, seen
from steer.training.batches import UNKNOWN, Known, Plan
from steer.training.references import base_states


@dataclass(frozen=True)
class HeldOut:
    """Held-out groups as one step of a plan."""

    plan: Plan
    method: Method
    settings: Any

    @torch.no_grad()
    def loss(self, module: ResponseLogps, accelerator: Any, known: Known | None) -> float:
        """The method's loss over all held-out groups, with the weights as they are."""
        rank, world = accelerator.process_index, accelerator.num_processes
        sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        module.eval()
        for indices, batch in self.plan.batches(0, rank, world, known or UNKNOWN):
            batch = batch.to(accelerator.device)
            base = base_states(module, self.plan, indices, batch, accelerator) if "kl" in self.method.needs else None
            sums[0] += self.method.total(*seen(module, batch, base), self.settings)
            sums[1] += self.method.counted(batch.candidates.mask).sum()
        module.train()
        total, count = accelerator.reduce(sums, "sum").tolist()
        return float(total / max(count, 1))


@dataclass
class Patience:
    """Which held-out loss was the best, and how many came since."""

    best: float | None = None
    step: int = 0
    since: int = 0

    def see(self, loss: float, step: int) -> bool:
        """Take note of a loss; whether it is the best so far."""
        if self.best is None or loss < self.best:
            self.best, self.step, self.since = loss, step, 0
            return True
        self.since += 1
        return False
