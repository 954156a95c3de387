"""Frontiers of a method over its settings: the gold reward that it reaches within a cost, and their hypervolume."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from steer.evaluation.statistics import Clusters, FloatArray, Interval, Repeated, ratio
from steer.evaluation.systems import Answers, RewardScale, System, kl
from steer.labelling.scorer import readable

Points = Sequence[tuple[FloatArray, Clusters]]  # of one system, by repetition: values [n, 2] and clusters [n]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> FloatArray:
    """Area between points [R, N, 2] and the reference [2] that some point dominates: [R]; more is better.

    A point below the reference in either column adds nothing; NaN in any gives NaN (Zitzler and Thiele 1998).

    >>> hypervolume([[[1.0, 3.0], [2.0, 1.0]]], [0.0, 0.0]).tolist()
    [4.0]
    """
    above = np.maximum(np.asarray(points, float) - np.asarray(reference, float), 0.0)
    order = np.argsort(-above[:, :, 0], axis=1)
    x, y = (np.take_along_axis(above[:, :, k], order, axis=1) for k in (0, 1))
    reached = np.maximum.accumulate(y, axis=1)  # the best y of all points as far out, or farther
    beyond = np.concatenate([x[:, 1:], np.zeros_like(x[:, :1])], axis=1)
    return np.asarray(((x - beyond) * reached).sum(1))


def frontier(
    systems: Sequence[Points],
    reference: Sequence[float],
    *,
    ideal: Sequence[float] = (math.inf, math.inf),
    bases: Sequence[int] = (),
    resamples: int = 2000,
) -> Interval:
    """Mean over repetitions of the hypervolume of the systems' mean points, with its interval.

    Each system: by repetition, values [n, 2] with NaN = unknown, and clusters [n]. Prompts are resampled together for
    all systems and repetitions; `bases` and what repetitions add are as in `Seeds`. No mean counts beyond the `ideal`
    [2]. The best of several noisy means is too high on average, and more so with more points and fewer prompts: compare
    frontiers with equally many of both.
    """
    names = np.unique(np.concatenate([clusters for system in systems for _, clusters in system]))
    sums = []  # by repetition: of values that are known, and their number, [C, N, 2, 2]
    for repetition in zip(*systems):
        table = np.zeros((len(names), len(systems), 2, 2))
        for number, (values, clusters) in enumerate(repetition):
            known = ~np.isnan(values)
            at = np.searchsorted(names, clusters)
            np.add.at(table, (at, number), np.stack([np.where(known, values, 0.0), known], axis=-1))
        sums.append(table.reshape(len(names), -1))

    def volumes(weights: FloatArray) -> FloatArray:
        """Hypervolume of each repetition: [R, C] -> [R, S]."""
        columns = []
        for table in sums:
            total = (weights @ table).reshape(len(weights), len(systems), 2, 2)
            points = np.minimum(ratio(total[..., 0], total[..., 1]), ideal)
            columns.append(hypervolume(points, reference))
        return np.stack(columns, axis=1)

    n = sum(len(values) for system in systems for values, _ in system)
    return Repeated.of(volumes, len(names), n, bases=bases, resamples=resamples).interval()


Cost = Callable[[Answers, System], FloatArray]  # of each answer, [n]


def _fact(*names: str) -> Cost:
    """A cost of the whole system, the same for each of its answers."""
    return lambda answers, system: np.full(len(answers.rows), sum(float(system.facts.get(name) or 0) for name in names))


def answer_tokens(answers: Answers, system: System) -> FloatArray:
    """Tokens that the model reads and writes for an answer: of all candidates, in both branches under guidance."""
    draws, branches = (system.facts.get(name, 1) for name in ("candidates", "branches"))
    wrote = [row.get("candidate_tokens", draws * row.get("tokens", np.nan)) for row in answers.rows]
    read = [row.get("prompt_tokens", np.nan) for row in answers.rows]
    return np.asarray(branches * (np.array(read, dtype=float) + np.array(wrote, dtype=float)))


COSTS: dict[str, Cost] = {
    "kl": lambda answers, _: np.array([kl(row) for row in answers.rows], dtype=float),
    "words": lambda answers, _: np.array([len(readable(row)["response"].split()) for row in answers.rows], dtype=float),
    "seconds": _fact("seconds"),
    "tokens": _fact("train_tokens", "drawn_tokens"),
    "answer_tokens": answer_tokens,
}


def frontiers(systems: Sequence[System], gold: RewardScale, resamples: int) -> dict[str, Any] | None:
    """Measure the gold reward that each family reaches within each cost, averaged over costs up to a bound.

    That is the hypervolume with the reference point at the bound and at the mean reward of the logs, 0, divided by the
    bound. Seeds count that all points of a family have; one without such seeds is in `left_out`. A KL is an estimate
    and may be below 0: none counts as less than 0. None where nothing was measured.
    """
    rewards = [_mean(np.concatenate([gold.reward(a.gold) for a in s.answers.values()])) for s in systems]
    if np.isnan(rewards).all():
        return None  # annotators alone judge
    best = systems[int(np.nanargmax(rewards))]
    families: dict[str, list[System]] = {}
    for s in systems:
        families.setdefault(s.family or s.name, []).append(s)
    most = {name: _bound(best, systems, cost) for name, cost in COSTS.items()}
    most = {name: bound for name, bound in most.items() if bound > 0}
    found, left_out = [], []
    for name, points in families.items():
        seeds = [seed for seed in points[0].answers if all(seed in p.answers for p in points)]
        if not seeds:
            left_out.append({"name": name, "reason": f"its {len(points)} settings share no seed"})
            continue
        bases = [points[0].answers[seed].base for seed in seeds]
        volumes = {
            cost: frontier(
                [[_values(p, p.answers[seed], gold, cost, bound) for seed in seeds] for p in points],
                (-1.0, 0.0),
                ideal=(0.0, math.inf),
                bases=bases,
                resamples=resamples,
            ).json()
            for cost, bound in most.items()
        }
        ended = [row.get("finished") for p in points for a in p.answers.values() for row in a.rows]
        cut = [not end for end in ended if end is not None]
        share = float(np.mean(cut)) if cut else None
        found.append({"name": name, "points": len(points), "volumes": volumes, "cut_off": share})
    return {"most": most, "families": found, "left_out": left_out} if most else None


def _bound(best: System, systems: Sequence[System], cost: Cost) -> float:
    """Twice the mean cost of the best system; where that has none, the highest of any, 0 where it is unknown for all.

    Beyond the best system nobody gains, and one that went far for little would stretch the costs for all others.
    """

    def spent(system: System) -> float:
        return _mean(np.concatenate([cost(answers, system) for answers in system.answers.values()]))

    if (own := spent(best)) > 0:
        return 2 * own
    return max((x for x in map(spent, systems) if not np.isnan(x)), default=0.0)


def _mean(values: FloatArray) -> float:
    """Mean of the values that are known; NaN where none is."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def _values(
    system: System, answers: Answers, gold: RewardScale, cost: str, bound: float
) -> tuple[FloatArray, Clusters]:
    """Less cost, as a share of the bound, and more reward of each answer, with its prompt."""
    return np.column_stack([-COSTS[cost](answers, system) / bound, gold.reward(answers.gold)]), answers.prompts
