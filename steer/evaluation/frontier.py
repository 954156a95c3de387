"""Trade-offs: the volume that points reach beyond a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from steer.errors import SteerError
from steer.evaluation.statistics import Clusters, FloatArray, Interval, resampled_sums

MOST = 14  # points of one frontier: the volume sums over all of their subsets


def hypervolume(points: ArrayLike, reference: ArrayLike) -> FloatArray:
    """Volume between points [R, N, D] and the reference [D] that some point dominates: [R]; more is better.

    By inclusion and exclusion over the subsets of the points, so exact in any number of dimensions; a point below the
    reference in one column adds nothing (Zitzler and Thiele 1998).

    >>> hypervolume([[[1.0, 3.0], [2.0, 1.0]]], [0.0, 0.0]).tolist()
    [4.0]
    """
    x = np.maximum(np.asarray(points, float) - np.asarray(reference, float), 0.0)
    if x.shape[1] > MOST:
        raise SteerError(f"a frontier of {x.shape[1]} points is too long to measure. Sweep {MOST} at most.")
    total = np.zeros(len(x))
    subsets: list[tuple[float, FloatArray]] = []  # sign and the corner that all of a subset dominate
    for point in x.swapaxes(0, 1):
        new = [(1.0, point)] + [(-sign, np.minimum(corner, point)) for sign, corner in subsets]
        for sign, corner in new:
            total += sign * corner.prod(1)
        subsets += new
    return total


def frontier(
    systems: Sequence[tuple[FloatArray, Clusters]],
    reference: Sequence[float],
    resamples: int = 2000,
) -> Interval:
    """Hypervolume of the mean points of systems that answered the same prompts, with its interval over prompts.

    Each system: values [n, D] with NaN = unknown, and clusters [n]. All are resampled together. The best of several
    noisy means is too high on average, and more so with more points: compare frontiers of as many points.
    """
    size = len(reference)
    parts, clusters = [], []
    for number, (values, names) in enumerate(systems):
        known = ~np.isnan(values)
        block = np.zeros((len(values), 2 * size * len(systems)))
        at = 2 * size * number
        block[:, at : at + size] = np.where(known, values, 0.0)
        block[:, at + size : at + 2 * size] = known
        parts.append(block)
        clusters.append(np.asarray(names))

    def volume(sums: FloatArray) -> FloatArray:
        both = sums.reshape(len(sums), len(systems), 2, size)
        counts = both[:, :, 1]
        means = np.divide(both[:, :, 0], counts, out=np.full_like(counts, np.nan), where=counts > 0)
        return hypervolume(means, reference)[:, None]

    (found,) = resampled_sums(volume, np.concatenate(parts), np.concatenate(clusters), resamples=resamples)
    return found
