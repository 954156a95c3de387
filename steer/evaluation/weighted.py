"""Slope and rank correlation as functions of how often each row was drawn, for `statistics.resampled`."""

import numpy as np
from numpy.typing import ArrayLike

from steer.errors import SteerError
from steer.evaluation.statistics import FloatArray, Statistic, ratio


def slope(x: ArrayLike, y: ArrayLike) -> Statistic:
    """Least-squares slope of y [n] on x [n], as a statistic of weights: [R, n] -> [R, 1]."""
    x, y = _columns(x, y)

    def statistic(weights: FloatArray) -> FloatArray:
        dx, dy = _centred(weights, x), _centred(weights, y)
        return ratio(_weighted(weights, dx * dy), _weighted(weights, dx * dx))[:, None]

    return statistic


def spearman(x: ArrayLike, y: ArrayLike) -> Statistic:
    """Spearman correlation of x [n] and y [n], as a statistic of weights: [R, n] -> [R, 1].

    Exact, ties included: every resample ranks its own rows.
    """
    x, y = _columns(x, y)
    return lambda weights: _cosine(weights, _midranks(weights, x), _midranks(weights, y))


def _columns(x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Check two columns [n]: the same rows, no NaN."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or np.isnan(x).any() or np.isnan(y).any():
        raise SteerError(f"columns {x.shape} and {y.shape} must have the same rows, without NaN. Select them first.")
    return x, y


def _weighted(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Weighted sums over rows: [R, n], [R, n] -> [R]."""
    return np.asarray(np.einsum("rn,rn->r", weights, values))


def _centred(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Values [n] less their weighted mean in each resample: [R, n]; exactly 0 where they do not vary."""
    mean = ratio(weights @ values, weights.sum(1))[:, None]
    centred = values - mean
    rounding = 1e-13 * np.abs(values).max(initial=0.0)
    return np.where(np.abs(centred) <= rounding, 0.0, centred)


def _midranks(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Rank of each row less the mean rank, ties sharing theirs, rows repeated by weight: [R, n], [n] -> [R, n]."""
    order = np.argsort(values, kind="stable")
    first = np.diff(values[order], prepend=np.nan) != 0  # of each run of equal values; NaN differs
    runs = np.cumsum(first) - 1
    back = np.empty_like(runs)
    back[order] = runs
    mass = np.add.reduceat(weights[:, order], np.flatnonzero(first), axis=1)  # [R, distinct values]
    ranks = np.cumsum(mass, axis=1) - mass / 2 - mass.sum(1, keepdims=True) / 2
    return np.asarray(ranks[:, back])


def _cosine(weights: FloatArray, dx: FloatArray, dy: FloatArray) -> FloatArray:
    """Correlation of two centred columns: [R, n] -> [R, 1]."""
    scale = np.sqrt(_weighted(weights, dx * dx) * _weighted(weights, dy * dy))
    return ratio(_weighted(weights, dx * dy), scale)[:, None]
