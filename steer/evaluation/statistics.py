"""Intervals clustered by prompt.

Every interval here is a bootstrap over clusters (prompts): responses to one prompt resemble each other, so rows are not
independent and resampling rows would claim too much. The percentiles are those of Hesterberg, "What Teachers Should
Know About the Bootstrap" (1411.5279): expanded for few clusters, equal to the plain ones for many.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtrinc, ndtr, stdtrit

from steer.errors import SteerError
from steer.progress import progress

FloatArray = NDArray[np.float64]
Clusters = NDArray[Any]
Statistic = Callable[[FloatArray], FloatArray]
"""Weights of the rows (how often each was drawn) to S figures: [R, n] -> [R, S]; NaN = undefined in that resample."""

FEW = 7  # clusters
POWER = 0.8  # chance that a difference is shown, at which the smallest one that could be is reported
BLOCK = 2**18  # weights held at once: 2 MB stay in the cache


class Interval(NamedTuple):
    """An estimate (by default a mean), its bounds, and the number of values that it is based on; NaN = undefined."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, digits: int = 2) -> str:
        """Write it for a table.

        >>> Interval(1.234, 1.1, 1.36, 40).text()
        '1.23 [1.10, 1.36]'
        """
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def within(self, low: float, high: float) -> "Interval":
        """Clip the bounds to the range of the figure."""
        return self._replace(low=max(self.low, low), high=min(self.high, high))

    def json(self) -> dict[str, float | int | None]:
        """The four fields as strict JSON: null where undefined."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}


def interval(values: ArrayLike, clusters: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of values [n] with its bootstrap interval over clusters [n].

    The mean is over values, so a cluster counts by its size: each resample is a ratio of sums. NaN values are skipped;
    `n` counts the rest. Fewer than two clusters leave the bounds undefined, and few give wide ones.
    """
    parts, clusters = _known(values, clusters)
    (mean,) = resampled_sums(
        lambda sums: ratio(sums[:, :1], sums[:, 1:]), parts, clusters, resamples=resamples, seed=seed
    )
    return mean


class Repeated:
    """A figure of several repetitions on the same clusters, the mean over repetitions: how sure it is, whether it is 0.

    Subclasses and `of` set the mean, the number of values `n`, the numbers of clusters and repetitions, the resampled
    means, and the variances of the mean due to clusters, to repetitions, and to the rest.
    """

    mean: float
    n: int
    size: int
    seeds: int
    drawn: list[FloatArray]  # blocks [R, 1]
    prompts: float
    between: float
    rest: float

    @staticmethod
    def of(
        figures: Callable[[FloatArray], FloatArray],
        size: int,
        n: int,
        *,
        bases: Sequence[int] = (),
        resamples: int = 2000,
        seed: int = 0,
    ) -> "Repeated":
        """Take any figure of each repetition: weights of the clusters [R, C] -> [R, S]; `n` values in all.

        Its variances are those of the bootstrap. `bases`: as in `Seeds`.
        """
        point = figures(np.ones((1, size)))
        nest = _nested(bases, point.shape[1])
        nest = nest / nest.sum(0)
        draws = [figures(w) @ nest for w in _draws(size, resamples, np.random.default_rng(seed), size)]
        by_base = (point @ nest)[0]
        drawn = [block.mean(1, keepdims=True) for block in draws]
        return Repeated.around(float(by_base.mean()), drawn, by_base, draws, size, n)

    @staticmethod
    def around(
        mean: float, drawn: list[FloatArray], each: FloatArray, draws: list[FloatArray], size: int, n: int
    ) -> "Repeated":
        """Take a figure of all repetitions and its resamples, blocks [R, 1], with those of each: [S], blocks [R, S].

        A repetition whose figure is undefined (NaN) leaves the bounds undefined: how far repetitions differ is unknown.
        """
        self = Repeated()
        self.mean, self.drawn, self.n, self.size, self.seeds = mean, drawn, n, size, len(each)
        self.between = float(each.var(ddof=1)) / self.seeds if self.seeds > 1 else 0.0
        self.prompts = self.rest = 0.0
        resampled = np.concatenate(drawn) if drawn else np.full((1, 1), np.nan)
        if draws and not np.isnan(each).any() and not np.isnan(resampled).all():
            whole, few = np.concatenate(draws), size / (size - 1)
            self.prompts = few * float(np.nanvar(resampled))
            apart = float(np.nanvar(whole - whole.mean(1, keepdims=True), axis=0).sum())
            self.rest = few * apart / (self.seeds * max(1, self.seeds - 1))
        return self

    def interval(self, level: float = 0.95) -> Interval:
        """The mean with its bounds."""
        (over_prompts,) = _intervals(np.array([self.mean]), self.drawn, self.size, level, self.n)
        margin = self._margin((1 + level) / 2)
        return over_prompts._replace(low=over_prompts.low - margin, high=over_prompts.high + margin)

    def p_value(self) -> float:
        """P-value: 1 less the highest level whose interval excludes 0; at least 2 / (resamples + 1), NaN if unknown.

        FEW clusters or fewer that are all alike have no spread to judge by: unknown.
        """
        if math.isnan(self.interval().low):
            return math.nan
        if self.size <= FEW and math.sqrt(self.prompts) <= 1e-12 * abs(self.mean):  # alike, but for rounding
            return math.nan
        least = 2 / (sum(map(len, self.drawn)) + 1)
        low, high = 0.0, 1.0  # levels whose intervals exclude 0, and include it
        for _ in range(20):
            level = (low + high) / 2
            bounds = self.interval(level)
            excluded = bounds.low > 0 or bounds.high < 0  # False where a bound is unknown
            low, high = (level, high) if excluded else (low, level)
        return max(least, 1 - low)

    @property
    def errors(self) -> list[tuple[float, float]]:
        """Standard error and degrees of freedom of each interval of which the widest counts; none where unknown."""
        if self.size < 2:
            return []
        over_prompts = (math.sqrt(self.prompts), self.size - 1.0)
        if self.seeds < 2:
            return [over_prompts]
        df = self.seeds - 1
        if self.seeds == 2:
            return [over_prompts, (math.sqrt(self.between), 1.0)]
        variance = max(self.prompts + self.between - self.rest, self.prompts, self.between)
        parts = self.prompts**2 / (self.size - 1) + self.between**2 / df + self.rest**2 / ((self.size - 1) * df)
        return [over_prompts, (math.sqrt(variance), max(1.0, variance**2 / parts if parts > 0 else 1.0))]

    def _margin(self, upper: float) -> float:
        """Width that seeds add on each side to the interval over prompts."""
        if math.isnan(self.between):
            return math.nan
        halves = [float(stdtrit(df, upper)) * error for error, df in self.errors]
        return max(halves) - halves[0] if halves else 0.0


