"""Attention under a dense mask on a CPU, in parts: its kernels would also compute what the mask hides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_in_parts"
PART = 128  # queries; smaller ones save more and cost more calls


def in_parts(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **more: Any) -> tuple[Tensor, None]:
    """Run `sdpa` PART queries at a time, with the keys up to the last one: [N, H, L, D] -> [N, L, H, D].

    For causal masks only: a token sees no later one.
    """
    length = q.shape[2]
    short = length < 2 * PART or length != k.shape[2]
    if mask is None or short or q.device.type != "cpu" or more.get("position_bias") is not None:
        whole: tuple[Tensor, None] = sdpa_attention_forward(module, q, k, v, mask, **more)
        return whole
    ends = [*range(PART, length - PART + 1, PART), length]
    parts = [
        sdpa_attention_forward(module, q[:, :, a:b], k[:, :, :b], v[:, :, :b], mask[:, :, a:b, :b], **more)[0]
        for a, b in zip([0, *ends], ends)
    ]
    return torch.cat(parts, dim=1), None


def cut(model: Any) -> None:
    """Let a causal model with `sdpa` attend in parts."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


AttentionInterface.register(NAME, in_parts)
AttentionMaskInterface.register(NAME, sdpa_mask)
