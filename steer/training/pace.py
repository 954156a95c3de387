"""Speed of a training before it starts: one micro-batch of its own, forward and backward, on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from steer.device import wait
from steer.methods.groups import Group
from steer.models.collate import Batch
from steer.models.log_probs import ResponseLogps, seen
from steer.models.policy import Policy
from steer.progress import duration
from steer.training.batches import Plan
from steer.training.references import base_states

if TYPE_CHECKING:
    from steer.training.loop import Loop

TOKENS = 512  # measured on a CPU, where a whole micro-batch could take a minute


class Pace(NamedTuple):
    """Seconds of a forward pass, and of forward and backward together, over so many tokens."""

    tokens: int
    forward: float
    both: float

    def seconds(self, trained: float, read: float = 0.0) -> float:
        """Seconds to train on so many tokens, and to read others for log-probs of the starting policy."""
        return (trained * self.both + read * self.forward) / self.tokens

    @property
    def basis(self) -> str:
        """Say what the times rest on."""
        return f"measured on one forward and backward pass of {self.tokens} tokens here"


def measured(policy: Policy, loop: Loop) -> Pace:
    """Time a pass over the first groups of the first step; on a GPU the second time, when it has warmed up."""
    module = loop.module(policy)
    device = next(module.parameters()).device
    budget = loop.plan.micro_batch_tokens if device.type != "cpu" else min(TOKENS, loop.plan.micro_batch_tokens)
    part, tokens = first_groups(loop.plan, budget)
    for _ in range(1 if device.type == "cpu" else 2):
        forward, both = timed(module, part.batches(0), part, loop, device)
    return Pace(tokens, forward, both)


def first_groups(plan: Plan, budget: int) -> tuple[Plan, int]:
    """Return a plan of the first step's groups that fit the budget, at least one, and their tokens."""
    _, indices = plan.step(0)
    chosen: list[Group] = []
    tokens = 0
    for i in indices:
        more = sum(len(s.prefix) + len(s.response) for s in plan.sequences(0, i))
        if chosen and tokens + more > budget:
            break
        chosen.append(plan.groups[i])
        tokens += more
    return replace(plan, groups=chosen, batch_size=len(chosen), curriculum=0), tokens


def timed(
    module: ResponseLogps, batches: Iterable[tuple[list[int], Batch]], plan: Plan, loop: Loop, device: Any
) -> tuple[float, float]:
    """Seconds until the log-probs of a plan's batches are computed, and until their gradients are."""
    module.train()
    forward = both = 0.0
    for indices, batch in batches:
        began = _now(device)
        batch = batch.to(device)
        kl = "kl" in loop.method.needs
        logps, _ = seen(module, batch, base_states(module, plan, indices, batch, loop.accelerator) if kl else None)
        middle = _now(device)
        logps.sum().backward()
        forward, both = forward + middle - began, both + _now(device) - began
    module.zero_grad(set_to_none=True)
    return forward, both


def _now(device: Any) -> float:
    """Time on the clock once the device has done what it was given."""
    wait(device)
    return time.monotonic()


class Forecast(NamedTuple):
    """Seconds that the steps take, and those before them for log-probs of the starting policy."""

    steps: float
    before: float
    pace: Pace


def lengths_of(plan: Plan) -> list[int]:
    """Count the tokens of every candidate, prompt and response."""
    sequences = (s for i in range(len(plan.groups)) for s in plan.sequences(0, i))
    return [len(s.prefix) + len(s.response) for s in sequences]


def unforeseeable(loop: Loop) -> str:
    """Return why the time of a training cannot be estimated; empty if it can."""
    if loop.method.on_policy:
        return "not estimated: fresh responses end where the policy ends them"
    if loop.accelerator.is_fsdp2:
        return "not estimated where weights are sharded; after some steps the progress shows it"
    return ""


def forecast(policy: Policy, loop: Loop, lengths: Sequence[int]) -> Forecast:
    """Estimate the time of a training from one pass; `lengths`: tokens of every candidate."""
    pace, processes = measured(policy, loop), loop.accelerator.num_processes
    tokens = sum(lengths) / len(loop.plan.groups) * loop.options.batch_size * loop.steps
    used = len(loop.plan.used(loop.steps)) / len(loop.plan.groups)
    needs = loop.method.needs
    pairs = tokens if "mismatched" in needs else 0  # read before the steps, and again in each
    reference = sum(lengths) * used if "ref" in needs else 0
    return Forecast(pace.seconds(tokens, pairs) / processes, pace.seconds(0, reference + pairs) / processes, pace)


def foreseen(policy: Policy, loop: Loop, lengths: Sequence[int]) -> str:
    """Describe how long the steps will take, and what that rests on; `lengths`: tokens of every candidate."""
    if reason := unforeseeable(loop):
        return reason
    time, processes = forecast(policy, loop, lengths), loop.accelerator.num_processes
    before = f", {duration(time.before)} before them for log-probs of the starting policy" if time.before else ""
    shared = f" on each of {processes} processes" if processes > 1 else ""
    return (
        f"about {duration(time.steps)} for the steps{before}, at {time.pace.tokens / time.pace.both:,.0f} "
        f"tokens/s{shared}: {time.pace.basis}; held-out losses and saving come on top"
    )
