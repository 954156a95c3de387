"""Figures of one system: rewards, attributes, KL, diversity, each with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from steer.conditioning.condition import leaks
from steer.evaluation.controllability import controllability, partial_slopes
from steer.evaluation.diversity import diversity, leaked
from steer.evaluation.statistics import Interval, Repeated, Seeds, across_seeds
from steer.labelling.scorer import readable
from steer.methods.base import Array
from steer.rows import Row, prompt_key
from steer.rows.schema import Schema, spread

PROMPTS = "prompts only"  # what an interval is over where one seed stands against one
SEVERAL = "prompts and seeds"
NO_BASE = -1  # of given responses and of models as they come
UNKNOWN = Interval(np.nan, np.nan, np.nan, 0)  # where a scorer gives a seed no score


@dataclass(frozen=True)
class RewardScale:
    """Reward of a scorer, standardised so that the logs have mean 0 and standard deviation 1."""

    schema: Schema
    mean: float
    sd: float

    @staticmethod
    def of(schema: Schema, scores: Array) -> RewardScale:
        """Fit the scale to scores [n, A] of the logs."""
        raw = raw_reward(schema, scores)
        if np.isnan(raw).all():
            return RewardScale(schema, 0.0, 1.0)
        mean = float(np.nanmean(raw))
        return RewardScale(schema, mean, spread(mean, float(np.nanstd(raw))))

    def reward(self, scores: Array) -> Array:
        """Reward [n] in standard deviations of the logs; NaN where a score that counts is unknown."""
        return np.asarray((raw_reward(self.schema, scores) - self.mean) / self.sd)

    def levels(self, scores: Array) -> Array:
        """Scores [n, A] in level units."""
        return np.column_stack([self.schema[n].position(scores[:, j]) for j, n in enumerate(self.schema.own)])

    def labels(self, scores: Array) -> Array:
        """Scores [n, A] as the levels that labelling gives them; NaN stays."""
        edges = [np.asarray(self.schema[n].edges) for n in self.schema.own]
        levels = [np.searchsorted(e, scores[:, j], side="right").astype(float) for j, e in enumerate(edges)]
        return np.where(np.isnan(scores), np.nan, np.column_stack(levels))

    def spans(self, scores: Array) -> Array:
        """Span from 5 to 95 % of each attribute in the logs, in levels [A]."""
        low, high = np.nanpercentile(self.levels(scores), [5, 95], axis=0)
        return np.asarray(high - low)


def raw_reward(schema: Schema, scores: Array) -> Array:
    """Direction-aware weighted sum of scores [n, A] -> [n], not standardised; NaN where nothing has a better end."""
    weights = np.array([schema[n].direction * schema[n].weight for n in schema.own])
    used = weights != 0
    if not used.any():
        return np.full(len(scores), np.nan)
    return np.asarray(scores[:, used] @ weights[used])


@dataclass(frozen=True)
class Answers:
    """Responses of one system under one seed, with scores by gold and proxy [n, A].

    `base`: the number of the base that it was trained from; NO_BASE where nothing says it was trained.
    """

    rows: Sequence[Row]
    gold: Array
    proxy: Array
    base: int = 0

    @property
    def prompts(self) -> Array:
        """Cluster ids [n], one per prompt."""
        return np.array([prompt_key(row) for row in self.rows])


class PerPrompt(NamedTuple):
    """How many answers to each prompt count for distinctness, 0 for all.

    Distinct words fall with the amount of text, so systems are compared at the `least` number that any has; how many of
    a prompt's answers are different needs several, so up to the `most`.
    """

    least: int = 0
    most: int = 0


ALL = PerPrompt()


@dataclass(frozen=True)
class System:
    """System under comparison: answers by seed, method, and the family (one knob's settings) that it belongs to.

    `facts` may hold costs: candidates (drawn for an answer), branches (passes of the model for a token), ess,
    train_tokens, steps, seconds, drawn (responses to train on), drawn_tokens, scored (scorer calls).
    """

    name: str
    method: str
    answers: Mapping[int, Answers]  # by seed
    family: str = ""
    settings: str = ""
    target: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    twin: str = ""  # of the best of n: the system that keeps one of the same n at random


def summary(
    seeds: Sequence[Answers],
    gold: RewardScale,
    proxy: RewardScale,
    names: Sequence[str],
    resamples: int,
    candidates: PerPrompt = ALL,
) -> dict[str, Any]:
    """Rewards, attributes, KL and surface figures of one system, over all its seeds.

    Distinctness is computed per seed, on the first `candidates` answers to each prompt, and averaged over seeds.
    """

    def over(values: Sequence[Array]) -> dict[str, Any]:
        if not all(_known(v) for v in values):
            return UNKNOWN.json()
        pairs, bases = [(v, a.prompts) for v, a in zip(values, seeds)], [a.base for a in seeds]
        return across_seeds(pairs, bases=bases, resamples=resamples).json()

    rows = [readable(row) for a in seeds for row in a.rows]
    keys = [key for a in seeds for key in a.prompts.tolist()]
    finished = [np.nan if row.get("finished") is None else float(row["finished"]) for row in rows]
    texture = diversity([r["response"] for r in rows], keys, finished, resamples=0)
    distinctness = [_distinct(a, candidates) for a in seeds]
    kls = [np.array([kl(row) for row in a.rows]) for a in seeds]
    own = gold.schema.own
    return {
        "gold": over([gold.reward(a.gold) for a in seeds]),
        "proxy": over([proxy.reward(a.proxy) for a in seeds]),
        "kl": over(kls) if all(map(_known, kls)) else None,
        "words": over(
            [np.array([float(len(row["response"].split())) for row in map(readable, a.rows)]) for a in seeds]
        ),
        **{name: _mean([e[name] for e in distinctness]) for name in distinctness[0]},
        "repeated_3": texture["repeated_3"]["mean"],
        "finished": texture["finished"]["mean"],
        "leaked": max(leaked([r["response"] for r in rows], leaks(names, t)) for t in ("tags", "steerlm")),
        "attributes": {n: over([a.gold[:, j] for a in seeds]) for j, n in enumerate(own)},
        "generated": len(rows),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None


def _distinct(answers: Answers, candidates: PerPrompt) -> dict[str, float | None]:
    """Diversity of one seed's text."""
    words, unique = (diversity(*_first(answers, most), resamples=0) for most in candidates)
    return {
        "distinct_1": words["distinct_1_all"],
        "distinct_2": words["distinct_2_all"],
        "unique": unique["unique"]["mean"],
    }


def _first(answers: Answers, most: int) -> tuple[list[str], list[str]]:
    """Texts of the first answers to each prompt, with their prompts; 0: all."""
    kept, keys, count = list[str](), list[str](), Counter[str]()
    for key, row in zip(answers.prompts.tolist(), answers.rows):
        count[key] += 1
        if not most or count[key] <= most:
            kept.append(readable(row)["response"])
            keys.append(key)
    return kept, keys


def paired_seeds(a: Mapping[int, Answers], b: Mapping[int, Answers]) -> list[tuple[int, int]]:
    """Pairs of seeds of two systems that are compared: equal ones; the only one of either with all on its base.

    Systems that share no base, such as those of two models, stand against each other in the order of their seeds, and
    the only one of either with all.
    """
    shared = {answers.base for answers in a.values()} & {answers.base for answers in b.values()}
    if 1 in (len(a), len(b)):
        return [(i, j) for i in a for j in b if a[i].base == b[j].base or not shared]
    return [(seed, seed) for seed in a if seed in b] if shared else list(zip(a, b))


def base_of(a: Answers, b: Answers) -> int:
    """Number of the base that a pair of answers is a repetition on."""
    return max(a.base, b.base)


def kl(row: Row) -> float:
    """Monte-Carlo sample of the KL, log p(y | x, condition) - log ref(y | x), nats; NaN if it was not measured.

    The KL is the mean over all draws. A response that was cut off counts with the tokens that it has: a mean over
    finished ones only would be over a selection, and could be below 0.
    """
    if row.get("logp") is None:
        return float("nan")
    return float(row["logp"] - row["ref_logp"])


def difference(a: Mapping[int, Answers], b: Mapping[int, Answers], gold: RewardScale, resamples: int) -> dict[str, Any]:
    """Gold reward of a less that of b on the same prompts, seed by seed: the interval, and `p` of no difference.

    One training of either has no spread between training runs, so `p` is None and `over` says what the interval holds
    for; `p_prompts`, for Holm's correction, is then over the prompts, and the seeds of the other. `errors`: as in
    `Seeds`. A few prompts that all differ alike have no spread to judge by: neither bounds nor a p-value.
    """
    pairs, matched = [], [(a[i], b[j]) for i, j in paired_seeds(a, b)]
    for x, y in matched:
        means = [_by_prompt(s, gold.reward(s.gold)) for s in (x, y)]
        keys = [k for k in means[0] if k in means[1]]
        pairs.append((np.array([means[0][k] - means[1][k] for k in keys]), np.array(keys)))
    if not all(_known(values) for values, _ in pairs):
        return {**UNKNOWN.json(), "over": PROMPTS, "p": None, "p_prompts": None, "errors": []}
    seeds = Seeds(pairs, bases=[base_of(x, y) for x, y in matched], resamples=resamples)
    return _tested(seeds, a, b)


def _tested(gain: Repeated, a: Mapping[int, Answers], b: Mapping[int, Answers]) -> dict[str, Any]:
    """Interval and p-values of what `a` gains over `b`, as `difference` describes them."""
    value, found = gain.p_value(), gain.interval()
    known = None if np.isnan(value) else value
    found = found if known is not None else found._replace(low=np.nan, high=np.nan)
    one = any(len(x) == 1 and next(iter(x.values())).base != NO_BASE for x in (a, b))
    over = PROMPTS if gain.seeds == 1 else "prompts and seeds of one of the two" if one else SEVERAL
    p = known if over == SEVERAL else None
    return {**found.json(), "over": over, "p": p, "p_prompts": known, "errors": gain.errors}


def _known(values: Array) -> bool:
    """Whether any value is not NaN."""
    return bool((~np.isnan(values)).any())


def _by_prompt(answers: Answers, values: Array) -> dict[str, float]:
    """Mean of the values that are not NaN, per prompt."""
    by_prompt: dict[str, list[float]] = {}
    for key, value in zip(answers.prompts.tolist(), values.tolist()):
        if value == value:
            by_prompt.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in by_prompt.items()}


