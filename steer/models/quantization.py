"""A base model in 4 bits: NF4 with double quantisation (QLoRA, 2305.14314)."""

from __future__ import annotations

import logging
from typing import Any

import torch

# On import bitsandbytes says that an optional package is missing, in every process.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def nf4(dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Make arguments of `from_pretrained` that load linear layers in NF4 and compute in `dtype`, on one device."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    # Without a map every process of several would quantise on the first GPU.
    return {"quantization_config": config, "device_map": {"": device}}


def keep_unpacked(model: Any) -> None:
    """Let 4-bit layers keep their layout in evaluation.

    If a CPU computes in bfloat16, an evaluation forward pass repacks the weights in place; packed layers have no
    gradient, so all training after it would be silently wrong (bitsandbytes 0.50).
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def left_whole(model: Any) -> int:
    """Number of parameters in expert layers, which quantisation skips because they are stacked in three dimensions."""
    return sum(p.numel() for p in model.parameters() if p.ndim == 3)
