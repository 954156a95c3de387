"""Win-rates with ties half, also at equal length; rankings of N systems; agreement of annotators.

A vote is the share of a comparison that goes to its first system: 1, 0, or .5 for a tie. An annotator asked in both
orders gives the mean of the two answers, so one that always prefers the first response gives .5. Equal responses are a
tie that nobody is asked about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from steer.errors import SteerError
from steer.evaluation.statistics import (
    Clusters,
    FloatArray,
    Interval,
    Seeds,
    interval,
    ratio,
    resampled,
    resampled_sums,
    share_bounds,
)

PRIOR = 0.1  # penalty PRIOR / 2 * logit^2 that keeps logits finite where one side always wins
LENGTH_PRIOR = 1.0  # penalty on the length term: published AlpacaEval fits have coefficients of one to two logits
LENGTH_VOTES = 80  # votes that add 1 to LENGTH_PRIOR, see `length_controlled`
LENGTH_MOST = 10.0  # most of it: fits the published figures best at AlpacaEval's 805 votes a system
ANCHORED = 0.2  # weight of all anchors together, a vote each: AlpacaEval's `regularize_to_baseline_lambda`
MANY = 20  # systems with a baseline that are needed to estimate the difficulty of instructions
TAIL = 0.05  # share of comparisons on one side of equal length, below which it lies outside the data
STEPS = 12  # of Newton's method: both problems are convex and start near their solution


class Votes(NamedTuple):
    """Comparisons [n] of systems by their numbers, with the prompt of each (a cluster id)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: FloatArray  # NaN: the annotator did not answer
    prompts: Clusters
    longer: FloatArray  # characters of the first response less those of the second
    turned: FloatArray  # 1 where the other order gave another answer, NaN where it was not asked
    seeds: NDArray[np.int64]  # of the training runs that answered
    alike: NDArray[np.bool_]  # whether it is the tie of two equal responses, about which nobody was asked

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Which votes count [n]: answers, and ties of equal responses, unless all else between two systems is unknown.

        Else who never answers would call everything a tie.
        """
        known, low = ~np.isnan(self.share), np.minimum(self.first, self.second)
        pair = low * (1 + max(self.first.max(initial=0), self.second.max(initial=0))) + self.first + self.second - low
        asked, answered = (np.bincount(pair, which & ~self.alike) for which in (np.ones_like(known), known))
        return np.asarray(known & ((asked == 0) | (answered > 0))[pair])

    def between(self, first: int, second: int) -> Votes:
        """The votes on two systems that count, as shares of `first`."""
        straight = (self.first == first) & (self.second == second)
        crossed = (self.first == second) & (self.second == first)
        voted = (straight | crossed) & self.counted
        back = crossed[voted]
        share, longer = self.share[voted], self.longer[voted]
        return Votes(
            np.full(len(share), first),
            np.full(len(share), second),
            np.where(back, 1 - share, share),
            self.prompts[voted],
            np.where(back, -longer, longer),
            self.turned[voted],
            self.seeds[voted],
            self.alike[voted],
        )


def win_rate(votes: Votes, *, resamples: int = 2000) -> dict[str, Any]:
    """Win-rate (wins + ties / 2) / n with its 95 % interval over prompts and seeds, its standard error, and counts.

    The standard error is over prompts; where each has one vote it is AlpacaEval's. `alike`: how many of the ties are of
    equal responses.
    """
    defined = votes.counted
    share = votes.share[defined]
    runs = [defined & (votes.seeds == s) for s in np.unique(votes.seeds[defined])]
    parts = [(votes.share[run], votes.prompts[run]) for run in runs]
    seeds = Seeds(parts, resamples=resamples) if parts else None
    rate = seeds.interval() if seeds else Interval(math.nan, math.nan, math.nan, 0)
    return {
        "win_rate": share_bounds(rate, votes.prompts[defined]).json(),
        "standard_error": math.sqrt(seeds.prompts) if seeds and seeds.size > 1 else None,
        "wins": int((share > 0.5).sum()),
        "ties": int((share == 0.5).sum()),
        "losses": int((share < 0.5).sum()),
        "alike": int(votes.alike[defined].sum()),
    }


class Anchors(NamedTuple):
    """Votes on versions of the baseline that were only told to be short or long: the effect of length alone."""

    share: FloatArray
    longer: FloatArray  # of each version, in units of the sd of its differences
    difficulty: FloatArray


def length_controlled(
    share: ArrayLike,
    longer: ArrayLike,
    prompts: ArrayLike,
    *,
    difficulty: ArrayLike | None = None,
    anchors: Anchors | None = None,
    resamples: int = 2000,
) -> Interval:
    """Win-rate had both responses been equally long (Dubois et al. 2404.04475): votes [n], difference of lengths [n].

    A logistic fit of the vote on 1, tanh(difference / its sd) and, where it is known, `difficulty` [n] of the
    instruction; evaluated where the difference is 0, and averaged over instructions. NaN without votes. With
    difficulty and `anchors` it is AlpacaEval's own estimator, but for a ridge in place of cross-validated L1.

    Without these two the length term is less constrained. A weak system loses its short answers because they are bad,
    which looks like a liking for length, and where few votes are won nothing else in its own votes separates the two:
    the fit then says that it would win much more at equal length. So the prior on the term is strong, and because this
    is bias and not noise it grows with the votes: 1 + n / 80, at most 10. Over 56 published AlpacaEval 2 systems (805
    votes each) 10 is .5 points above the published figure on average and 4.8 at most (Spearman .982); .1 would be 6.4
    and 23.8 (.932), and the raw win-rate is 4.6 below (.959). That is where 10 was chosen: trust its order of
    magnitude. Meaningless where length is itself a target, and an extrapolation where `outside` says so.
    """
    truth, lengths = np.asarray(share, float), np.asarray(longer, float)
    if not len(truth):
        return Interval(math.nan, math.nan, math.nan, 0)
    columns = [np.ones(len(truth)), _scaled(lengths)]
    ridge = [PRIOR, min(LENGTH_MOST, LENGTH_PRIOR + len(truth) / LENGTH_VOTES)]
    if difficulty is not None:
        columns.append(np.asarray(difficulty, float))
        ridge = [PRIOR, PRIOR if anchors else LENGTH_PRIOR, PRIOR]
    x = np.column_stack(columns)  # [n, P]
    equal = x * np.array([1.0, 0.0, 1.0][: len(columns)])  # at equal length
    every, held = x, np.zeros(0)
    if anchors is not None:
        if difficulty is None:
            raise SteerError("anchors need the difficulty of the instructions. Give both.")
        every = np.vstack([x, np.column_stack([0 * anchors.share, np.tanh(anchors.longer), anchors.difficulty])])
        truth, held = np.concatenate([truth, anchors.share]), np.full(len(anchors.share), ANCHORED / 2)
    size = x.shape[1]
    products = (every[:, :, None] * every[:, None, :]).reshape(-1, size * size)

    def fitted(weights: FloatArray, start: FloatArray, steps: int) -> FloatArray:
        weights = np.hstack([weights, np.broadcast_to(held, (len(weights), len(held)))])
        logits = np.repeat(start, len(weights), axis=0)
        for _ in range(steps):
            p = 1 / (1 + np.exp(-logits @ every.T))  # [R, n]
            slope = (weights * (truth - p)) @ every - np.array(ridge) * logits
            bend = ((weights * p * (1 - p)) @ products).reshape(-1, size, size) + np.diag(ridge)
            logits = logits + np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
        return logits

    whole = fitted(np.ones((1, len(x))), np.zeros((1, size)), STEPS)

    def rate(weights: FloatArray) -> FloatArray:
        p = 1 / (1 + np.exp(-fitted(weights, whole, STEPS // 3) @ equal.T))
        return np.asarray((weights * p).sum(1, keepdims=True) / weights.sum(1, keepdims=True))

    (controlled,) = resampled(rate, np.asarray(prompts), resamples=resamples)
    return controlled.within(0.0, 1.0)


def outside(longer: ArrayLike) -> bool:
    """Whether equal length lies outside the data, so that its win-rate is an extrapolation.

    >>> outside([120, 90, 210]), outside([120, -90, 210])
    (True, False)
    """
    lengths = np.asarray(longer, float)
    return bool(len(lengths)) and min(float(np.mean(lengths <= 0)), float(np.mean(lengths >= 0))) < TAIL


def difficulties(systems: Sequence[Votes]) -> dict[Any, float]:
    """Easiness of each instruction, in logits, from the votes on MANY systems or more: higher is easier to win.

    AlpacaEval's joint fit: a level and a length term of every system, and one term of each instruction; the last two
    with a prior of sd 1. Empty for fewer systems, whose votes cannot tell an instruction from chance. Win-rates
    of the 56 systems are then .7 points below the published ones on average (Spearman .981).
    """
    if len(systems) < MANY:
        return {}
    names = np.unique(np.concatenate([v.prompts for v in systems]))
    at = [np.searchsorted(names, v.prompts) for v in systems]
    term = [_scaled(v.longer) for v in systems]
    level, slope, easiness = np.zeros(len(systems)), np.zeros(len(systems)), np.zeros(len(names))
    for _ in range(5 * STEPS):  # systems and instructions by turns
        sums = np.zeros((2, len(names)))
        for k, v in enumerate(systems):
            x = np.column_stack([np.ones(len(v.share)), term[k]])
            p = 1 / (1 + np.exp(-(level[k] + slope[k] * term[k] + easiness[at[k]])))
            bend = (x.T * (p * (1 - p))) @ x + np.diag([PRIOR, LENGTH_PRIOR])
            step = np.linalg.solve(bend, x.T @ (v.share - p) - np.array([PRIOR * level[k], LENGTH_PRIOR * slope[k]]))
            level[k], slope[k] = level[k] + step[0], slope[k] + step[1]
            p = 1 / (1 + np.exp(-(level[k] + slope[k] * term[k] + easiness[at[k]])))
            np.add.at(sums[0], at[k], v.share - p)
            np.add.at(sums[1], at[k], p * (1 - p))
        easiness = easiness + (sums[0] - easiness) / (sums[1] + 1.0)
    return dict(zip(names.tolist(), easiness.tolist()))


def _scaled(longer: FloatArray) -> FloatArray:
    """Squash differences: tanh of them over their sd; 0 where all are equal."""
    spread = longer.std(ddof=1) if len(longer) > 1 else 0.0
    return np.asarray(np.tanh(longer / spread) if spread > 0 else 0 * longer)


def ranking(votes: Votes, systems: int, *, resamples: int = 2000) -> list[dict[str, Any]]:
    """Bradley-Terry strength of each of N systems, in logits whose mean is 0, and its place; intervals over prompts.

    P(i beats j) = sigmoid(strength_i - strength_j); a tie counts half for both (Bradley and Terry 1952). `place` is 1
    for the best. Empty for a system that no chain of comparisons connects with the first one that was compared.
    """
    connected = _connected(votes, systems)
    if not connected:
        return [{} for _ in range(systems)]
    size, number = len(connected), np.full(systems, -1)
    number[connected] = range(size)
    defined = votes.counted & (number[votes.first] >= 0)
    i, j, share = number[votes.first[defined]], number[votes.second[defined]], votes.share[defined]
    prompts, of = np.unique(votes.prompts[defined], return_inverse=True)
    parts = np.zeros((len(prompts), size * size))  # by prompt, because many systems make many more votes
    np.add.at(parts, (of, i * size + j), share)
    np.add.at(parts, (of, j * size + i), 1 - share)

    def places(sums: FloatArray) -> FloatArray:
        strength = strengths(sums.reshape(-1, size, size))
        above = (strength[:, None, :] > strength[:, :, None] + 1e-9).sum(2)
        return np.hstack([strength, 1.0 + above])

    found = resampled_sums(places, parts, np.arange(len(prompts)), resamples=resamples)
    figures = [interval._replace(n=len(share)).json() for interval in found]
    return [{"strength": figures[s], "place": figures[size + s]} if s >= 0 else {} for s in number.tolist()]


def _connected(votes: Votes, systems: int) -> list[int]:
    """Systems that chains of comparisons that count connect with the lowest-numbered one that was compared."""
    defined = votes.counted
    links = np.eye(systems, dtype=bool)
    links[votes.first[defined], votes.second[defined]] = links[votes.second[defined], votes.first[defined]] = True
    compared = np.flatnonzero(links.sum(1) > 1)
    if not len(compared):
        return []
    _, part = connected_components(links)
    return [int(s) for s in np.flatnonzero(part == part[compared[0]])]


def strengths(wins: FloatArray) -> FloatArray:
    """Strengths [R, N], mean 0, from the share of comparisons that i won against j, summed: [R, N, N]."""
    size = wins.shape[1]
    played, won = wins + wins.swapaxes(1, 2), wins.sum(2)
    logits = np.zeros((len(wins), size))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(logits[:, None, :] - logits[:, :, None]))  # [R, i, j]: i beats j
        slope = won - (played * p).sum(2) - PRIOR * logits
        bend = -played * p * (1 - p)
        bend = bend + (PRIOR - bend.sum(2))[:, :, None] * np.eye(size)
        logits = logits + np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
    return np.asarray(logits - logits.mean(1, keepdims=True))


def agreement(a: ArrayLike, b: ArrayLike, prompts: ArrayLike) -> dict[str, Any]:
    """Agreement of two annotators on the same comparisons [n]: the mean of 1 - |a - b|, and Cohen's kappa.

    Kappa compares that mean with that of independent annotators with the same shares of wins, ties and losses.
    """
    x, y, names = np.asarray(a, float), np.asarray(b, float), np.asarray(prompts)
    if not x.shape == y.shape == names.shape:
        raise SteerError("annotators can be compared on the same comparisons only.")
    both = ~(np.isnan(x) | np.isnan(y))
    x, y, names = x[both], y[both], names[both]
    same = share_bounds(interval(1 - np.abs(x - y), names), names)
    values, counts = np.unique(y, return_counts=True)
    chance = float((1 - np.abs(x[:, None] - values)).mean(0) @ (counts / len(y))) if len(y) else np.nan
    kappa = ratio(np.array(same.mean - chance), np.array(1 - chance))
    return {"agreement": same.json(), "kappa": None if np.isnan(kappa) else float(kappa)}


def pairs(count: int, kind: str) -> list[tuple[int, int]]:
    """Pairs of `count` systems to compare: `all` with each other, or each with the first (`baseline`)."""
    return [(i, j) for i in range(count) for j in range(i) if kind == "all" or j == 0]
