"""Controllability: levels obtained for the levels asked for, per attribute, and leakage to the other attributes.

Targets are levels; obtained levels are continuous scores on the same axis (2.4 lies between levels 2 and 3). The design
should be factorial: every combination of targets, for every prompt.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steer.errors import SteerError
from steer.evaluation.statistics import (
    Clusters,
    FloatArray,
    Interval,
    Repeated,
    ratio,
    repeated_sums,
    resampled,
    resampled_sums,
    share_bounds,
)
from steer.evaluation.weighted import spearman

LIMITS = {
    **dict.fromkeys(("spearman_means", "spearman", "tau"), (-1.0, 1.0)),
    "mae": (0.0, math.inf),
}
ANY = (-math.inf, math.inf)
Apart = NDArray[np.bool_]
FIGURES = ("spearman_means", "slope", "span_ratio", "mae", "exact", "within_one")


def controllability(
    target: ArrayLike,
    obtained: ArrayLike,
    prompts: ArrayLike,
    *,
    attributes: Sequence[str],
    levels: Sequence[int],
    labels: ArrayLike | None = None,
    data_span: ArrayLike,
    repetitions: ArrayLike | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Obtained levels against targets, with 95 % intervals clustered by prompt, as plain JSON; None is undefined.

    `target` [n, A] whole levels, NaN where an attribute was not asked; `obtained` [n, A] in level units, NaN where it
    is undefined; `prompts` [n] cluster ids; `levels` [A] number of levels; `data_span` [A] span of the attribute in the
    data (5 to 95 %, level units); `labels` [n, A] obtained levels as labelling bins them, by default the nearest ones;
    `repetitions` [n] number of the seed or base of each row: with several, the figures are of all rows together, and
    the intervals are over prompts and repetitions (see `Repeated`).

    `attributes` holds per attribute, over the rows where it was asked and obtained:
    `n`, `undefined` (asked, but no score); `means`, per target level the mean obtained; `spearman_means`, of target
    level with that mean; `spearman` and `slope` over single responses; `span_ratio`, mean obtained at the top target
    less that at the bottom target, over `data_span`; `mae` in levels; `exact` and `within_one`, shares of responses
    whose obtained level hits the target; `partial_slope`, the diagonal of `leakage`; `tau`, Kendall's tau-b within a
    prompt, averaged over prompts with two targets or more (0 where a prompt's responses all obtained the same).

    `leakage[j][k]` is d obtained_j / d target_k with the other targets held (see `_effects`), in levels of j per level
    of k, with bounds in `leakage_low` and `leakage_high`. `leakage_scaled` is the same with each attribute in units of
    its span in the data, the scale on which it can stand beside the data's own `correlation`.
    """
    target, obtained, span = (np.asarray(x, float) for x in (target, obtained, data_span))
    prompts = np.asarray(prompts)
    top = np.asarray(levels) - 1
    hit = np.clip(np.floor(obtained + 0.5), 0, top) if labels is None else np.asarray(labels, float)  # no half to even
    _check(target, obtained, prompts, attributes, np.asarray(levels), span)
    apart = _apart(repetitions, len(prompts))
    effects = [
        [cell.interval() for cell in _effects(target, column, prompts, apart, resamples)] for column in obtained.T
    ]
    dials = {}
    for k, name in enumerate(attributes):
        columns = target[:, k], obtained[:, k], hit[:, k], prompts, apart
        dials[name] = _dial(*columns, span[k], resamples=resamples)
        dials[name]["partial_slope"] = effects[k][k].json()
    leakage = [[cell.json() for cell in row] for row in effects]
    defined = np.where(span > 0, span, np.nan)
    scale = defined[None, :] / defined[:, None]  # [j, k]: span_k / span_j
    scaled = scale * np.array([[cell.mean for cell in row] for row in effects])
    return {
        "n": len(prompts),
        "prompts": len(np.unique(prompts)),
        "resamples": resamples,
        "attributes": dials,
        "leakage": [[cell["mean"] for cell in row] for row in leakage],
        "leakage_low": [[cell["low"] for cell in row] for row in leakage],
        "leakage_high": [[cell["high"] for cell in row] for row in leakage],
        "leakage_scaled": [[None if np.isnan(cell) else float(cell) for cell in row] for row in scaled],
    }


def partial_slopes(
    target: FloatArray, obtained: FloatArray, prompts: Clusters, resamples: int, repetitions: ArrayLike | None = None
) -> list[Repeated]:
    """d obtained_k / d target_k of each attribute with the other targets held: [n, A], [n, A], [n] -> A.

    Slopes are linear in what was obtained: of the difference of two systems, at the same targets and prompts, they are
    the difference of their slopes. `repetitions`: as in `controllability`.
    """
    apart = _apart(repetitions, len(prompts))
    return [_effects(target, column, prompts, apart, resamples)[k] for k, column in enumerate(obtained.T)]


