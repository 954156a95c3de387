"""Runs of a comparison: what they share, the examination that judges them, and the case that their answers make."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from steer.comparison.entry import PERMUTED, Cost, Entry, cost, over_budget, unique
from steer.comparison.rates import read_rates
from steer.comparison.settings import CompareSettings
from steer.comparison.untrained import PROMPTED, in_words
from steer.config.comparison import CompareConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.annotators import identified
from steer.evaluation.drawn import Decoding, Reference
from steer.evaluation.examination import PLAIN, RANDOM, Examination
from steer.evaluation.result import Case, spread
from steer.evaluation.systems import Answers, System
from steer.generation.drawing import Split
from steer.iteration.rounds import altered
from steer.methods import METHODS, likelihood_rate
from steer.models.policy import load_policy
from steer.options import resolve
from steer.parts import Workers
from steer.progress import note_once
from steer.report.circumstances import circumstances
from steer.rows import Row, content_hash, prompt_key
from steer.rows.labelled import Labelled
from steer.run_folder import FREE, HOW, Run, origin_of, rows_fingerprint
from steer.training.amount import amount, steps_of
from steer.training.batches import Conditioning
from steer.training.prepare import chosen, joined, undrawn

ROUNDS = (
    "Every round, and every stage in front (after=), takes the optimizer steps of a whole training; the table of what "
    "each took counts them all."
)
OF_ITS_OWN = (
    "{}: its conditions are no levels of the attributes, so it is asked for its best alone, has no dial, and takes no "
    "--phrase."
)
ON_LOGS = "{}: logged responses stand for those that a policy draws; rounds=1 has it draw them."
OTHER = "The rows were labelled by {}, not by the proxy: what trains on the logs trains on their rewards and levels."
UNSCORED = "{}: the proxy gives no score to {:,} of the {:,} candidates of best of n; they count as the lowest."
OF_A_RUN = ("rows", "model", "output", "method", "set", "scorer")  # of training, whatever the file says


@dataclass
class Comparison:
    """Everything that the runs of a comparison share: rows, bases, budget, and the examination that judges them."""

    config: CompareConfig
    folder: Path
    failures: list[dict[str, str]] = field(default_factory=list)
    loaded: dict[str, Reference] = field(default_factory=dict)  # the base that was used last
    tuning: dict[str, Any] | None = None  # how the learning rates were chosen, for the report
    taken: str = ""  # what the report says of those that --rates holds
    on_logs: dict[Entry, bool] = field(default_factory=dict)  # whether the methods of entries can be tuned on the logs

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
        shared = {k: v for k, v in asdict(self.training).items() if k not in (*OF_A_RUN, *FREE, *HOW)}
        origins = [origin_of(name) for name in self.bases]  # once, for weights are large
        models = [origin or name for origin, name in zip(origins, self.bases)]
        hashes = {"rows": rows_fingerprint(c.rows), "model": origins[0], "training": content_hash([shared])}
        hashes |= {f"base {name}": model for name, model in zip(c.base, models[1:])}
        hashes |= {"rates": content_hash([read_rates(c.rates)])} if c.rates else {}
        if len(set(models)) < len(models):
            raise SteerError("--base: a base is given twice. Every base is one of its own; --seeds repeats on each.")
        scorers = {"proxy": self.proxy, "gold": c.gold, **{f"annotator {spec}": spec for spec in c.annotator}}
        trust = {"trust_remote_code": self.training.trust_remote_code}
        return hashes | {name: identified(spec, **trust) for name, spec in scorers.items()}

    @property
    def run(self) -> Run:
        """Its folder, which holds no other comparison than this one or one that it goes on with."""
        return Run(self.folder, self.config, self.inputs, self.growing)

    @property
    def growing(self) -> tuple[str, ...]:
        """Settings that may be others when a comparison goes on in its folder: every run has a folder of its own.

        Tuning tries rates with the first seed that no repetition has, so then their number stays.
        """
        return ("method", "suite", "rates", "inputs.rates") + (() if self.config.tune else ("seeds",))

    @cached_property
    def labelled(self) -> Labelled:
        """All labelled rows, with their schema; many are not held, but in a file of the cache."""
        return Labelled.read(self.config.rows, rows_fingerprint(self.config.rows))

    @cached_property
    def logs(self) -> list[Row]:
        """The rows that methods train on."""
        return [row for row in self.labelled.rows if row["split"] == "train"][: self.training.limit or None]

    @property
    def proxy(self) -> str:
        """The scorer that training may see, as the user names it."""
        return self.config.scorer or Labelled.without_rows(self.config.rows).spec or "human"

    @cached_property
    def examination(self) -> Examination[CompareSettings]:
        """Prompts that every system answers, the scorers that judge, and the annotators."""
        trust = self.training.trust_remote_code
        judges = self.config.gold, self.proxy
        return Examination(self.config, self.labelled, *judges, trust_remote_code=trust, bases=self.bases)

    @cached_property
    def training(self) -> TrainConfig:
        """Training settings from the file of --train; fresh responses default to the length of answers."""
        c = self.config
        flags = {"rows": c.rows, "model": c.model, "output": "-", "max_steps": c.max_steps or None}
        return resolve(TrainConfig, flags, c.train or None, {"max_new_tokens": c.max_new_tokens})

    @cached_property
    def settings(self) -> TrainConfig:
        """Training settings of every method: one budget of optimizer steps, whatever share of the rows it uses."""
        training, _ = amount(self.training, len(self.logs))
        return replace(training, max_steps=steps_of(training, len(self.logs)))

    @cached_property
    def likelihood(self) -> float:
        """Learning rate of likelihood methods: as given, else what suits the base. Others take a share of it."""
        if rate := self.training.learning_rate:
            return rate
        base = load_policy(self.training.model, device="meta", trust_remote_code=self.training.trust_remote_code)
        return likelihood_rate(self.training.adapter, base.width)

    @property
    def rated(self) -> TrainConfig:
        """The settings of every method with that rate."""
        return replace(self.settings, learning_rate=self.likelihood)

    @property
    def alone(self) -> bool:
        """Whether runs are done one after the other."""
        return bool(self.config.launch) or self.config.workers == "ray" or self.config.num_proc < 2

    @property
    def workers(self) -> Workers:
        """How many processes draw and score for one run: several where runs are done one after the other."""
        return Workers.of(self.config) if self.alone else Workers()

    def launch(self, entry: Entry) -> str:
        """Return what starts the trainings of an entry; the base leaves the GPUs to them."""
        if self.config.launch:
            self.loaded.clear()
            if "value" in METHODS[entry.method].needs:
                note_once(
                    f"{entry.method} whitens its advantages over the responses that a process draws, so with several "
                    "processes its losses are others than with one."
                )
        return self.config.launch

    def split(self, policy: str) -> Split:
        """Return how the answers of a policy are drawn; empty: it is made in this process, which draws them alone."""
        c, s = self.config, self.settings
        if not policy:
            if self.workers.elsewhere or c.engine != "hf":
                note_once(
                    "systems without training answer in one process, with transformers: no other can load them by a "
                    "name."
                )
            return Split(c.shard_size)
        how = {"engine": c.engine, "dtype": s.dtype, "trust_remote_code": s.trust_remote_code}
        return Split.of(policy, self.workers, c.shard_size, **how)

    def cost(self, entry: Entry) -> Cost:
        """Return what the training of an entry generates, if no prompt is too long to be trained on."""
        if entry.untrained:
            return Cost()
        return cost(entry, entry.settings_from(self.settings), len({prompt_key(row) for row in self.logs}))

    def run_folder(self, entry: Entry, seed: int) -> Path:
        """Return the folder of a run."""
        return self.folder / "runs" / f"{entry.slug}-seed{seed}"

    def refusal(self, entry: Entry) -> str:
        """Return why an entry may not run; empty if it may."""
        if entry.untrained and entry.untrained.told and self.speechless:
            return (
                f"skipped: the base {self.speechless[0]} has no chat template, so it cannot be told in words what is "
                "wanted."
            )
        if entry.iterate:
            drawn = replace(entry.iterate, temperature=self.config.temperature)
            if reason := altered(entry.method, drawn):
                return f"skipped: {reason}"
        return over_budget(self.cost(entry), self.config)

    def groups(self, entry: Entry) -> tuple[float, float]:
        """Count what an entry trains on: groups, and the mean of their rows; SteerError if there is none.

        Those of the logs, or at most those of a round that compares draws.
        """
        method, own = chosen(entry.method, entry.settings)
        if entry.iterate and (method.importance or not method.conditioned):
            return math.inf, float(entry.iterate.n)
        sizes = [len(group.rows) for group in joined(method.groups(self.logs, own), method)]
        return math.inf if entry.iterate else len(sizes), float(np.mean(sizes))

    def hopeless(self, entry: Entry) -> str:
        """Return why an entry may not run, or why the logs cannot train it; empty if nothing is known against it."""
        if (reason := self.refusal(entry)) or entry.untrained:
            return reason
        try:
            self.groups(entry)
        except SteerError as error:
            return f"its training would fail: {error}"
        return ""

    @cached_property
    def speechless(self) -> list[str]:
        """The bases without a chat template."""
        return [name for i, name in enumerate(self.bases) if not self.base(i).policy.chats]

    @cached_property
    def words(self) -> Conditioning:
        """Conditions in words, as training with `--template words` would have them."""
        return in_words(self.labelled, self.training)

    @property
    def caveats(self) -> list[str]:
        """Notes for the report if the logs were not labelled by the proxy."""
        scorer = self.labelled.scorer
        return [OTHER.format(scorer)] if scorer not in ("", self.examination.court.proxy.id) else []

    def base(self, seed: int) -> Reference:
        """Load the base of a repetition, for log-probs on the unconditioned prompt; one is kept at a time."""
        name, s = self.model(seed), self.settings
        if name not in self.loaded:
            self.loaded.clear()
            self.loaded[name] = Reference.load(name, s.dtype, s.trust_remote_code, s.micro_batch_tokens)
        return self.loaded[name]

    def fail(self, name: str, error: str) -> None:
        """Report and record that a run is lost."""
        click.echo(f"{name}: {error}", err=True)
        self.failures.append({"name": name, "error": error})


class Outcome(NamedTuple):
    """Outcome of one run: done.json of its training, answers per target and decoding, answers over the grid.

    `facts` hold no more than `seconds` where nothing was trained; `remark`: what the report says of how it answered.
    """

    facts: dict[str, Any]
    answers: dict[tuple[str, Decoding], Answers]
    grid: Answers | None
    remark: str = ""


Runs = Mapping[Entry, Mapping[int, Outcome]]  # every run that did not fail, by seed


def case(comparison: Comparison, base: Mapping[int, Answers], runs: Runs) -> Case:
    """Gather the answers of all systems into the case that is judged, each with the number of its base."""

    def on_base(answers: Mapping[int, Answers]) -> dict[int, Answers]:
        return {seed: replace(a, base=seed % len(comparison.bases)) for seed, a in answers.items()}

    systems = [System("base", "base", on_base(base))] if base else []
    grids = {}
    for entry, outcomes in runs.items():
        for target, decoding in dict.fromkeys(key for o in outcomes.values() for key in o.answers):
            key = target, decoding
            answers = on_base({seed: o.answers[key] for seed, o in outcomes.items() if key in o.answers})
            facts = _facts(comparison, entry, outcomes, decoding)
            name, family = entry.name(target, decoding), _family(entry, target, decoding)
            chosen = decoding.best_of > 1 and not decoding.at_random
            twin = entry.name(target, decoding._replace(at_random=True)) if chosen else ""
            systems.append(System(name, entry.method, answers, family, ", ".join(entry.settings), target, facts, twin))
        if grid := on_base({seed: o.grid for seed, o in outcomes.items() if o.grid}):
            grids[PERMUTED if entry.permuted else entry.spec] = grid
    if not systems:
        raise SteerError(f"every run failed; the first said: {comparison.failures[0]['error']}")
    names = {s.name for s in systems}
    baseline = next((name for name in (intended(comparison), "base") if name in names), "")
    return comparison.examination.case(systems, baseline, grids, PROMPTED)


def intended(comparison: Comparison) -> str:
    """Return the name of the system to compare with: `mle` where it is asked for, else the base."""
    asked = any((entry.spec, PLAIN in entry.decodings) == ("mle", True) for entry in unique(comparison.config.method))
    return "mle" if asked else "base"


def named(target: str) -> list[str]:
    """Return the attributes that a target names; none for `best` and `none`."""
    parts = target.replace(",", " ").split()
    return [] if parts in (["best"], ["none"]) else [re.split("[<>=]", part)[0] for part in parts]


def _family(entry: Entry, target: str, decoding: Decoding) -> str:
    """Name the frontier that a system is a point of: one method, at one target or at levels of the same attributes."""
    if target == RANDOM or decoding.at_random:
        return ""
    asked = "+".join(named(target)) or target
    return f"{entry.family} @ {asked}" if asked else entry.family


def _facts(comparison: Comparison, entry: Entry, outcomes: Mapping[int, Outcome], decoding: Decoding) -> dict[str, Any]:
    """Cost of a system (tokens, steps, seconds, ...), averaged over its seeds; 0 for what was not trained."""
    done = [o.facts for o in outcomes.values()]
    best_of = decoding.best_of if decoding.best_of > 1 and not decoding.at_random else 0

    def mean(key: str) -> float:
        return sum(float(d.get(key, 0)) for d in done) / len(done)

    rate = None if entry.untrained else entry.settings_from(comparison.rated).learning_rate
    return {
        "learning_rate": rate,
        "candidates": 1 if decoding.at_random else decoding.best_of,
        "branches": 1 if decoding.guidance in (0, 1) else 2,
        "ess": mean("ess") if all("ess" in d for d in done) else None,
        "train_tokens": round(mean("tokens")),
        "steps": round(mean("steps")),
        "rounds": entry.iterate.rounds if entry.iterate else 0,
        "seconds": round(mean("seconds"), 1),
        "drawn": round(mean("drawn")),
        "drawn_tokens": round(mean("drawn")) * comparison.settings.max_new_tokens,
        "scored": round(mean("scored")) + len(comparison.examination.prompts) * best_of,
    }


def _unscored(runs: Runs) -> dict[Entry, tuple[int, int]]:
    """Count the candidates of the best of n that the proxy gives no score, and all, for entries that have any."""
    found = {}
    for entry, outcomes in runs.items():
        chosen = [(d.best_of, a) for o in outcomes.values() for (_, d), a in o.answers.items() if not d.at_random]
        unscored = sum(row.get("unscored", 0) for _, a in chosen for row in a.rows)
        if unscored:
            found[entry] = unscored, sum(n * len(a.rows) for n, a in chosen if n > 1)
    return found


def about(comparison: Comparison, runs: Runs) -> dict[str, Any]:
    """Describe how the comparison was made, for the report."""
    config, settings = comparison.config, comparison.settings
    done = {f"{e.spec}, seed {s}": o.facts for e, outcomes in runs.items() for s, o in outcomes.items()}
    policies = {name: facts["hash"] for name, facts in done.items() if "hash" in facts}
    return {
        "title": "Steering compared with its alternatives",
        **circumstances("compare"),
        "seeds": len(comparison.seeds),
        "prompts": len(comparison.examination.prompts),
        "intended": intended(comparison),
        "notes": [
            "Gold and proxy reward are in standard deviations of the logs, whose mean is 0.",
            spread(len(comparison.seeds), len(comparison.bases)),
            *dict.fromkeys(f"{e.spec}: {o.remark}" for e, seeds in runs.items() for o in seeds.values() if o.remark),
            *comparison.caveats,
            *(UNSCORED.format(entry.spec, *counts) for entry, counts in _unscored(runs).items()),
            *filter(None, [comparison.taken]),
            *([ROUNDS] if any(entry.iterate or entry.front for entry in runs) else []),
            *dict.fromkeys(OF_ITS_OWN.format(entry.method) for entry in runs if entry.reframes),
            *(
                ON_LOGS.format(entry.spec)
                for entry in runs
                if not (entry.untrained or entry.iterate) and undrawn(METHODS[entry.method], comparison.logs)
            ),
        ],
        "budget": {
            "rows": len(comparison.logs),
            "steps": settings.max_steps,
            "batch_size": settings.batch_size,
            "model": ", ".join(comparison.bases),
            "parameters": sum(p.numel() for p in comparison.base(0).policy.model.parameters()),
            "generated_tokens": config.budget_tokens,
            "scorer_calls": config.budget_calls,
        },
        "commands": [f"steer compare --config {config.output}/config.json --output NEW"],
        "tuning": comparison.tuning,
        "hashes": {**{k: v for k, v in comparison.inputs.items() if v}, **policies},
        "failures": comparison.failures,
    }
