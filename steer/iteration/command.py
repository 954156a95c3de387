"""`steer iterate`: rounds in a run folder, with a link to the best policy and a report."""

from __future__ import annotations

import os
from pathlib import Path

from steer import report
from steer.config.iteration import IterateConfig
from steer.iteration.guards import limits
from steer.iteration.iterate import FREE, Iteration, prepare_rounds, run_rounds
from steer.iteration.plan import planned
from steer.iteration.watch import line
from steer.report.cells import counted
from steer.report.circumstances import circumstances
from steer.run_folder import Run, folder_errors, stage


@stage
def iterate_command(config: IterateConfig) -> str:
    """Run the rounds and report them; return a line of figures for each, why they ended, and which one is kept."""
    rounds = prepare_rounds(config.rows, config.model, config.scorer, config.policy, Path(config.output), config)
    run = Run(config.output, config, rounds.inputs, FREE)
    if run.done and not config.dry_run:
        return str(run.done["summary"])
    rounds.check()
    if config.dry_run:
        return planned(rounds)
    run.start()
    iteration = run_rounds(rounds)
    link = _linked(iteration, run.folder)
    ended = [*_ended(iteration, link), _training(iteration)]
    figures = {"rounds": iteration.rounds, "kept": iteration.kept, "stopped": iteration.stopped}
    page = report.write_loop(
        {
            "title": f"Rounds of {rounds.training.method}",
            **circumstances("iterate"),
            "commands": [f"steer iterate --config {run.folder}/config.json --output NEW"],
            "hashes": {name: value for name, value in rounds.inputs.items() if value},
            "iterate": {**figures, "ended": ended},
        },
        run.folder,
    )
    summary = "\n".join([*map(line, iteration.rounds), *ended, f"Report: {page}"])
    return run.finish(summary, policy=rounds.policy_of(iteration.kept), **figures)


def _linked(iteration: Iteration, folder: Path) -> str:
    """Link `policy` in the run folder to that of the kept round; return its path, in words for round 0."""
    link, kept = folder / "policy", iteration.kept
    with folder_errors(folder):
        if not kept:
            link.unlink(missing_ok=True)
            return f"{iteration.plan.policy_of(0)}, which the rounds started from"
        new = folder / f".policy.{os.getpid()}.tmp"
        new.unlink(missing_ok=True)
        new.symlink_to(Path(iteration.plan.folder(kept).name) / "policy", target_is_directory=True)
        os.replace(new, link)
    return str(link)


def _ended(iteration: Iteration, place: str) -> list[str]:
    """Sentences on why the rounds ended and which one is kept."""
    scorers, stopped, last = iteration.plan.scorers, iteration.stopped, iteration.rounds[-1]["round"]
    gold = scorers.get("gold")
    by, of = ("gold" if gold else "proxy"), (" of the rounds before" if stopped else "")
    off = limits(iteration.plan.settings.guard) == limits(("off",))
    no = "every guard was off" if off else "no guard stopped the rounds"
    lines = [f"Stopped after round {last}: {stopped}." if stopped else f"Ended after {last} of {last} rounds: {no}."]
    if gold is None or gold.id == scorers["scorer"].id:
        lines.append("No other scorer watches (--gold), so over-optimisation of this one would not be seen.")
    return [*lines, f"Kept round {iteration.kept}, with the highest {by} reward{of} on held-out prompts: {place}"]


def _training(iteration: Iteration) -> str:
    """Sentence on the steps of training and the weights it started from."""
    rounds, steps = iteration.plan, sum(facts["steps"] for facts in iteration.rounds)
    last = rounds.start_from == "last" or rounds.method.importance
    start = "the weights of the round before" if last else "the base"
    return (
        f"Training took {steps:,} optimizer steps in {counted(iteration.rounds[-1]['round'], 'round')}, "
        f"each from {start}."
    )
