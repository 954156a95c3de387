"""A quantised base: 4 bits (NF4 with double quantisation, QLoRA, 2305.14314) or 8 (LLM.int8(), 2208.07339)."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from attribute_models.bases import nf4

# On import bitsandbytes says that an optional package is missing, in every process.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "MatMul8bitLt: inputs will be cast")  # said at every product

BASES = {"qlora": "nf4", "qlora8": "int8"}  # adapters -> how their base is quantised


def quantised(kind: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Make arguments of `from_pretrained` that load linear layers in "nf4" or "int8", on one device."""
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": device}}
    return nf4(dtype, device)


def is_quantised(model: Any) -> bool:
    """Whether bitsandbytes holds the layers of a model in 4 or 8 bits."""
    return any(getattr(model, f"is_loaded_in_{bits}bit", False) for bits in (4, 8))


def left_whole(model: Any) -> int:
    """Number of parameters in expert layers, which quantisation skips because they are stacked in three dimensions."""
    return sum(p.numel() for p in model.parameters() if p.ndim == 3)
