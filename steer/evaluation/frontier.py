"""Hypervolume of a trade-off: the volume that points dominate beyond a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from steer.errors import SteerError
from steer.evaluation.statistics import Clusters, FloatArray, Interval, ratio, resampled_sums

MOST = 14  # points of one frontier, for the volume sums over all of their subsets


def hypervolume(points: ArrayLike, reference: ArrayLike) -> FloatArray:
    """Volume between points [R, N, D] and the reference [D] that some point dominates: [R]; more is better.

    By inclusion and exclusion over the subsets of the points, so exact in any number of dimensions; a point below the
    reference in one column adds nothing (Zitzler and Thiele 1998).

    >>> hypervolume([[[1.0, 3.0], [2.0, 1.0]]], [0.0, 0.0]).tolist()
    [4.0]
    """
    x = np.maximum(np.asarray(points, float) - np.asarray(reference, float), 0.0)
    if x.shape[1] > MOST:
        raise SteerError(f"a frontier of {x.shape[1]} points is too long to measure. Sweep at most {MOST} settings.")
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
    noisy means is too high on average, and more so with more points: compare frontiers with equally many points.
    """
    size = len(reference)
    blocks = []
    for number, (values, _) in enumerate(systems):
        defined = ~np.isnan(values)
        block = np.zeros((len(values), len(systems), 2, size))
        block[:, number, 0], block[:, number, 1] = np.where(defined, values, 0.0), defined
        blocks.append(block.reshape(len(values), -1))
    clusters = np.concatenate([np.asarray(names) for _, names in systems])

    def volume(sums: FloatArray) -> FloatArray:
        totals, counts = sums.reshape(len(sums), len(systems), 2, size).swapaxes(0, 2).swapaxes(1, 2)
        return hypervolume(ratio(totals, counts), reference)[:, None]

    (interval,) = resampled_sums(volume, np.concatenate(blocks), clusters, resamples=resamples)
    return interval
