"""How well scores are predicted, per attribute, beside what a constant would reach.

Everything is computed over the rows where truth and prediction are both known, and everything undefined (correlation
with a constant, nothing known) is None, so that a report is plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def report(
    truth: ArrayLike, predicted: ArrayLike, attributes: Sequence[str], lengths: ArrayLike
) -> list[dict[str, Any]]:
    """One dict per attribute from truth [n, A], predicted [n, A] and the responses' lengths [n] in any unit.

    mae, rmse, baseline_mae, baseline_rmse (of predicting the mean of the truth): in the attribute's own unit.
    pearson with its 95 % interval pearson_low, pearson_high (Fisher's z; rows taken as independent), reliability (its
    square), spearman, qwk, spearman_with_length (of the predictions): without unit. n: rows used; unknown: rows left
    out. learnable: the interval lies above 0; where not, warning says what to do about it.
    """
    t, p, size = (np.asarray(x, dtype=np.float64) for x in (truth, predicted, lengths))
    if t.shape != p.shape or t.shape != (len(size), len(attributes)):
        raise ValueError(
            f"truth {t.shape}, predicted {p.shape}, {len(size)} lengths and {len(attributes)} attributes do not match. "
            "Give [n, A] twice, n lengths and A names."
        )
    both = ~(np.isnan(t) | np.isnan(p))
    return [
        {"attribute": name, "n": int(both[:, a].sum()), "unknown": int((~both[:, a]).sum())}
        | _figures(name, t[both[:, a], a], p[both[:, a], a], size[both[:, a]])
        for a, name in enumerate(attributes)
    ]


def _figures(name: str, truth: Array, predicted: Array, lengths: Array) -> dict[str, Any]:
    """The figures of one attribute over rows [n] that are all known."""
    n = len(truth)
    error = predicted - truth
    centred = truth - truth.mean() if n else truth
    r = pearson(truth, predicted)
    low, high = interval(r, n)
    learnable = low is not None and low > 0
    return {
        "mae": float(np.abs(error).mean()) if n else None,
        "rmse": math.sqrt((error**2).mean()) if n else None,
        "baseline_mae": float(np.abs(centred).mean()) if n else None,
        "baseline_rmse": math.sqrt((centred**2).mean()) if n else None,
        "pearson": r,
        "pearson_low": low,
        "pearson_high": high,
        "reliability": None if r is None else r * r,
        "spearman": spearman(truth, predicted),
        "qwk": qwk(truth, predicted),
        "spearman_with_length": spearman(predicted, lengths),
        "learnable": learnable,
        "warning": None if learnable else _warning(name, n, r, low, high),
    }


def _warning(name: str, n: int, r: float | None, low: float | None, high: float | None) -> str:
    """What to do about an attribute whose predictions are not told from chance."""
    found = f"correlation {_shown(r)} ({_shown(low)} to {_shown(high)}) over {n} rows is not above chance"
    return f"{name}: {found}. Rate more rows, or do not steer by it."


def pearson(x: Array, y: Array) -> float | None:
    """Correlation of x [n] with y [n]; None where either is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    a, b = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return min(1.0, max(-1.0, float(a @ b) / norm)) if norm > 0 else None


def spearman(x: Array, y: Array) -> float | None:
    """Correlation of the ranks of x [n] and y [n], ties at their mean rank; None where either is constant."""
    return pearson(ranks(x), ranks(y))


def ranks(x: Array) -> Array:
    """Ranks from 1, ties at their mean.

    >>> ranks(np.array([3.0, 1.0, 3.0]))
    array([2.5, 1. , 2.5])
    """
    _, which, count = np.unique(x, return_inverse=True, return_counts=True)
    found: Array = (np.cumsum(count) - (count - 1) / 2)[which]
    return found


def interval(r: float | None, n: int) -> tuple[float | None, float | None]:
    """95 % interval of a correlation over n independent rows by Fisher's z; (None, None) below 4 rows."""
    if r is None or n < 4:
        return None, None
    if abs(r) == 1:
        return r, r
    z, half = math.atanh(r), 1.959964 / math.sqrt(n - 3)
    return math.tanh(z - half), math.tanh(z + half)


def qwk(truth: Array, predicted: Array) -> float | None:
    """Quadratic weighted kappa (Cohen 1968) of x [n] and y [n] rounded to whole numbers, halves upwards.

    The expected squared difference under independence is a sum of moments, so no table of levels is built and it does
    not matter where the scale starts. None where both round to one and the same number throughout.
    """
    t, p = np.floor(truth + 0.5), np.floor(predicted + 0.5)
    if not len(t):
        return None
    expected = t.var() + p.var() + (t.mean() - p.mean()) ** 2
    return float(1 - ((t - p) ** 2).mean() / expected) if expected > 0 else None


COLUMNS = (
    *("n", "mae", "baseline_mae", "rmse", "baseline_rmse", "pearson", "pearson_low", "pearson_high"),
    *("spearman", "qwk", "reliability", "spearman_with_length"),
)


def table(report: Sequence[Mapping[str, Any]]) -> str:
    """A report as plain text: one aligned line per attribute, "-" where undefined, then the warnings."""
    lines = [["attribute", *COLUMNS], *([row["attribute"], *(_shown(row[c]) for c in COLUMNS)] for row in report)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    shown = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:]))])
        for name, *cells in lines
    ]
    return "\n".join([*shown, *(row["warning"] for row in report if row["warning"])])


def _shown(value: float | None) -> str:
    """A figure as text: counts whole, the rest with three decimals, "-" for None."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
