"""The dial's figures equal formulas on hand-made arrays, and mean what they say on simulated dials."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from steer.errors import SteerError
from steer.evaluation.controllability import FIGURES, controllability, correlation

HEADLINES = (*FIGURES, "partial_slope", "spearman", "tau")


def factorial(prompts: int, attributes: int, levels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Every combination of targets for every prompt, [n, A], and the prompts."""
    grid = np.array(list(itertools.product(range(levels), repeat=attributes)), float)
    return np.tile(grid, (prompts, 1)), np.repeat(np.arange(prompts), len(grid))


def measure(target: Any, obtained: Any, prompts: Any, **changes: Any) -> dict[str, Any]:
    """`controllability` of attributes a, b, ... with five levels and a span of 4 in the data."""
    size = np.shape(target)[1]
    given = {"attributes": list("abcdef"[:size]), "levels": [5] * size, "data_span": [4.0] * size, "resamples": 200}
    return controllability(target, obtained, prompts, **given | changes)


def dial(target: list[float], obtained: list[float], prompts: list[int], **changes: Any) -> dict[str, Any]:
    """The figures of a single attribute."""
    found = measure(np.array(target)[:, None], np.array(obtained)[:, None], prompts, **changes)
    return dict(found["attributes"]["a"])


def test_figures_by_hand() -> None:
    t, y = [0.0, 1, 2, 0, 1, 2], [0.5, 0.4, 2.4, 0.0, 2.0, 4.6]
    found = dial(t, y, [0, 0, 0, 1, 1, 1])
    middle, deviations = sum(y) / 6, [x - 1 for x in t]
    assert found["n"] == 6
    assert found["slope"]["mean"] == pytest.approx(sum(d * (v - middle) for d, v in zip(deviations, y)) / 4)
    assert found["mae"]["mean"] == pytest.approx((0.5 + 0.6 + 0.4 + 0 + 1 + 2.6) / 6)
    # Levels obtained: .5 -> 1 (never to even), .4 -> 0, 2.4 -> 2, 0, 2, and 4.6 -> 5, which is clipped to 4.
    assert found["exact"]["mean"] == pytest.approx(2 / 6)
    assert found["within_one"]["mean"] == pytest.approx(5 / 6)
    assert found["span_ratio"]["mean"] == pytest.approx(((2.4 + 4.6) / 2 - (0.5 + 0.0) / 2) / 4)
    assert [(row["target"], row["n"]) for row in found["means"]] == [(0, 2), (1, 2), (2, 2)]
    assert [row["mean"] for row in found["means"]] == pytest.approx([0.25, 1.2, 3.5])
    # Within prompts: pairs (.5, .4) disagree and the other five agree; no ties.
    assert found["tau"]["mean"] == pytest.approx(((2 - 1) / 3 + 3 / 3) / 2)
    assert found["tau"]["n"] == 2


def test_the_top_level_can_be_obtained_but_not_passed() -> None:
    found = dial([4.0, 4, 0, 0], [9.0, 4.4, -3.0, 0.4], [0, 1, 0, 1])
    assert found["exact"]["mean"] == 1
    assert found["exact"]["low"] == pytest.approx(0.025 ** (1 / 2))  # two prompts that agree do not make it certain
    assert found["exact"]["high"] == 1
    assert found["mae"]["mean"] == pytest.approx((5 + 0.4 + 3 + 0.4) / 4)  # the distance is not clipped


def test_rank_correlations_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    target, prompts = rng.integers(0, 5, 300), np.repeat(np.arange(30), 10)
    obtained = (target + rng.normal(scale=3, size=300)).round()  # with ties
    found = dial(target.astype(float), obtained, prompts)
    means = [obtained[target == level].mean() for level in range(5)]
    taus = [stats.kendalltau(target[prompts == p], obtained[prompts == p]).statistic for p in range(30)]
    assert found["spearman"]["mean"] == pytest.approx(stats.spearmanr(target, obtained).statistic)
    assert found["spearman_means"]["mean"] == pytest.approx(stats.spearmanr(range(5), means).statistic)
    assert found["tau"]["mean"] == pytest.approx(np.mean(taus))


