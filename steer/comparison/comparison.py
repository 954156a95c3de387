"""Inputs that all runs of a comparison share, and the case that their answers make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import click

from steer.comparison.entry import PERMUTED, Cost, Entry, cost
from steer.config.comparison import CompareConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.annotators import Annotator, annotators, identified
from steer.evaluation.court import Court, fitting
from steer.evaluation.drawn import Decoding, Reference
from steer.evaluation.result import Case
from steer.evaluation.systems import Answers, System
from steer.generation.generate import held_out_prompts
from steer.methods import METHODS
from steer.options import resolve
from steer.report.circumstances import circumstances
from steer.rows import Row, content_hash, prompt_key
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import FREE, HOW, identity, rows_fingerprint

ROUNDS = (
    "Every round, and every stage in front (after=), takes the optimizer steps of a whole training; the table of what "
    "each took counts them all."
)
WEIGHTS = "The conditions of `directional` are weights, no levels: it is asked for all alike (`best`) and has no dial."
OTHER = "The rows were labelled by {}, not by the proxy: what trains on the logs trains on their rewards and levels."
OF_A_RUN = ("rows", "model", "output", "method", "set", "scorer")  # of training, whatever the file says
RANDOM = "random"  # the control: targets that nobody asked for, drawn as they occur in the logs


@dataclass
class Comparison:
    """All that the runs share."""

    config: CompareConfig
    folder: Path
    failures: list[dict[str, str]] = field(default_factory=list)
    loaded: dict[str, Reference] = field(default_factory=dict)

    @property
    def bases(self) -> tuple[str, ...]:
        """The models that training starts from."""
        return (self.config.model, *self.config.base)

    @property
    def seeds(self) -> range:
        """Seeds of all repetitions: `config.seeds` on each base, the bases taking turns."""
        return range(self.config.seeds * len(self.bases))

    def model(self, seed: int) -> str:
        """Return the base of a repetition."""
        return self.bases[seed % len(self.bases)]

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of everything that the result depends on."""
        c = self.config
        settings = {k: v for k, v in asdict(self.given).items() if k not in (*OF_A_RUN, *FREE, *HOW)}
        found = {"rows": rows_fingerprint(c.rows), "model": identity(c.model), "training": content_hash([settings])}
        found |= {f"base {name}": identity(name) or name for name in c.base}
        models = [identity(name) or name for name in self.bases]
        if len(set(models)) < len(models):
            raise SteerError("--base: a base is given twice. Every base is one of its own; --seeds repeats on each.")
        scorers = {"proxy": self.proxy, "gold": c.gold, **{f"annotator {spec}": spec for spec in c.annotator}}
        return found | {name: identified(spec) for name, spec in scorers.items()}

    @cached_property
    def stored(self) -> Labelled:
        """What is stored with the labelled rows: their schema and scorer."""
        return Labelled.without_rows(self.config.rows)

    @property
    def schema(self) -> Schema:
        """Schema of the labelled rows."""
        return self.stored.require_levels()

    @cached_property
    def rows(self) -> list[Row]:
        """All labelled rows."""
        return Labelled.read(self.config.rows).rows

    @cached_property
    def logs(self) -> list[Row]:
        """The rows that methods train on."""
        return [row for row in self.rows if row["split"] == "train"][: self.given.limit or None]

    @cached_property
    def proxy(self) -> str:
        """The scorer that training may see, as the user names it."""
        return self.config.scorer or self.stored.spec or "human"

    @cached_property
    def court(self) -> Court:
        """The scorer that training may see, and the one that only evaluation may see."""
        proxy = fitting(self.proxy, self.schema)
        gold = fitting(self.config.gold, self.schema) if self.config.gold else proxy
        return Court(self.schema, gold, proxy, [r for r in self.rows if r["split"] == "train"])

    @cached_property
    def annotators(self) -> list[Annotator]:
        """Who says which response is better."""
        return annotators(self.config.annotator, self.config.gold, self.schema)

    @cached_property
    def given(self) -> TrainConfig:
        """Training settings from the file of --train; fresh responses default to the length of answers."""
        c = self.config
        flags = {"rows": c.rows, "model": c.model, "output": "-", "max_steps": c.max_steps or None}
        return resolve(TrainConfig, flags, c.train or None, {"max_new_tokens": c.max_new_tokens})

    @cached_property
    def settings(self) -> TrainConfig:
        """Training settings of every method: one budget of optimizer steps, whatever share of the rows it uses."""
        settings = self.given
        if settings.max_steps:
            return settings
        steps = max(1, round(settings.num_train_epochs * -(-len(self.logs) // settings.batch_size)))
        return replace(settings, max_steps=steps)

    def cost(self, entry: Entry) -> Cost:
        """Return what the training of an entry generates, if no prompt is too long to be trained on."""
        return cost(entry, entry.settings_from(self.settings), len({prompt_key(row) for row in self.logs}))

    @property
    def caveats(self) -> list[str]:
        """Notes for the report if the logs were not labelled by the proxy."""
        by = self.stored.scorer
        return [OTHER.format(by)] if by not in ("", self.court.proxy.id) else []

    @cached_property
    def prompts(self) -> list[Row]:
        """Held-out prompts that every system answers."""
        found = held_out_prompts(self.config.rows, self.settings.held_out, self.settings.seed, self.config.num_prompts)
        if not found:
            raise SteerError(
                f"{self.config.rows}: has no held-out prompts to compare on. Label with --held-out above 0."
            )
        return found

    def base(self, seed: int) -> Reference:
        """The base of a repetition, for log-probs on the unconditioned prompt; one at a time is held."""
        name = self.model(seed)
        if name not in self.loaded:
            self.loaded.clear()
            self.loaded[name] = Reference.of(name, self.settings.dtype, self.settings.trust_remote_code)
        return self.loaded[name]

    def fail(self, name: str, error: str) -> None:
        """Say and remember that a run is lost."""
        click.echo(f"{name}: {error}", err=True)
        self.failures.append({"name": name, "error": error})


class Outcome(NamedTuple):
    """One run: done.json of its training, answers per target and decoding, answers over the grid."""

    facts: dict[str, Any]
    answers: dict[tuple[str, Decoding], Answers]
    grid: Answers | None


Runs = Mapping[Entry, Mapping[int, Outcome]]  # every run that did not fail, by seed


def case(shared: Comparison, base: Mapping[int, Answers], runs: Runs) -> Case:
    """Gather the answers of all systems into the case that is judged."""
    config = shared.config
    systems = [System("base", "base", base)] if base else []
    grids = {}
    for entry, outcomes in runs.items():
        first = next(iter(outcomes.values()))
        for target, how in first.answers:
            answers = {s: o.answers[target, how] for s, o in outcomes.items()}
            facts = _facts(shared, entry, outcomes, how)
            name, family = entry.name(target, how), _family(entry, target)
            systems.append(System(name, entry.method, answers, family, ", ".join(entry.settings), target, facts))
        if first.grid is not None:
            grids[PERMUTED if entry.permuted else entry.spec] = [o.grid for o in outcomes.values() if o.grid]
    if not systems:
        raise SteerError(f"every run failed; the first said: {shared.failures[0]['error']}")
    keys = {prompt_key(row) for row in shared.prompts}
    held = [r for r in shared.rows if r["split"] == "test" and prompt_key(r) in keys]
    names = {s.name for s in systems}
    return Case(
        shared.court,
        systems,
        "mle" if "mle" in names else "base" if "base" in names else "",
        config.resamples,
        shared.court.scored(held),
        grids,
        shared.annotators,
        config.pairs,
        config.controls,
    )


def spread(seeds: int, bases: int) -> str:
    """Say what the intervals of so many repetitions cover."""
    if seeds == 1:
        return (
            "Intervals are 95 %, bootstrapped over prompts only, and what is claimed holds for these policies: one "
            "repetition says nothing of other seeds or bases."
        )
    over = f"{seeds} repetitions, each a seed on one of {bases} bases" if bases > 1 else f"{seeds} seeds on one base"
    return f"Intervals are 95 %, bootstrapped over prompts and {over}."


def named(target: str) -> list[str]:
    """Return the attributes that a target names; none for `best` and `none`."""
    parts = target.replace(",", " ").split()
    return [] if parts in (["best"], ["none"]) else [re.split("[<>=]", part)[0] for part in parts]


def _family(entry: Entry, target: str) -> str:
    """Name the frontier that a system is a point of: one method, at one target or at levels of the same attributes."""
    if target == RANDOM:
        return ""
    asked = "+".join(named(target)) or target
    return f"{entry.family} @ {asked}" if asked else entry.family


def _facts(shared: Comparison, entry: Entry, outcomes: Mapping[int, Outcome], how: Decoding) -> dict[str, Any]:
    """Cost of a system (tokens, steps, seconds, ...), averaged over its seeds."""
    done = [o.facts for o in outcomes.values()]
    extra = len(shared.prompts) * how.best_of if how.best_of > 1 else 0

    def mean(key: str) -> float:
        return sum(float(d[key]) for d in done) / len(done)

    return {
        "ess": mean("ess"),
        "train_tokens": round(mean("tokens")),
        "steps": round(mean("steps")),
        "seconds": round(mean("seconds"), 1),
        "drawn": round(mean("drawn")),
        "drawn_tokens": round(mean("drawn")) * shared.settings.max_new_tokens,
        "scored": round(mean("scored")) + extra,
    }


def about(shared: Comparison, runs: Runs) -> dict[str, Any]:
    """Describe how the comparison was made, for the report."""
    config, settings = shared.config, shared.settings
    policies = {f"{e.spec}, seed {s}": o.facts["hash"] for e, found in runs.items() for s, o in found.items()}
    again = [f"steer compare --config {config.output}/config.json --output NEW"]
    return {
        "title": "Steering compared with its alternatives",
        **circumstances("compare"),
        "seeds": len(shared.seeds),
        "prompts": len(shared.prompts),
        "notes": [
            "Gold and proxy reward are in standard deviations of the logs, whose mean is 0.",
            spread(len(shared.seeds), len(shared.bases)),
            *shared.caveats,
            *([ROUNDS] if any(entry.turns or entry.front for entry in runs) else []),
            *([WEIGHTS] if any(METHODS[entry.method].reframes for entry in runs) else []),
        ],
        "budget": {
            "rows": len(shared.logs),
            "steps": settings.max_steps,
            "batch_size": settings.batch_size,
            "model": ", ".join(shared.bases),
            "parameters": sum(p.numel() for p in shared.base(0).policy.model.parameters()),
            "generated_tokens": config.budget_tokens,
            "scorer_calls": config.budget_calls,
        },
        "commands": again,
        "hashes": {**{k: v for k, v in shared.inputs.items() if v}, **policies},
        "failures": shared.failures,
    }
