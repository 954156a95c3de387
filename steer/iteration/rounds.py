"""Inputs, settings, scorers and folders that the rounds of one iteration share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.systems import RewardScale
from steer.generation.drawing import Split
from steer.generation.generate import held_out_prompts
from steer.generation.requests import with_room
from steer.generation.settings import Sampling
from steer.generation.vllm import obstacle
from steer.iteration.settings import IterateSettings
from steer.labelling.scorer import Scorer, load_scorer
from steer.methods import METHODS
from steer.methods.base import Method
from steer.models.policy import Policy, load_policy
from steer.parts import Workers
from steer.progress import note
from steer.rows import Row
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import rows_fingerprint


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Inputs, settings and scorers of all rounds.

    `scorers`: `scorer`, the proxy of round 0, and if named `gold` and `annotator`. `key` changes with everything that
    determines the rounds. `name` distinguishes rounds that report at the same time.
    """

    rows: str
    model: str
    policy: str = ""
    scorer: str
    root: Path
    settings: IterateSettings
    training: TrainConfig
    schema: Schema
    scorers: Mapping[str, Scorer]
    key: str
    name: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)  # fingerprints of what the rounds read

    def report(self, number: int, text: str) -> None:
        """Print a line about a round."""
        note(f"{self.name}{', ' if self.name else ''}round {number}: {text}")

    @property
    def method(self) -> Method:
        """The method that every round trains by."""
        return METHODS[self.training.method]

    @cached_property
    def labelled(self) -> Labelled:
        """The logged rows; many are not held, but in a file of the cache."""
        return Labelled.read(self.rows, rows_fingerprint(self.rows))

    @cached_property
    def logs(self) -> list[Row]:
        """The logged rows of the training split."""
        return [row for row in self.labelled.rows if row["split"] == "train"]

    def prompts(self, split: str, limit: int = 0) -> list[Row]:
        """Return one logged row per distinct prompt of a split, the first `limit` of them (0: all)."""
        return held_out_prompts(self.labelled.rows, self.training.held_out, self.training.seed, limit, split)

    def drawn_prompts(self, number: int) -> list[Row]:
        """Return the training prompts that a round answers, in an order of its own, without those that are too long."""
        s, prompts = self.settings, self.prompts("train")
        order = np.random.default_rng([s.seed, number]).permutation(len(prompts)).tolist()
        return with_room(self.first, (prompts[i] for i in order), s.prompts_per_round)

    def watched_prompts(self) -> list[Row]:
        """Return the held-out prompts that are answered after every round, without those that are too long."""
        return with_room(self.first, self.prompts("test"), self.settings.watch)

    @cached_property
    def first(self) -> Policy:
        """The policy of round 0 without its weights: in all rounds what is too long for it is not asked."""
        return self.load(self.policy_of(0), weights=False)

    def folder(self, number: int) -> Path:
        """The folder of a round."""
        key = hashlib.blake2b(f"{self.key}:{number}".encode(), digest_size=4).hexdigest()
        return self.root / f"round-{number}-{key}"

    def policy_of(self, number: int) -> str:
        """The folder of a round's policy; that of round 0 is what the rounds start from."""
        return str(self.folder(number) / "policy") if number else self.policy or self.model

    def load(self, name: str, *, weights: bool = True) -> Policy:
        """Load a policy in the precision of the training, or without weights where others draw."""
        t, device = self.training, "" if weights else "meta"
        return load_policy(name, dtype=t.dtype, trust_remote_code=t.trust_remote_code, device=device)

    def check(self) -> None:
        """Raise SteerError for rows without held-out prompts and models that cannot be loaded; nothing is written."""
        if not self.prompts("test", 1):
            raise SteerError(f"{self.rows}: has no held-out prompts to watch. Label with --held-out above 0.")
        for model in dict.fromkeys((self.policy_of(0), self.model)):
            self.load(model)

    @property
    def start_from(self) -> str:
        """What every round trains from: `base`, or `last` for the weights of the round before."""
        return start_from(self.method, self.settings)

    @property
    def refits(self) -> bool:
        """Whether the scorer is refitted in every round."""
        return "annotator" in self.scorers

    def scorer_of(self, number: int) -> Scorer:
        """The proxy of a round: the first one, or the one that was refitted in it."""
        return load_scorer(str(self.folder(number) / "scorer")) if self.refits and number else self.scorers["scorer"]

    def judge(self, scorer: Scorer) -> tuple[Scorer, RewardScale]:
        """Return a scorer as it judges, without flipped labels, with the scale of its reward on the logs."""
        scorer = scorer.evaluating()
        return scorer, RewardScale.of(self.schema, scorer.score(self.logs, self.schema.own))

    @property
    def foreign(self) -> bool:
        """Whether targets are no levels of the logs: quantiles of a pool, or weights."""
        return self.settings.relative_levels or self.method.reframes

    def schema_of(self, policy: Policy) -> Schema:
        """Return the schema of a policy's targets: its own where they are foreign, else the logs'."""
        return (policy.card.schema if policy.card and self.foreign else None) or self.schema

    @property
    def workers(self) -> Workers:
        """How many processes draw and score."""
        return Workers.of(self.settings)

    def split(self, policy: str) -> Split:
        """Return how the drawing by a policy is split."""
        s, t = self.settings, self.training
        how = {"engine": s.engine, "dtype": t.dtype, "trust_remote_code": t.trust_remote_code}
        return Split.of(policy, self.workers, s.shard_size, **how)

    def sampling(self, seed: int) -> Sampling:
        """Sampling settings of fresh and held-out responses."""
        s = self.settings
        return Sampling(temperature=s.temperature, max_new_tokens=s.max_new_tokens, batch_size=s.batch_size, seed=seed)


