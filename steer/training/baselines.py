"""Figures of a whole optimizer step that losses on single responses compare gains with, and that have no gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steer.device import widest
from steer.errors import SteerError
from steer.methods.base import Candidates, Method, existing, gains
from steer.models.collate import Sequence_
from steer.models.log_probs import ResponseLogps
from steer.rows import Row, prompt_key
from steer.training.batches import Plan
from steer.training.references import cached, content_hash, response_tokens

DECAY = 0.9  # of the moving means, at every step
ONE_PROMPT = "all rows answer one prompt, so no response is one to another prompt. Add rows of other prompts."


def mates(rows: Sequence[Row], every: Sequence[Row], seed: int) -> list[Row]:
    """For each row, one that answers another prompt; each of `rows` is taken once where their prompts allow it.

    Else some are drawn from `every`; SteerError if that has one prompt only.
    """
    keys = [prompt_key(row) for row in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    shift = max(Counter(keys).values())  # no block of one prompt overlaps with itself
    mate = {i: rows[order[(at + shift) % len(rows)]] for at, i in enumerate(order)}
    rng = np.random.default_rng(seed)
    for i, key in enumerate(keys):
        if prompt_key(mate[i]) == key:
            others = [row for row in every if prompt_key(row) != key]
            if not others:
                raise SteerError(ONE_PROMPT)
            mate[i] = others[rng.integers(len(others))]
    return [mate[i] for i in range(len(rows))]


@dataclass(frozen=True)
class Mismatched:
    """The prompts of each step with responses to other prompts, and their log-probs under the starting policy."""

    plan: Plan
    longest: int  # tokens
    refs: list[list[float]] = field(default_factory=list)  # [steps][pairs]

    @staticmethod
    def of(plan: Plan, steps: int, module: ResponseLogps, accelerator: Any, start: str) -> Mismatched:
        """Compute the log-probs for all steps, epoch by epoch; `start` as in `known_of`."""
        rows = [row for group in plan.groups for row in group.rows]
        pairs = Mismatched(plan, max(plan.tokens.length(row) for row in rows))
        for first in range(0, steps, plan.steps_per_epoch):
            groups = [pairs.sequences(step) for step in range(first, min(first + plan.steps_per_epoch, steps))]

            def compute(groups: Sequence[Sequence[Sequence_]] = groups) -> list[float]:
                return pairs.log_probs(module, [s for group in groups for s in group], accelerator)

            pairs.refs.extend(cached(content_hash(start, groups), [len(group) for group in groups], compute))
        return pairs

    def sequences(self, step: int) -> list[Sequence_]:
        """Pairs of a step; a response that would make the longest sequence longer is cut."""
        rows = [row for i in self.plan.step(step)[1] for row in self.plan.groups[i].rows]
        every = [group.rows[0] for group in self.plan.groups]
        own, tokens = mates(rows, every, step), self.plan.tokens
        prefixes = [tokens.prefix(row) for row in rows]
        return [Sequence_(p, list(tokens.responses[m["id"]][: self.longest - len(p)])) for p, m in zip(prefixes, own)]

    def log_probs(self, module: ResponseLogps, sequences: Sequence[Sequence_], accelerator: Any) -> list[float]:
        """Log-probs of responses with the weights as they are; processes share the work."""
        share = (accelerator.process_index, accelerator.num_processes)
        batching = (self.plan.tokens.tokenizer.pad_token_id, self.plan.micro_batch_tokens, accelerator.device)
        arrays, _ = response_tokens(module, [[s] for s in sequences], *batching, self.plan.shared, share)
        sums = torch.tensor([float(x.sum()) for x in arrays], dtype=widest(accelerator.device))
        summed: list[float] = accelerator.reduce(sums.to(accelerator.device), "sum").tolist()
        return summed

    def gain(self, module: ResponseLogps, step: int, accelerator: Any) -> float:
        """Mean gain of the pairs of a step, at least 0: an estimate of the KL from the starting policy."""
        own = self.log_probs(module, self.sequences(step), accelerator)
        return max(0.0, float(np.mean(np.subtract(own, self.refs[step]))))


@dataclass
class Middle:
    """Moving means of the gains of good and of bad responses; both begin at 0, where the policy is the reference."""

    good: float = 0.0
    bad: float = 0.0
    _sums: Tensor = field(default_factory=lambda: torch.zeros(4))

    @property
    def value(self) -> float:
        """The middle between them."""
        return (self.good + self.bad) / 2

    @property
    def state(self) -> dict[str, float]:
        """What a resume point keeps."""
        return {"good": self.good, "bad": self.bad}

    def see(self, logps: Tensor, c: Candidates) -> None:
        """Add a micro-batch of the step."""
        assert c.weight is not None
        gain, here = gains(logps.detach(), c), existing(c.mask)
        for at, kind in ((0, here & (c.weight >= 0)), (2, here & (c.weight < 0))):
            self._sums[at] += gain[kind].sum().cpu()
            self._sums[at + 1] += kind.sum().cpu()

    def move(self, accelerator: Any) -> None:
        """End a step: move each mean towards that of the step, if it had such responses."""
        good, ups, bad, downs = accelerator.reduce(self._sums.to(accelerator.device), "sum").tolist()
        self.good += (1 - DECAY) * (good / ups - self.good) if ups else 0.0
        self.bad += (1 - DECAY) * (bad / downs - self.bad) if downs else 0.0
        self._sums = torch.zeros(4)


@dataclass(frozen=True)
class Baseline:
    """The figure that a method compares gains with in every step; a method that needs none has neither."""

    mismatched: Mismatched | None = None
    middle: Middle | None = None

    @staticmethod
    def of(method: Method, plan: Plan, steps: int, module: ResponseLogps, accelerator: Any, start: str) -> Baseline:
        """Prepare what the method needs; `start` as in `known_of`."""
        pairs = Mismatched.of(plan, steps, module, accelerator, start) if "mismatched" in method.needs else None
        return Baseline(pairs, Middle() if "middle" in method.needs else None)

    @property
    def state(self) -> dict[str, float]:
        """What a resume point keeps."""
        return self.middle.state if self.middle else {}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a resume point."""
        if self.middle and state:
            self.middle.good, self.middle.bad = state["good"], state["bad"]

    def at(self, module: Any, step: int, accelerator: Any) -> float | None:
        """Return the figure of a step, before its first micro-batch; `module`: as accelerate wrapped it."""
        if self.mismatched:
            return self.mismatched.gain(accelerator.unwrap_model(module), step, accelerator)
        return self.middle.value if self.middle else None

    def see(self, logps: Tensor, c: Candidates) -> None:
        """Take note of a micro-batch."""
        if self.middle:
            self.middle.see(logps, c)

    def move(self, accelerator: Any) -> None:
        """End a step."""
        if self.middle:
            self.middle.move(accelerator)


def compared(c: Candidates, figure: float | None) -> Candidates:
    """Add the figure of a step to its candidates."""
    return c if figure is None else c._replace(baseline=c.reward.new_full(c.reward.shape[:1], figure))