def dial(
    seeds: Sequence[Answers], gold: RewardScale, names: Sequence[str], spans: Array, resamples: int
) -> dict[str, Any]:
    """Controllability of the attributes that were conditioned on, over all seeds."""
    at = [gold.schema.own.index(n) for n in names]
    levels = [len(gold.schema[n].shown) for n in names]
    return controllability(
        _asked(seeds, gold, names),
        np.concatenate([gold.levels(a.gold) for a in seeds])[:, at],
        np.concatenate([a.prompts for a in seeds]),
        labels=np.concatenate([gold.labels(a.gold) for a in seeds])[:, at],
        attributes=names,
        levels=levels,
        data_span=spans[at],
        repetitions=_repetitions([a.base for a in seeds], seeds),
        resamples=resamples,
    )


def _repetitions(bases: Sequence[int], answers: Sequence[Answers]) -> Array:
    """Number of the repetition of each row [n]: its base where there are several, else its seed."""
    numbers = bases if len(set(bases)) > 1 else range(len(answers))
    return np.repeat(np.array(numbers), [len(a.rows) for a in answers])


def _asked(some: Sequence[Answers], gold: RewardScale, names: Sequence[str]) -> Array:
    """Levels that were asked for, NaN where none was: [n, A]."""
    targets = [row["target"] for a in some for row in a.rows]
    return np.array([[gold.schema[n].bin(t[n]) if n in t else np.nan for n in names] for t in targets], dtype=float)


def slope_gains(
    a: Mapping[int, Answers], b: Mapping[int, Answers], gold: RewardScale, names: Sequence[str], resamples: int
) -> dict[str, Any] | None:
    """Partial slope of each attribute's dial in `a` less that in `b`, by prompt, target and seed, as `difference`.

    Rows that either has no score for do not count, nor do seeds that were not asked alike; None if no two were.
    """
    at = [gold.schema.own.index(n) for n in names]
    pairs = [(a[i], b[j]) for i, j in paired_seeds(a, b) if _requests(a[i]) == _requests(b[j])]
    if not pairs:
        return None

    first = [x for x, _ in pairs]
    gained = np.concatenate([gold.levels(x.gold) - gold.levels(y.gold) for x, y in pairs])[:, at]
    numbers = _repetitions([base_of(x, y) for x, y in pairs], first)
    prompts = np.concatenate([x.prompts for x in first])
    slopes = partial_slopes(_asked(first, gold, names), gained, prompts, resamples, numbers)
    return {name: _tested(slope, a, b) for name, slope in zip(names, slopes)}


def _requests(answers: Answers) -> list[tuple[str, Mapping[str, float]]]:
    return [(prompt_key(row), row["target"]) for row in answers.rows]
