"""`steer train`: a doorway on `train` with a run folder, a dry run and a summary."""

from __future__ import annotations

import os
from typing import Any

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS
from steer.parts import follow_leader
from steer.rows.labelled import Labelled
from steer.run_folder import Run, rows_fingerprint, stage
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
    inputs = {"rows": rows_fingerprint(config.rows), "model": hashes.model}
    if config.init:
        inputs["init"] = hashes.init
    spec = config.scorer or Labelled.without_rows(config.rows).spec
    scorer = scorer_for(config.method, spec, trust_remote_code=config.trust_remote_code)
    inputs |= {"scorer": scorer.identity} if scorer else {}
    run = Run(config.output, config, inputs)
    main = os.environ.get("RANK", "0") == "0"  # under torchrun one process speaks for all
    if run.done and not config.dry_run:
        if main:
            checkpoint.clear(run.folder)  # of a process that was killed after it wrote done.json
        return str(run.done["summary"]) if main else ""
    training = prepare(Labelled.of(config.rows, inputs["rows"]), config.model, config.method, config, hashes, scorer)
    if config.dry_run:
        return described(training) if main else ""
    training.wait()  # the folder has been looked at by all before one process writes to it
    run.start()
    training.wait()
    if not (run.folder / "config.json").is_file():  # so no resume point either
        raise SteerError(f"{run.folder}: only the first machine sees it. Put --output where all of them do.")
    policy = training.run(run.folder)
    if not main:
        return ""
    summary = run.finish(_summary(config, policy.facts), **policy.facts)
    checkpoint.clear(run.folder)
    return summary


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
