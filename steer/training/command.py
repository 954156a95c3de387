"""`steer train`: labelled rows -> groups -> the loop -> a policy folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch

from steer.config import TrainConfig
from steer.errors import SteerError
from steer.labelling.scorer import Scorer, load_scorer
from steer.methods import LIKELIHOOD_RATES, METHODS, peak_rate
from steer.methods.base import Method
from steer.models.card import Card
from steer.models.precision import trainable
from steer.rows.labelled import beside, scorer_of
from steer.run_folder import Run, folder_errors, identity, read_done, rows_fingerprint, stage
from steer.settings import did_you_mean, overridden
from steer.training import checkpoint
from steer.training.dry_run import described
from steer.training.memory import enough_memory
from steer.training.prepare import check_init, conditioned, prepared
from steer.training.sharded import asked, gathered, shardable
from steer.training.tracking import installed

FOREIGN = ("MEGATRON_LM", "PARALLELISM_CONFIG")  # ways of accelerate that are no plain loop


@stage
def train_command(config: TrainConfig) -> str:
    """Fine-tune a policy on labelled rows; the summary line (empty in every process but the main one)."""
    installed(config.track)
    method, settings = chosen(config.method, config.set)
    conditioning = conditioned(config, method)
    inputs = {"rows": rows_fingerprint(config.rows), "model": identity(config.model)}
    if config.init:
        check_init(config, conditioning, inputs["model"])
        inputs["init"] = identity(config.init)
    if (method.on_policy or "kl" in method.needs) and config.adapter == "none":
        raise SteerError(f"{config.method}: its reference is the model without its adapter. Use --adapter lora.")
    if method.importance and not config.init:
        raise SteerError(
            f"{config.method}: needs --init, the policy that drew the responses at their targets. "
            'Train one with --method conditional; "steer generate POLICY --input ROWS --n 8" draws from it.'
        )
    scorer = _scorer(config) if method.on_policy else None
    run = Run(config.output, config, inputs | ({"scorer": scorer.id} if scorer else {}))
    config, why = _rated(config, method)  # config.json keeps what was asked for, done.json what it came to
    accelerator = _processes(config, method)
    if run.done and not config.dry_run:
        if accelerator.is_main_process:
            checkpoint.clear(run.folder)  # of a process that was killed after it wrote done.json
        return str(run.done["summary"]) if accelerator.is_main_process else ""
    with enough_memory(config):
        policy, loop, conditioning, known = prepared(
            config, method, settings, conditioning, scorer, inputs, accelerator
        )
        if config.dry_run:
            return described(policy, loop, known | {"why": why}) if accelerator.is_main_process else ""
        accelerator.wait_for_everyone()  # the folder has been looked at by all before one process writes to it
        run.start()
        if accelerator.is_main_process:
            for line in (why, _undropped(config, method)):
                if line:
                    click.echo(f"steer: {line}.", err=True)
        accelerator.wait_for_everyone()
        if not (run.folder / "config.json").is_file():  # so no resume point either
            raise SteerError(f"{run.folder}: only the first machine sees it. Put --output where all of them do.")
        dtype = policy.model.dtype
        facts = known | loop.run(policy, run.folder)
    if config.adapter == "none":
        policy.model.to(dtype=dtype)  # from the float32 it was trained in
    main = accelerator.is_main_process
    weights = gathered(dict(trainable(policy.model)), main) if accelerator.is_fsdp2 else None
    if not main:
        return ""
    card = Card(
        base=base_name(config.model),
        base_hash=inputs["model"],
        base_revision=policy.revision,
        adapter=config.adapter,
        method=config.method,
        settings=dataclasses.asdict(settings),
        template=config.template,
        attributes=conditioning.names if conditioning else (),
        schema=conditioning.schema if conditioning else None,
        scorer=scorer_of(config.rows),
        condition_tokens=config.condition_tokens if conditioning else "text",
    )
    facts["learning_rate"] = config.learning_rate
    with folder_errors(run.folder):
        dataclasses.replace(policy, card=card).save(run.folder, weights)
    summary = run.finish(_summary(config, facts), **facts)
    checkpoint.clear(run.folder)
    return summary


def chosen(name: str, pairs: Sequence[str]) -> tuple[Method, Any]:
    """A method and its settings from NAME=VALUE texts; unknown names list the known ones."""
    if name not in METHODS:
        raise SteerError(f"unknown method '{name}'; {did_you_mean(name, METHODS)}")
    method = METHODS[name]
    return method, overridden(method.settings, pairs, name)


def _rated(config: TrainConfig, method: Method) -> tuple[TrainConfig, str]:
    """The config with a learning rate, and which was chosen and why; empty where the user gave one."""
    if config.learning_rate:
        return config, ""
    rate, whole = peak_rate(config.method, config.adapter), LIKELIHOOD_RATES[config.adapter]
    share = f", of which {config.method} takes {method.rate:g}" if method.rate != 1 else ""
    what = "all weights" if config.adapter == "none" else "adapters"
    why = f"learning rate {rate:g}: likelihood methods train {what} at {whole:g}{share} (--learning-rate sets another)"
    return dataclasses.replace(config, learning_rate=rate), why


def _undropped(config: TrainConfig, method: Method) -> str:
    """What is said where the user gave a dropout that the method cannot have."""
    if not (config.lora_dropout and method.still):
        return ""
    return f"--lora-dropout {config.lora_dropout:g} is off: {config.method} compares the policy with a frozen one"


def base_name(model: str) -> str:
    """Absolute folder of a local model, else the name as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _scorer(config: TrainConfig) -> Scorer:
    """What an on-policy method asks for rewards."""
    spec = config.scorer or str(read_done(beside(config.rows, "done.json").parent).get("spec", ""))
    if not spec or spec == "human":
        raise SteerError(f"{config.method}: needs --scorer, for people do not score fresh responses.")
    return load_scorer(spec)


