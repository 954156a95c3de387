"""Precision of training: trained weights in float32, the forward pass in the precision of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def trainable(model: Any) -> Sequence[tuple[str, nn.Parameter]]:
    """Return names and parameters that are trained, in a fixed order."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def keep_masters(model: Any) -> None:
    """Hold all trained weights in float32: in bfloat16 a small step of the optimizer is rounded away."""
    for _, parameter in trainable(model):
        parameter.data = parameter.data.float()


def compute_in(module: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Let the module's forward pass compute matrix products in `dtype`, which the model was loaded in."""
    if dtype != torch.float32:
        module.forward = torch.autocast(device, dtype)(module.forward)


def optimizer_for(
    name: str, named: Sequence[tuple[str, nn.Parameter]], lr: float, weight_decay: float, ratio: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW: torch's fused one, or bitsandbytes' with 8-bit state, or paged where a GPU has memory of its own.

    `ratio`: the B matrices of adapters learn at this multiple of the rate (LoRA+, 2402.12354).
    """
    split = [[p for n, p in named if ("lora_B" in n and ratio != 1) is fast] for fast in (False, True)]
    groups = [{"params": part, "ratio": factor} for part, factor in zip(split, (1.0, ratio)) if part]
    if named[0][1].device.type not in ("cuda", "xpu"):
        name = name.removeprefix("paged_")
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
    import bitsandbytes

    kinds = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw": bitsandbytes.optim.PagedAdamW32bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    optimizer: torch.optim.Optimizer = kinds[name](groups, lr=lr, weight_decay=weight_decay)
    return optimizer