def correlation(scores: ArrayLike) -> FloatArray:
    """Pearson correlations of attributes over the rows that know both: [n, A] with NaN = unknown -> [A, A].

    NaN where an attribute does not vary, or fewer than two rows know both.
    """
    scores = np.asarray(scores, float)
    defined = ~np.isnan(scores)
    count = defined.astype(float)
    middle = ratio(np.where(defined, scores, 0).sum(0), count.sum(0))
    x = np.where(defined, scores - middle, 0)  # centred once, so that the sums below do not cancel
    n, sums, squares = count.T @ count, x.T @ count, (x * x).T @ count  # [j, k]: of j, over the rows that know both
    variance = n * squares - sums * sums
    variance = np.where(variance <= 1e-13 * n * squares, 0, variance)
    return ratio(n * (x.T @ x) - sums * sums.T, np.sqrt(variance * variance.T))


def _apart(repetitions: ArrayLike | None, rows: int) -> Apart:
    """Which rows are of each repetition: [n, S]; one repetition where none are named."""
    numbers = np.zeros(rows) if repetitions is None else np.asarray(repetitions)
    return np.asarray(numbers[:, None] == np.unique(numbers))


def _dial(
    target: FloatArray,
    obtained: FloatArray,
    hit: FloatArray,
    prompts: Clusters,
    apart: Apart,
    span: float,
    *,
    resamples: int,
) -> dict[str, Any]:
    """Figures of one attribute except its partial slope, from target, obtained, binned level and prompts, [n] each."""
    asked = ~np.isnan(target)
    used = asked & ~np.isnan(obtained)
    t, y, clusters, apart = target[used], obtained[used], prompts[used], apart[used]
    intervals = _figures(t, y, hit[used], clusters, apart, span, resamples=resamples)
    several = list(apart.T) if apart.shape[1] > 1 else []
    ranks = [(slice(None), spearman(t, y)), *((own, spearman(t[own], y[own])) for own in several)]
    rank = resampled(
        lambda weights: np.hstack([statistic(weights[:, own]) for own, statistic in ranks]),
        clusters,
        resamples=resamples,
        repetitions=apart.shape[1],
    )
    named, parts = _tau_parts(t, y, clusters, several)

    def mean_tau(weights: FloatArray) -> FloatArray:
        sums = weights @ parts
        return ratio(sums[:, ::2], sums[:, 1::2])

    tau = resampled(mean_tau, named, resamples=resamples, repetitions=apart.shape[1])
    figures = dict(zip((*FIGURES, "spearman", "tau"), (*intervals[: len(FIGURES)], *rank, *tau)))
    means = [
        {"target": int(level), **mean._replace(n=int((t == level).sum())).json()}
        for level, mean in zip(np.unique(t), intervals[len(FIGURES) :])
    ]
    counts = {"n": len(t), "undefined": int(asked.sum() - used.sum())}
    bounded = {name: figure.within(*LIMITS.get(name, ANY)) for name, figure in figures.items()}
    bounded |= {name: share_bounds(figures[name], clusters) for name in ("exact", "within_one")}
    shown = {name: figure.json() for name, figure in bounded.items()}
    return counts | {"means": means} | shown


def _figures(
    t: FloatArray, y: FloatArray, hit: FloatArray, clusters: Clusters, apart: Apart, span: float, *, resamples: int
) -> list[Interval]:
    """FIGURES of one attribute, then its mean obtained per target, from target, obtained and binned level, [n] each."""
    targets, codes = np.unique(t, return_inverse=True)
    size = len(targets)
    at = np.eye(size)[codes]  # [n, asked levels]
    parts = np.column_stack([at, at * y[:, None], np.abs(y - t), hit == t, np.abs(hit - t) <= 1])

    def figures(sums: FloatArray) -> FloatArray:
        counts, totals = sums[:, :size], sums[:, size : 2 * size]
        n = counts.sum(1, keepdims=True)
        means = ratio(totals, counts)
        gain = means[:, -1:] - means[:, :1] if size > 1 else np.full_like(n, np.nan)
        away = targets - ratio(counts @ targets[:, None], n)  # [R, asked levels]
        slope = ratio((away * totals).sum(1, keepdims=True), (away**2 * counts).sum(1, keepdims=True))
        spanned, shares = ratio(gain, np.full_like(gain, span)), ratio(sums[:, 2 * size :], n)
        return np.hstack([_monotone(means), slope, spanned, shares, means])

    return resampled_sums(figures, parts, clusters, apart=apart, resamples=resamples)


