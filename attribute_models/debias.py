"""Remove the correlation of scores with length: r' = r - lambda (v - mean v) (ArmoRM, 2406.12845).

lambda is the smallest for which |Spearman(r', v)| is at most LIMIT, searched on predictions of models that never saw
the prompt. v is the verbosity: another predicted attribute, or a countable one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attribute_models.arrays import Array
from attribute_models.metrics import spearman

LIMIT = 0.03
STEPS = 200  # of a search that doubles, then halves


@dataclass(frozen=True)
class Debias:
    """The lambda of each attribute, and the Spearman correlation with verbosity before and after."""

    by: str
    mean: float
    lambdas: tuple[float, ...]  # [A], 0 for verbosity itself
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]

    def __call__(self, scores: Array, verbosity: Array) -> Array:
        """Scores [n, A] and verbosity [n] -> [n, A]."""
        return np.asarray(scores - (verbosity - self.mean)[:, None] * np.asarray(self.lambdas))


def fit(by: str, attributes: tuple[str, ...], predicted: Array, verbosity: Array) -> Debias:
    """Find lambdas from predictions [n, A] (NaN: not predicted) and verbosity [n]."""
    mean = float(np.nanmean(verbosity))
    lambdas, before, after = [], [], []
    for a, name in enumerate(attributes):
        known = ~(np.isnan(predicted[:, a]) | np.isnan(verbosity))
        r, v = predicted[known, a], verbosity[known]
        size = 0.0 if name == by else smallest(r, v - mean)
        lambdas.append(size)
        before.append(spearman(r, v))
        after.append(spearman(r - size * (v - mean), v))
    return Debias(by, mean, tuple(lambdas), tuple(before), tuple(after))


def smallest(r: Array, v: Array, limit: float = LIMIT) -> float:
    """The lambda nearest to 0 with |Spearman(r - lambda v, v)| <= limit; 0 if r or v is constant.

    The correlation falls as lambda grows, so its first crossing is found by doubling and halving; ranks make it a
    staircase, and the answer is the near edge of a step.
    """
    start = spearman(r, v)
    if start is None or abs(start) <= limit:
        return 0.0
    sign = 1.0 if start > 0 else -1.0

    def beyond(size: float) -> bool:
        rest = spearman(r - sign * size * v, v)
        return rest is not None and sign * rest > limit

    low, high = 0.0, float(r.std() / v.std()) * 1e-3
    while beyond(high):
        low, high = high, 2 * high
    for _ in range(STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if beyond(middle) else (low, middle)
    return sign * high
