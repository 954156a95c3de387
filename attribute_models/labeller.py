"""SteerLM's attribute model (2310.05344, section 3.1): a causal language model that writes the attribute string.

After the response it writes "quality:4,helpfulness:3". The loss is the cross-entropy of the level tokens; an attribute
with an unknown score is omitted from the string. A score is the expected value over the level tokens, each attribute
after the likeliest levels of those before it. Differs from the official code: that decodes greedily and keeps the level
(`greedy` does so), and it also trains on the names in the string.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from attribute_models import Row, Scored
from attribute_models.arrays import Array, Mask
from attribute_models.backbone import Batch, Tokens
from attribute_models.finetune import FineTuned, Loss, TuningSettings


@dataclass(frozen=True)
class LabellerSettings(TuningSettings):
    """Settings of `Labeller`."""

    greedy: bool = False  # the likeliest level instead of the expected value


class Written(NamedTuple):
    """Tokens of an attribute in the string."""

    before: list[int]  # its name, and the separator before it
    levels: list[int]  # one token a level
    low: int  # the level of the first token


class Labeller(FineTuned):
    """Scores by a language model that writes levels; a score becomes its nearest level, halves upwards.

    `ranges`: the lowest and the highest level of an attribute; without it, those of the scores.
    """

    name = "labeller"
    Settings = LabellerSettings
    settings: LabellerSettings
    auto, task = "AutoModelForCausalLM", "CAUSAL_LM"
    measured = ("bounds",)
    ranges: Mapping[str, tuple[float, float]] = {}

    def _measure(self, y: Array, new: Mask) -> dict[str, Any]:
        ranges = [self.ranges.get(n, (np.nanmin(y[:, a]), np.nanmax(y[:, a]))) for a, n in enumerate(self.attributes)]
        return {"bounds": [(math.floor(low), math.ceil(high)) for low, high in ranges]}

    def _load(self, name: str, **more: Any) -> None:
        """Set the model and the tokens of the string."""
        super()._load(name, **more)
        self.written_ = [
            written(self.backbone.tokenizer, ("," if a else "\n") + name + ":", *self.learned_["bounds"][a])
            for a, name in enumerate(self.attributes)
        ]
        room = self.backbone.max_length - sum(len(w.before) + 1 for w in self.written_)
        if room < 2:
            raise ValueError(f"max_length {self.backbone.max_length} leaves no room beside the attribute string.")
        self.backbone.max_length = room

    def _objective(self, tokens: Sequence[Tokens], y: Array) -> tuple[Sequence[Tokens], Loss]:
        examples = [self._example(row, line) for row, line in zip(tokens, y)]

        def loss(chosen: Sequence[int]) -> tuple[Tensor, float]:
            """Cross-entropy of the level tokens of some rows, and how many there are."""
            targets = [(n, place, level) for n, i in enumerate(chosen) for place, level in examples[i][1]]
            n, place, level = (torch.tensor(x, device=self.backbone.device) for x in zip(*targets))
            logits = self._logits([examples[i][0] for i in chosen])[n, place]
            return cross_entropy(logits.float(), level, reduction="sum"), float(len(targets))

        return [ids for ids, _ in examples], loss

    def _example(self, row: Tokens, scores: Array) -> tuple[Tokens, list[tuple[int, int]]]:
        """The row with its string, and (position that predicts it, token) of every known level."""
        ids, targets = row.ids[: row.end], []
        for w, score in zip(self.written_, scores.tolist()):
            if not math.isnan(score):
                level = min(max(math.floor(score + 0.5) - w.low, 0), len(w.levels) - 1)
                ids = [*ids, *w.before]
                targets.append((len(ids) - 1, w.levels[level]))
                ids = [*ids, w.levels[level]]
        return row._replace(ids=ids), targets

    def _logits(self, rows: Sequence[Tokens]) -> Tensor:
        logits: Tensor = self.backbone.model(**self.backbone.batch(rows).inputs(), use_cache=False).logits
        return logits

    def _read(self, batch: Batch) -> Tensor:
        """Scores [B, A], attribute after attribute; the likeliest level is appended before the next."""
        rows = [Tokens(ids[:end], 0, end, False) for ids, end in zip(batch.input_ids.tolist(), batch.ends)]
        scores = []
        for w in self.written_:
            rows = [row._replace(ids=[*row.ids, *w.before]) for row in rows]
            ends = torch.tensor([len(row.ids) - 1 for row in rows], device=self.backbone.device)
            logits = self._logits(rows)[torch.arange(len(rows), device=ends.device), ends][:, w.levels].float()
            best = logits.argmax(1)
            values = torch.arange(len(w.levels), device=ends.device) + float(w.low)
            scores.append(best + float(w.low) if self.settings.greedy else logits.softmax(1) @ values)
            rows = [row._replace(ids=[*row.ids, w.levels[i]]) for row, i in zip(rows, best.tolist())]
        return torch.stack(scores, 1)

    def _score(self, rows: Sequence[Row]) -> Scored:
        scores, truncated = self.backbone.map(rows, self._read, self.settings.batch_tokens)
        return Scored(scores.astype(np.float64), truncated)


def written(tokenizer: Any, name: str, low: int, high: int) -> Written:
    """Tokens of an attribute's name and of its levels; ValueError if a level is not one token of its own."""
    ids = [
        list(tokenizer(str(level), add_special_tokens=False, verbose=False)["input_ids"])
        for level in range(low, high + 1)
    ]
    last = [tail for *_, tail in ids]
    same = len({tuple(line[:-1]) for line in ids}) == 1
    if not same or len(set(last)) < len(last):
        raise ValueError(
            f"levels {low} to {high} of '{name.strip(chr(10) + ',:')}' are not one token each for this tokenizer. "
            "Use a range of digits, or another --kind."
        )
    before = list(tokenizer(name, add_special_tokens=False, verbose=False)["input_ids"])
    return Written([*before, *ids[0][:-1]], last, low)
