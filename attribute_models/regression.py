"""A language model with one linear head for all attributes, fine-tuned on squared error over the known scores.

The head is that of transformers' sequence classification, on the last token of a causal model or the pooled first token
of an encoder, so `pipeline("text-classification")` and other servers read the saved folder too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from attribute_models import Row, Scored, backbone, bases, finetune, first, settings, tupled, write
from attribute_models.arrays import Array
from attribute_models.backbone import Backbone, Batch
from attribute_models.finetune import TuningSettings
from attribute_models.folds import folds_by_prompt, known_scores

CLASSIFIER = "AutoModelForSequenceClassification"
DEFAULT = TuningSettings()


class Regression:
    """Scores by a fine-tuned model.

    After `fit`: `held_out_` [n, A], predictions for the rows of held-out prompts, by which the epoch was chosen, NaN
    elsewhere; `tuned_`, the losses; `note_`, how many rows were truncated and the epoch that was kept.
    """

    Settings: ClassVar[type[TuningSettings]] = TuningSettings

    def __init__(self, attributes: Sequence[str], settings: TuningSettings = DEFAULT) -> None:
        finetune.check(settings)
        self.attributes = tuple(attributes)
        self.settings = settings

    def fit(self, rows: Sequence[Row], scores: ArrayLike) -> Self:
        """Learn from rows and scores [n, A], NaN = unknown; targets are standardised per attribute."""
        s = self.settings
        y, prompts, at = (known := known_scores(rows, scores, self.attributes)).scores, known.prompts, known.at
        new = folds_by_prompt(prompts, max(2, round(1 / s.held_out))) == 0
        if np.isnan(y[~new]).all(0).any() or np.isnan(y[new]).all(0).any():
            raise ValueError("An attribute is known on one side of the held-out split only. Rate more prompts.")
        self.mean_, deviation = np.nanmean(y[~new], 0), np.nanstd(y[~new], 0)
        self.deviation_ = np.where(deviation > 1e-9, deviation, 1.0)
        with finetune.seeded(s.seed):
            self.backbone = self._loaded(s.model, num_labels=len(self.attributes), problem_type="regression")
            self.base_ = (bases.placed(s.model), self.backbone.digest)
            self.backbone.model.config.id2label = dict(enumerate(self.attributes))
            self.backbone.model.config.label2id = {name: a for a, name in enumerate(self.attributes)}
            finetune.prepared(self.backbone, s, "SEQ_CLS")
            tokens = self.backbone.read([rows[i] for i in at.tolist()])
            target = torch.from_numpy((y - self.mean_) / self.deviation_).float().to(self.backbone.device)

            def loss(which: Sequence[int]) -> tuple[Tensor, float]:
                """Squared errors of the known scores of some rows, and how many there are."""
                error = self._logits(self.backbone.batch([tokens[i] for i in which])) - target[list(which)]
                known = ~torch.isnan(error)
                return error.masked_fill(~known, 0.0).square().sum(), float(known.sum())

            sides = (np.flatnonzero(~new).tolist(), np.flatnonzero(new).tolist())
            self.tuned_ = finetune.finetune(self.backbone, tokens, *sides, loss, s)
        self.held_out_ = np.full((len(rows), len(self.attributes)), np.nan)
        self.held_out_[at[new]] = self.score([rows[i] for i in at[new].tolist()])
        self.note_ = finetune.summary(self.tuned_, tokens)
        return self

    def _loaded(self, name: str, **more: Any) -> Backbone:
        s = self.settings
        more |= {"trust_remote_code": s.trust_remote_code, "four_bit": s.adapter == "qlora"}
        loaded = backbone.load(name, CLASSIFIER, max_length=s.max_length, **more)
        first.shorten(loaded)
        return loaded

    def _logits(self, batch: Batch) -> Tensor:
        return logits_of(self.backbone, batch).float()

    def score(self, rows: Sequence[Row]) -> Array:
        """Predictions [n, A], never NaN."""
        return self.score_and_flag(rows).scores

    def score_and_flag(self, rows: Sequence[Row]) -> Scored:
        """Predictions [n, A], and which rows were longer than the model reads."""
        if not hasattr(self, "backbone"):
            raise ValueError('This model is not fitted. Call "fit" first, or "load" one from a folder.')
        logits, truncated = self.backbone.map(rows, self._logits, self.settings.batch_tokens, share=True)
        scores = logits.reshape(-1, len(self.attributes)).astype(np.float64)
        return Scored(scores * self.deviation_ + self.mean_, truncated)

    def save(self, folder: str | Path) -> None:
        """Write weights and tokenizer into the folder `weights`, then `model.json` with their digest."""
        weights = Path(folder) / "weights"
        finetune.save(self.backbone, weights)
        state = {
            "model": "regression",
            "attributes": self.attributes,
            "settings": asdict(self.settings),
            "base": self.base_,
            "mean": self.mean_.tolist(),
            "deviation": self.deviation_.tolist(),
            "weights": bases.digest(str(weights)),
        }
        write(Path(folder) / "model.json", json.dumps(state, indent=1).encode())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote; `held_out_` is not saved."""
        state, weights = settings(folder), Path(folder) / "weights"
        finetune.check_weights(weights, state["weights"])
        loaded = cls(state["attributes"], TuningSettings(**tupled(state["settings"])))
        loaded.base_ = tuple(state["base"])
        loaded.mean_, loaded.deviation_ = np.asarray(state["mean"]), np.asarray(state["deviation"])
        if loaded.settings.adapter == "none":
            loaded.backbone = loaded._loaded(str(weights))
        else:
            bases.unchanged(*loaded.base_)
            labels = {"num_labels": len(loaded.attributes), "problem_type": "regression"}
            loaded.backbone = loaded._loaded(loaded.base_[0], **labels)
            finetune.with_adapter(loaded.backbone, weights)
        return loaded


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
        logits, truncated = self.backbone.map(rows, partial(logits_of, self.backbone), self.batch_tokens, share=True)
        return Scored(logits.reshape(-1, len(self.attributes)).astype(np.float64), truncated)


def logits_of(backbone: Backbone, batch: Batch) -> Tensor:
    """Logits [B, A] of a batch."""
    extra = {} if backbone.encoder else {"use_cache": False}
    logits: Tensor = backbone.model(**extra | batch.inputs()).logits
    return logits
