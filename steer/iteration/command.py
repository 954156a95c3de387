"""Rounds on disk: generate, score, relabel with what was obtained, retrain, until all are done or a guard says stop.

A killed loop goes on where it stopped; one that is given more rounds or other guards keeps the rounds that it has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from steer import report
from steer.conditioning.targets import parse_weights
from steer.config import IterateConfig, TrainConfig
from steer.errors import SteerError
from steer.generation.generate import held_out_prompts
from steer.iteration import refresh
from steer.iteration.guards import Figures, alarm, best, limits
from steer.iteration.rounds import Loop, goes_round, measured, turn
from steer.iteration.watch import figures
from steer.labelling.scorer import Scorer, load_scorer
from steer.methods import METHODS
from steer.models.card import Card
from steer.options import resolve
from steer.report.cells import counted
from steer.report.circumstances import circumstances
from steer.rows.labelled import schema_of
from steer.rows.schema import Schema
from steer.run_folder import Run, folder_errors, identity, rows_fingerprint, stage
from steer.training.command import chosen

FREE = ("rounds", "guard")  # they say when a loop stops, not what its rounds are


@stage
def iterate_command(config: IterateConfig) -> str:
    """Run the rounds: a line each with what the policy gets on held-out prompts, why they end, which one is kept."""
    bounds = limits(config.guard)
    scorers = {name: load_scorer(s) for name in ("scorer", "gold", "annotator") if (s := getattr(config, name))}
    settings = _training(config)
    inputs = {"rows": rows_fingerprint(config.rows), "model": identity(config.model)}
    inputs["policy"] = identity(config.policy or config.model)
    inputs |= {name: scorer.id for name, scorer in scorers.items()}
    inputs["training"] = _hash({k: v for k, v in asdict(settings).items() if k not in ("rows", "model", "output")})
    run = Run(config.output, config, inputs, FREE)
    if run.done:
        return str(run.done["summary"])
    schema = schema_of(config.rows)
    _check(config, scorers, schema)
    proxy, gold, annotator = (scorers.get(name) for name in ("scorer", "gold", "annotator"))
    assert proxy
    address = _hash({k: v for k, v in run.config.items() if k not in FREE})
    loop = Loop(config, settings, METHODS[settings.method], schema, address, proxy, gold, annotator)
    judges = {name: loop.judge(s) for name, s in (("proxy", proxy), ("gold", gold)) if s}
    if not held_out_prompts(config.rows, settings.held_out, settings.seed, 1):
        raise SteerError(f"{config.rows}: has no held-out prompts to watch. Label with --held-out above 0.")
    for model in dict.fromkeys((loop.policy(0), config.model)):  # what cannot be loaded is refused before a write
        loop.load(model)
    run.start()
    words = [len(row["response"].split()) for row in loop.logs]
    facts: list[dict[str, Any]] = []
    seen: list[Figures] = []
    stopped = ""
    for number in range(config.rounds + 1):
        if number:
            turn(loop, number)
        facts.append(measured(loop, number, judges))
        seen.append(figures(facts[-1]))
        click.echo(_line(facts[-1]), err=True)
        if stopped := alarm(seen, bounds, config.rounds, words):
            break
    kept = best(seen[:-1] if stopped else seen)  # what a guard condemns is not kept, whatever its reward
    return _finish(run, loop, facts, stopped, kept)


def _finish(run: Run, loop: Loop, facts: list[dict[str, Any]], stopped: str, kept: int) -> str:
    """Point to the round that is kept, say why there are no more, and write the report."""
    link = run.folder / "policy"
    with folder_errors(run.folder):
        if kept:
            new = run.folder / f".policy.{os.getpid()}.tmp"
            new.unlink(missing_ok=True)
            new.symlink_to(Path(loop.folder(kept).name) / "policy", target_is_directory=True)
            os.replace(new, link)
        else:
            link.unlink(missing_ok=True)
    where = str(link) if kept else f"{loop.policy(0)}, which the loop started from"
    ended = [*_ended(loop, facts[-1]["round"], stopped, kept, where), _budget(loop, facts)]
    short = [{k: v for k, v in f.items() if k != "rewards"} for f in facts]
    page = report.write_loop(
        {
            "title": f"Rounds of {loop.settings.method}",
            **circumstances("iterate"),
            "commands": [f"steer iterate --config {run.folder}/config.json --output NEW"],
            "hashes": {name: value for name, value in run.config["inputs"].items() if value},
            "iterate": {"rounds": short, "kept": kept, "stopped": stopped, "ended": ended},
        },
        run.folder,
    )
    summary = "\n".join([*map(_line, facts), *ended, f"Report: {page}"])
    return run.finish(summary, rounds=short, policy=loop.policy(kept), kept=kept, stopped=stopped)


def _ended(loop: Loop, last: int, stopped: str, kept: int, where: str) -> list[str]:
    """Why there are no more rounds, and which one is kept."""
    by, of = ("gold" if loop.gold else "proxy"), (" of the rounds before" if stopped else "")
    no = "every guard was off" if limits(loop.config.guard) == limits(("off",)) else "no guard stopped the loop"
    said = [f"Stopped after round {last}: {stopped}." if stopped else f"Ended after {last} of {last} rounds: {no}."]
    if loop.gold is None or loop.gold.id == loop.first.id:
        said.append("No other scorer watches (--gold), so over-optimisation of this one would not be seen.")
    return [*said, f"Kept round {kept}, with the highest {by} reward{of} on held-out prompts: {where}"]


def _budget(loop: Loop, facts: Sequence[Mapping[str, Any]]) -> str:
    """What training took, and from where."""
    steps = sum(f["steps"] for f in facts)
    goes_on = loop.config.start_from == "last" or loop.method.importance
    start = "the weights of the round before" if goes_on else "the base"
    return f"Training took {steps:,} optimizer steps in {counted(facts[-1]['round'], 'round')}, each from {start}."


def _line(f: Mapping[str, Any]) -> str:
    shown = [
        f"{name} {x['mean']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"
        for name, x in (("proxy", f["reward"]), ("gold", f["gold"]))
        if x
    ]
    more = [f"KL {f['kl']['mean']:.1f} nats"] if f["kl"] else []
    more += [f"{100 * f['unfinished']:.0f} % cut off"] if f["unfinished"] else []
    more += [f"{f['words']:.0f} words", f"distinct-2 {f['distinct_2']:.2f}"] if f["distinct_2"] is not None else []
    if f["agreement"] is not None:
        more.append(f"agreement of the scorers {f['agreement']:.2f}")
    if f["drift"]:
        errors = ", ".join(f"{name} {x['mae']:.2f}" for name, x in f["drift"].items() if x["mae"] is not None)
        more.append(f"mean error of the scorer before it was refreshed: {errors}")
    return (
        f"round {f['round']}: {f['rows']} rows, reward{' at best' if f['target'] else ''} on {f['reward']['n']} "
        f"held-out prompts: {', '.join(shown)} (sd of the logs), {', '.join(more)}."
    )


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def _check(config: IterateConfig, scorers: Mapping[str, Scorer], schema: Schema) -> None:
    """Refuse scorers that cannot do what they are there for."""
    for scorer in scorers.values():
        if missing := set(schema.own) - set(scorer.attributes):
            raise SteerError(
                f"scorer {scorer.id}: does not score {', '.join(sorted(missing))}, as the rows are labelled."
            )
    if "annotator" in scorers:
        refresh.check(config.scorer)
        if "gold" not in scorers:
            raise SteerError("--annotator: every round has a scorer of its own, so --gold must say which is best.")
    if not any(schema[n].direction and schema[n].weight for n in schema.own):
        raise SteerError(
            f"{config.rows}: none of its attributes has a better end, so no round is better than another. Label again "
            "without --neither, or with --lower for those whose low end is the good one."
        )
    if config.weights:
        if config.goals != "weights":
            raise SteerError(f"--weights: are for --goals weights, not --goals {config.goals}.")
        parse_weights(config.weights, schema, schema.names)


def _training(config: IterateConfig) -> TrainConfig:
    """Settings for retraining: the given file, else those that the policy was trained with.

    Whatever the file says, rounds start as --start-from says (not from its `init`) and follow from the seed of the
    loop. Its `limit` is one of the logs: fresh responses are never left out by it.
    """
    trained = (Path(config.policy) / "steer.json").is_file() if config.policy else False
    if config.policy and not trained:
        raise SteerError(f'--policy {config.policy}: is no policy (it has no steer.json). Train one: "steer train".')
    file = config.train or (str(Path(config.policy) / "config.json") if trained else None)
    flags = {"rows": config.rows, "model": config.model, "output": config.output}
    settings = resolve(TrainConfig, flags | ({"method": config.method} if config.method else {}), file)
    before = resolve(TrainConfig, flags, file).method
    if config.set or settings.method != before:  # the settings of another method mean nothing here
        settings = replace(settings, set=config.set)
    settings = replace(settings, init="", seed=config.seed)
    method, _ = chosen(settings.method, settings.set)
    if settings.learning_rate and settings.method != before and method.rate < 1:
        click.echo(
            f"steer: learning rate {settings.learning_rate:g} is what {file} says for {before}; {settings.method} "
            f"wants about {method.rate:g} of what suits likelihood methods (learning_rate in --train).",
            err=True,
        )
    goes_round(settings.method, config.n, config.pool)
    if "quantiles" in method.needs and (not config.relative_levels or (config.explore < 1 and config.goals != "best")):
        raise SteerError(
            f"iterate with '{settings.method}' asks for the best quantile of every round's pool, and for nothing else. "
            "Add --relative-levels --explore 1."
        )
    if method.importance and config.temperature != 1:
        raise SteerError(
            f"iterate with '{settings.method}' weighs draws at --temperature 1, not {config.temperature:g}."
        )
    if method.conditioned and not (trained and Card.load(Path(config.policy)).attributes):
        raise SteerError(
            f"iterate with '{settings.method}' draws at targets, so it needs --policy with a policy that reads them. "
            'Train one: "steer train --method conditional".'
        )
    return settings
