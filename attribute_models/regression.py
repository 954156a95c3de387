"""A language model with one linear head for all attributes, fine-tuned on squared error over the known scores.

The head is that of transformers' sequence classification, on the last token of a causal model or the pooled first token
of an encoder. Its outputs are scores in the attributes' own units, so that other programs that load the model give the
same scores.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribute_models import Row, Scored, backbone, first
from attribute_models.arrays import Array, Indices, Mask, Standard
from attribute_models.backbone import Backbone, Batch, Tokens, buckets
from attribute_models.calibration import Curve
from attribute_models.finetune import FineTuned, Loss, TuningSettings, finetune
from attribute_models.noise import quiet

CLASSIFIER = "AutoModelForSequenceClassification"
SAMPLE = 1024  # rows on which a head without a bias is given the mean
RIDGE = 1e-3
OFF = 0.1  # deviations by which the mean may be off where it is carried by weights: 1 % of the variance


class Regression(FineTuned):
    """Scores by a fine-tuned model.

    It learns on targets that are standardised per attribute; then the head takes over mean and deviation. Where the
    head has no bias, as in causal models, weights that give 1 at every row are trained beside it and carry the mean.
    Where that is off by more than OFF deviations on held-out rows, the whole model is trained on at a lower rate.
    """

    name = "regression"
    Settings = TuningSettings
    auto, task = CLASSIFIER, "SEQ_CLS"
    measured = ("mean", "deviation")  # only in folders of before the head took them over

    def _measure(self, y: Array, new: Mask) -> dict[str, Any]:
        if np.isnan(y[~new]).all(0).any() or np.isnan(y[new]).all(0).any():
            raise ValueError("An attribute is known on one side of the held-out split only. Rate more prompts.")
        self._scaling = Standard.of(y[~new])
        return {}

    def _load(self, name: str, **more: Any) -> None:
        super()._load(name, num_labels=len(self.attributes), problem_type="regression", **more)
        first.shorten(self.backbone)
        config = self.backbone.model.config
        config.id2label = dict(enumerate(self.attributes))
        config.label2id = {name: a for a, name in enumerate(self.attributes)}

    def _objective(self, tokens: Sequence[Tokens], y: Array) -> tuple[Sequence[Tokens], Loss]:
        head = head_of(self.backbone.model, len(self.attributes))
        self._known, self._one = y, One(head) if head.bias is None else None
        return tokens, self._loss(tokens, self._scaling.apply(y), np.ones(len(self.attributes)))

    def _loss(self, tokens: Sequence[Tokens], target: Array, unit: Array) -> Loss:
        """Squared error of logits [n, A] in units of targets [n, A]: how many logits make one of them [A]."""
        wanted, units = (torch.from_numpy(x).float().to(self.backbone.device) for x in (target, unit))

        def loss(examples: Sequence[int]) -> tuple[Tensor, float]:
            """Squared errors of the known scores of some rows, and how many there are."""
            batch = self.backbone.batch([tokens[i] for i in examples])
            error = logits_of(self.backbone, batch).float() / units - wanted[list(examples)]
            known = ~torch.isnan(error)
            total = error.masked_fill(~known, 0.0).square().sum()
            if self._one and torch.is_grad_enabled():
                total = total + self._one.error(batch).square().sum()
            return total, float(known.sum())

        return loss

    def _end(self, tokens: Sequence[Tokens], new: Mask) -> str:
        """Give the head mean and deviation of the scores."""
        head = head_of(self.backbone.model, len(self.attributes))
        mean, deviation = self._scaling.mean, self._scaling.deviation
        with torch.no_grad():
            rescale(head, deviation, mean)
            if self._one is None:
                return ""
            one, error = self._one.solved(self.backbone, tokens, new)
            head.weight.add_(torch.outer(torch.from_numpy(mean), one).to(head.weight))
        self._one, far = None, float(np.abs(mean / deviation).max())
        if far * error <= OFF:
            return ""
        s = replace(self.settings, learning_rate=self.settings.learning_rate / (1 + far))
        tuned = finetune(self.backbone, tokens, new, self._loss(tokens, self._known / deviation, deviation), s)
        losses = ", ".join(f"{x:.3f}" for x in tuned.losses)
        return f", its head has no bias: trained on with the means in it, epoch {tuned.epoch} kept by {losses}"

    def _score(self, rows: Sequence[Row]) -> Scored:
        raw = logits(self.backbone, rows, self.settings.batch_tokens)
        if not self.learned_:
            return raw
        mean, deviation = (np.asarray(self.learned_[name]) for name in self.measured)
        return Scored(raw.scores * deviation + mean, raw.truncated)

    def calibrate(self, curves: Sequence[Curve]) -> bool:
        """Put calibration curves into the head; False where it cannot hold them, and nothing is changed."""
        head = head_of(self.backbone.model, len(self.attributes))
        lines = [curve.line for curve in curves]
        moved = any(line is not None and line[1] for line in lines)
        if self.learned_ or any(line is None for line in lines) or (moved and head.bias is None):
            return False
        slope, offset = np.asarray(lines, dtype=np.float64).T
        rescale(head, slope, offset)
        return True

    def save_plain(self, folder: str | Path) -> None:
        """Write the model with its adapter merged as a folder for AutoModelForSequenceClassification."""
        if self.learned_:
            raise ValueError("an earlier version fitted it, whose head has not the scores' unit. Fit it again.")
        if self.settings.adapter == "qlora":
            raise ValueError("its adapter was trained on a base in 4 bits, into which none is merged. Fit with lora.")
        model = self.backbone.model
        with quiet():
            model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
            model.save_pretrained(folder)
            self.backbone.tokenizer.save_pretrained(folder)


def head_of(model: Any, outputs: int) -> Any:
    """Find the last linear layer, which has so many outputs; within an adapter the layer that is trained."""
    linear = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == outputs
        if "lora_" not in name and "original_module" not in name
    ]
    if not linear:
        raise ValueError(f"the model has no linear head of {outputs} outputs. Take another model, or another --kind.")
    return linear[-1]


@torch.no_grad()
def rescale(head: Any, factor: Array, offset: Array) -> None:
    """Multiply the outputs of a head [A], and add to them where it has a bias."""
    head.weight.mul_(torch.from_numpy(factor).to(head.weight)[:, None])
    if head.bias is not None:
        head.bias.mul_(torch.from_numpy(factor).to(head.bias)).add_(torch.from_numpy(offset).to(head.bias))


class One:
    """Weights that learn to give 1 at the states that a head without a bias reads, to carry the mean of its outputs.

    They are a parameter of the head, so that they are trained with the model, until `solved` takes them out.
    """

    def __init__(self, head: Any) -> None:
        self.head, self.read = head, torch.zeros(0)
        head.one = torch.nn.Parameter(torch.zeros_like(head.weight[0]))
        self.hook = head.register_forward_pre_hook(self._keep)

    def _keep(self, module: Any, given: tuple[Tensor]) -> None:
        self.read = given[0]

    def states(self, batch: Batch) -> Tensor:
        """Hidden states [B, D] at the last tokens of the batch that the model has just computed."""
        return self.read[
            torch.arange(len(batch.last), device=self.read.device), batch.last.to(self.read.device)
        ].float()

    def error(self, batch: Batch) -> Tensor:
        """What is missing from 1: [B]."""
        missing: Tensor = 1 - self.states(batch) @ self.head.one.float()
        return missing

    def solved(self, backbone: Backbone, tokens: Sequence[Tokens], new: Mask) -> tuple[Tensor, float]:
        """Finish the weights [D] by least squares on at most SAMPLE training rows; also their deviation from 1 on new.

        A ridge of RIDGE mean squares keeps them near what training has found.
        """
        rows, held_out = (
            torch.cat([states.cpu() for states in self._states(backbone, [tokens[i] for i in part.tolist()])]).double()
            for part in (_some(np.flatnonzero(~new)), _some(np.flatnonzero(new)))
        )
        one = self.head.one.detach().cpu().double()
        self.hook.remove()
        del self.head.one
        gram = rows.T @ rows
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        one = one + torch.linalg.solve(gram + ridge, rows.T @ (1 - rows @ one))
        return one, float((held_out @ one - 1).square().mean().sqrt())

    def _states(self, backbone: Backbone, rows: Sequence[Tokens]) -> Iterator[Tensor]:
        for part in buckets([len(row.ids) for row in rows], 4096):
            batch = backbone.batch([rows[i] for i in part])
            logits_of(backbone, batch)
            yield self.states(batch)


def _some(places: Indices) -> Indices:
    """At most SAMPLE of the places, evenly."""
    return places[:: -(-len(places) // SAMPLE)]


class Classifier:
    """Any sequence-classification model, such as a reward model of the hub, unchanged: its logits are the scores."""

    def __init__(
        self, name: str, *, max_length: int = 4096, batch_tokens: int = 0, trust_remote_code: bool = False
    ) -> None:
        self.backbone = backbone.load(name, CLASSIFIER, max_length=max_length, trust_remote_code=trust_remote_code)
        first.shorten(self.backbone)
        self.attributes = labels_of(self.backbone.model.config)
        self.batch_tokens = batch_tokens
        # What is read has changed since the first version, and then texts that spell control tokens.
        reading = ", literal texts" if self.backbone.encoder else ", finished chats, literal texts"
        self.id = hashlib.blake2b((name + self.backbone.digest + reading).encode(), digest_size=8).hexdigest()

    def score(self, rows: Sequence[Row]) -> Array:
        """Logits [n, A]."""
        return self.score_and_flag(rows).scores

    def score_and_flag(self, rows: Sequence[Row]) -> Scored:
        """Logits [n, A], and which rows were longer than the model reads."""
        scored = logits(self.backbone, rows, self.batch_tokens)
        if len(rows) and scored.scores.shape[1:] != (len(self.attributes),):
            raise ValueError(
                f"model '{self.backbone.name}': gives outputs of shape {list(scored.scores.shape)} for "
                f"{len(self.attributes)} labels. Take a model with one logit a label, or wrap it: MODULE:NAME."
            )
        return scored


def labels_of(config: Any) -> tuple[str, ...]:
    """Name the outputs of a classifier as attributes: its labels, or `score` for a single one without a name."""
    named = [str(config.id2label[i]) for i in sorted(config.id2label)]
    if [name.lower() for name in named] == ["label_0"]:
        return ("score",)
    labels = [re.sub(r"[^a-z0-9_-]", "_", name.strip().lower()) for name in named]
    labels = [name if name[:1].isalpha() else f"label_{name}" for name in labels]
    return tuple(labels) if len({*labels}) == len(labels) else tuple(f"label_{i}" for i in range(len(labels)))


def logits(backbone: Backbone, rows: Sequence[Row], budget: int) -> Scored:
    """Logits [n, A], and which rows were longer than the model reads."""
    own = type(backbone.model).__module__.startswith("transformers_modules")  # it may read states of a prompt wrongly
    values, truncated = backbone.map(rows, partial(logits_of, backbone), budget, share=not own)
    return Scored(values.astype(np.float64), truncated)


def logits_of(backbone: Backbone, batch: Batch) -> Tensor:
    """Logits [B, A] of a batch."""
    extra = {} if backbone.encoder else {"use_cache": False}
    logits: Tensor = backbone.model(**extra | batch.inputs()).logits
    return logits
