"""`steer train`: a doorway on `train` with a run folder, a dry run and a summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steer import addresses
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS
from steer.parts import follow_leader
from steer.rows.labelled import Labelled
from steer.run_folder import Run, follows, origin_of, rows_fingerprint, stage
from steer.training import checkpoint
from steer.training.dry_run import described
from steer.training.prepare import Hashes, chosen, scorer_for
from steer.training.processes import join_tasks
from steer.training.train import prepare


@stage
def train_command(config: TrainConfig) -> str:
    """Train a policy on labelled rows in a run folder; the summary line (empty in every process but the main one)."""
    follow_leader()
    join_tasks()
    chosen(config.method, config.set)
    hashes = Hashes.of(config.model, config.init)
    inputs = {"rows": rows_fingerprint(config.rows), "model": hashes.model or origin_of(config.model)}
    if config.init:
        inputs["init"] = hashes.init
    spec = config.scorer or Labelled.without_rows(config.rows).spec
    scorer = scorer_for(config.method, spec, trust_remote_code=config.trust_remote_code)
    inputs |= {"scorer": scorer.identity} if scorer else {}
    run = Run(config.output, config, inputs)
    main = not follows()  # under torchrun one process speaks for all
    if run.done and not config.dry_run:
        if main:
            checkpoint.clear(run.folder)  # of a process that was killed after it wrote done.json
        return str(run.done["summary"]) if main else ""
    labelled = Labelled.of(config.rows, run.config["inputs"]["rows"])
    training = prepare(labelled, config.model, config.method, config, hashes, scorer)
    if config.dry_run:
        return described(training) if main else ""
    training.wait()  # the folder has been looked at by all before one process writes to it
    if main:
        run.start()
    training.wait()
    if not (run.folder / "config.json").is_file():  # so no resume point either
        raise SteerError(_unseen(run.folder))
    policy = training.run(run.folder)
    if not main:
        return ""
    summary = run.finish(_summary(config, policy.facts), **policy.facts)
    checkpoint.clear(run.folder)
    return summary


def _unseen(folder: Path) -> str:
    """Say that this machine does not see what the first one writes, and what to do."""
    address = addresses.named(str(folder))
    if address == str(folder):
        return f"{folder}: only the first machine sees it. Put --output where all of them do."
    remedy = "Let STEER_CACHE be a folder that all of them see, on a shared disk"
    return f"{address}: the machines train in {folder}, which only the first sees. {remedy}."


def _summary(config: TrainConfig, facts: dict[str, Any]) -> str:
    ess = f", effective sample size {facts['ess']:.0%}" if facts["ess"] < 0.999 else ""
    unit = "prompts" if METHODS[config.method].on_policy else "rows"
    unit += f" in {facts['groups']} groups" if facts["groups"] != facts["rows"] else ""
    unused = f"{facts['unused']} left out by the method, " if facts["unused"] else ""
    cut = f", {facts['truncated']} cut in the {config.truncate}" if facts["truncated"] else ""
    watched = ""
    if "best_step" in facts:
        kept = ", whose weights are kept" if config.early_stopping else f" (last {facts['held_out_loss']:.4f})"
        watched = f", held-out loss {facts['best_held_out_loss']:.4f} at its best in step {facts['best_step']}{kept}"
    return (
        f"{config.method}: trained on {facts['rows']} {unit} ({facts['held_out']} held out, {unused}"
        f"{facts['too_long']} too long{cut}{ess}), {facts['steps']} steps, {facts['tokens']} tokens, "
        f"loss {facts['loss']:.4f}{watched}, {facts['trainable']} trainable parameters, {facts['processes']} "
        f"process{'es' if facts['processes'] > 1 else ''}, {facts['seconds']:.0f} s "
        f"({facts['tokens'] / max(facts['seconds'], 1e-9):.0f} tokens/s)."
    )
