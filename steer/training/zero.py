"""DeepSpeed, which shards gradients and the optimizer (ZeRO 1 and 2): set it up, save and load its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper  # accelerate.utils has it only with DeepSpeed
from torch import Tensor, nn

from steer.errors import SteerError

KEYS = ("exp_avg", "exp_avg_sq")  # of AdamW


def set_up(max_grad_norm: float, accelerator: Any) -> None:
    """Configure DeepSpeed for the loop; refuse what it would do by itself, or if accelerate would ignore it."""
    if accelerator.distributed_type != "DEEPSPEED":
        raise SteerError(
            "DeepSpeed was asked for, and accelerate starts it on GPUs only: it would pass over it here. Leave "
            "--use_deepspeed out, or unset ACCELERATE_USE_DEEPSPEED."
        )
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    zero = settings.get("zero_optimization", {})
    if zero.get("stage", 0) not in (1, 2):
        raise SteerError(
            f"DeepSpeed with ZeRO {zero.get('stage', 0)} is not supported. Use stage 1 or 2, or FSDP2, which shards "
            "weights too: accelerate launch --use_fsdp --fsdp_version 2 -m steer train ..."
        )
    offloads = [x for x in ("optimizer", "param") if zero.get(f"offload_{x}", {}).get("device", "none") != "none"]
    if offloads:
        raise SteerError(f"DeepSpeed's offload_{offloads[0]} is not supported. Set its device to none.")
    if "optimizer" in settings or "scheduler" in settings:
        raise SteerError(
            "DeepSpeed's configuration names an optimizer or a scheduler: they are steer's. Take them out."
        )
    if any(settings.get(x, {}).get("enabled") is True for x in ("fp16", "bf16")):
        raise SteerError("DeepSpeed's configuration sets a precision. Use --dtype instead.")
    # DeepSpeed need not know batch sizes: the loop says where steps end, and divides gradients.
    settings.update(train_batch_size="auto", train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1)
    settings.update(gradient_clipping=max_grad_norm)


def shards(optimizer: Any) -> bool:
    """Whether an optimizer is DeepSpeed's."""
    return isinstance(optimizer, DeepSpeedOptimizerWrapper)


def state(named: Sequence[tuple[str, nn.Parameter]], optimizer: Any) -> dict[int, dict[str, Any]]:
    """Gather the optimizer state of each parameter. Collective: every process must call."""
    from deepspeed.utils import safe_get_full_optimizer_state

    step = next(iter(optimizer.optimizer.optimizer.state.values()))["step"]  # the same for all
    return {
        i: {"step": step, **{key: safe_get_full_optimizer_state(p, key) for key in KEYS}}
        for i, (_, p) in enumerate(named)
    }


def put(named: Sequence[tuple[str, nn.Parameter]], optimizer: Any, saved: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Scatter the model's weights and a saved optimizer state (by parameter) over the processes."""
    from deepspeed.utils import (
        lazy_init_hp_params_optimizer_state,
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
    )

    zero = optimizer.optimizer
    for parameters, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups):
        zero.optimizer.state[flat] = {key: torch.zeros_like(flat) for key in KEYS} | {"step": saved[0]["step"].clone()}
        lazy_init_hp_params_optimizer_state(parameters, flat, zero.optimizer.state)
    for i, (_, parameter) in enumerate(named):
        safe_set_full_fp32_param(parameter, parameter.data)
        for key in KEYS:
            safe_set_full_optimizer_state(parameter, saved[i][key].to(parameter.device), key)
