"""The processes of a training, through accelerate: as many as were asked for, in a way that the loop supports."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch

from steer.errors import SteerError
from steer.methods.base import Method
from steer.training.settings import TrainSettings
from steer.training.sharded import asked, shardable

FOREIGN = ("MEGATRON_LM", "PARALLELISM_CONFIG")  # ways of accelerate that are no plain loop


def accelerated(name: str, method: Method, options: TrainSettings) -> Any:
    """Start accelerate; SteerError if fewer processes run than were asked for, or in a way the loop does not know."""
    from accelerate import Accelerator
    from accelerate.utils import disable_fsdp_ram_efficient_loading

    for name in FOREIGN:
        if asked(name):
            raise SteerError(
                f"{name} is not supported: it shares out rows, gradients or steps by rules of its own. Use FSDP2, "
                "which shards as much: accelerate launch --use_fsdp --fsdp_version 2 -m steer train ..."
            )
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise SteerError(
            'accelerate launch starts one process on a CPU, whatever number it is given. Use "torchrun '
            '--nproc_per_node N -m steer train ...", which starts N.'
        )
    track = {} if options.track == "none" else {"log_with": options.track, "project_dir": "."}
    if asked("FSDP"):
        os.environ.setdefault("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")  # else no block by itself
        disable_fsdp_ram_efficient_loading()  # every process looks at the weights before they are sharded
    if asked("DEEPSPEED") and not find_spec("deepspeed"):
        raise SteerError('DeepSpeed was asked for, and it is not installed. pip install "steer-lm[deepspeed]".')
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", **track)  # --dtype says it
    shardable(name, method, options, accelerator)
    wanted = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != wanted:
        raise SteerError(
            f"{wanted} processes were asked for, {accelerator.num_processes} run together. "
            f'Start them with "torchrun --nproc_per_node {wanted} -m steer train ...".'
        )
    return accelerator