def _processes(config: TrainConfig, method: Method) -> Any:
    """The accelerator, after a look whether as many processes run as were asked for, and in a way that works."""
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
    track = {} if config.track == "none" else {"log_with": config.track, "project_dir": config.output}
    if asked("FSDP"):
        os.environ.setdefault("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")  # else no block by itself
        disable_fsdp_ram_efficient_loading()  # every process looks at the weights before they are sharded
    if asked("DEEPSPEED") and not find_spec("deepspeed"):
        raise SteerError('DeepSpeed was asked for, and it is not installed. pip install "steer-lm[deepspeed]".')
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", **track)  # --dtype says it
    shardable(config, method, accelerator)
    wanted = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != wanted:
        raise SteerError(
            f"{wanted} processes were asked for, {accelerator.num_processes} run together. "
            f'Start them with "torchrun --nproc_per_node {wanted} -m steer train ...".'
        )
    return accelerator


def _summary(config: TrainConfig, facts: dict[str, Any]) -> str:
    ess = f", effective sample size {facts['ess']:.0%}" if facts["ess"] < 0.999 else ""
    unit = "prompts" if METHODS[config.method].on_policy else "rows"
    unused = f"{facts['unused']} left out by the method, " if facts["unused"] else ""
    held = ""
    if "best_step" in facts:
        kept = ", whose weights are kept" if config.early_stopping else f" (last {facts['held_out_loss']:.4f})"
        held = f", held-out loss {facts['best_held_out_loss']:.4f} at its best in step {facts['best_step']}{kept}"
    return (
        f"{config.method}: trained on {facts['rows']} {unit} ({facts['held_out']} held out, {unused}"
        f"{facts['too_long']} too long{ess}), {facts['steps']} steps, {facts['tokens']} tokens, "
        f"loss {facts['loss']:.4f}{held}, {facts['trainable']} trainable parameters, {facts['processes']} "
        f"process{'es' if facts['processes'] > 1 else ''}, {facts['seconds']:.0f} s "
        f"({facts['tokens'] / max(facts['seconds'], 1e-9):.0f} tokens/s)."
    )
