"""Fresh responses at every optimizer step: drawn from the policy as it is, scored, weighted by their advantage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from steer.batch import Batch, Plan, Sequence_, collate, micro_batches
from steer.generate import Job, Sampling, respond
from steer.label import Reward
from steer.loop import response_sums
from steer.objective import Array, OnPolicy
from steer.policy import Policy, ResponseLogps
from steer.rows import Row

AT_ONCE = 128  # sequences in one batch of generation


@dataclass(frozen=True)
class FreshPlan(Plan):
    """A plan whose groups name prompts only; responses follow from the seed, the step and the weights."""

    policy: Policy
    rule: OnPolicy
    settings: Any
    reward: Reward
    max_new_tokens: int
    temperature: float
    last: dict[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, float]:
        """Mean reward and KL of the last step's responses, in this process."""
        return dict(self.last)

    def batches(
        self, step: int, rank: int = 0, world: int = 1, refs: Sequence[Sequence[float]] | None = None
    ) -> Iterator[tuple[list[int], Batch]]:
        """Draw K responses to each prompt of the step and yield them in micro-batches; `weight` is the advantage."""
        _, indices = self.step(step)
        mine = indices[rank::world] or indices[:1]
        seed = int(np.random.SeedSequence([self.seed, step, rank]).generate_state(1)[0])
        with torch.random.fork_rng():  # what is drawn must not move what dropout draws
            sequences, rewards, greedy = self._drawn([self.groups[i].rows[0] for i in mine], seed)
        s = self.settings
        kl = self._kl(sequences) if s.kl else np.zeros_like(rewards)
        baseline = None if greedy is None else np.clip(greedy, -s.clip, s.clip)
        advantages = self.rule.advantage(np.clip(rewards, -s.clip, s.clip) - s.kl * kl, baseline, s)
        self.last.update(reward=float(rewards.mean()), kl=float(kl.mean()))
        costs = [len(group) * max(len(x.prefix) + len(x.response) for x in group) for group in sequences]
        for part in micro_batches(costs, self.micro_batch_tokens):
            batch = collate(
                [sequences[i] for i in part],
                pad=self.tokens.tokenizer.pad_token_id,
                rewards=[rewards[i].tolist() for i in part],
                weights=[advantages[i].tolist() for i in part],
            )
            yield [mine[i] for i in part], batch if rank < len(indices) else batch.emptied()

    def _drawn(self, rows: Sequence[Row], seed: int) -> tuple[list[list[Sequence_]], Array, Array | None]:
        """Responses by prompt, their rewards [B, K], and those of the greedy responses [B] where they are wanted."""
        k, training = self.settings.k, self.policy.model.training
        jobs = [Job(row, {}) for row in rows for _ in range(k)]
        drawn = respond(self.policy, jobs, Sampling(self.temperature, 1.0, self.max_new_tokens, AT_ONCE, seed))
        texts: list[Row] = [{**job.row, "response": r.text} for job, r in zip(jobs, drawn)]
        if self.rule.greedy:
            sampling = Sampling(0.0, 1.0, self.max_new_tokens, AT_ONCE)
            best = respond(self.policy, [Job(row, {}) for row in rows], sampling)
            texts += [{**row, "response": r.text} for row, r in zip(rows, best)]
        self.policy.model.train(training)
        scores = np.array(self.reward(texts))
        flat = [Sequence_(self.tokens.prompts[job.row["id"]], list(r.ids)) for job, r in zip(jobs, drawn)]
        groups = [flat[i : i + k] for i in range(0, len(flat), k)]
        return groups, scores[: len(flat)].reshape(-1, k), scores[len(flat) :] if self.rule.greedy else None

    def _kl(self, sequences: Sequence[Sequence[Sequence_]]) -> Array:
        """log p - ref of every response [B, K]; the reference is the model without its adapter."""
        every = [s for group in sequences for s in group]
        module = ResponseLogps(self.policy.model)
        device = next(self.policy.model.parameters()).device
        pad = self.tokens.tokenizer.pad_token_id
        own = response_sums(module, every, pad, self.micro_batch_tokens, device)
        with self.policy.model.disable_adapter():
            ref = response_sums(module, every, pad, self.micro_batch_tokens, device)
        return np.subtract(own, ref).reshape(len(sequences), -1)
