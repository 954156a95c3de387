"""A language model with one linear head for all attributes, fine-tuned on squared error over the known scores.

The head is that of transformers' sequence classification, on the last token of a causal model or the pooled first token
of an encoder, so `pipeline("text-classification")` and other servers read the saved folder too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribute_models import Row, Scored, backbone, first
from attribute_models.arrays import Array, Mask, Standard
from attribute_models.backbone import Backbone, Batch, Tokens
from attribute_models.finetune import FineTuned, Loss, TuningSettings

CLASSIFIER = "AutoModelForSequenceClassification"


class Regression(FineTuned):
    """Scores by a fine-tuned model; targets are standardised per attribute."""

    name = "regression"
    Settings = TuningSettings
    auto, task = CLASSIFIER, "SEQ_CLS"
    measured = ("mean", "deviation")

    def _measure(self, y: Array, new: Mask) -> dict[str, Any]:
        if np.isnan(y[~new]).all(0).any() or np.isnan(y[new]).all(0).any():
            raise ValueError("An attribute is known on one side of the held-out split only. Rate more prompts.")
        return {name: value.tolist() for name, value in vars(Standard.of(y[~new])).items()}

    @property
    def _scaling(self) -> Standard:
        return Standard(np.asarray(self.learned_["mean"]), np.asarray(self.learned_["deviation"]))

    def _load(self, name: str, **more: Any) -> None:
        super()._load(name, num_labels=len(self.attributes), problem_type="regression", **more)
        first.shorten(self.backbone)
        config = self.backbone.model.config
        config.id2label = dict(enumerate(self.attributes))
        config.label2id = {name: a for a, name in enumerate(self.attributes)}

    def _objective(self, tokens: Sequence[Tokens], y: Array) -> tuple[Sequence[Tokens], Loss]:
        target = torch.from_numpy(self._scaling.apply(y)).float().to(self.backbone.device)

        def loss(examples: Sequence[int]) -> tuple[Tensor, float]:
            """Squared errors of the known scores of some rows, and how many there are."""
            batch = self.backbone.batch([tokens[i] for i in examples])
            error = logits_of(self.backbone, batch).float() - target[list(examples)]
            known = ~torch.isnan(error)
            return error.masked_fill(~known, 0.0).square().sum(), float(known.sum())

        return tokens, loss

    def _score(self, rows: Sequence[Row]) -> Scored:
        raw, scaling = logits(self.backbone, rows, self.settings.batch_tokens), self._scaling
        return Scored(raw.scores * scaling.deviation + scaling.mean, raw.truncated)


class Classifier:
    """Any sequence-classification model, such as a reward model of the hub, unchanged: its logits are the scores."""

    def __init__(self, name: str, *, max_length: int = 1024, batch_tokens: int = 0) -> None:
        self.backbone = backbone.load(name, CLASSIFIER, max_length=max_length)
        first.shorten(self.backbone)
        named = self.backbone.model.config.id2label
        labels = [str(named[i]).lower().replace(" ", "_") for i in sorted(named)]
        self.attributes = ("score",) if labels == ["label_0"] else tuple(labels)
        self.batch_tokens = batch_tokens
        self.id = hashlib.blake2b((name + self.backbone.digest).encode(), digest_size=8).hexdigest()

    def score(self, rows: Sequence[Row]) -> Array:
        """Logits [n, A]."""
        return self.score_and_flag(rows).scores

    def score_and_flag(self, rows: Sequence[Row]) -> Scored:
        """Logits [n, A], and which rows were longer than the model reads."""
        return logits(self.backbone, rows, self.batch_tokens)


def logits(backbone: Backbone, rows: Sequence[Row], budget: int) -> Scored:
    """Logits [n, A], and which rows were longer than the model reads."""
    values, truncated = backbone.map(rows, partial(logits_of, backbone), budget, share=True)
    return Scored(values.astype(np.float64), truncated)


def logits_of(backbone: Backbone, batch: Batch) -> Tensor:
    """Logits [B, A] of a batch."""
    extra = {} if backbone.encoder else {"use_cache": False}
    logits: Tensor = backbone.model(**extra | batch.inputs()).logits
    return logits