class Seeds(Repeated):
    """Values of several training seeds on the same prompts: their mean, how sure it is, and whether it is 0.

    Seeds and prompts are crossed: a hard prompt does not average out over seeds (Owen, "The pigeonhole bootstrap",
    2007). The interval is that of a bootstrap over prompts, which serves all seeds at once, widened by what other
    seeds would add. Of mean squares of the two-way table, the variance of the mean is prompts + seeds - rest (not below
    prompts or seeds alone), and Student's t has Satterthwaite's degrees of freedom. Two seeds cannot tell their own
    spread from the rest, so theirs is the wider of the interval over prompts and the t interval over two seed means,
    which is wide (12.7 standard errors). One seed says nothing of other seeds: its interval is over prompts only.

    Seeds on several bases are nested in them: those of a base share what is particular to it. They are averaged first,
    and the bases take the place of the seeds above, so three bases have three values, however many seeds each has.
    """

    def __init__(
        self,
        values_by_seed: Sequence[tuple[ArrayLike, ArrayLike]],
        *,
        bases: Sequence[int] = (),
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        """Take (values [n], clusters [n]) per seed, NaN skipped, for the mean over seeds of the mean over values.

        `bases`: the number of each seed's base; none: one base.
        """
        seeds = [_known(values, clusters) for values, clusters in values_by_seed]
        if not seeds or not all(len(parts) for parts, _ in seeds):
            raise SteerError("a seed has no values to average. Evaluate every seed, or drop it.")
        names = np.unique(np.concatenate([clusters for _, clusters in seeds]))
        sums = [_cluster_sums(parts, np.searchsorted(names, clusters), len(names)) for parts, clusters in seeds]
        total, count = np.stack(sums, axis=2).swapaxes(0, 1) @ _nested(bases, len(seeds))  # [C, S] each
        point = ratio(total.sum(0), count.sum(0))  # [S]
        self.mean, self.n = float(point.mean()), int(count.sum())
        self.size, self.seeds = count.shape
        draws = _draws(self.size, resamples, np.random.default_rng(seed), self.size)
        self.drawn = [ratio(w @ total, w @ count).mean(1, keepdims=True) for w in draws]
        if self.size > 1:
            effects = (total - point * count) * self.size / count.sum(0)  # [C, S], of a prompt on a seed's mean
            row = effects.mean(1, keepdims=True)
            self.prompts = float((row**2).sum()) / (self.size * (self.size - 1))
            self.rest = float(((effects - row) ** 2).sum()) / (self.size * (self.size - 1) * self.seeds)
            self.rest /= max(1, self.seeds - 1)
        self.between = float(point.var(ddof=1)) / self.seeds if self.seeds > 1 else 0.0


def smallest(errors: Sequence[tuple[float, float]], level: float, power: float = POWER) -> float:
    """Smallest true difference that a two-sided t test at `level` shows with this power; NaN where nothing is known.

    `errors`: standard error and degrees of freedom of each interval that must exclude 0. T with a difference of d
    standard errors is noncentral t, so d is the noncentrality at which 1 - power of it lies below the critical value.
    Values that are all alike have no spread to judge by: NaN.
    """
    least = [se * float(nctdtrinc(df, 1 - power, stdtrit(df, 1 - level / 2))) for se, df in errors]
    return max(least, default=math.nan) or math.nan


def across_seeds(
    values_by_seed: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    bases: Sequence[int] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over training seeds of the mean over values, see `Seeds`; (values [n], clusters [n]) per seed."""
    return Seeds(values_by_seed, bases=bases, resamples=resamples, seed=seed).interval()


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): those below .05 are all right in 95 of 100 tables; NaN stays.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    ordered = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(ordered):
        highest = max(highest, min(1.0, p * (len(ordered) - rank)))
        adjusted[i] = highest
    return adjusted


def resampled(
    statistic: Statistic, clusters: ArrayLike, *, resamples: int = 2000, seed: int = 0, repetitions: int = 1
) -> list[Interval]:
    """Estimate S figures, each with its bootstrap interval over clusters [n], by a statistic of all rows.

    The statistic gets blocks of resamples, for speed. Resamples in which a figure is undefined (NaN) do not count in
    its percentiles; if they are more than 5 %, the bounds are undefined.

    With several repetitions the statistic returns the figures of all rows, then those of each repetition in turn:
    [R, (1 + repetitions) * S]. The intervals are then over clusters and repetitions, see `Repeated`.
    """
    figures = _repeated(statistic, clusters, resamples, seed, repetitions)
    return [figure.interval() for figure in figures]


def _repeated(statistic: Statistic, clusters: ArrayLike, resamples: int, seed: int, repetitions: int) -> list[Repeated]:
    """Estimate figures as in `resampled`."""
    numbers, size = _numbered(clusters)
    draws = _draws(size, resamples, np.random.default_rng(seed), max(len(numbers), size))
    drawn = []
    with progress(total=resamples, what="bootstrap", unit="resamples") as bar:
        for weights in draws:
            drawn.append(statistic(weights[:, numbers]))
            bar.update(len(weights))
    point = statistic(np.ones((1, len(numbers))))[0]
    count = len(point) // (1 + repetitions) if repetitions > 1 else len(point)
    found = []
    for k in range(count):
        each = slice(k + count, None, count) if repetitions > 1 else slice(k, k + 1)
        blocks = [b[:, [k]] for b in drawn], point[each], [b[:, each] for b in drawn]
        found.append(Repeated.around(float(point[k]), *blocks, size, len(numbers)))
    return found


def resampled_sums(
    figures: Callable[[FloatArray], FloatArray],
    parts: ArrayLike,
    clusters: ArrayLike,
    *,
    apart: NDArray[np.bool_] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Interval]:
    """Estimate figures that are functions of sums over rows, each with its interval; see `repeated_sums`."""
    found = repeated_sums(figures, parts, clusters, apart=apart, resamples=resamples, seed=seed)
    return [figure.interval() for figure in found]


def repeated_sums(
    figures: Callable[[FloatArray], FloatArray],
    parts: ArrayLike,
    clusters: ArrayLike,
    *,
    apart: NDArray[np.bool_] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Repeated]:
    """Estimate figures that are functions of sums over rows of parts [n, M]: [R, M] -> [R, S].

    Faster than `resampled`, because clusters are summed once; the draws are the same. `apart` [n, repetitions]: which
    rows are of each repetition.
    """
    numbers, size = _numbered(clusters)
    parts = np.asarray(parts, float)
    several = [] if apart is None or apart.shape[1] < 2 else list(apart.T)
    tables = [_cluster_sums(rows, numbers, size) for rows in (parts, *(parts * own[:, None] for own in several))]

    def statistic(weights: FloatArray) -> FloatArray:
        return np.hstack([figures(weights @ sums) for sums in tables])

    found = _repeated(statistic, np.arange(size), resamples, seed, max(1, len(several)))
    for figure in found:
        figure.n = len(numbers)
    return found


def share_bounds(share: Interval, clusters: ArrayLike) -> Interval:
    """Clip a share to 0 and 1; where all clusters agree, its bound is Clopper and Pearson's (1934).

    No resample differs then. One cluster has no bounds, as everywhere.

    >>> share_bounds(Interval(1.0, 1.0, 1.0, 16), [*range(8)] * 2).text()
    '1.00 [0.63, 1.00]'
    """
    size = len(np.unique(np.asarray(clusters)))
    if size < 2 or share.mean not in (0.0, 1.0):
        return share.within(0.0, 1.0)
    least = float(0.025 ** (1 / size))  # the share with which so many agree by chance in 2.5 of 100
    return share._replace(low=least, high=1.0) if share.mean else share._replace(low=0.0, high=1 - least)


def ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Divide above by below, element by element; NaN where below is 0 or either is NaN."""
    result: FloatArray = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    return np.divide(above, below, out=result, where=below != 0)


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n from one sample, in nats, at most: log n - (n-1)/n (Stiennon et al. 2020).

    Exact where no two draws have the same reward; ties, which an answer drawn twice has too, make the KL smaller
    (Beirami et al. 2401.01879).
    """
    return math.log(n) - (n - 1) / n


def _numbered(clusters: ArrayLike) -> tuple[NDArray[np.intp], int]:
    """Number clusters [n] from 0, sorted so that the order of rows does not matter; return their count too."""
    names, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    return numbers, len(names)


def _known(values: ArrayLike, clusters: ArrayLike) -> tuple[FloatArray, Clusters]:
    """Parts of a mean (each value that is not NaN, and 1 to count it): [n', 2], with their clusters [n']."""
    values, clusters = np.asarray(values, float), np.asarray(clusters)
    if values.ndim != 1 or values.shape != clusters.shape:
        raise SteerError(f"values {values.shape} and clusters {clusters.shape} must be two columns of the same rows.")
    defined = ~np.isnan(values)
    return np.column_stack([values, np.ones_like(values)])[defined], clusters[defined]


def _nested(bases: Sequence[int], seeds: int) -> FloatArray:
    """Which of the bases each seed is on: [S, bases], 1 where it is; seeds for themselves where there is one base."""
    names = np.unique(np.asarray(bases, int))
    return np.eye(seeds) if len(names) < 2 else (np.asarray(bases)[:, None] == names).astype(float)


def _cluster_sums(parts: FloatArray, numbers: NDArray[np.intp], size: int) -> FloatArray:
    """Sums of parts [n, M] in each of `size` clusters: [C, M]."""
    columns = [np.bincount(numbers, column, minlength=size) for column in parts.T]
    return np.stack(columns, axis=1).astype(float)


def _draws(size: int, resamples: int, rng: np.random.Generator, width: int) -> Iterator[FloatArray]:
    """Yield how often each of `size` clusters is drawn, in blocks [R, C] for which R x width fits `BLOCK`."""
    block = max(1, BLOCK // max(1, width))
    for start in range(0, resamples if size > 1 else 0, block):
        rows = min(block, resamples - start)
        picks = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * size).reshape(rows, size).astype(float)


def _intervals(point: FloatArray, drawn: list[FloatArray], size: int, level: float, n: int) -> list[Interval]:
    """Expanded percentile intervals of the figures [S] from their resamples, blocks of [R, S], over `size` clusters.

    With FEW clusters or fewer no percentile lies far enough out, so the intervals include the t interval too.
    """
    if not drawn:
        return [Interval(float(mean), math.nan, math.nan, n) for mean in point]
    t = float(stdtrit(size - 1, (1 + level) / 2)) * math.sqrt(size / (size - 1))
    tail = float(ndtr(-t))  # (1 - level) / 2 for many clusters
    intervals = []
    for mean, column in zip(point, np.concatenate(drawn).T):
        defined = column[~np.isnan(column)]
        enough = len(defined) >= level * len(column) and not math.isnan(mean)
        low, high = np.quantile(defined, [tail, 1 - tail]) if enough else (math.nan, math.nan)
        if size <= FEW and enough:
            half = t * float(defined.std())
            low, high = min(low, mean - half), max(high, mean + half)
        intervals.append(Interval(float(mean), float(low), float(high), n))
    return intervals
