"""Fresh responses at every optimizer step: drawn from the policy as it is, scored, weighted by their advantage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from steer.generation.engines import respond
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.labelling.scorer import Reward
from steer.methods.base import Array, Candidates, Method, drift
from steer.models.collate import Batch, Sequence_, collate, cost, micro_batches
from steer.models.log_probs import ResponseLogps
from steer.models.policy import Policy
from steer.rows import Row
from steer.training.batches import UNKNOWN, Known, Plan
from steer.training.references import response_tokens

AT_ONCE = 128  # sequences in one batch of generation


class Draw(NamedTuple):
    """Responses of one draw in one process: group indices [B], K sequences each, and what the loss reads of them."""

    indices: list[int]
    sequences: list[list[Sequence_]]
    candidates: Candidates

    def part(self, at: Sequence[int], tokens: int) -> Candidates:
        """Candidates of some of the groups, cut to so many tokens."""
        columns = {name: x[list(at)] for name, x in self.candidates._asdict().items() if x is not None}
        return Candidates(**{name: x[..., :tokens] if x.ndim == 3 else x for name, x in columns.items()})


@dataclass(frozen=True)
class FreshPlan(Plan):
    """A plan whose groups name prompts only; responses follow from the seed, the step, the rank and the weights."""

    _: KW_ONLY
    policy: Policy
    method: Method
    settings: Any
    reward: Reward
    max_new_tokens: int
    state: dict[str, Any] = field(default_factory=dict)  # the module, the last draw, and what it was like

    def start(self, module: ResponseLogps) -> None:
        """Remember what gives log-probs and values."""
        self.state["module"] = module

    def facts(self) -> dict[str, float]:
        """Of the last draw in this process: mean reward as scored, share without an end, mean KL."""
        return {name: float(value) for name, value in self.state["facts"].items()}

    @property
    def repeats(self) -> int:
        """Optimizer steps on the same responses."""
        return getattr(self.settings, "epochs", 1)

    def step(self, step: int) -> tuple[int, list[int]]:
        """Epoch and group indices of an optimizer step: the same for all steps on one draw."""
        return super().step(step // self.repeats)

    def resume_point(self, step: int, every: int) -> bool:
        """Only between draws: their responses are not kept."""
        return step % self.repeats == 0 and super().resume_point(step // self.repeats, max(1, every // self.repeats))

    def batches(
        self, step: int, rank: int = 0, world: int = 1, known: Known = UNKNOWN
    ) -> Iterator[tuple[list[int], Batch]]:
        """Draw K responses to each prompt of the step and yield them in micro-batches with what the loss reads."""
        number = step // self.repeats
        _, indices = self.step(step)
        if self.state.get("number") != number:
            draw = self._draw(number, indices[rank::world] or indices[:1], rank)
            self.state.update(number=number, draw=draw)
        draw = self.state["draw"]
        costs = [cost(group, shared=self.shared) for group in draw.sequences]
        for part in micro_batches(costs, self.micro_batch_tokens, shared=self.shared):
            batch = collate(
                [draw.sequences[i] for i in part],
                pad=self.tokens.tokenizer.pad_token_id,
                rewards=[[0.0] * self.settings.k for _ in part],
                weights=[[1.0] * self.settings.k for _ in part],
                shared=self.shared,
            )
            batch = batch._replace(candidates=draw.part(part, batch.candidates.mask.shape[-1]))
            yield [draw.indices[i] for i in part], batch if rank < len(indices) else batch.emptied()

    def _draw(self, number: int, indices: list[int], rank: int) -> Draw:
        seed = int(np.random.SeedSequence([self.seed, number, rank]).generate_state(1)[0])
        sequences, rewards, greedy = self._responses([self.groups[i].rows[0] for i in indices], seed)
        s, k = self.settings, self.settings.k
        ones = np.ones_like(rewards).tolist()
        batch = collate(sequences, pad=self.tokens.tokenizer.pad_token_id, rewards=rewards.tolist(), weights=ones)
        if s.kl or "value" in self.method.needs:
            tokens = zip(("old", "value", "ref"), self._log_probs(sequences))
            batch = batch.with_tokens(**{n: [x[i : i + k] for i in range(0, len(x), k)] for n, x in tokens})
            self.state["facts"]["kl"] = drift(batch.candidates).mean()
        c = batch.candidates._replace(greedy=None if greedy is None else torch.from_numpy(greedy).float())
        assert self.method.weigh
        return Draw(indices, sequences, self.method.weigh(c, s))

    def _responses(self, rows: Sequence[Row], seed: int) -> tuple[list[list[Sequence_]], Array, Array | None]:
        """Responses by prompt, their rewards [B, K], and those of the greedy responses [B] where they are wanted."""
        k = self.settings.k
        jobs = [Request(row, {}) for row in rows for _ in range(k)]
        greedy = [Request(row, {}, temperature=0.0) for row in rows] if "greedy" in self.method.needs else []
        drawn = respond(
            self.policy, [*jobs, *greedy], Sampling(max_new_tokens=self.max_new_tokens, batch_size=AT_ONCE, seed=seed)
        )
        scores = np.array(self.reward([{**x.row, "response": r.text} for x, r in zip([*jobs, *greedy], drawn)]))
        endless = np.array([not r.finished for r in drawn])
        self.state["facts"] = {"reward": scores[: len(jobs)].mean(), "unfinished": endless[: len(jobs)].mean()}
        scores = scores - self.settings.missing_end * endless
        flat = [Sequence_(self.tokens.prompts[job.row["id"]], list(r.ids)) for job, r in zip(jobs, drawn)]
        groups = [flat[i : i + k] for i in range(0, len(flat), k)]
        return groups, scores[: len(flat)].reshape(-1, k), scores[len(flat) :] if greedy else None

    def _log_probs(self, groups: Sequence[Sequence[Sequence_]]) -> tuple[list[Array], list[Array], list[Array]]:
        """Of every response: log-probs, values, and log-probs of the policy that training started from."""
        device = next(self.policy.model.parameters()).device
        ask = (groups, self.tokens.tokenizer.pad_token_id, self.micro_batch_tokens, device, self.shared)
        own, values = response_tokens(self.state["module"], *ask)
        with self.state["module"].started():
            ref, _ = response_tokens(self.state["module"], *ask)
        return own, values, ref
