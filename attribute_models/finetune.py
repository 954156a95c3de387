"""Language models fine-tuned as attribute models, with early stopping on held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from attribute_models import Row, backbone, bases, settings, write_settings
from attribute_models.arrays import Array, Mask
from attribute_models.backbone import Backbone, Tokens, buckets
from attribute_models.folds import folds_by_prompt, known_scores
from attribute_models.learned import Learned
from attribute_models.noise import quiet
from attribute_models.progress import progress

ADAPTERS = ("lora", "qlora", "none")


@dataclass(frozen=True)
class TuningSettings:
    """Settings of all fine-tuned attribute models."""

    model: str = ""  # Hugging Face encoder or causal model: folder or name
    adapter: str = "lora"  # lora; qlora: on a base in 4 bits; none: all weights
    lora_r: int = 16
    lora_alpha: int = 32
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    warmup: float = 0.05  # share of the steps
    max_grad_norm: float = 1.0
    num_train_epochs: int = 3
    patience: int = 2  # epochs without a better held-out loss before it stops
    batch_size: int = 16  # rows per optimizer step
    held_out: float = 0.1  # share of prompts that choose the epoch
    max_length: int = 1024
    tail: str = "template"  # what is read after the response: the template's end of a turn; eos: the EOS token
    batch_tokens: int = 0  # padded tokens in one forward pass; 0: by device
    seed: int = 0
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Tuned:
    """Held-out losses before training and after every epoch, and the epoch that was kept."""

    losses: list[float]
    epoch: int


Loss = Callable[[Sequence[int]], tuple[Tensor, float]]  # examples -> (sum of their terms, how many terms)


class FineTuned(Learned):
    """A fine-tuned language model.

    A subclass says how the model is loaded, what is learned of the scores beforehand and saved, and what the loss is.
    After `fit`: `held_out_` [n, A], predictions for the rows of held-out prompts, by which the epoch was chosen, NaN
    elsewhere; `tuned_`, the losses; `note_`, how many rows were truncated and the epoch that was kept.
    """

    evidence = "backbone"
    settings: TuningSettings
    backbone: Backbone
    auto: ClassVar[str]  # class of transformers
    task: ClassVar[str]  # as peft calls it
    measured: ClassVar[tuple[str, ...]]  # names of what `_measure` gives

    def _check(self) -> None:
        s = self.settings
        if not 0 < s.held_out < 1:
            raise ValueError(f"held_out is {s.held_out}. Give a share between 0 and 1.")
        if s.adapter not in ADAPTERS:
            raise ValueError(f"adapter is {s.adapter!r}. Choose one of {', '.join(ADAPTERS)}.")
        backbone.check_tail(s.tail)

    def _measure(self, y: Array, new: Mask) -> dict[str, Any]:
        """Learn what `learned_` holds, as JSON, from known scores [n, A], of which `new` are held out."""
        raise NotImplementedError

    def _objective(self, tokens: Sequence[Tokens], y: Array) -> tuple[Sequence[Tokens], Loss]:
        """Examples and their loss, from the tokens of rows and scores [n, A]."""
        raise NotImplementedError

    def _end(self, tokens: Sequence[Tokens], new: Mask) -> str:
        """Change the model that was trained on rows, of which `new` are held out; return what is to be noted of it."""
        return ""

    def _load(self, name: str, **more: Any) -> None:
        """Set the model from a folder or hub name."""
        s = self.settings
        more |= {"trust_remote_code": s.trust_remote_code, "four_bit": s.adapter == "qlora", "tail": s.tail}
        self.backbone = backbone.load(name, self.auto, max_length=s.max_length, **more)

    def fit(self, rows: Sequence[Row], scores: ArrayLike) -> Self:
        """Learn from rows and scores [n, A], NaN = unknown."""
        s = self.settings
        at, rated, y, prompts = known_scores(rows, scores, self.attributes)
        new = folds_by_prompt(prompts, max(2, round(1 / s.held_out))) == 0
        self.learned_ = self._measure(y, new)
        with torch.random.fork_rng():
            torch.manual_seed(s.seed)
            self._load(s.model)
            self.base_ = (bases.placed(s.model), self.backbone.digest)
            if s.adapter != "none":
                add_adapter(self.backbone, s, self.task)
            tokens = self.backbone.read(rated)
            examples, loss = self._objective(tokens, y)
            self.tuned_ = finetune(self.backbone, examples, new, loss, s)
            note = self._end(tokens, new)
        self.held_out_ = np.full((len(rows), len(self.attributes)), np.nan)
        self.held_out_[at[new]] = self.score([rows[i] for i in at[new].tolist()])
        losses = ", ".join(f"{x:.3f}" for x in self.tuned_.losses)
        truncated = sum(row.truncated for row in tokens)
        self.note_ = f"{truncated} truncated, epoch {self.tuned_.epoch} kept by held-out losses {losses}{note}"
        return self

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors) and tokenizer into the folder `weights`, then `model.json` with their digest."""
        weights = Path(folder) / "weights"
        with quiet():
            self.backbone.model.save_pretrained(weights)
            self.backbone.tokenizer.save_pretrained(weights)
        state = self.state | {"base": self.base_, **self.learned_, "weights": bases.digest(str(weights))}
        write_settings(folder, state)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote; `held_out_` is not saved."""
        state, weights = settings(folder), Path(folder) / "weights"
        if not weights.is_dir() or bases.digest(str(weights)) != state["weights"]:
            raise ValueError(f"{weights}: does not belong to model.json. Fit and save the model again.")
        loaded = cls.of(state)
        loaded.base_ = tuple(state["base"])
        loaded.learned_ = {name: state[name] for name in cls.measured if name in state}
        if loaded.settings.adapter == "none":
            loaded._load(str(weights))
        else:
            bases.unchanged(*loaded.base_)
            loaded._load(loaded.base_[0])
            with quiet():
                from peft import PeftModel

                loaded.backbone.model = PeftModel.from_pretrained(loaded.backbone.model, weights).eval()
        return loaded


def add_adapter(backbone: Backbone, s: TuningSettings, task: str) -> None:
    """Freeze the base and put new low-rank adapters on all linear layers."""
    with quiet():
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=s.lora_r, lora_alpha=s.lora_alpha, target_modules="all-linear", task_type=task)
        backbone.model = get_peft_model(backbone.model, config)


def finetune(backbone: Backbone, tokens: Sequence[Tokens], new: Mask, loss: Loss, s: TuningSettings) -> Tuned:
    """Minimise the mean loss over the examples that are not `new`; keep the weights of the best epoch on the new ones.

    Terms and their number are summed over the forward passes of a step and divided once.
    """
    model, train, held_out = backbone.model, np.flatnonzero(~new), np.flatnonzero(new).tolist()
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=s.learning_rate, weight_decay=s.weight_decay)
    steps = math.ceil(len(train) / s.batch_size) * s.num_train_epochs
    warmup = max(1, round(s.warmup * steps))

    def rate(step: int) -> float:
        return float(min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    budget = s.batch_tokens or (8192 if backbone.device.type == "cpu" else 32768)
    losses = [evaluated(backbone, tokens, held_out, loss, budget)]
    best, kept = 0, {n: p.detach().clone() for n, p in weights.items()}
    for epoch in range(1, s.num_train_epochs + 1):
        model.train()
        order = np.random.default_rng([s.seed, epoch]).permutation(train)
        starts = range(0, len(order), s.batch_size)
        for start in progress(starts, what=f"epoch {epoch} of at most {s.num_train_epochs}", unit="steps"):
            step = order[start : start + s.batch_size].tolist()
            count = 0.0
            for part in buckets([len(tokens[i].ids) for i in step], budget):
                total, terms = loss([step[j] for j in part])
                total.backward()
                count += terms
            for p in weights.values():
                if p.grad is not None:
                    p.grad /= max(count, 1.0)
            torch.nn.utils.clip_grad_norm_(weights.values(), s.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(evaluated(backbone, tokens, held_out, loss, budget))
        if losses[-1] < losses[best]:
            best, kept = epoch, {n: p.detach().clone() for n, p in weights.items()}
        elif epoch - best >= s.patience:
            break
    with torch.no_grad():
        for n, p in weights.items():
            p.copy_(kept[n])
    model.eval()
    return Tuned(losses, best)


def evaluated(backbone: Backbone, tokens: Sequence[Tokens], which: Sequence[int], loss: Loss, budget: int) -> float:
    """Mean loss of the examples `which`, without dropout."""
    backbone.model.eval()
    total = count = 0.0
    with torch.no_grad():
        for part in buckets([len(tokens[i].ids) for i in which], budget):
            value, terms = loss([which[j] for j in part])
            total, count = total + float(value), count + terms
    return total / max(count, 1.0)
