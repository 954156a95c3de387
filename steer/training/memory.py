"""Memory: an estimate before a run, and advice when it runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from steer import device
from steer.errors import SteerError
from steer.training.settings import TrainSettings

GIB = 1 << 30


def micro_batch(tokens: int) -> int:
    """Padded tokens in one forward pass: `tokens`, or if 0 few on a CPU, which is faster where they fit its cache."""
    return tokens or (2048 if device.kind() == "cpu" else 8192)


@contextmanager
def enough_memory(options: TrainSettings) -> Iterator[None]:
    """Turn running out of memory into a sentence that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and not _starved(error):
            raise
        tokens = micro_batch(options.micro_batch_tokens)
        lower = [f"--micro-batch-tokens (now {tokens})", f"--max-length (now {options.max_length})"]
        more = [] if options.gradient_checkpointing else ["--gradient-checkpointing"]
        smaller = {"none": "lora", "lora": "qlora", "qlora8": "qlora"}.get(options.adapter)
        more += [f"--adapter {smaller}"] if smaller else []
        more += [] if "8bit" in options.optimizer else ["--optimizer adamw_8bit"]
        raise SteerError(
            f"out of memory. Lower {' or '.join(lower)}" + (f", or use {', '.join(more)}." if more else ".")
        ) from None


def _starved(error: RuntimeError) -> bool:
    text = str(error)
    return "can't allocate memory" in text or "out of memory" in text


def estimate(model: Any, options: TrainSettings, shards: int = 1) -> dict[str, float]:
    """Estimate the bytes in one process by use; weights, gradients and optimizer may be in several `shards`.

    Activations are those of a transformer whose attention matrix is never stored, 34 bytes per token, layer and hidden
    unit in 16 bits (2205.05198, section 4.1); with gradient checkpointing the input of every layer, and one layer.
    """
    c = model.config.get_text_config()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = torch.empty(0, dtype=model.dtype).element_size()
    tokens = micro_batch(options.micro_batch_tokens)
    layer = tokens * c.hidden_size * 17.0 * size
    depth = c.num_hidden_layers
    inputs = depth * tokens * c.hidden_size * size
    state = 2 if "8bit" in options.optimizer else 8
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    return {
        "weights": float(frozen + 4 * trained) / shards,
        "gradients": 4.0 * trained / shards,
        "optimizer": float(state * trained) / shards,
        "activations": inputs + layer if options.gradient_checkpointing else depth * layer,
    }
