"""Fresh responses at every optimizer step: drawn from the current policy, scored, weighted by their advantage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object

from steer.generation.engines import respond
from steer.generation.requests import Request, seeds
from steer.generation.settings import Sampling
from steer.labelling.scorer import Reward
from steer.methods.base import Array, Candidates, Method, drift
from steer.models.collate import Batch, Sequence_, collate, cost, micro_batches
from steer.models.log_probs import ResponseLogps
from steer.models.policy import Policy
from steer.training.batches import UNKNOWN, Known, Plan
from steer.training.references import response_tokens

AT_ONCE = 128  # sequences in one batch of generation


class Draw(NamedTuple):
    """Responses of one draw in one process: group indices [B], K sequences each, and their columns for the loss."""

    indices: list[int]
    sequences: list[list[Sequence_]]
    candidates: Candidates

    def part(self, at: Sequence[int], tokens: int) -> Candidates:
        """Select groups, and cut their candidates to `tokens` tokens."""
        columns = {name: x[list(at)] for name, x in self.candidates._asdict().items() if x is not None}
        return Candidates(**{name: x[..., :tokens] if x.ndim == 3 else x for name, x in columns.items()})


@dataclass(frozen=True)
class FreshPlan(Plan):
    """A plan whose groups give prompts only; responses follow from seed, step, prompt and weights."""

    _: KW_ONLY
    policy: Policy
    method: Method
    settings: Any
    reward: Reward
    max_new_tokens: int
    state: dict[str, Any] = field(default_factory=dict)  # the module, the last draw and its facts

    def start(self, module: ResponseLogps) -> None:
        """Keep the module, which gives log-probs and values."""
        self.state["module"] = module

    def facts(self) -> dict[str, float]:
        """Mean reward as scored, share without an end and mean KL, of the last draw in this process."""
        return {name: float(value) for name, value in self.state["facts"].items()}

    @property
    def repeats(self) -> int:
        """Number of optimizer steps on the same responses."""
        return getattr(self.settings, "epochs", 1)

    def step(self, step: int) -> tuple[int, list[int]]:
        """Epoch and group indices of an optimizer step: the same for all steps on one draw."""
        return super().step(step // self.repeats)

    def resume_point(self, step: int, every: int) -> bool:
        """Whether to write a resume point: only between draws, for responses are not saved."""
        return step % self.repeats == 0 and super().resume_point(step // self.repeats, max(1, every // self.repeats))

    def batches(
        self, step: int, rank: int = 0, world: int = 1, known: Known = UNKNOWN
    ) -> Iterator[tuple[list[int], Batch]]:
        """Draw K responses to each prompt of the step; yield them in micro-batches with their columns for the loss."""
        number = step // self.repeats
        _, indices = self.step(step)
        if self.state.get("number") != number:
            draw = self._draw(number, indices, range(rank, len(indices), world))
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

    def _draw(self, number: int, indices: list[int], own: Sequence[int]) -> Draw:
        """Draw for the places in `indices` that are this process's own, or (not counted) for the first if none is."""
        working, own = bool(own), own or range(1)
        s, k = self.settings, self.settings.k
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        every = [Request(self.groups[i].rows[0], {}) for i in indices for _ in range(k)]
        seeded = [request._replace(seed=seed) for request, seed in zip(every, seeds(every, seed))]
        sequences, rewards, greedy = self._responses([seeded[i * k : i * k + k] for i in own])
        indices = [indices[i] for i in own]
        ones = np.ones_like(rewards).tolist()
        batch = collate(sequences, pad=self.tokens.tokenizer.pad_token_id, rewards=rewards.tolist(), weights=ones)
        if s.kl or "value" in self.method.needs or ("old" in self.method.needs and self.repeats > 1):
            tokens = zip(("old", "value", "ref"), self._log_probs(sequences))
            batch = batch.with_tokens(**{n: [x[i : i + k] for i in range(0, len(x), k)] for n, x in tokens})
            self.state["facts"]["kl"] = drift(batch.candidates).mean()
        c = batch.candidates._replace(greedy=None if greedy is None else torch.from_numpy(greedy).float())
        if "length" in self.method.needs:
            lengths = [len(x.response) for group in sequences for x in group] if working else []
            c = c._replace(length=torch.full((len(sequences),), mean_of_all(lengths)))
        assert self.method.weigh
        return Draw(indices, sequences, self.method.weigh(c, s))

    def _responses(self, prompts: Sequence[Sequence[Request]]) -> tuple[list[list[Sequence_]], Array, Array | None]:
        """Draw responses by prompt; return them, their rewards [B, K], and those of greedy responses [B] if needed."""
        k, sampled = self.settings.k, [request for same in prompts for request in same]
        greedy = [same[0]._replace(temperature=0.0) for same in prompts] if "greedy" in self.method.needs else []
        requests = [*sampled, *greedy]
        sampling = Sampling(max_new_tokens=self.max_new_tokens, batch_size=AT_ONCE)
        drawn = respond(self.policy, requests, sampling)
        scores = np.array(self.reward([r.answering(x.row) for x, r in zip(requests, drawn)]))
        endless = np.array([not r.finished for r in drawn])
        self.state["facts"] = {"reward": scores[: len(sampled)].mean(), "unfinished": endless[: len(sampled)].mean()}
        scores = scores - self.settings.missing_end * endless
        flat = [Sequence_(self.tokens.prefix(x.row), list(r.ids)) for x, r in zip(sampled, drawn)]
        groups = [flat[i : i + k] for i in range(0, len(flat), k)]
        return groups, scores[: len(flat)].reshape(-1, k), scores[len(flat) :] if greedy else None

    def _log_probs(self, groups: Sequence[Sequence[Sequence_]]) -> tuple[list[Array], list[Array], list[Array]]:
        """Log-probs, values, and log-probs under the starting policy, of every token of every response."""
        device = next(self.policy.model.parameters()).device
        batches = (groups, self.tokens.tokenizer.pad_token_id, self.micro_batch_tokens, device, self.shared)
        own, values = response_tokens(self.state["module"], *batches)
        with self.state["module"].started():
            ref, _ = response_tokens(self.state["module"], *batches)
        return own, values, ref


def mean_of_all(values: Sequence[int]) -> float:
    """Mean of the values of all processes. Collective: every process calls it."""
    every = gather_object([sum(values), len(values)])  # of one process after the other
    return float(sum(every[::2]) / max(1, sum(every[1::2])))