def _monotone(means: FloatArray) -> FloatArray:
    """Spearman of position with mean: [R, levels] in the order of the levels -> [R, 1]; NaN if a level has no mean."""
    size = means.shape[1]
    above = (means[:, :, None] > means[:, None, :]).sum(2) - (means[:, :, None] < means[:, None, :]).sum(2)
    ranks = np.where(np.isnan(means).any(1, keepdims=True), np.nan, above / 2)  # less the mean rank
    order = np.arange(size) - (size - 1) / 2
    return ratio(ranks @ order, np.sqrt((ranks**2).sum(1) * (order**2).sum()))[:, None]


def _taus(t: FloatArray, y: FloatArray, prompts: Clusters) -> tuple[FloatArray, Clusters]:
    """Kendall's tau-b of each prompt that has two distinct targets or more, and those prompts: [C], [C]."""
    names, numbers = np.unique(prompts, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    t, y, numbers = t[order], y[order], numbers[order]
    agree, untied_t, untied_y = np.zeros((3, len(names)))
    for step in range(1, int(np.bincount(numbers).max(initial=0))):  # all pairs of rows that lie `step` apart
        same = numbers[step:] == numbers[:-step]
        dt = np.sign(t[step:] - t[:-step])[same]
        dy = np.sign(y[step:] - y[:-step])[same]
        for sums, values in ((agree, dt * dy), (untied_t, dt * dt), (untied_y, dy * dy)):
            sums += np.bincount(numbers[step:][same], values, minlength=len(names))
    asked = untied_t > 0
    tau = ratio(agree, np.sqrt(untied_t * untied_y))
    return np.where(untied_y > 0, tau, 0.0)[asked], names[asked]


def _tau_parts(
    t: FloatArray, y: FloatArray, prompts: Clusters, several: Sequence[Apart]
) -> tuple[Clusters, FloatArray]:
    """Prompts [C] with a tau, and it with its count, of all their rows, then of each repetition: [C, 2 (1 + S)]."""
    taus = [_taus(t, y, prompts), *(_taus(t[own], y[own], prompts[own]) for own in several)]
    names = taus[0][1]
    parts = np.zeros((len(names), 2 * len(taus)))
    for k, (values, own_names) in enumerate(taus):
        at = np.searchsorted(names, own_names)
        parts[at, 2 * k], parts[at, 2 * k + 1] = values, 1
    return names, parts


def _effects(
    target: FloatArray, obtained: FloatArray, prompts: Clusters, apart: Apart, resamples: int
) -> list[Repeated]:
    """d obtained / d target_k for each k, other targets held: least squares of obtained [n] on targets [n, A] -> A.

    A row that did not ask for k takes no part in the slope of k: an indicator takes up what asking itself changes. An
    effect that the design cannot tell from others (never asked, always the same, or moved together with another
    target) is NaN.
    """
    used = ~np.isnan(obtained)
    t, y, clusters = target[used], obtained[used], prompts[used]
    asked = ~np.isnan(t)
    x = np.hstack([np.where(asked, t, 0), asked, np.ones((len(y), 1))])  # [n, P = 2A + 1]
    p, a = x.shape[1], t.shape[1]
    parts = np.hstack([(x[:, :, None] * x[:, None, :]).reshape(len(y), p * p), x * y[:, None]])

    def slopes(sums: FloatArray) -> FloatArray:
        gram = sums[:, : p * p].reshape(-1, p, p)
        inverse = np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
        effects = (inverse @ sums[:, p * p :, None])[:, :a, 0]
        own = np.diagonal(inverse @ gram, axis1=1, axis2=2)[:, :a]  # 1 where the design determines the slope
        return np.where(np.abs(own - 1) < 1e-6, effects, np.nan)

    return repeated_sums(slopes, parts, clusters, apart=apart[used], resamples=resamples)


def _check(
    target: FloatArray,
    obtained: FloatArray,
    prompts: Clusters,
    attributes: Sequence[str],
    levels: NDArray[Any],
    span: FloatArray,
) -> None:
    """Raise SteerError for arrays whose shapes do not match, or targets that are no levels."""
    shape = (len(prompts), len(attributes))
    if target.shape != shape or obtained.shape != shape:
        raise SteerError(
            f"target {target.shape} and obtained {obtained.shape} must be [prompts, attributes] = {shape}."
        )
    if levels.shape != shape[1:] or span.shape != shape[1:]:
        raise SteerError(f"give one number of levels and one data span for each of {', '.join(attributes)}.")
    defined = target[~np.isnan(target)]
    if (defined != np.floor(defined)).any():
        raise SteerError("targets are levels: whole numbers, NaN where an attribute was not asked.")