def test_leakage_equals_least_squares() -> None:
    rng = np.random.default_rng(1)
    target = rng.integers(0, 5, (200, 3)).astype(float)
    target[:, 2] = np.clip(target[:, 0] + rng.integers(-1, 2, 200), 0, 4)  # far from factorial
    obtained = target @ rng.normal(size=(3, 3)) + rng.normal(size=(200, 3))
    found = measure(target, obtained, np.arange(200) // 4)
    expected = np.linalg.lstsq(np.column_stack([target, np.ones(200)]), obtained, rcond=None)[0][:3].T
    assert np.array(found["leakage"]) == pytest.approx(expected)
    assert (np.array(found["leakage_low"]) < expected).all()
    assert (np.array(found["leakage_high"]) > expected).all()
    assert found["attributes"]["b"]["partial_slope"]["mean"] == pytest.approx(expected[1, 1])
    assert found["attributes"]["c"]["slope"]["mean"] != pytest.approx(expected[2, 2], rel=0.1)


def test_leakage_in_units_of_the_data() -> None:
    target, prompts = factorial(4, 2)
    obtained = np.column_stack([target[:, 0], target[:, 1] + 0.5 * target[:, 0]])
    found = measure(target, obtained, prompts, data_span=[2.0, 4.0])
    assert np.array(found["leakage"]) == pytest.approx(np.array([[1, 0], [0.5, 1]]), abs=1e-9)
    # From one end of a in the data to the other (2 levels) moves b by 1 level, a quarter of its span.
    assert np.array(found["leakage_scaled"]) == pytest.approx(np.array([[1, 0], [1 / 4, 1]]), abs=1e-9)


def test_a_perfect_dial() -> None:
    target, prompts = factorial(20, 2)
    found = measure(target, target, prompts)
    for dialled in found["attributes"].values():
        for figure in set(HEADLINES) - {"mae"}:
            assert dialled[figure]["mean"] == pytest.approx(1), figure
            least = 0.025 ** (1 / 20) if figure in ("exact", "within_one") else 1  # shares: Clopper and Pearson's bound
            assert (dialled[figure]["low"], dialled[figure]["high"]) == pytest.approx((least, 1)), figure
        assert dialled["mae"]["mean"] == dialled["mae"]["high"] == 0


def test_a_reversed_dial() -> None:
    target, prompts = factorial(5, 2)
    found = measure(target, 4 - target, prompts)["attributes"]["b"]
    for figure in ("slope", "spearman", "spearman_means", "tau", "span_ratio", "partial_slope"):
        assert found[figure]["mean"] == pytest.approx(-1), figure


def test_a_dial_that_does_nothing_is_not_left_out() -> None:
    # One prompt obeys, one always answers the same: tau is 1/2, not the 1 of the prompt that obeys.
    found = dial([0.0, 1, 0, 1], [0.0, 1, 2, 2], [0, 0, 1, 1])
    assert found["tau"]["mean"] == pytest.approx(1 / 2)
    dead = dial([0.0, 1, 0, 1], [2.0, 2, 2, 2], [0, 0, 1, 1])
    assert dead["slope"]["mean"] == dead["tau"]["mean"] == dead["span_ratio"]["mean"] == 0
    assert dead["spearman"]["mean"] is None  # no correlation with what does not vary


def test_prompts_with_a_single_target_have_no_tau() -> None:
    found = dial([0.0, 1, 3, 3], [0.0, 1, 2, 5], [0, 0, 1, 1])
    assert (found["tau"]["mean"], found["tau"]["n"], found["tau"]["low"]) == (1, 1, None)
    assert found["n"] == 4


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_noise_in_training_scores_flattens_the_dial(noise: float) -> None:
    # A policy that learned from score = truth + noise gives E[truth | score = target]: docs/methods.md, .8 / .5 / .2.
    rng = np.random.default_rng(2)
    truth = rng.normal(scale=1, size=(40_000, 1))
    target = np.floor(truth + noise * rng.normal(size=truth.shape) + 0.5)
    found = measure(target, truth, np.arange(len(truth)) // 40)["attributes"]["a"]["slope"]
    variance = 1 + noise**2  # rounding to levels adds 1/12 (Sheppard)
    assert found["mean"] == pytest.approx(1 / (variance + 1 / 12), rel=0.02)
    assert found["low"] <= 1 / (variance + 1 / 12) <= found["high"]


def test_a_target_that_resamples_often_miss_has_no_bounds() -> None:
    t = [0.0, 1, 0, 1, 0, 1, 0, 4]  # one prompt of four was asked for level 4: (3/4)^4 of the resamples lack it
    found = dial(t, t, [0, 0, 1, 1, 2, 2, 3, 3])
    for figure in ("spearman_means", "span_ratio"):
        assert (found[figure]["mean"], found[figure]["low"], found[figure]["high"]) == (1, None, None), figure
    assert (found["slope"]["low"], found["slope"]["high"]) == pytest.approx((1, 1))
    assert [row["low"] for row in found["means"]] == [0, 1, None]


def test_random_targets_have_slope_zero_in_19_of_20_simulations() -> None:
    inside = {"slope": 0, "partial_slope": 0, "spearman": 0, "tau": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        target, prompts = rng.integers(0, 5, (120, 1)).astype(float), np.arange(120) // 4
        obtained = 2 + rng.normal(size=(30, 1))[prompts] + rng.normal(size=(120, 1))
        found = measure(target, obtained, prompts)["attributes"]["a"]
        for figure in inside:
            inside[figure] += found[figure]["low"] <= 0 <= found[figure]["high"]
    assert {figure: 0.9 <= count / 200 <= 0.985 for figure, count in inside.items()} == dict.fromkeys(inside, True)


@pytest.fixture
def noisy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target, prompts = factorial(12, 2, levels=4)
    rng = np.random.default_rng(3)
    obtained = target @ np.array([[0.8, 0.3], [0.0, 0.6]]) + rng.normal(size=target.shape)
    return target, obtained + rng.normal(size=(12, 2))[prompts], prompts


def flat(result: Any) -> list[float]:
    """Every number of a result, in order; undefined ones as NaN."""
    if isinstance(result, dict | list):
        return [x for part in (result.values() if isinstance(result, dict) else result) for x in flat(part)]
    return [math.nan if result is None else float(result)]


def test_the_order_of_rows_does_not_matter(noisy: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    order = np.random.default_rng(4).permutation(len(noisy[0]))
    assert flat(measure(*(column[order] for column in noisy))) == pytest.approx(flat(measure(*noisy)), abs=1e-9)


def test_repeating_rows_does_not_shrink_an_interval(noisy: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    once = measure(*noisy)["attributes"]["a"]
    twice = measure(*(np.concatenate([column, column]) for column in noisy))["attributes"]["a"]
    for figure in HEADLINES:
        bounds = once[figure]["low"], once[figure]["high"]
        assert (twice[figure]["low"], twice[figure]["high"]) == pytest.approx(bounds, abs=1e-9), figure
        assert bounds[0] < bounds[1] or figure == "spearman_means"
    assert twice["n"] == 2 * once["n"]


def test_an_attribute_that_nobody_asked_changes_nothing(noisy: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    target, obtained, prompts = noisy
    unasked = np.full((len(target), 1), np.nan)
    more = measure(np.hstack([target, unasked]), np.hstack([obtained, obtained[:, :1] ** 2]), prompts)
    less = measure(*noisy)
    for name, figures in less["attributes"].items():
        assert flat(more["attributes"][name]) == pytest.approx(flat(figures), abs=1e-9)
    assert np.array(more["leakage"])[:2, :2].astype(float) == pytest.approx(np.array(less["leakage"]), abs=1e-9)
    assert [row[2] for row in more["leakage"]] == [None] * 3  # turning it was never tried
    assert more["leakage"][2][0] > 0  # what the others do to it was measured
    assert more["attributes"]["c"]["n"] == 0
    assert more["attributes"]["c"]["slope"]["mean"] is None


def test_a_target_asked_in_some_rows_only(noisy: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    target, obtained, prompts = noisy[0].copy(), noisy[1].copy(), noisy[2]
    off = np.random.default_rng(5).random(len(target)) < 0.3
    obtained[off] += 7  # leaving b out changes what is obtained, which is no effect of the level of a or b
    exact = obtained.copy()
    exact[:, 0] = 0.8 * target[:, 0] + 0.5 * np.where(off, 0, target[:, 1]) + 7 * off
    target[off, 1] = np.nan
    found = measure(target, exact, prompts)
    assert found["leakage"][0] == pytest.approx([0.8, 0.5])
    assert found["attributes"]["b"]["n"] == (~off).sum()
    kept = measure(target[~off], obtained[~off], prompts[~off])
    assert found["attributes"]["b"]["slope"] == pytest.approx(kept["attributes"]["b"]["slope"])


def test_scores_that_are_missing_are_left_out_and_counted(noisy: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    target, obtained, prompts = noisy[0], noisy[1].copy(), noisy[2]
    obtained[::5, 0] = np.nan
    found, kept = measure(target, obtained, prompts), ~np.isnan(obtained[:, 0])
    left = measure(target[kept], obtained[kept], prompts[kept])
    assert found["attributes"]["a"].pop("undefined") == (~kept).sum()
    assert left["attributes"]["a"].pop("undefined") == 0
    assert flat(found["attributes"]["a"]) == pytest.approx(flat(left["attributes"]["a"]))
    assert found["attributes"]["b"]["n"] == len(target)


@pytest.mark.parametrize("second", [[0.0, 1, 2, 3], [2.0, 2, 2, 2]])
def test_an_effect_that_the_design_cannot_tell_is_undefined(second: list[float]) -> None:
    target = np.column_stack([np.tile([0.0, 1, 2, 3], 6), np.tile(second, 6)])
    found = measure(target, target + 0.1, np.arange(24) // 4)
    together = second[0] != second[1]
    assert found["leakage"][0] == ([None, None] if together else [pytest.approx(1), None])
    assert found["attributes"]["b"]["span_ratio"]["mean"] == (pytest.approx(3 / 4) if together else None)


def test_the_result_is_strict_json(noisy: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    target, obtained, prompts = noisy[0].copy(), noisy[1].copy(), noisy[2]
    target[:, 1], obtained[0, 0] = np.nan, np.nan
    found = json.loads(json.dumps(measure(target, obtained, prompts), allow_nan=False))
    assert (found["n"], found["prompts"]) == (192, 12)
    assert (found["attributes"]["a"]["n"], found["attributes"]["a"]["undefined"]) == (191, 1)
    assert found["attributes"]["b"]["n"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": [[0.5], [1.0]]}, "whole numbers"),
        ({"obtained": [[1.0]]}, r"must be \[prompts, attributes\]"),
        ({"levels": [5, 5]}, "for each of a"),
        ({"data_span": [4.0, 4.0]}, "for each of a"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    given = {"target": [[0.0], [1.0]], "obtained": [[0.0], [1.0]], "prompts": [0, 1]}
    with pytest.raises(SteerError, match=words):
        measure(**given | changes)


def test_correlation_uses_the_rows_that_know_both() -> None:
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(100, 3)) @ rng.normal(size=(3, 3)) + 1e4
    scores[rng.random(scores.shape) < 0.3] = np.nan
    found = correlation(scores)
    for j, k in itertools.combinations(range(3), 2):
        both = ~np.isnan(scores[:, [j, k]]).any(1)
        assert found[j, k] == pytest.approx(stats.pearsonr(scores[both, j], scores[both, k]).statistic)
    assert np.diag(found) == pytest.approx(np.ones(3))
    assert found == pytest.approx(found.T)


def test_correlation_of_a_constant_is_undefined() -> None:
    found = correlation([[0.1, 1.0, math.nan], [0.1, 2.0, math.nan], [0.1, 4.0, 3.0]])
    assert np.isnan(found).tolist() == [[True, True, True], [True, False, True], [True, True, True]]
    # The first column varies, but not where the second is known.
    found = correlation([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0], [7.3, math.nan]])
    assert np.isnan(found).tolist() == [[False, True], [True, False]]


def test_seeds_that_disagree_widen_the_dial() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 5, (300, 2)).astype(float)
    how = {"attributes": ("a", "b"), "levels": [5, 5], "data_span": [4, 4]}
    parts = [target * slope + rng.normal(0, 0.3, target.shape) for slope in (0.5, 0.7, 0.9)]
    together = np.tile(target, (3, 1)), np.concatenate(parts), np.tile(np.arange(300), 3)
    pooled = controllability(*together, resamples=200, **how)
    seeds = controllability(*together, repetitions=np.repeat([4, 7, 9], 300), resamples=200, **how)
    found = seeds["attributes"]["a"]["slope"]
    assert found["mean"] == pooled["attributes"]["a"]["slope"]["mean"]
    half = 4.303 * 0.2 / 3**0.5  # t of 2 degrees of freedom, sd of the seeds' slopes
    assert found["high"] - found["mean"] == pytest.approx(half, rel=0.1)
    assert controllability(*together, repetitions=np.zeros(900), resamples=200, **how) == pooled
    assert seeds["leakage_low"][0][0] < pooled["leakage_low"][0][0]
    assert seeds["attributes"]["a"]["spearman"]["high"] <= 1
    for name in HEADLINES:
        assert seeds["attributes"]["b"][name]["mean"] == pooled["attributes"]["b"][name]["mean"], "that of all rows"


def test_a_seed_without_a_figure_leaves_its_bounds_unknown() -> None:
    """All that one seed obtained is the same: it has a slope, but no rank correlation."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 5, (60, 1)).astype(float)
    obtained = [target + rng.normal(size=target.shape), target + rng.normal(size=target.shape), 0 * target]
    together = np.tile(target, (3, 1)), np.concatenate(obtained), np.tile(np.arange(60), 3)
    found = measure(*together, levels=[5], data_span=[4.0], repetitions=np.repeat(np.arange(3), 60))["attributes"]["a"]
    assert found["slope"]["low"] < 0 < found["slope"]["high"]
    assert found["spearman"]["mean"] > 0
    assert (found["spearman"]["low"], found["spearman"]["high"]) == (None, None)


def test_leakage_into_an_attribute_that_never_moved_in_the_data_has_no_scale() -> None:
    target, prompts = factorial(2, 2)
    found = measure(target, target @ np.array([[1.0, 0.0], [-0.9, 1.0]]), prompts, data_span=[4.0, 0.0])
    assert found["leakage"][0][1] == pytest.approx(-0.9)
    assert found["leakage_scaled"][0][1] is None


def test_bounds_of_few_prompts_are_what_a_figure_can_be() -> None:
    rng = np.random.default_rng(0)
    target, prompts = factorial(3, 1)
    found = measure(target, target + rng.normal(0, 1.5, target.shape), prompts)["attributes"]["a"]
    for name, low, high in (("spearman", -1, 1), ("tau", -1, 1), ("exact", 0, 1), ("within_one", 0, 1), ("mae", 0, 9)):
        assert low <= found[name]["low"] <= found[name]["high"] <= high, name
