"""Intervals hold what they promise on simulated data; closed forms equal those of docs/methods.md."""

import json
import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.claims.table import best_of, best_of_n_mean
from steer.errors import SteerError
from steer.evaluation.statistics import (
    Interval,
    Seeds,
    across_seeds,
    best_of_n_kl,
    interval,
    resampled,
    smallest,
)
from steer.evaluation.weighted import slope, spearman
from steer.methods.groups import exponential


def clustered(seed: int, clusters: int = 50, size: int = 5, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Values of mean 0 and variance 1 of which `share` belongs to the cluster, and their clusters."""
    rng = np.random.default_rng(seed)
    common = rng.normal(scale=math.sqrt(share), size=(clusters, 1))
    values = common + rng.normal(scale=math.sqrt(1 - share), size=(clusters, size))
    return values.ravel(), np.repeat(np.arange(clusters), size)


def test_the_mean_is_the_mean_of_values_not_of_clusters() -> None:
    found = interval([1.0, 2.0, 6.0, 5.0], ["a", "a", "a", "b"])
    assert found.mean == pytest.approx((1 + 2 + 6 + 5) / 4)
    assert found.n == 4


def test_few_clusters_give_the_t_interval_and_no_less() -> None:
    # Of two clusters with means a and b resampling knows a, b and the middle: its spread is |a - b| / 2 / sqrt(2).
    found = interval([0.0, 1.0, 5.0, 6.0], [0, 0, 1, 1], resamples=20_000)
    half = stats.t.ppf(0.975, 1) * (5.5 - 0.5) / 2
    assert found.high - found.mean == pytest.approx(half, rel=0.03)
    covered = []
    for trial in range(300):
        values = np.random.default_rng(trial).normal(size=3)
        few = interval(values, np.arange(3), resamples=500)
        covered.append(few.low <= 0 <= few.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_many_independent_values_give_the_textbook_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    found = interval(values, np.arange(4000), resamples=10_000)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)
    assert found.high - found.mean == pytest.approx(half, rel=0.05)


def test_coverage_with_correlation_inside_clusters() -> None:
    found = [interval(*clustered(seed), resamples=600, seed=seed) for seed in range(400)]
    assert 0.92 <= np.mean([x.low <= 0 <= x.high for x in found]) <= 0.975
    ignored = [interval(values, np.arange(250), resamples=600) for values, _ in map(clustered, range(400))]
    assert np.mean([x.low <= 0 <= x.high for x in ignored]) < 0.85  # what clustering is for


def test_coverage_with_few_clusters() -> None:
    found = [interval(*clustered(seed, clusters=8), resamples=600, seed=seed) for seed in range(400)]
    assert 0.92 <= np.mean([x.low <= 0 <= x.high for x in found]) <= 0.98


def test_few_clusters_give_about_the_t_interval() -> None:
    found = []
    for seed in range(100):
        values, _ = clustered(seed, clusters=8, size=1)
        bounds = interval(values, np.arange(8), resamples=4000)
        half = stats.t.ppf(0.975, 7) * values.std(ddof=1) / math.sqrt(8)
        found.append((bounds.high - bounds.low) / (2 * half))
    assert 0.95 < np.mean(found) < 1.01  # the plain percentiles give .77


def test_repeating_rows_inside_their_clusters_changes_nothing() -> None:
    values, clusters = clustered(1)
    once, thrice = interval(values, clusters), interval(np.tile(values, 3), np.tile(clusters, 3))
    assert once[:3] == pytest.approx(thrice[:3], abs=1e-12)
    assert thrice.n == 3 * once.n


def test_the_order_of_rows_and_the_names_of_clusters_do_not_matter() -> None:
    values, clusters = clustered(2)
    order = np.random.default_rng(0).permutation(len(values))
    names = np.array([f"prompt {c:03}" for c in clusters])
    assert interval(values[order], names[order]) == pytest.approx(interval(values, clusters), abs=1e-12)


def test_nan_equals_leaving_the_row_out() -> None:
    values, clusters = clustered(3)
    values[clusters == 7] = np.nan
    values[::9] = np.nan
    kept = ~np.isnan(values)
    assert interval(values, clusters) == interval(values[kept], clusters[kept])


@pytest.mark.parametrize(("values", "mean"), [([], math.nan), ([math.nan], math.nan), ([1.0, 2.0], 1.5)])
def test_fewer_than_two_clusters_have_no_bounds(values: list[float], mean: float) -> None:
    found = interval(values, ["only"] * len(values))
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_level_and_the_seed_count() -> None:
    values, clusters = clustered(4)
    wide, narrow = (Seeds([(values, clusters)]).interval(level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert interval(values, clusters, seed=1) == interval(values, clusters, seed=1) != interval(values, clusters)


def test_an_interval_as_json() -> None:
    text = json.dumps(Interval(0.5, math.nan, math.nan, 1).json(), allow_nan=False)
    assert json.loads(text) == {"mean": 0.5, "low": None, "high": None, "n": 1}


def test_one_seed_gives_the_interval_over_prompts() -> None:
    values, clusters = clustered(7)
    assert across_seeds([(values, clusters)]) == pytest.approx(interval(values, clusters), abs=0.02)
    assert across_seeds([(values, clusters)]).mean == pytest.approx(values.mean())


def test_seeds_of_a_base_are_averaged_before_bases_are_compared() -> None:
    """Three bases of two seeds are three values, not six: by hand, the t interval over the means of the bases."""
    rng = np.random.default_rng(0)
    values, bases = [(rng.normal(size=30) + 3 * (i % 3), np.arange(30)) for i in range(6)], [0, 1, 2, 0, 1, 2]
    nested = across_seeds(values, bases=bases)
    averaged = [((values[i][0] + values[i + 3][0]) / 2, np.arange(30)) for i in range(3)]
    assert nested[:3] == pytest.approx(across_seeds(averaged)[:3])
    means = [float(x.mean()) for x, _ in averaged]
    middle = sum(means) / 3
    half = 4.3027 * math.sqrt(sum((m - middle) ** 2 for m in means) / 2 / 3)
    assert nested.high - nested.mean == pytest.approx(half, rel=0.1)
    pooled = across_seeds(values)
    assert nested.high - nested.low > 1.5 * (pooled.high - pooled.low)
    assert across_seeds(values, bases=[4] * 6) == pooled, "one base: seeds are the repetitions"


def power(difference: float, critical: float, df: int) -> float:
    """Chance that (Z + difference) / sqrt(V / df) is above the critical value, V a chi-square: plain integration."""

    def density(v: float) -> float:
        return math.exp((df / 2 - 1) * math.log(v) - v / 2 - df / 2 * math.log(2) - math.lgamma(df / 2))

    def beyond(v: float) -> float:
        return 0.5 * math.erfc((critical * math.sqrt(v / df) - difference) / math.sqrt(2))

    step = 0.005
    grid = [step * (i + 0.5) for i in range(int((df + 60) / step))]
    return sum(density(v) * beyond(v) * step for v in grid)


@pytest.mark.parametrize(("df", "level", "critical"), [(2, 0.05, 4.3027), (8, 0.05, 2.3060), (40, 0.01, 2.7045)])
def test_the_smallest_difference_has_a_power_of_80_percent(df: int, level: float, critical: float) -> None:
    assert power(smallest([(1.0, float(df))], level), critical, df) == pytest.approx(0.8, abs=0.002)


def test_the_smallest_difference_of_many_prompts_is_the_textbooks() -> None:
    # z of .975 and of .8, times the standard error
    assert smallest([(0.1, 1e5)], 0.05) == pytest.approx(0.1 * (1.959964 + 0.841621), rel=1e-3)
    assert smallest([(0.1, 1e5), (0.2, 1e5)], 0.05) == pytest.approx(0.2 * (1.959964 + 0.841621), rel=1e-3)
    assert math.isnan(smallest([], 0.05))
    assert math.isnan(smallest([(0.0, 9.0)], 0.05)), "no spread was observed, so nothing is known of it"
    values = np.random.default_rng(0).normal(size=4000)
    ((error, df),) = Seeds([(values, np.arange(4000))]).errors
    assert (error, df) == (pytest.approx(values.std() / math.sqrt(4000), rel=1e-3), 3999)


def test_more_seeds_do_not_average_out_the_prompts() -> None:
    values, clusters = clustered(8)
    one, ten = across_seeds([(values, clusters)]), across_seeds([(values, clusters)] * 10)
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.1)


def test_seeds_are_matched_by_prompt() -> None:
    # What one seed gains on a prompt the other loses, so resampled prompts cancel; the second also saw prompt -1.
    values, clusters = clustered(11)
    values -= values.mean()
    together = across_seeds([(values, clusters), (-values, clusters)])
    assert together[:3] == pytest.approx((0, 0, 0), abs=1e-9)
    more = across_seeds([(values, clusters), (np.append(-values, 0), np.append(clusters, -1))])
    alone = interval(values, clusters)
    assert more.high - more.low < 0.1 * (alone.high - alone.low)


@pytest.mark.parametrize(("seeds", "lowest"), [(2, 0.86), (3, 0.92), (5, 0.9)])
def test_coverage_when_seeds_differ(seeds: int, lowest: float) -> None:
    covered = []
    for trial in range(200):
        shift = np.random.default_rng(trial).normal(scale=0.5, size=seeds)
        data = [(shift[s] + values, c) for s in range(seeds) for values, c in [clustered(1000 * trial + s, 20, 2)]]
        found = across_seeds(data, resamples=500, seed=trial)
        covered.append(found.low <= 0 <= found.high)
    assert np.mean(covered) >= lowest


def test_a_seed_without_values_is_refused() -> None:
    with pytest.raises(SteerError, match="no values"):
        across_seeds([([1.0, 2.0], [0, 1]), ([math.nan, math.nan], [0, 1])])


@pytest.mark.parametrize(
    ("ours", "scipys"),
    [
        (slope, lambda x, y: stats.linregress(x, y).slope),
        (spearman, lambda x, y: stats.spearmanr(x, y).statistic),
    ],
)
def test_a_weight_is_a_repetition(ours: Any, scipys: Any) -> None:
    rng = np.random.default_rng(9)
    x = rng.integers(0, 5, 40)  # with ties
    y = (x + rng.normal(size=40)).round(1)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=3)  # rows drawn 0, 1, 2, ... times
    expected = [scipys(np.repeat(x, w), np.repeat(y, w)) for w in weights]
    assert ours(x, y)(weights.astype(float))[:, 0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("statistic", [slope, spearman])
def test_a_constant_column_has_no_correlation(statistic: Any) -> None:
    (found,) = resampled(statistic([0.1] * 6, [1, 2, 3, 4, 5, 6]), np.arange(6))
    assert np.isnan(found[:3]).all()
    with pytest.raises(SteerError, match="without NaN"):
        statistic([0.1, math.nan], [1, 2])


def test_the_slope_covers_the_truth() -> None:
    covered = []
    for seed in range(200):
        noise, clusters = clustered(seed, clusters=30)
        x = np.random.default_rng(seed + 10_000).integers(0, 5, len(noise))
        (found,) = resampled(slope(x, 0.7 * x + noise), clusters, resamples=400, seed=seed)
        covered.append(found.low <= 0.7 <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.985


def test_figures_that_are_often_undefined_have_no_bounds() -> None:
    def first_row_only(weights: np.ndarray) -> np.ndarray:
        return np.column_stack([np.where(weights[:, 0] > 0, 1.0, np.nan), weights[:, 0]])

    rare, always = resampled(first_row_only, np.arange(20))
    assert rare.mean == 1
    assert math.isnan(rare.low)
    assert always.low == 0


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = clustered(10)
    whole = interval(values, clusters)
    monkeypatch.setattr("steer.evaluation.statistics.BLOCK", 1000)
    assert interval(values, clusters) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize(("n", "mean"), [(1, 0.0), (2, 0.56), (4, 1.03), (8, 1.42), (16, 1.77)])
def test_best_of_n_equals_the_table(n: int, mean: float) -> None:
    assert best_of_n_mean(n) == pytest.approx(mean, abs=0.005)


def test_best_of_n_equals_order_statistics() -> None:
    assert best_of_n_mean(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-10)
    assert best_of_n_mean(3) == pytest.approx(3 / (2 * math.sqrt(math.pi)), abs=1e-10)
    many = 10**6  # extreme value theory: the median of the maximum, plus (gamma + log log 2) / sqrt(2 log n)
    median = stats.norm.ppf(0.5 ** (1 / many))
    step = (np.euler_gamma + math.log(math.log(2))) / math.sqrt(2 * math.log(many))
    assert best_of_n_mean(many) == pytest.approx(median + step, rel=0.005)


@pytest.mark.parametrize("n", [1, 2, 16])
def test_best_of_n_kl_equals_the_integral(n: int) -> None:
    u = (
        np.arange(200_000) + 0.5
    ) / 200_000  # the rank of the reward is uniform; that of the best has density n u^(n-1)
    density = n * u ** (n - 1)
    assert best_of_n_kl(n) == pytest.approx(float((density * np.log(density)).mean()), abs=1e-4)


@pytest.mark.parametrize(("p", "tied"), [([0.5, 0.5], False), ([0.2] * 5, False), ([1 / 16] * 16, True)])
def test_the_kl_of_best_of_n_is_a_bound_where_answers_repeat_or_tie(p: list[float], tied: bool) -> None:
    """By hand: an answer is the best of n where all draws are it or worse, and one is it; ties are broken at random."""
    for n in (2, 4, 16):
        better = np.cumsum(p) ** n
        best = np.array(p) if tied else np.diff(better, prepend=0.0)
        exact = float((best * np.log(best / np.array(p))).sum())
        assert exact < best_of_n_kl(n)
    many = np.full(20_000, 1 / 20_000)
    best = np.diff(np.cumsum(many) ** 4, prepend=0.0)
    assert float((best * np.log(best / many)).sum()) == pytest.approx(best_of_n_kl(4), abs=1e-3), "answers that differ"


def test_the_best_of_n_is_the_mean_over_all_subsets() -> None:
    scores = np.array([[3.0, -1.0, 2.0, 7.0], [0.0, 0.0, 1.0, 1.0]])
    for n in (1, 2, 3, 4):
        expected = [np.mean([max(part) for part in combinations(row, n)]) for row in scores.tolist()]
        assert best_of(scores, n).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="best of 5 cannot be estimated from 4 draws"):
        best_of(scores, 5)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_the_best_of_n_normal_draws_is_their_order_statistic(n: int) -> None:
    draws = np.random.default_rng(0).standard_normal((2000, 16))
    assert best_of(draws, n).mean() == pytest.approx(best_of_n_mean(n), abs=0.03)


def world(size: int = 400_000) -> np.ndarray:
    """Rewards of a behaviour, in its sd."""
    return stats.norm.ppf((np.arange(size) + 0.5) / size)


@pytest.mark.parametrize(("q", "gain", "kl"), [(0.5, 0.80, 0.69), (0.2, 1.40, 1.61), (0.1, 1.76, 2.30)])
def test_what_filtering_keeps_equals_the_table(q: float, gain: float, kl: float) -> None:
    rewards = world()
    kept = rewards[rewards >= np.quantile(rewards, 1 - q)]
    assert kept.mean() == pytest.approx(gain, abs=0.006)
    assert math.log(len(rewards) / len(kept)) == pytest.approx(kl, abs=0.006)  # uniform on the kept: -log q


@pytest.mark.parametrize(("beta", "gain", "kl"), [(3.0, 0.33, 0.06), (1.0, 1.00, 0.50), (0.5, 2.00, 2.00)])
def test_reward_weighting_equals_the_table(beta: float, gain: float, kl: float) -> None:
    rewards = world()
    w = np.array(exponential(rewards.tolist(), beta, clip=math.inf))
    assert w.mean() == pytest.approx(1.0)
    assert (w * rewards).mean() == pytest.approx(gain, abs=0.02)
    assert (w * np.log(w)).mean() == pytest.approx(kl, abs=0.05)


@pytest.mark.parametrize(("noise", "factor"), [(0.5, 0.8), (1.0, 0.5), (2.0, 0.2)])
def test_noise_of_the_scorer_flattens_the_dial_as_the_table_says(noise: float, factor: float) -> None:
    # A perfect policy answers a target with what the logs hold at that label, and the label is the truth and noise.
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000)
    label = truth + noise * rng.normal(size=20_000)
    (found,) = resampled(slope(label, truth), np.arange(20_000), resamples=200)
    assert found.low <= factor <= found.high
    assert found.mean == pytest.approx(factor, abs=0.02)
