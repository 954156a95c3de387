"""Start the processes of a training through accelerate; refuse ways that the loop does not support."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from steer import device
from steer.errors import SteerError
from steer.methods.base import Method
from steer.models.quantization import BASES
from steer.progress import note
from steer.training import zero
from steer.training.settings import TrainSettings

FOREIGN = ("MEGATRON_LM", "PARALLELISM_CONFIG")  # accelerate would not run a plain loop
# How long a process waits for the others: one alone tokenizes, saves a checkpoint or compiles what it tries while they
# are at a barrier, where NCCL gives up after 10 minutes.
WAIT = timedelta(hours=12)


def join_tasks() -> None:
    """Make one training of the tasks that `srun` started: set torch's variables by SLURM's, unless a launcher did."""
    env = os.environ
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks < 2 or "WORLD_SIZE" in env:
        return
    own, gpus = int(env["SLURM_LOCALID"]), device.count()
    env |= {"WORLD_SIZE": str(tasks), "RANK": env["SLURM_PROCID"]}
    env["LOCAL_RANK"] = str(own % gpus if gpus else own)  # a task may see its own GPU only
    env.setdefault("MASTER_ADDR", first_node(env["SLURM_STEP_NODELIST"]))
    env.setdefault("MASTER_PORT", str(20_000 + (int(env["SLURM_JOB_ID"]) * 7 + int(env["SLURM_STEP_ID"])) % 10_000))
    if env["RANK"] == "0":
        note(f"srun started {tasks} tasks: they are the processes of one training.")


def first_node(nodes: str) -> str:
    """Return the first name of a list of nodes as SLURM writes it.

    >>> first_node("gpu[07-09,12]"), first_node("a1,b2"), first_node("rack[3,5]-ib")
    ('gpu07', 'a1', 'rack3-ib')
    """
    name = re.match(r"([^,\[]*)(?:\[(\w+)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(filter(None, name.groups())) if name else nodes


def accelerated(name: str, method: Method, options: TrainSettings) -> Any:
    """Start accelerate; SteerError if fewer processes run than were asked for, or in an unsupported way."""
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs, disable_fsdp_ram_efficient_loading

    for foreign in FOREIGN:
        if asked(foreign):
            raise SteerError(
                f"{foreign} is not supported: it shares out rows, gradients or steps by rules of its own. Use FSDP2, "
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
        disable_fsdp_ram_efficient_loading()  # every process checks the weights before they are sharded
    if asked("DEEPSPEED") and not find_spec("deepspeed"):
        raise SteerError('DeepSpeed was asked for, and it is not installed. pip install "steer-lm[deepspeed]".')
    accelerator = Accelerator(
        cpu=device.kind() == "cpu",
        mixed_precision="no",  # --dtype says it
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        **track,
    )
    shardable(name, method, options, accelerator)
    wanted = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != wanted:
        raise SteerError(
            f"{wanted} processes were asked for, {accelerator.num_processes} run together. "
            f'Start them with "torchrun --nproc_per_node {wanted} -m steer train ...".'
        )
    return accelerator


def asked(name: str) -> bool:
    """Whether a launcher asked accelerate for this way to train: FSDP, DEEPSPEED, MEGATRON_LM."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes")


def shardable(name: str, method: Method, options: TrainSettings, accelerator: Any) -> None:
    """Refuse what sharded weights cannot do, and FSDP if accelerate would ignore it; `name`: the method's."""
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
    if options.adapter in BASES:
        raise SteerError(f"--adapter {options.adapter}: a quantised base is not sharded here. Use --adapter lora.")
    if options.loraplus_lr_ratio != 1 and asked("DEEPSPEED"):
        raise SteerError("--loraplus-lr-ratio: has no place where DeepSpeed shards. Leave it out, or use FSDP2.")
    if options.optimizer != "adamw":
        raise SteerError(f"--optimizer {options.optimizer}: its state is not sharded here. Use --optimizer adamw.")
