"""Who is preferred: win-rates with ties half, the same at equal length, rankings of N systems, agreement.

A vote is the share of a comparison that goes to its first system: 1, 0, or .5 for a tie. An annotator who is asked in
both orders gives the mean of the two answers, so whoever prefers what stands first says .5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from steer.errors import SteerError
from steer.evaluate.statistics import (
    Clusters,
    FloatArray,
    Interval,
    across_seeds,
    interval,
    ratio,
    resampled,
    resampled_sums,
)

PRIOR = 0.1  # of logits, as a penalty PRIOR / 2 * logit^2: keeps them finite where one side always wins
STEPS = 12  # of Newton's method; both problems are convex and start near their solution


class Votes(NamedTuple):
    """Comparisons [n] of systems by their numbers, with the prompt of each (a cluster id)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: FloatArray  # NaN: the annotator did not answer
    prompts: Clusters
    longer: FloatArray  # characters of the first response less those of the second
    turned: FloatArray  # 1 where the other order gave another answer, NaN where it was not asked
    seeds: NDArray[np.int64]  # of the training runs that answered

    def between(self, first: int, second: int) -> Votes:
        """The answered votes on two systems, as shares of `first`."""
        straight = (self.first == first) & (self.second == second)
        crossed = (self.first == second) & (self.second == first)
        kept = (straight | crossed) & ~np.isnan(self.share)
        back = crossed[kept]
        share, longer = self.share[kept], self.longer[kept]
        return Votes(
            np.full(len(share), first),
            np.full(len(share), second),
            np.where(back, 1 - share, share),
            self.prompts[kept],
            np.where(back, -longer, longer),
            self.turned[kept],
            self.seeds[kept],
        )


