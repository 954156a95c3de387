"""What processes shard: what cannot be done with it, and whole tensors from the parts of FSDP2 and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from steer.config import TrainConfig
from steer.errors import SteerError
from steer.methods.base import Method
from steer.training import zero


def asked(name: str) -> bool:
    """Whether a launcher asked accelerate for this way to train: FSDP, DEEPSPEED, MEGATRON_LM."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes")


def shardable(config: TrainConfig, method: Method, accelerator: Any) -> None:
    """Refuse what sharded weights cannot do, and FSDP where accelerate would pass over it without a word."""
    if asked("DEEPSPEED"):
        zero.set_up(config, accelerator)
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
            f"{config.method}: draws responses while it trains, which it cannot where FSDP or DeepSpeed shards. Use "
            'torchrun without them, or a method that learns from rounds: "steer iterate --method raft".'
        )
    if config.adapter == "qlora":
        raise SteerError("--adapter qlora: 4-bit weights are not sharded here. Use --adapter lora.")
    if config.optimizer != "adamw":
        raise SteerError(f"--optimizer {config.optimizer}: its state is not sharded here. Use --optimizer adamw.")


def gathered(tensors: Mapping[str, Tensor], main: bool) -> dict[str, Tensor]:
    """Copies of whole tensors on the CPU of the main process; all processes have to ask, for each may hold a part."""
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if main:
            found[name] = whole.detach().to("cpu", copy=True).contiguous()
    return found


def part(whole: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor what this process holds where `like` is sharded; what has another shape is not."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
