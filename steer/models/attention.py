"""Masks of pairs of tokens, and attention that leaves out much of what they hide: in parts, or in blocks on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo.config as compiler
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_in_parts"
IN_BLOCKS = "flex_attention"  # skips blocks of 128 x 128 tokens that see nothing of each other; compiled by torch
KERNELS = 64  # of one function that torch may compile; each kind of shape takes some: one row, short ones, ...
PART = 128  # queries; smaller ones save more and cost more calls


def added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Make the mask that is added to scores: [N, L, L] (query, key) -> [N, 1, L, L]."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def blocks(seen: Tensor) -> BlockMask:
    """Make the mask of `flex_attention`: [N, L, L] (query, key) -> blocks, of which empty ones are not computed."""
    n, length, _ = seen.shape
    return create_block_mask(lambda b, h, q, k: seen[b, q, k], n, None, length, length, device=seen.device.type)


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
    """Let a causal model with `sdpa` attend in parts, on a CPU."""
    if model.config._attn_implementation == "sdpa" and model.device.type == "cpu":
        model.set_attn_implementation(NAME)


def choose(model: Any, name: str) -> None:
    """Let a model attend in a way of transformers, and torch compile as many kernels of it as a training has shapes.

    After 8 kernels, its default, torch would go on with attention that holds all scores in memory.
    """
    if name == IN_BLOCKS:
        limit = "recompile_limit" if hasattr(compiler, "recompile_limit") else "cache_size_limit"  # torch 2.6
        setattr(compiler, limit, max(KERNELS, getattr(compiler, limit)))
    model.set_attn_implementation(name)


@contextmanager
def restored(model: Any) -> Iterator[None]:
    """Let a model attend after the block as it did before."""
    own = model.config._attn_implementation
    try:
        yield
    finally:
        if model.config._attn_implementation != own:
            model.set_attn_implementation(own)


AttentionInterface.register(NAME, in_parts)
AttentionMaskInterface.register(NAME, sdpa_mask)
