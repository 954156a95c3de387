"""Choose the groups of an optimizer step, condition them, and make batches of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from steer.conditioning.condition import TEMPLATES, control_tokens, render, worded
from steer.methods.base import Array
from steer.methods.groups import Group
from steer.models.collate import Batch, Sequence_, collate, cost, dealt, micro_batches
from steer.models.tokenization import Tokens
from steer.rows import Row
from steer.rows.schema import Schema


@dataclass(frozen=True)
class Conditioning:
    """Conditioning of responses: attributes, template, and how often parts of a condition are dropped."""

    schema: Schema
    names: tuple[str, ...]
    template: str = "tags"
    attribute_dropout: float = 0.1
    condition_dropout: float = 0.05

    def text(self, levels: Mapping[str, float]) -> str:
        """Render the whole condition for these levels."""
        return render(levels, self.schema, self.names, self.template)

    def reframed(self, schema: Schema) -> Conditioning:
        """Take another schema; condition on its attributes that were conditioned on before, or on all if none was.

        Sentences that it has stay: what a method asks for may be no levels.
        """
        schema = worded(schema, keep=True) if TEMPLATES[self.template].in_turn else schema
        return replace(self, schema=schema, names=tuple(n for n in schema.names if n in self.names) or schema.names)

    def control_tokens(self) -> list[list[str]]:
        """Texts of all levels [attribute][level], for a tokenizer that holds each as one token."""
        return control_tokens(self.schema, self.names, self.template)

    @property
    def whole(self) -> Conditioning:
        """The conditioning that drops nothing."""
        return replace(self, attribute_dropout=0.0, condition_dropout=0.0)

    def dropped(self, levels: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
        """Drop levels at random; return those that stay."""
        if rng.random() < self.condition_dropout:
            return {}
        return {n: levels[n] for n in self.names if n in levels and rng.random() >= self.attribute_dropout}


class Known(NamedTuple):
    """Values that are computed once, before the first step, of the groups that the steps see: {group index: [K]}."""

    refs: Mapping[int, Sequence[float]] | None = None  # log-probs of responses under the starting policy
    old: Mapping[int, Sequence[Array]] | None = None  # of their tokens, if the starting policy drew them
    weights: Mapping[int, Sequence[float]] | None = None  # that follow from both


UNKNOWN = Known()


@dataclass(frozen=True)
class Plan:
    """Groups of every optimizer step and their batches, all a pure function of the seed."""

    groups: Sequence[Group]
    tokens: Tokens
    conditioning: Conditioning | None
    batch_size: int
    micro_batch_tokens: int
    seed: int
    shared: bool = False  # a prompt is computed once for all its candidates, and short groups share a row
    mean_weight: float = 0.0  # of the rows, by which each one's own weight is divided; 0: rows have none
    curriculum: int = 0  # steps in which the groups go from easy to hard; 0: in random order

    def start(self, module: Any) -> None:
        """Take the module that gives log-probs, before the first step; for plans that draw responses."""

    def resume_point(self, step: int, every: int) -> bool:
        """Whether to write a resume point after `step` steps."""
        return step % every == 0

    def facts(self) -> dict[str, float]:
        """Figures of the last step for metrics.jsonl; none if it saw logged responses."""
        return {}

    @property
    def repeats(self) -> int:
        """Number of optimizer steps in a row that see the same groups."""
        return 1

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps that see every group once; the last may be smaller."""
        return math.ceil(len(self.groups) / self.batch_size)

    def step(self, step: int) -> tuple[int, list[int]]:
        """Epoch and group indices of an optimizer step, counted from 0."""
        if self.curriculum and len(self.groups) > 1:
            return 0, self._easy_to_hard(step)
        epoch, at = divmod(step, self.steps_per_epoch)
        return epoch, self._order(epoch)[at * self.batch_size : (at + 1) * self.batch_size].tolist()

    def _order(self, epoch: int) -> Array:
        """Group indices in the order of an epoch."""
        return shuffled(self.seed, epoch, len(self.groups))

    def used(self, steps: int) -> list[int]:
        """Indices of the groups that any of the first `steps` optimizer steps sees, in their order."""
        if self.curriculum:
            return sorted({i for step in range(steps) for i in self.step(step)[1]})
        if steps >= self.steps_per_epoch:
            return list(range(len(self.groups)))
        return sorted(self._order(0)[: steps * self.batch_size].tolist())

    def _easy_to_hard(self, step: int) -> list[int]:
        """Group indices of a step; the share from the harder half of the groups grows linearly (2310.02263)."""
        hard = [round(self.batch_size * s / max(1, self.curriculum - 1)) for s in range(step + 1)]
        half = (len(self.groups) + 1) // 2
        easy = _cycled(half, sum(self.batch_size - n for n in hard[:-1]), self.batch_size - hard[-1], self.seed)
        rest = _cycled(len(self.groups) - half, sum(hard[:-1]), hard[-1], self.seed + 1)
        return easy + [half + i for i in rest]

    def sequences(self, epoch: int, index: int) -> list[Sequence_]:
        """Candidates of a group under this epoch's conditions."""
        rows, c = self.groups[index].rows, self.conditioning
        if c is None:
            return [self.tokens.sequence(row) for row in rows]

        def random(row: Row) -> np.random.Generator:  # all candidates of a prompt lose the same parts
            turn = next(i for i, other in enumerate(rows) if other["prompt"] == row["prompt"])
            return np.random.default_rng([self.seed, epoch, index, *([turn] if turn else [])])

        return [self.tokens.sequence(row, c.text(c.dropped(row["levels"], random(row)))) for row in rows]

    def _shares(self, indices: Sequence[int]) -> list[list[float]] | None:
        """Weights of the rows in groups as shares of the mean; None if rows have none."""
        if not self.mean_weight:
            return None
        return [[weight_of(row) / self.mean_weight for row in self.groups[i].rows] for i in indices]

    def batches(
        self, step: int, rank: int = 0, world: int = 1, known: Known = UNKNOWN
    ) -> Iterator[tuple[list[int], Batch]]:
        """Yield this process's micro-batches of a step with their group indices; empty ones if others have more."""
        epoch, indices = self.step(step)
        sequences = [self.sequences(epoch, i) for i in indices]
        costs = [cost(s, shared=self.shared) for s in sequences]
        parts = list(micro_batches(costs, self.micro_batch_tokens, world, shared=self.shared))
        for part, own in dealt(parts, rank, world):
            at = [indices[i] for i in part]
            batch = collate(
                [sequences[i] for i in part],
                pad=self.tokens.tokenizer.pad_token_id,
                rewards=[[float(r.get("reward") or 0.0) for r in self.groups[i].rows] for i in at],
                weights=[known.weights[i] if known.weights else self.groups[i].weights for i in at],
                refs=[known.refs[i] for i in at] if known.refs else None,
                shares=self._shares(at),
                shared=self.shared,
            )
            if known.old:
                batch = batch.with_tokens(old=[known.old[i] for i in at])
            yield at, batch if own else batch.emptied()


@lru_cache(maxsize=2)  # every step of an epoch asks; the one before and the next overlap
def shuffled(seed: int, epoch: int, count: int) -> Array:
    """Numbers below `count` in a random order, read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.setflags(write=False)
    return order


def weight_of(row: Mapping[str, Any]) -> float:
    """Return the weight that a row has in the loss; 1 if it names none."""
    weight = row.get("weight")
    return 1.0 if weight is None else float(weight)


def _cycled(size: int, start: int, count: int, seed: int) -> list[int]:
    """Items `start` to `start + count` of an endless series of shuffles of `size` items."""
    places = [divmod(i, size) for i in range(start, start + count)]
    shuffles = {e: np.random.default_rng([seed, e]).permutation(size) for e, _ in places}
    return [int(shuffles[e][i]) for e, i in places]
