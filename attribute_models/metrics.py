"""Quality of predicted scores, per attribute, compared with predicting a constant.

All figures are over the rows whose truth and prediction are both known; undefined ones (correlation with a constant,
nothing known) are None, so that a report is plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtrit

from attribute_models.arrays import Array, Indices
from attribute_models.ceiling import ceiling, ratings

GIVEN_LENGTH = ("given_length", "given_length_low", "given_length_high")


def report(
    truth: ArrayLike,
    predicted: ArrayLike,
    attributes: Sequence[str],
    lengths: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    expected: ArrayLike | None = None,
    debiased: bool = False,
    raters: Sequence[Any] = (),
) -> list[dict[str, Any]]:
    """One dict per attribute from truth [n, A], predicted [n, A] and the responses' lengths [n] in any unit.

    mae, rmse, baseline_mae, baseline_rmse (of predicting the mean of the truth): in the attribute's own unit.
    pearson and spearman, each with its 95 % interval _low and _high (rows of one of the `groups` [n], such as a prompt,
    are taken as dependent), reliability (pearson squared), qwk, spearman_with_length (of predictions), length_alone
    (Spearman of the truth with length), given_length (partial, of predictions and truth), _low and _high: without unit.
    n: rows used; unknown: rows skipped. learnable: the interval of given_length lies above 0, and `expected`
    (predictions [n, A] that aim at the mean of the truth; default: predicted) has a smaller squared error than the
    mean, unless predictions are `debiased`, which costs the part that length explains; if not, warning says what to do
    about it. It is None where rows of fewer than 4 groups, or of one score, leave nothing to judge by.
    `raters` [n] are the rows' columns of that name, for the figures of `ceiling.ceiling`.
    """
    t, p, size = (np.asarray(x, dtype=np.float64) for x in (truth, predicted, lengths))
    if t.shape != p.shape or t.shape != (len(size), len(attributes)):
        raise ValueError(
            f"truth {t.shape}, predicted {p.shape}, {len(size)} lengths and {len(attributes)} attributes do not match. "
            "Give [n, A] twice, n lengths and A names."
        )
    group = np.arange(len(size)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    aimed = p if expected is None else np.asarray(expected, dtype=np.float64)
    lines = []
    for a, name in enumerate(attributes):
        both = ~(np.isnan(t[:, a]) | np.isnan(p[:, a]))
        rated = [ratings(raters[i], name) for i in np.flatnonzero(both).tolist()] if raters else []
        figures = _figures(t[both, a], p[both, a], size[both], group[both])
        counts = {"attribute": name, "n": int(both.sum()), "unknown": int((~both).sum())}
        lines.append(counts | figures | _verdict(name, figures, t[both, a], aimed[both, a], debiased) | ceiling(rated))
    return lines


def _figures(truth: Array, predicted: Array, lengths: Array, groups: Indices) -> dict[str, Any]:
    """Figures of one attribute over rows [n] whose truth and prediction are known."""
    n = len(truth)
    error = predicted - truth
    centred = truth - truth.mean() if n else truth
    r, rho = pearson(truth, predicted), spearman(truth, predicted)
    low, high = interval(truth, predicted, groups)
    rho_low, rho_high = interval(ranks(truth), ranks(predicted), groups)
    return {
        "mae": float(np.abs(error).mean()) if n else None,
        "rmse": math.sqrt((error**2).mean()) if n else None,
        "baseline_mae": float(np.abs(centred).mean()) if n else None,
        "baseline_rmse": math.sqrt((centred**2).mean()) if n else None,
        "pearson": r,
        "pearson_low": low,
        "pearson_high": high,
        "reliability": None if r is None else r * r,
        "spearman": rho,
        "spearman_low": rho_low,
        "spearman_high": rho_high,
        "qwk": qwk(truth, predicted),
        "spearman_with_length": spearman(predicted, lengths),
        "length_alone": spearman(truth, lengths),
        **dict(zip(GIVEN_LENGTH, partial(truth, predicted, lengths, groups))),
    }


FEW_PROMPTS = (
    "The held-out rows answer fewer than 4 prompts, too few to say whether it is learnable. Rate answers to more "
    'prompts, or hold out more of them ("steer fit ROWS --held-out 0.3").'
)
ONE_SCORE = (
    "held-out rows all have the same score, which does not say whether it is learnable. Rate more answers, or hold out "
    'more prompts ("steer fit ROWS --held-out 0.3").'
)
OTHER_MODELS = (
    "This is about this model and these rows: an encoder may learn what it cannot (steer fit --kind embeddings or "
    "regression, --model NAME), or more rows may help."
)
NOT_LEARNABLE = "not learnable from this data by this model"
BEFORE = "before calibration spreads predictions as ratings are; the RMSE in the table is after it"
LEFT_OUT = (
    "Or leave it out: fit the others only (--attribute ...); --neither {} keeps it as a condition and takes it out of "
    "the reward."
)


def _verdict(name: str, figures: Mapping[str, Any], truth: Array, expected: Array, debiased: bool) -> dict[str, Any]:
    """Whether predictions beat those from length and from the mean (None: unknown), and what to do if not."""
    n, low, left = len(truth), figures["spearman_low"], figures["given_length_low"]
    finding = f"Spearman {_spanned(figures, 'spearman')} over {n} rows"
    if not n or (figures["spearman"] is not None and low is None):
        return {"learnable": None, "warning": f"{name}: {finding}. {FEW_PROMPTS}"}
    if np.ptp(truth) == 0:
        return {"learnable": None, "warning": f"{name}: its {n} {ONE_SCORE}"}
    if left is not None and left > 0:
        # Squared, for it is least at the mean: where most scores are alike the absolute error rewards a constant guess.
        rmse = math.sqrt(((expected - truth) ** 2).mean())
        if debiased or rmse < figures["baseline_rmse"]:
            return {"learnable": True, "warning": None}
        spread = "" if rmse == figures["rmse"] else f" ({BEFORE})"
        mean = shown(figures["baseline_rmse"])
        finding = f"a root mean squared error of {shown(rmse)}{spread}, no better than {mean} of the mean"
        warning = f"{name}: {NOT_LEARNABLE}: {finding}, over {n} rows. {OTHER_MODELS}"
    elif low is not None and low > 0 and (figures["length_alone"] or 0) * (figures["spearman_with_length"] or 0) > 0:
        warning = (
            f"{name}: the scorer adds nothing to length: {finding}, {shown(figures['length_alone'])} by the number of "
            f"words alone, {_spanned(figures, 'given_length')} given length. {OTHER_MODELS} Or steer by length "
            f"(--scorer countable:words). {LEFT_OUT.format(name)}"
        )
    else:
        given = f", {_spanned(figures, 'given_length')} given length" if figures["given_length"] is not None else ""
        warning = (
            f"{name}: {NOT_LEARNABLE}: {finding} is not above chance{given}. {OTHER_MODELS} {LEFT_OUT.format(name)}"
        )
    return {"learnable": False, "warning": warning}


def _spanned(figures: Mapping[str, Any], name: str) -> str:
    """A figure with its interval, in three decimals."""
    value, low, high = (shown(figures[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} to {high})"


RESAMPLES = 1000
DRAWN = 2**20  # weights in memory at once


def partial(x: Array, y: Array, z: Array, groups: Indices) -> tuple[float | None, float | None, float | None]:
    """Partial rank correlation of x [n] and y [n] given z [n], with its 95 % interval; None where undefined.

    (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2)), by a bootstrap over groups with Hesterberg's expanded
    percentiles (1411.5279); ranks are taken once. A constant z explains nothing; one that explains x or y leaves 0.
    """
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None, None
    a, b, c = (ranks(column) - (len(x) + 1) / 2 for column in (x, y, z))
    columns = np.stack([np.ones_like(a), a, b, c, a * a, b * b, c * c, a * b, a * c, b * c])  # moments
    group = np.unique(groups, return_inverse=True)[1]
    count = int(group.max()) + 1
    sums = np.stack([np.bincount(group, weights=column, minlength=count) for column in columns], axis=1)  # [G, 10]
    value = _partial(sums.sum(0)[None])[0]
    if np.isnan(value):  # nothing is left
        return 0.0, 0.0, 0.0
    if count < 4:
        return float(value), None, None
    rng, block = np.random.default_rng(0), max(1, DRAWN // count)
    share = np.full(count, 1 / count)
    drawn = np.concatenate(
        [
            _partial(np.asarray(rng.multinomial(count, share, min(block, RESAMPLES - start)) @ sums))
            for start in range(0, RESAMPLES, block)
        ]
    )
    tail = float(ndtr(math.sqrt(count / (count - 1)) * float(stdtrit(count - 1, 0.025))))
    low, high = np.nanquantile(drawn, [tail, 1 - tail]).tolist()
    return float(value), float(low), float(high)


def _partial(moments: Array) -> Array:
    """The partial correlation [R] from weighted moments [R, 10] in the order of `partial`; NaN where undefined."""
    n, a, b, c, aa, bb, cc, ab, ac, bc = moments.T
    saa, sbb, scc = aa - a * a / n, bb - b * b / n, cc - c * c / n
    sab, sac, sbc = ab - a * b / n, ac - a * c / n, bc - b * c / n
    fixed = scc <= 1e-9 * n**2
    scc, sac, sbc = np.where(fixed, 1.0, scc), np.where(fixed, 0.0, sac), np.where(fixed, 0.0, sbc)
    rest_a, rest_b = saa - sac**2 / scc, sbb - sbc**2 / scc
    known = (rest_a > 1e-9 * saa) & (rest_b > 1e-9 * sbb)
    norm = np.sqrt(np.where(known, rest_a * rest_b, 1.0))
    return np.asarray(np.where(known, (sab - sac * sbc / scc) / norm, np.nan))


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
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    mean_ranks: Array = (np.cumsum(count) - (count - 1) / 2)[place]
    return mean_ranks


def interval(x: Array, y: Array, groups: Indices) -> tuple[float | None, float | None]:
    """95 % interval of the correlation of x [n] with y [n]; (None, None) where it is undefined or of under 4 groups.

    For Fisher's z, by the jackknife over groups (Efron and Stein 1981) with Student's quantiles, so rows of one group
    may depend on each other. x and y may be ranks, which are not recomputed.
    """
    r = pearson(x, y)
    group = np.unique(groups, return_inverse=True)[1]
    count = int(group.max()) + 1 if len(group) else 0
    if r is None or count < 4:
        return None, None
    if abs(r) > 1 - 1e-12:
        return r, r
    a, b = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    moments = (np.ones_like(a), a, b, a * a, b * b, a * b)
    n, sa, sb, saa, sbb, sab = (m.sum() - np.bincount(group, weights=m) for m in moments)  # without each group
    spread = (saa / n - (sa / n) ** 2) * (sbb / n - (sb / n) ** 2)
    left = (sab / n - sa * sb / n**2) / np.sqrt(np.maximum(spread, 1e-12))
    z = np.arctanh(left.clip(-1 + 1e-12, 1 - 1e-12))
    error = math.sqrt(float(((z - z.mean()) ** 2).sum()) * (count - 1) / count)
    half = float(stdtrit(count - 1, 0.975)) * error
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


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


# Figure -> heading in a table.
COLUMNS = {
    "n": "n",
    "mae": "MAE",
    "baseline_mae": "of mean",
    "rmse": "RMSE",
    "baseline_rmse": "of mean",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "spearman_low": "from",
    "spearman_high": "to",
    "qwk": "QWK",
    "reliability": "reliability",
    "spearman_with_length": "with length",
    "length_alone": "length alone",
    "given_length": "given length",
    "given_length_low": "from",
    "given_length_high": "to",
}
HUMAN = {"raters": "raters", "human": "one human", "ceiling": "ceiling"}  # if several raters are known


def table(report: Sequence[Mapping[str, Any]]) -> str:
    """A report as plain text: one aligned line per attribute, "-" where undefined, then the warnings."""
    columns = COLUMNS | (HUMAN if any(row.get("human") is not None for row in report) else {})
    lines = [["attribute", *columns.values()]]
    lines += [[row["attribute"], *(shown(row.get(column)) for column in columns)] for row in report]
    widths = [max(map(len, column)) for column in zip(*lines)]
    body = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:]))])
        for name, *cells in lines
    ]
    return "\n".join([*body, *(row["warning"] for row in report if row["warning"])])


def shown(value: float | None) -> str:
    """A figure as text: counts whole, the rest with three decimals, "-" for None."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