def win_rate(votes: Votes, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """(wins + ties / 2) / n, its 95 % interval over prompts and seeds, and AlpacaEval's standard error; counts."""
    known = ~np.isnan(votes.share)
    share, n = votes.share[known], int(known.sum())
    runs = [known & (votes.seeds == s) for s in np.unique(votes.seeds[known])]
    parts = [(votes.share[run], votes.prompts[run]) for run in runs]
    found = across_seeds(parts, resamples=resamples, seed=seed) if parts else Interval(math.nan, math.nan, math.nan, 0)
    return {
        "win_rate": found.within(0.0, 1.0).json(),
        "standard_error": float(share.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "wins": int((share > 0.5).sum()),
        "ties": int((share == 0.5).sum()),
        "losses": int((share < 0.5).sum()),
    }


def length_controlled(
    share: ArrayLike, longer: ArrayLike, prompts: ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Win-rate had both responses been equally long (Dubois et al. 2404.04475): votes [n], lengths' difference [n].

    A logistic fit of the vote on 1 and tanh(difference / its sd), read where the difference is 0; NaN without votes.
    Differs from AlpacaEval: a ridge in place of cross-validated L1, and no instruction difficulty, which only its own
    leaderboard can fit. Meaningless where length is itself a target.
    """
    votes, away = np.asarray(share, float), np.asarray(longer, float)
    if not len(votes):
        return Interval(math.nan, math.nan, math.nan, 0)
    spread = away.std(ddof=1) if len(away) > 1 else 0.0
    x = np.column_stack([np.ones(len(votes)), np.tanh(away / spread) if spread > 0 else 0 * away])  # [n, 2]

    def fitted(weights: FloatArray, start: FloatArray, steps: int) -> FloatArray:
        logits = np.repeat(start, len(weights), axis=0)
        for _ in range(steps):
            p = 1 / (1 + np.exp(-logits @ x.T))  # [R, n]
            slope = (weights * (votes - p)) @ x - PRIOR * logits
            bend = ((weights * p * (1 - p)) @ products).reshape(-1, 2, 2) + PRIOR * np.eye(2)
            logits = logits + np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
        return logits

    products = (x[:, :, None] * x[:, None, :]).reshape(-1, 4)
    whole = fitted(np.ones((1, len(votes))), np.zeros((1, 2)), STEPS)

    def rate(weights: FloatArray) -> FloatArray:
        return np.asarray(1 / (1 + np.exp(-fitted(weights, whole, STEPS // 3)[:, :1])))

    (found,) = resampled(rate, np.asarray(prompts), resamples=resamples, seed=seed)
    return found


def ranking(votes: Votes, systems: int, *, resamples: int = 2000, seed: int = 0) -> list[dict[str, Any]]:
    """Bradley-Terry strength of each of N systems, in logits whose mean is 0, and its place; intervals over prompts.

    P(i beats j) = sigmoid(strength_i - strength_j); a tie counts half for both (Bradley and Terry 1952). `place` is 1
    for the best. Empty for a system that no chain of comparisons connects with the first one that was compared.
    """
    seen = _connected(votes, systems)
    if not seen:
        return [{} for _ in range(systems)]
    size, number = len(seen), np.full(systems, -1)
    number[seen] = range(size)
    known = ~np.isnan(votes.share) & (number[votes.first] >= 0)
    i, j, share = number[votes.first[known]], number[votes.second[known]], votes.share[known]
    parts = np.zeros((len(share), size * size))
    parts[np.arange(len(share)), i * size + j] += share
    parts[np.arange(len(share)), j * size + i] += 1 - share

    def places(sums: FloatArray) -> FloatArray:
        strength = strengths(sums.reshape(-1, size, size))
        above = (strength[:, None, :] > strength[:, :, None] + 1e-9).sum(2)
        return np.hstack([strength, 1.0 + above])

    found = resampled_sums(places, parts, votes.prompts[known], resamples=resamples, seed=seed)
    return [{"strength": found[s].json(), "place": found[size + s].json()} if s >= 0 else {} for s in number.tolist()]


def _connected(votes: Votes, systems: int) -> list[int]:
    """The systems that chains of answered comparisons connect with the lowest-numbered one that was compared."""
    known = ~np.isnan(votes.share)
    met = np.eye(systems, dtype=bool)
    met[votes.first[known], votes.second[known]] = met[votes.second[known], votes.first[known]] = True
    compared = np.flatnonzero(met.sum(1) > 1)
    if not len(compared):
        return []
    _, part = connected_components(met)
    return [int(s) for s in np.flatnonzero(part == part[compared[0]])]


def strengths(wins: FloatArray) -> FloatArray:
    """Strengths [R, N] from how much of their comparisons i won against j: [R, N, N]; mean 0 in each."""
    size = wins.shape[1]
    played, won = wins + wins.swapaxes(1, 2), wins.sum(2)
    found = np.zeros((len(wins), size))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(found[:, None, :] - found[:, :, None]))  # [R, i, j]: i beats j
        slope = won - (played * p).sum(2) - PRIOR * found
        bend = -played * p * (1 - p)
        bend = bend + (PRIOR - bend.sum(2))[:, :, None] * np.eye(size)
        found = found + np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
    return np.asarray(found - found.mean(1, keepdims=True))


def agreement(a: ArrayLike, b: ArrayLike, prompts: ArrayLike, *, resamples: int = 2000) -> dict[str, Any]:
    """How far two annotators agree on the same comparisons [n]: the mean of 1 - |a - b|, and Cohen's kappa.

    Kappa compares that mean with what two annotators reach who only share how often they say win, tie and loss.
    """
    x, y, names = np.asarray(a, float), np.asarray(b, float), np.asarray(prompts)
    if not x.shape == y.shape == names.shape:
        raise SteerError("annotators can only be compared on the same comparisons.")
    kept = ~(np.isnan(x) | np.isnan(y))
    x, y, names = x[kept], y[kept], names[kept]
    same = interval(1 - np.abs(x - y), names, resamples=resamples).within(0.0, 1.0)
    chance = float((1 - np.abs(x[:, None] - np.unique(y))).mean(0) @ _shares(y)) if len(y) else np.nan
    kappa = ratio(np.array(same.mean - chance), np.array(1 - chance))
    return {"agreement": same.json(), "kappa": None if np.isnan(kappa) else float(kappa)}


def _shares(values: FloatArray) -> FloatArray:
    """How often each distinct value occurs, in their order."""
    return np.asarray(np.unique(values, return_counts=True)[1] / len(values))


def pairs(count: int, kind: str) -> list[tuple[int, int]]:
    """Which of `count` systems are compared: `all` with each other, or each with the first (`baseline`)."""
    numbers: Sequence[int] = range(count)
    return [(i, j) for i in numbers for j in numbers if j < i and (kind == "all" or j == 0)]
