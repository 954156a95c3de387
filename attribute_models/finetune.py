"""Fine-tune a language model as attribute model, with early stopping on held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribute_models import bases
from attribute_models.backbone import Backbone, Tokens, buckets
from attribute_models.bases import quiet

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
    batch_tokens: int = 0  # padded tokens in one forward pass; 0: by device
    seed: int = 0
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Tuned:
    """Held-out losses before training and after every epoch, and the epoch that was kept."""

    losses: list[float]
    epoch: int


Loss = Callable[[Sequence[int]], tuple[Tensor, float]]  # examples -> (sum of their terms, how many terms)


def check(s: TuningSettings) -> None:
    """ValueError for settings out of range."""
    if not 0 < s.held_out < 1:
        raise ValueError(f"held_out is {s.held_out}. Give a share between 0 and 1.")
    if s.adapter not in ADAPTERS:
        raise ValueError(f"adapter is {s.adapter!r}. Choose one of {', '.join(ADAPTERS)}.")


def prepared(backbone: Backbone, s: TuningSettings, task: str) -> None:
    """Freeze the base and put new low-rank adapters on all linear layers, or leave all weights trainable."""
    if s.adapter != "none":
        with quiet():
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(r=s.lora_r, lora_alpha=s.lora_alpha, target_modules="all-linear", task_type=task)
            backbone.model = get_peft_model(backbone.model, config)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside, and restore its generator afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def finetune(
    backbone: Backbone, tokens: Sequence[Tokens], train: Sequence[int], held_out: Sequence[int], loss: Loss, s: Any
) -> Tuned:
    """Minimise the mean loss over the examples `train`; keep the weights of the best epoch on `held_out`.

    Terms and their number are summed over the forward passes of a step and divided once.
    """
    model = backbone.model
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
        order = np.random.default_rng([s.seed, epoch]).permutation(np.asarray(train))
        for start in range(0, len(order), s.batch_size):
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


def summary(tuned: Tuned, tokens: Sequence[Tokens]) -> str:
    """Say how many rows were truncated, and which epoch was kept."""
    losses = ", ".join(f"{x:.3f}" for x in tuned.losses)
    return f"{sum(row.truncated for row in tokens)} truncated, epoch {tuned.epoch} kept by held-out losses {losses}"


def check_weights(folder: Path, digest: str) -> None:
    """ValueError if the saved weights do not have the digest in model.json."""
    if not folder.is_dir() or bases.digest(str(folder)) != digest:
        raise ValueError(f"{folder}: does not belong to model.json. Fit and save the model again.")


def save(backbone: Backbone, folder: Path) -> None:
    """Write adapter or all weights as safetensors, and the tokenizer."""
    with quiet():
        backbone.model.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)


def with_adapter(backbone: Backbone, folder: Path) -> None:
    """Load the adapter that `save` wrote onto its base."""
    with quiet():
        from peft import PeftModel

        backbone.model = PeftModel.from_pretrained(backbone.model, folder).eval()