def start_from(method: Method, settings: IterateSettings) -> str:
    """Return what rounds train from: as asked for, else what the method needs, else the base."""
    return settings.start_from or ("last" if "drawer" in method.needs else "base")


def altered(name: str, settings: IterateSettings) -> str:
    """Say which settings alter the draws of a method that reads from them how likely each is; empty: none does."""
    values = {"temperature": settings.temperature != 1, "dedupe": settings.dedupe, "keep_above": settings.keep_above}
    others = [setting for setting, altering in values.items() if altering]
    if not others or "untouched" not in METHODS[name].needs:
        return ""
    return (
        f"'{name}' reads from a prompt's draws how likely the policy makes each, so it takes all of them, at "
        f"temperature 1. Leave {' and '.join(others)} out."
    )


def check_engine(engine: str, method: Method, training: TrainConfig) -> None:
    """Raise SteerError if `engine` cannot draw from what a training by the method would make."""
    tokens = training.condition_tokens if method.conditioned else "text"
    reason = obstacle(training.adapter, tokens, training.use_dora, training.modules_to_save)
    if engine == "vllm" and reason:
        raise SteerError(
            f"--engine vllm: takes no adapter with {reason}, which this training makes. Change that setting of the "
            "training, or leave --engine vllm out."
        )


def check_method(name: str, settings: IterateSettings, knob: str = "--n") -> None:
    """Raise SteerError for a method that cannot learn from what the settings draw and pool, or draws by itself."""
    method, n, pool = METHODS[name], settings.n, settings.pool
    if settings.start_from == "base" and (method.importance or "drawer" in method.needs):
        raise SteerError(
            f"'{name}' compares with the policy that drew, so every round starts from that one. Leave start_from out."
        )
    if "drawer" in method.needs and pool not in ("", method.pool):
        raise SteerError(
            f"'{name}' compares with the policy that drew, so every round trains on what that one drew. Leave pool out."
        )
    if method.importance and n < 2:
        raise SteerError(f"'{name}' weighs a prompt's responses together. Raise {knob}, to 8 for example.")
    if (pool or method.pool) != "all" and n < 2 and method.compares:
        raise SteerError(f"'{name}' chooses among a prompt's responses. Raise {knob}, to 8 for example.")
    if method.importance and settings.relative_levels:
        raise SteerError(
            f"'{name}' asks how likely a response has the levels of its target, and relative levels are others in "
            "every round. Leave --relative-levels out."
        )
    if reason := altered(name, settings):
        raise SteerError(reason)
    if method.on_policy:
        raise SteerError(f"'{name}' draws fresh responses at every step by itself. Use \"steer train\".")
