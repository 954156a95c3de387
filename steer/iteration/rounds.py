"""One round of `steer iterate`: draw, filter, score, label with what was obtained, pool, train, watch.

Training starts from the base, or from the weights of the round before. A conditioned method draws
at targets (SteerLM, 2310.05344, step 4; with relative levels as Quark, 2205.13636), any other draws as it is. A round
is a folder of finished stages, named by all that it follows from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np

from steer.conditioning.targets import Target, parse_weights
from steer.config import IterateConfig, TrainConfig
from steer.errors import SteerError
from steer.evaluation.drawn import Asked, Reference, drawn
from steer.evaluation.systems import RewardScale
from steer.generation.generate import generate_rows, held_out_prompts
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.iteration.fresh import above, distinct, usable
from steer.iteration.goals import goals
from steer.iteration.pool import mixed, pooled
from steer.iteration.refresh import refreshed
from steer.iteration.watch import watched
from steer.labelling.label import labelled
from steer.labelling.scorer import Scorer, load_scorer
from steer.methods import METHODS
from steer.methods.base import Method
from steer.models.policy import Policy, load_policy
from steer.rows import Row, read, read_back, write
from steer.rows.labelled import labelled_rows
from steer.rows.schema import Schema
from steer.run_folder import read_done, read_json, write_json
from steer.training.command import train_command
from steer.training.memory import micro_batch


@dataclass(frozen=True)
class Loop:
    """What all rounds share; `first` is the proxy of round 0, `address` says what everything follows from."""

    config: IterateConfig
    settings: TrainConfig
    method: Method
    schema: Schema
    address: str
    first: Scorer
    gold: Scorer | None = None
    annotator: Scorer | None = None
    name: str = ""  # of several that speak at the same time

    def say(self, number: int, text: str) -> None:
        """A line of a round."""
        click.echo(f"[{self.name}{', ' if self.name else ''}round {number}] {text}", err=True)

    @cached_property
    def logs(self) -> list[Row]:
        """The logged rows that train."""
        return [row for row in labelled_rows(self.config.rows) if row["split"] == "train"]

    def folder(self, number: int) -> Path:
        """Where a round lies."""
        key = hashlib.blake2b(f"{self.address}:{number}".encode(), digest_size=4).hexdigest()
        return Path(self.config.output) / f"round-{number}-{key}"

    def policy(self, number: int) -> str:
        """The policy of a round; that of round 0 is what the loop starts from."""
        return str(self.folder(number) / "policy") if number else self.config.policy or self.config.model

    def load(self, name: str) -> Policy:
        """A policy in the precision of the training."""
        return load_policy(name, dtype=self.settings.dtype, trust_remote_code=self.settings.trust_remote_code)

    def scorer(self, number: int) -> Scorer:
        """The proxy of a round: the first one, or the one that was fitted anew in it."""
        return load_scorer(str(self.folder(number) / "scorer")) if self.annotator and number else self.first

    def judge(self, scorer: Scorer) -> tuple[Scorer, RewardScale]:
        """A scorer with the constants that it gives the logs."""
        return scorer, RewardScale.of(self.schema, scorer.score(self.logs, self.schema.own))

    def schema_of(self, policy: Policy) -> Schema:
        """Whose levels a policy is asked for: those of the logs, or its own where these are something else."""
        own = self.config.relative_levels or self.method.reframes
        return (policy.card.schema if policy.card and own else None) or self.schema

    def sampling(self, seed: int) -> Sampling:
        """How responses are drawn."""
        c = self.config
        return Sampling(temperature=c.temperature, max_new_tokens=c.max_new_tokens, batch_size=c.batch_size, seed=seed)


def goes_round(name: str, n: int, pool: str = "", knob: str = "--n") -> None:
    """Refuse a method that has no rounds, or whose rounds of `n` responses a prompt teach nothing."""
    method = METHODS[name]
    if (pool or method.pool) != "all" and n < 2 and not method.conditioned:
        raise SteerError(f"'{name}' chooses among a prompt's responses. Raise {knob}, to 8 for example.")
    if method.importance and n < 2:
        raise SteerError(f"'{name}' weighs a prompt's responses together. Raise {knob}, to 8 for example.")
    if method.on_policy:
        raise SteerError(f"'{name}' draws fresh responses at every step by itself. Use \"steer train\".")


def turn(loop: Loop, number: int) -> None:
    """Do what is not done yet of a round."""
    folder, c = loop.folder(number), loop.config
    if (folder / "policy" / "done.json").is_file():
        return
    fresh = _fresh(loop, number)
    pool = c.pool or loop.method.pool
    parts = [fresh] if pool == "last" else [loop.folder(i) / "fresh.jsonl" for i in range(1, number + 1)]
    logs = mixed(c.rows, c.log_share, c.seed, loop.settings.limit) if pool == "all" else iter(())
    rows = pooled(
        chain(logs, *map(read, parts)),
        folder / "rows",
        loop.schema,
        loop.scorer(number),
        relative=c.relative_levels,
        relabel=loop.annotator is not None,
    )
    # The logs in the pool are limited already; `train` would count from the top and leave out what is fresh.
    settings = replace(loop.settings, rows=str(rows), output=str(folder / "policy"), limit=0)
    before = loop.policy(number - 1)
    trained = (Path(before) / "steer.json").is_file()
    if loop.method.importance:  # its weights compare with the policy that drew
        settings = replace(settings, init=before)
    elif c.start_from == "last" and trained:
        settings = replace(settings, model=before) if settings.adapter == "none" else replace(settings, init=before)
    loop.say(number, train_command(settings))


def _fresh(loop: Loop, number: int) -> Path:
    """Fresh responses to training prompts, filtered, and labelled with what they obtained."""
    folder, schema, c = loop.folder(number), loop.schema, loop.config
    path = folder / "fresh.jsonl"
    if path.is_file():
        return path
    rows = _responses(loop, number)
    scorer = loop.scorer(number - 1)
    if loop.annotator:
        folders = [loop.folder(i) for i in range(1, number + 1)]
        scorer = refreshed(c.scorer, scorer, loop.annotator, rows, c.ratings, c.seed, folders)
    scores = scorer.score(rows, schema.own)
    if c.keep_above:
        directions = [schema[n].direction for n in schema.own]
        kept = above(scores, scorer.score(loop.logs, schema.own), directions, c.keep_above)
        if not kept.any():
            raise SteerError(f"round {number}: no response has a score above the {c.keep_above} quantile of the logs.")
        loop.say(number, f"{len(rows) - kept.sum()} left out by --keep-above {c.keep_above}.")
        rows, scores = [r for r, keep in zip(rows, kept) if keep], scores[kept]
    write(path, (labelled(row, schema, s, s, scorer.id, "train") for row, s in zip(rows, scores)))
    return path


def _responses(loop: Loop, number: int) -> list[Row]:
    """Responses of the policy before, without those that are malformed or, if so asked, were seen already."""
    c, settings = loop.config, loop.settings
    policy = loop.load(loop.policy(number - 1))
    prompts = held_out_prompts(c.rows, settings.held_out, settings.seed, 0, "train")
    order = np.random.default_rng([c.seed, number]).permutation(len(prompts))[: c.prompts_per_round]
    seed = c.seed * 1000 + number
    jobs = [Request(prompts[i], aim) for i, aim in zip(np.repeat(order, c.n), _aims(loop, policy, len(order), seed))]
    folder = loop.folder(number) / "generated"
    rows = generate_rows(policy, jobs, loop.sampling(seed), folder, source=f"round-{number}")
    names = policy.card.attributes if policy.card else ()
    good, lost = usable(rows, names or loop.schema.own, any_form=c.any_form)
    if c.dedupe:
        earlier = chain(loop.logs, *(read(loop.folder(i) / "fresh.jsonl") for i in range(1, number)))
        every, good = len(good), distinct(good, earlier)
        lost["seen already"] = every - len(good)
    if not good:
        raise SteerError(
            f"round {number}: none of the {len(rows)} responses can be used ({_counts(lost)}). Raise --max-new-tokens, "
            "or start from a policy that writes better."
        )
    told = f", {len(rows) - len(good)} left out: {_counts(lost)}" if len(good) < len(rows) else ""
    loop.say(number, f"{len(rows)} responses{told}.")
    # Weights of directions are no levels: nothing may ask how likely a response is to have them.
    return [{**row, "target": {}} for row in good] if loop.method.reframes else good


def _counts(lost: Any) -> str:
    return ", ".join(f"{count} {what}" for what, count in lost.items() if count)


def _aims(loop: Loop, policy: Policy, prompts: int, seed: int) -> Sequence[Target]:
    """A target for every response, prompt by prompt; where candidates are weighed together they share one."""
    c, names = loop.config, policy.card.attributes if policy.card and loop.method.conditioned else ()
    if not names:
        return [{}] * (prompts * c.n)
    schema, together = loop.schema_of(policy), loop.method.importance
    weights = parse_weights(c.weights, schema, names) if c.weights else None
    aims = goals(schema, names, prompts if together else prompts * c.n, c.explore, seed, c.goals, weights)
    return [aim for aim in aims for _ in range(c.n)] if together else aims


def measured(loop: Loop, number: int, judges: dict[str, tuple[Scorer, RewardScale]]) -> dict[str, Any]:
    """Figures of the round's policy on held-out prompts, a steered one at its best target."""
    folder = loop.folder(number)
    if not (folder / "watched.json").is_file():
        write_json(folder / "watched.json", _watched(loop, number, judges))
    total = sum(1 for _ in read(folder / "rows" if number else loop.config.rows))
    drift = read_json(folder / "drift.json") if (folder / "drift.json").is_file() else None
    steps = read_done(folder / "policy")["steps"] if number else 0
    about = {"round": number, "rows": total, "steps": steps, "folder": folder.name, "drift": drift}
    return {**about, **read_json(folder / "watched.json")}


def _watched(loop: Loop, number: int, judges: dict[str, tuple[Scorer, RewardScale]]) -> dict[str, Any]:
    c, settings, policy = loop.config, loop.settings, loop.load(loop.policy(number))
    if loop.annotator and number:
        judges = {**judges, "proxy": loop.judge(loop.scorer(number))}
    names, schema = policy.card.attributes if policy.card else (), loop.schema_of(policy)
    best = schema.best(names) if names else {}
    prompts = held_out_prompts(c.rows, settings.held_out, settings.seed, c.watch)
    asked = Asked([Request(row, best) for row in prompts], loop.sampling(c.seed))
    reference = Reference.of(c.model, settings.dtype, settings.trust_remote_code)
    rows = drawn(policy, asked, loop.folder(number) / "held-out", schema, reference, micro_batch(settings))
    earlier = range(number if loop.annotator else 0)  # else the scorer of those rounds is that of this one
    others = [read_back(loop.folder(i) / "held-out" / "answers.jsonl") for i in earlier]
    return {"target": schema.text(best), **watched(policy, rows, judges, c.seed, others)}
