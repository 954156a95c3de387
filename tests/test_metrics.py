"""The figures of a report against their formulas in plain Python."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from attribute_models.metrics import BEFORE, FEW_PROMPTS, ONE_SCORE, interval, partial, report, table

TRUTH = [1.0, 2.0, 2.0, 4.0, 5.0, 3.0]
PREDICTED = [1.5, 2.0, 1.0, 3.0, 4.0, 4.0]
LENGTHS = [3, 8, 2, 9, 7, 1]


def one(
    truth: Sequence[float], predicted: Sequence[float], lengths: Sequence[float] | None = None
) -> dict[str, object]:
    """The report of one attribute."""
    t, p = np.asarray(truth, dtype=float)[:, None], np.asarray(predicted, dtype=float)[:, None]
    (found,) = report(t, p, ("quality",), list(range(len(t))) if lengths is None else lengths)
    return found


def mean(x: Sequence[float]) -> float:
    return sum(x) / len(x)


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    a, b = [v - mean(x) for v in x], [v - mean(y) for v in y]
    return sum(i * j for i, j in zip(a, b)) / math.sqrt(sum(i * i for i in a) * sum(j * j for j in b))


def mean_ranks(x: Sequence[float]) -> list[float]:
    return [sum(other < value for other in x) + (1 + sum(other == value for other in x)) / 2 for value in x]


def kappa(x: Sequence[int], y: Sequence[int]) -> float:
    """1 - sum(w O) / sum(w E) over the table of levels, levels counted from the lowest."""
    low, high = min(*x, *y), max(*x, *y)
    observed = expected = 0.0
    for i in range(high - low + 1):
        for j in range(high - low + 1):
            observed += (i - j) ** 2 * sum(a - low == i and b - low == j for a, b in zip(x, y))
            expected += (i - j) ** 2 * sum(a - low == i for a in x) * sum(b - low == j for b in y) / len(x)
    return 1 - observed / expected


def test_errors_stand_beside_those_of_the_mean() -> None:
    found = one(TRUTH, PREDICTED)
    error = [p - t for t, p in zip(TRUTH, PREDICTED)]
    centred = [t - mean(TRUTH) for t in TRUTH]
    assert found["mae"] == pytest.approx(mean([abs(e) for e in error]))
    assert found["rmse"] == pytest.approx(math.sqrt(mean([e * e for e in error])))
    assert found["baseline_mae"] == pytest.approx(mean([abs(c) for c in centred]))
    assert found["baseline_rmse"] == pytest.approx(math.sqrt(mean([c * c for c in centred])))


def test_correlations_and_their_interval() -> None:
    found, r = one(TRUTH, PREDICTED, LENGTHS), correlation(TRUTH, PREDICTED)
    assert found["pearson"] == pytest.approx(r)
    assert found["reliability"] == pytest.approx(r**2)
    assert found["spearman"] == pytest.approx(correlation(mean_ranks(TRUTH), mean_ranks(PREDICTED)))
    assert found["spearman_with_length"] == pytest.approx(correlation(mean_ranks(PREDICTED), mean_ranks(LENGTHS)))


def test_the_interval_of_independent_rows_is_fishers() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    y = 0.6 * x + 0.8 * rng.normal(size=4000)
    r = correlation(x.tolist(), y.tolist())
    low, high = interval(x, y, np.arange(4000))
    assert low == pytest.approx(math.tanh(math.atanh(r) - 1.96 / math.sqrt(3997)), abs=2e-3)
    assert high == pytest.approx(math.tanh(math.atanh(r) + 1.96 / math.sqrt(3997)), abs=2e-3)


def test_the_interval_covers_where_rows_of_a_prompt_are_alike() -> None:
    """Of 300 data sets without correlation between prompts, about 95 % have 0 inside; rows taken singly, far fewer."""
    rng, groups = np.random.default_rng(1), np.repeat(np.arange(40), 8)
    inside = np.zeros(2)
    for _ in range(300):
        x, y = (rng.normal(size=40)[groups] + 0.3 * rng.normal(size=320) for _ in range(2))
        for i, by in enumerate((groups, np.arange(320))):
            low, high = interval(x, y, by)
            assert low is not None
            assert high is not None
            inside[i] += low <= 0 <= high
    assert inside[0] / 300 == pytest.approx(0.95, abs=0.035)
    assert inside[1] / 300 < 0.7


def test_an_attribute_is_not_learnable_where_the_mean_is_as_near() -> None:
    truth = [1.0, 5.0] * 20
    found = report(
        np.asarray(truth)[:, None],
        np.asarray([2.0, 4.0] * 20)[:, None],
        ("quality",),
        range(40),
        expected=np.full((40, 1), 3.0),
    )[0]
    assert found["spearman"] == 1.0
    assert found["learnable"] is False
    assert found["mae"] == 1.0, "of the predictions in the table, which are spread as the ratings are"
    assert f"squared error of 2.000 ({BEFORE}), no better than 2.000 of the mean, over 40 rows" in found["warning"]


def test_a_skewed_score_is_learnable_though_a_constant_guess_has_the_smaller_absolute_error() -> None:
    """Nine in ten are 5, and the scorer knows which are not: its guesses are near them and a little off elsewhere."""
    truth = np.asarray([5.0] * 9 + [1.0])[None].repeat(20, 0).ravel()
    predicted = np.where(truth == 5, 4.2, 2.4) + 0.2 * np.cos(37.0 * np.arange(200))
    (found,) = report(truth[:, None], predicted[:, None], ("safety",), np.cos(11.0 * np.arange(200)))
    assert found["mae"] > found["baseline_mae"]
    assert found["rmse"] < found["baseline_rmse"]
    assert (found["learnable"], found["warning"]) == (True, None)


def test_no_rows_and_rows_of_one_score_do_not_say_whether_it_is_learnable() -> None:
    nothing, alike = one([math.nan], [1.0]), one([2.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (nothing["learnable"], alike["learnable"]) == (None, None)
    assert nothing["warning"] == f"quality: Spearman - (- to -) over 0 rows. {FEW_PROMPTS}"
    assert alike["warning"] == f"quality: its 5 {ONE_SCORE}"
    assert one([1.0, 2.0, 3.0, 5.0], [0.1] * 4)["learnable"] is False, "a constant is no prediction"


def test_three_prompts_do_not_say_whether_it_is_learnable() -> None:
    """Predictions that are right say nothing against the scorer where no interval can be computed."""
    scores = np.asarray(TRUTH * 2)[:, None]
    three, four = (
        report(scores, scores, ("quality",), range(12), groups=[i % prompts for i in range(12)])[0]
        for prompts in (3, 4)
    )
    assert three["learnable"] is None
    assert "fewer than 4 prompts, too few to say whether it is learnable. Rate answers to more" in three["warning"]
    assert four["learnable"] is not None


def test_kappa_equals_the_sum_over_the_table_of_levels() -> None:
    rounded = [math.floor(p + 0.5) for p in PREDICTED]
    assert rounded[0] == 2  # 1.5 goes up
    assert one(TRUTH, PREDICTED)["qwk"] == pytest.approx(kappa([int(t) for t in TRUTH], rounded))
    assert one([0.0, 1.0, 2.0], [0.5, 1.5, 2.5])["qwk"] == pytest.approx(
        kappa([0, 1, 2], [1, 2, 3])
    )  # round() gives 0, 2, 2


def test_kappa_does_not_depend_on_where_the_scale_starts() -> None:
    moved = one([t - 7 for t in TRUTH], [p - 7 for p in PREDICTED])
    assert moved["qwk"] == pytest.approx(one(TRUTH, PREDICTED)["qwk"])


def test_masking_equals_deleting() -> None:
    masked = one([*TRUTH, math.nan, 3.0], [*PREDICTED, 9.0, math.nan], [*LENGTHS, 5, 5])
    assert masked == one(TRUTH, PREDICTED, LENGTHS) | {"unknown": 2}


def test_attributes_do_not_touch_each_other() -> None:
    truth = np.column_stack([TRUTH, PREDICTED])
    both = report(truth, truth[:, ::-1], ("a", "b"), LENGTHS)
    assert both[0] == one(TRUTH, PREDICTED, LENGTHS) | {"attribute": "a", "warning": both[0]["warning"]}
    assert both[1] == one(PREDICTED, TRUTH, LENGTHS) | {"attribute": "b", "warning": both[1]["warning"]}


def test_learnable_means_that_the_interval_lies_above_zero() -> None:
    n = 40
    x = [float(i) for i in range(n)]
    noisy = [math.cos(37.0 * i) for i in range(n)]
    assert one(x, x, noisy)["learnable"] is True
    assert one(x, [-v for v in x], noisy)["learnable"] is False
    found = one(noisy, [math.sin(101.0 * i) for i in range(n)])
    assert abs(found["spearman"]) < math.tanh(1.959964 / math.sqrt(n - 3))  # type: ignore[arg-type]
    assert found["learnable"] is False
    assert "quality" in str(found["warning"])
    assert "40 rows" in str(found["warning"])
    assert one(x, x, noisy)["warning"] is None


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [([], []), ([math.nan], [1.0]), ([1.0], [1.0]), ([1.0, 2.0, 3.0, 5.0], [0.1] * 4), ([2.0] * 5, [1.0] * 5)],
)
def test_what_is_undefined_is_none_and_the_report_is_json(truth: list[float], predicted: list[float]) -> None:
    found = one(truth, predicted)
    assert found["pearson"] is None
    assert not found["learnable"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "-" in table([found])


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        report(np.zeros((3, 2)), np.zeros((3, 2)), ("a",), [1, 2, 3])


def test_the_table_is_aligned_and_ends_with_the_warnings() -> None:
    truth = np.column_stack([TRUTH, [1.0] * 6])
    found = report(truth, np.column_stack([TRUTH, PREDICTED]), ("quality", "a"), LENGTHS)
    header, first, second, *_, warning = table(found).splitlines()
    assert len(header) == len(first) == len(second)
    assert first.split()[:3] == ["quality", "6", "0.000"]
    assert warning == found[1]["warning"]


def partial_rank(x: Sequence[float], y: Sequence[float], z: Sequence[float]) -> float:
    a, b, c = mean_ranks(x), mean_ranks(y), mean_ranks(z)
    xy, xz, yz = correlation(a, b), correlation(a, c), correlation(b, c)
    return (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))


def test_what_is_left_given_length_is_the_partial_rank_correlation() -> None:
    found = one(TRUTH, PREDICTED, LENGTHS)
    assert found["length_alone"] == pytest.approx(correlation(mean_ranks(TRUTH), mean_ranks(LENGTHS)))
    assert found["given_length"] == pytest.approx(partial_rank(TRUTH, PREDICTED, LENGTHS))
    plain = correlation(mean_ranks(TRUTH), mean_ranks(PREDICTED))
    assert one(TRUTH, PREDICTED, [5] * 6)["given_length"] == pytest.approx(plain)  # equal lengths explain nothing
    assert one(TRUTH, [2.0 * n for n in LENGTHS], LENGTHS)["given_length"] == 0.0  # and all is explained here


def test_the_interval_given_length_covers_where_rows_of_a_prompt_are_alike() -> None:
    rng, groups, inside = np.random.default_rng(2), np.repeat(np.arange(40), 4), 0
    for _ in range(200):
        x, y, z = (rng.normal(size=40)[groups] + 0.5 * rng.normal(size=160) for _ in range(3))
        _, low, high = partial(x + z, y + z, z, groups)
        assert low is not None
        assert high is not None
        inside += low <= 0 <= high
    assert inside / 200 == pytest.approx(0.95, abs=0.05)


def simulated(shares: tuple[float, float], seed: int = 0) -> dict[str, object]:
    """A truth of length, signal and noise, and predictions with these shares of length and signal."""
    rng = np.random.default_rng(seed)
    length, signal, noise = rng.normal(size=(3, 400))
    truth, predicted = 2 * length + signal + noise, shares[0] * length + shares[1] * signal + 0.1 * rng.normal(size=400)
    (found,) = report(truth[:, None], predicted[:, None], ("quality",), length, debiased=True)
    return found


def test_a_scorer_of_length_alone_adds_nothing_and_says_so() -> None:
    found = simulated((1.0, 0.0))
    assert float(str(found["spearman"])) > 0.75
    assert found["learnable"] is False
    assert "quality: the scorer adds nothing to length: Spearman 0." in str(found["warning"])
    assert "by the number of words alone" in str(found["warning"])
    assert "fit the others only (--attribute ...); --neither quality keeps it as a condition" in str(found["warning"])
    assert simulated((1.0, 1.0))["learnable"] is True


def test_what_is_learnable_is_what_is_left_given_length() -> None:
    """Predictions without their liking for length: weak beside a truth that is mostly length, but not chance."""
    found = simulated((0.0, 0.3), seed=4)
    assert float(str(found["given_length_low"])) > 0
    assert found["learnable"] is True
    chance = simulated((0.0, 0.0))
    assert chance["learnable"] is False
    assert "by this model" in str(chance["warning"])
    assert "--kind embeddings" in str(chance["warning"])
