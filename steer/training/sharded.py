"""Sharded training: what it cannot do, and FSDP2's parts gathered into whole tensors and split again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from steer.errors import SteerError
from steer.methods.base import Method
from steer.training import zero
from steer.training.settings import TrainSettings


def asked(name: str) -> bool:
    """Whether a launcher asked accelerate for this way to train: FSDP, DEEPSPEED, MEGATRON_LM."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes")


def shardable(name: str, method: Method, options: TrainSettings, accelerator: Any) -> None:
    """Refuse what sharded weights cannot do, and FSDP where accelerate would ignore it; `name`: the method's."""
    if asked("DEEPSPEED"):
        zero.set_up(options.max_grad_norm, accelerator)
    elif not asked("FSDP"):
        return
    elif accelerator.distributed_type != "FSDP":
        raise SteerError(
            "FSDP was asked for, and accelerate shards weights over several GPUs only: it would pass over it here. "
            "Leave --use_fsdp out, or unset ACCELERATE_USE_FSDP."
        )
    elif not accelerator.is_fsdp2:
        raise SteerError("FSDP of version 1 is not supported. Use version 2: --fsdp_version 2.")
    elif accelerator.state.fsdp_plugin.activation_checkpointing:
        raise SteerError("fsdp_activation_checkpointing renames weights. Use --gradient-checkpointing instead.")
    if method.on_policy:
        raise SteerError(
            f"{name}: draws responses while it trains, which it cannot where FSDP or DeepSpeed shards. Use "
            'torchrun without them, or a method that learns from rounds: "steer iterate --method raft".'
        )
    if options.adapter == "qlora":
        raise SteerError("--adapter qlora: 4-bit weights are not sharded here. Use --adapter lora.")
    if options.optimizer != "adamw":
        raise SteerError(f"--optimizer {options.optimizer}: its state is not sharded here. Use --optimizer adamw.")


def gathered(tensors: Mapping[str, Tensor], main: bool) -> dict[str, Tensor]:
    """Copy whole tensors to the CPU of the main process. Collective: every process may hold a part and must call."""
    copies = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if main:
            copies[name] = whole.detach().to("cpu", copy=True).contiguous()
    return copies


def part(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor if `like` is sharded; a tensor of another shape stays whole."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
