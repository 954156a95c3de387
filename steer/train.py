"""`steer train`: labelled rows -> groups -> the loop -> a policy folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from steer.config import TrainConfig
from steer.errors import SteerError
from steer.labels import beside, scorer_of
from steer.methods import METHODS
from steer.objective import Method
from steer.options import check, did_you_mean, overridden
from steer.policy import Card, save
from steer.run import Run, fingerprint, folder_errors, identity, read_json
from steer.scorer import Scorer, load_scorer
from steer.training import checkpoint
from steer.training.dry_run import described
from steer.training.memory import enough_memory
from steer.training.prepare import check_init, conditioned, prepared
from steer.training.tracking import installed

# They split weights or gradients that the loop divides and saves whole; nobody has tried that here.
UNTRIED = ("DEEPSPEED", "FSDP", "MEGATRON_LM")


def train(config: TrainConfig) -> str:
    """Fine-tune a policy on labelled rows; the summary line (empty in every process but the main one)."""
    check(config)
    installed(config.track)
    method, settings = chosen(config.method, config.set)
    conditioning = conditioned(config, method)
    inputs = {"rows": fingerprint(config.rows), "model": identity(config.model)}
    if config.init:
        check_init(config, conditioning, inputs["model"])
        inputs["init"] = identity(config.init)
    if (method.on_policy or method.divergence) and config.adapter == "none":
        raise SteerError(f"{config.method}: its reference is the model without its adapter. Use --adapter lora.")
    if method.importance and not config.init:
        raise SteerError(
            f"{config.method}: needs --init, the policy that drew the responses at their targets. "
            'Train one with --method conditional; "steer generate POLICY --input ROWS --n 8" draws from it.'
        )
    scorer = _scorer(config) if method.on_policy else None
    run = Run(config.output, config, inputs | ({"scorer": scorer.id} if scorer else {}))
    accelerator = _processes(config)
    if run.done and not config.dry_run:
        return str(run.done["summary"]) if accelerator.is_main_process else ""
    with enough_memory(config):
        policy, loop, conditioning, known = prepared(
            config, method, settings, conditioning, scorer, inputs, accelerator
        )
        if config.dry_run:
            return described(policy, loop, known) if accelerator.is_main_process else ""
        accelerator.wait_for_everyone()  # the folder has been looked at by all before one process writes to it
        run.start()
        accelerator.wait_for_everyone()
        dtype = policy.model.dtype
        facts = known | loop.run(policy, run.folder)
    if config.adapter == "none":
        policy.model.to(dtype=dtype)  # from the float32 it was trained in
    if not accelerator.is_main_process:
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
    with folder_errors(run.folder):
        save(policy, run.folder, card)
    summary = run.finish(_summary(config, facts), **facts)
    checkpoint.clear(run.folder)
    return summary


def chosen(name: str, pairs: Sequence[str]) -> tuple[Method, Any]:
    """A method and its settings from NAME=VALUE texts; unknown names list the known ones."""
    if name not in METHODS:
        raise SteerError(f"unknown method '{name}'; {did_you_mean(name, METHODS)}")
    method = METHODS[name]
    return method, overridden(method.settings, pairs, name)


def base_name(model: str) -> str:
    """Absolute folder of a local model, else the name as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _scorer(config: TrainConfig) -> Scorer:
    """What an on-policy method asks for rewards."""
    spec = config.scorer or str(read_json(beside(config.rows, "done.json")).get("spec", ""))
    if not spec or spec == "human":
        raise SteerError(f"{config.method}: needs --scorer, for people do not score fresh responses.")
    return load_scorer(spec)


def _processes(config: TrainConfig) -> Any:
    """The accelerator, after a look whether as many processes run as were asked for."""
    from accelerate import Accelerator

    for name in UNTRIED:  # on a CPU accelerate would pass over them without a word
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes"):
            raise SteerError(f"{name} is not supported: use torchrun, or an accelerate config, without its settings.")
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise SteerError(
            'accelerate launch starts one process on a CPU, whatever number it is given. Use "torchrun '
            '--nproc_per_node N -m steer train ...", which starts N.'
        )
    track = {} if config.track == "none" else {"log_with": config.track, "project_dir": config.output}
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), **track)
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != asked:
        raise SteerError(
            f"{asked} processes were asked for, {accelerator.num_processes} run together. "
            f'Start them with "torchrun --nproc_per_node {asked} -m steer train ...".'
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
