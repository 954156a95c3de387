"""Logged answers as turns in front of a prompt: few-shot prompting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from steer.conditioning.targets import Target
from steer.conditioning.turns import Turn, preceded
from steer.errors import SteerError
from steer.models.tokenization import plain_ids, prompt_parts
from steer.report.cells import counted
from steer.rows import Row, prompt_key
from steer.training.batches import Conditioning


class Examples:
    """Up to `most` training rows before a prompt, each with the levels that it obtained in words, the nearest last.

    The nearest to the target stand there, others for every prompt; rows that are equally near are drawn by the seed,
    and no two have the same prompt. The farthest are dropped until prompt and examples have at most `room` tokens.
    Only questions of one turn whose answer is whole are examples.
    """

    def __init__(
        self, rows: Sequence[Row], words: Conditioning, tokenizer: Any, *, most: int, room: int | None, seed: int
    ) -> None:
        self.rows = [row for row in rows if _is_example(row)]
        if not self.rows:
            raise SteerError(
                f"few-shot: none of the {len(rows):,} training rows is a question of one turn with a whole answer, so "
                "there are no examples. Leave few-shot out."
            )
        self.of, self.words, self.tokenizer = len(rows), words, tokenizer
        self.most, self.room, self.seed = most, room, seed
        self.keys = [prompt_key(row) for row in self.rows]
        levels = [[row["levels"].get(name, np.nan) for name in words.names] for row in self.rows]
        self.levels = np.array(levels, dtype=float)  # [n, A]
        self._turns: dict[tuple[str, str], list[Turn]] = {}
        self._cut = False  # whether some did not fit

    def __call__(self, row: Row, target: Target) -> list[Turn]:
        """Return the turns before a row's prompt at a target."""
        key = prompt_key(row), str(sorted(target.items()))
        if key not in self._turns:
            self._turns[key] = self._fitting(row, target, self.nearest(row, target))
        return self._turns[key]

    def nearest(self, row: Row, target: Target) -> list[Row]:
        """Return the training rows nearest to a target, the nearest first: the fewest levels between, in sum."""
        asked = {self.words.names.index(n): self.words.schema[n].bin(level) for n, level in target.items()}
        distance = np.abs(self.levels[:, list(asked)] - list(asked.values())).sum(1)  # NaN: a level is unknown
        own = prompt_key(row)
        drawn = np.random.default_rng(int(hashlib.blake2b(f"{self.seed}:{own}".encode()).hexdigest(), 16))
        order = drawn.permutation(len(self.rows))
        first: dict[str, int] = {own: -1}  # a prompt is no example of itself
        for i in order[np.argsort(distance[order], kind="stable")].tolist():
            if len(first) > self.most or np.isnan(distance[i]):
                break
            first.setdefault(self.keys[i], i)
        return [self.rows[i] for i in first.values() if i >= 0]

    def _fitting(self, row: Row, target: Target, near: Sequence[Row]) -> list[Turn]:
        """Write examples as turns, without the farthest if they do not fit."""
        turns: list[Turn] = []
        for example in reversed(near):
            condition = self.words.text({n: example["levels"][n] for n in target})
            turns.append({"role": "user", "content": example["prompt"][0]["content"].rstrip() + condition})
            turns.append({"role": "assistant", "content": example["response"]})
        while turns and self.room is not None and self._tokens(row, target, turns) > self.room:
            turns, self._cut = turns[2:], True
        return turns

    def _tokens(self, row: Row, target: Target, turns: Sequence[Turn]) -> int:
        whole = {**row, "prompt": preceded(row["prompt"], turns)}
        head, tail = prompt_parts(whole, self.tokenizer, self.words.template)
        return sum(map(len, plain_ids([head, self.words.text(target) + tail], self.tokenizer)))

    def remark(self, answers: Iterable[Row]) -> str:
        """Say where examples come from, and how many stand before the prompts of these answers."""
        numbers = [len(self(row, row["target"])) // 2 for row in answers]
        fewer, mean = sum(number < self.most for number in numbers), sum(numbers) / max(1, len(numbers))
        rows = f"examples are {len(self.rows):,} of {counted(self.of, 'training row')}: questions of one turn, answered"
        if not fewer:
            return f"{rows}. {self.most} stand before every prompt."
        why = "too few of them have all levels that are asked for"
        if len(set(self.keys)) <= self.most:
            why = "they have too few different prompts"
        elif self._cut:
            why = f"the model holds {self.room:,} tokens of prompt and examples"
        some = f"{fewer:,} of {len(numbers):,} prompts stand fewer than {self.most} ({mean:.1f} on average)"
        return f"{rows}. Before {some}: {why}."


def _is_example(row: Row) -> bool:
    roles = [turn["role"] for turn in row["prompt"]]
    return roles == ["user"] and bool(row["response"].strip()) and row.get("finished") is not False
