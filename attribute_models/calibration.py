"""Map predictions to the scale that people use: one rising curve per attribute, learned out of fold.

Two aims exclude each other. A prediction that is right on average (E[truth | prediction] = prediction: `affine`,
`isotonic`) has a smaller spread than the truth, by the correlation, so extreme levels become rare. A prediction that is
spread like the truth (`spread`, `quantile`) has extreme levels as often as people gave them, and its errors are larger:
a row labelled 5 is then among the best rows, but its expected score is below 5. Both keep the order of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attribute_models.arrays import Array

KINDS = {
    "none": "predictions as they are",
    "affine": "least squares line through (prediction, truth)",
    "isotonic": "best rising curve through (prediction, truth)",
    "spread": "the line that gives predictions the mean and standard deviation of the truth",
    "quantile": "the rising curve that gives predictions the distribution of the truth",
}
KNOTS = 100  # of a curve at most


@dataclass(frozen=True)
class Curve:
    """A rising piecewise linear map through the knots (x, y); extrapolated (`straight`) or constant beyond them."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    straight: bool = False

    def __call__(self, scores: Array) -> Array:
        """Scores of any shape -> the same shape; NaN stays."""
        x, y = np.asarray(self.x), np.asarray(self.y)
        if self.straight:
            return np.asarray(y[0] + (scores - x[0]) * ((y[1] - y[0]) / (x[1] - x[0])))
        return np.asarray(np.interp(scores, x, y))

    @property
    def line(self) -> tuple[float, float] | None:
        """Slope and offset of a straight curve, else None."""
        if not self.straight:
            return None
        slope = (self.y[1] - self.y[0]) / (self.x[1] - self.x[0])
        return slope, self.y[0] - slope * self.x[0]


IDENTITY = Curve((0.0, 1.0), (0.0, 1.0), straight=True)


def fit(kind: str, predicted: Array, truth: Array) -> Curve:
    """Fit the curve of one of KINDS to predictions [n] of models that never saw the prompt, and the truth [n].

    If all predictions are equal, all become the mean of the truth, except with `none`.
    """
    if kind not in KINDS:
        raise ValueError(f"calibration {kind!r} is unknown. Choose one of {', '.join(KINDS)}.")
    if kind == "none" or not len(truth):
        return IDENTITY
    if np.ptp(predicted) == 0:
        return Curve((0.0,), (float(truth.mean()),))
    if kind in ("affine", "spread"):
        return _line(predicted, truth, kind == "spread")
    return _isotonic(predicted, truth) if kind == "isotonic" else _quantile(predicted, truth)


def _line(predicted: Array, truth: Array, spread: bool) -> Curve:
    """Line through the means; slope sd(truth) / sd(predicted), by least squares times correlation, never falling."""
    p, t = predicted - predicted.mean(), truth - truth.mean()
    variance = float(np.einsum("i,i", p, p))
    slope = np.sqrt(np.einsum("i,i", t, t) / variance) if spread else max(0.0, float(np.einsum("i,i", p, t)) / variance)
    x, y = float(predicted.mean()), float(truth.mean())
    step = float(p.std())
    return Curve((x, x + step), (y, y + float(slope) * step), straight=True)


def _isotonic(predicted: Array, truth: Array) -> Curve:
    """Pool adjacent violators (Barlow et al. 1972); linear between the centres of blocks, which keeps the order."""
    from scipy.optimize import isotonic_regression

    places, at, ties = np.unique(predicted, return_inverse=True, return_counts=True)
    level = isotonic_regression(np.bincount(at, weights=truth) / ties, weights=ties).x
    y, block = np.unique(level, return_inverse=True)
    x = np.bincount(block, weights=places * ties) / np.bincount(block, weights=ties)
    keep = np.concatenate([[True], np.diff(x) > 0])
    return Curve(tuple(x[keep].tolist()), tuple(y[keep].tolist()))


def _quantile(predicted: Array, truth: Array) -> Curve:
    """Quantiles onto quantiles (Panofsky and Brier 1968).

    A value that many rows share is spread evenly between the midpoints to its neighbours, so the scores that round to
    it are as many as people gave, and rows keep their order inside a level. A prediction that many rows share becomes
    the mean of the quantiles that they cover.
    """
    values, count = np.unique(truth, return_counts=True)
    if len(values) == 1:
        return Curve((0.0,), (float(values[0]),))
    y = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, values[-1:]])
    share = np.concatenate([[0.0], np.cumsum(count) / len(truth)])
    share[-1] = 1.0
    if len(y) > KNOTS:
        at = np.linspace(0, 1, KNOTS)
        y, share = np.interp(at, share, y), at
    x = np.quantile(predicted, share)
    x, y = _tied(predicted, x, y, share)
    keep = np.concatenate([[True], np.diff(x) > 0])
    return Curve(tuple(x[keep].tolist()), tuple(y[keep].tolist()))


def _tied(predicted: Array, x: Array, y: Array, share: Array) -> tuple[Array, Array]:
    """Give one knot of its own to each prediction that takes more room than a knot does, at the mean of its quantiles.

    Without it such a prediction would become the lowest of them.
    """
    n = len(predicted)
    values, count = np.unique(predicted, return_counts=True)
    many = count > max(1, n / KNOTS)
    if not many.any():
        return x, y
    upto = np.cumsum(count)
    area = np.concatenate([[0.0], np.cumsum(np.diff(share) * (y[1:] + y[:-1]) / 2)])  # under the quantiles, up to each

    def below(at: Array) -> Array:
        """Area under the quantiles up to a share."""
        place = np.clip(np.searchsorted(share, at, "right") - 1, 0, len(share) - 2)
        there = np.interp(at, share, y)
        return np.asarray(area[place] + (at - share[place]) * (y[place] + there) / 2)

    means = (below(upto / n) - below((upto - count) / n))[many] / (count[many] / n)
    other = ~np.isin(x, values[many])
    knots = np.concatenate([x[other], values[many]])
    order = np.argsort(knots, kind="stable")
    return knots[order], np.maximum.accumulate(np.concatenate([y[other], means])[order])
