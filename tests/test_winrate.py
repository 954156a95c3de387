"""Win-rates, lengths held equal, rankings and agreement: by formula, and against what a simulated truth says."""

from __future__ import annotations

import json
import math
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import calls
from scipy.optimize import minimize
from scipy.stats import binomtest, spearmanr

from steer.conditioning.targets import unbeaten
from steer.errors import SteerError
from steer.evaluation.frontier import frontier, hypervolume
from steer.evaluation.statistics import Interval
from steer.evaluation.winrate import (
    MANY,
    Anchors,
    Votes,
    agreement,
    difficulties,
    length_controlled,
    outside,
    pairs,
    ranking,
    strengths,
    win_rate,
)


def votes(first: list[int], second: list[int], share: list[float], prompts: list[int] | None = None) -> Votes:
    """Votes without lengths."""
    n = len(share)
    names = np.arange(n) if prompts is None else np.array(prompts)
    one, other = np.array(first, int), np.array(second, int)
    return Votes(one, other, np.array(share), names, np.zeros(n), np.zeros(n), np.zeros(n, int), np.zeros(n, bool))


def test_ties_count_half_and_the_standard_error_is_that_of_the_mean() -> None:
    found = win_rate(votes([1] * 5, [0] * 5, [1, 1, 0.5, 0, math.nan]))
    assert found["win_rate"]["mean"] == pytest.approx((2 + 1 / 2) / 4)
    assert found["standard_error"] == pytest.approx(np.std([1, 1, 0.5, 0], ddof=1) / 2)
    assert (found["wins"], found["ties"], found["losses"]) == (2, 1, 1)


def test_the_standard_error_is_over_prompts() -> None:
    """100 prompts whose votes are the same in three seeds are 100 observations, not 300."""
    share = (np.random.default_rng(0).random(100) < 0.5).astype(float)
    three = votes([1] * 300, [0] * 300, [*share] * 3, [*range(100)] * 3)._replace(seeds=np.repeat(np.arange(3), 100))
    assert win_rate(three)["standard_error"] == pytest.approx(share.std(ddof=1) / math.sqrt(100))
    one = win_rate(votes([1] * 3, [0] * 3, [1.0, 0.0, 1.0], [0, 0, 0]))
    assert one["standard_error"] is None, "one prompt says nothing of others"


@pytest.mark.parametrize("prompts", [2, 6, 7, 8, 20, 300])
def test_prompts_that_all_agree_have_the_exact_binomial_bound(prompts: int) -> None:
    """Of prompts, not of votes: three seeds on the same prompts are no more of them."""
    for share in (1.0, 0.0):
        one = votes([1] * prompts, [0] * prompts, [share] * prompts)
        three = votes([1] * 3 * prompts, [0] * 3 * prompts, [share] * 3 * prompts, [*range(prompts)] * 3)
        bounds = binomtest(int(share * prompts), prompts).proportion_ci(method="exact")
        for some in (one, three._replace(seeds=np.repeat(np.arange(3), prompts))):
            found = win_rate(some)["win_rate"]
            assert (found["low"], found["high"]) == pytest.approx((bounds.low, bounds.high))
    assert agreement([1] * prompts, [1] * prompts, np.arange(prompts))["agreement"]["low"] == pytest.approx(
        binomtest(prompts, prompts).proportion_ci(method="exact").low
    )


def test_seeds_that_disagree_make_a_win_rate_less_sure() -> None:
    share = np.random.default_rng(0).random((3, 200)) < np.array([[0.3], [0.5], [0.7]])
    one = votes([1] * 600, [0] * 600, share.ravel().astype(float).tolist(), np.tile(np.arange(200), 3).tolist())
    apart = one._replace(seeds=np.repeat(np.arange(3), 200))
    widths = [win_rate(v)["win_rate"]["high"] - win_rate(v)["win_rate"]["low"] for v in (one, apart)]
    assert widths[1] > 2 * widths[0]


def test_who_answers_nothing_has_no_win_rate_and_who_is_asked_nothing_has_one() -> None:
    """Ties of equal responses count beside answers only: of systems 1 and 0 here, not of 2 and 0."""
    cast = votes([1, 1, 2, 2, 3], [0] * 5, [1.0, 0.5, math.nan, 0.5, 0.5], [0, 1, 0, 1, 0])
    cast = cast._replace(alike=np.array([False, True, False, True, True]))
    found = [win_rate(cast.between(i, 0)) for i in (1, 2, 3)]
    assert [one["win_rate"]["mean"] for one in found] == [0.75, None, 0.5]
    assert [(one["ties"], one["alike"], one["win_rate"]["n"]) for one in found] == [(1, 1, 2), (0, 0, 0), (1, 1, 1)]
    assert [bool(place) for place in ranking(cast, 4, resamples=20)] == [True, True, False, True]


def test_votes_between_two_systems_are_turned_to_the_first() -> None:
    found = votes([0, 1, 2], [1, 0, 1], [1.0, 0.0, 1.0]).between(0, 1)
    assert found.share.tolist() == [1.0, 1.0]


def test_length_control_takes_the_liking_for_length_out() -> None:
    rng = np.random.default_rng(0)
    longer = rng.normal(100, 200, size=4000)
    logit = 0.4 + 2.0 * np.tanh(longer / longer.std(ddof=1))
    share = (rng.random(4000) < 1 / (1 + np.exp(-logit))).astype(float)
    found = length_controlled(share, longer, np.arange(4000), resamples=200)
    truth = 1 / (1 + math.exp(-0.4))
    assert found.low <= truth <= found.high
    assert share.mean() > truth + 0.03
    assert abs(found.mean - truth) < 0.03


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, Any]]:
    """Systems of AlpacaEval 2's leaderboard: both figures, votes in thousandths, lengths less the baseline's."""
    found: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "alpaca_eval.json").read_text())
    return found


def test_win_rates_are_those_that_alpaca_eval_published(published: dict[str, dict[str, Any]]) -> None:
    for one in published.values():
        share = [v / 1000 for v in one["votes"]]
        found = win_rate(votes([1] * len(share), [0] * len(share), share), resamples=10)
        assert 100 * found["win_rate"]["mean"] == pytest.approx(one["win_rate"], abs=0.005)


def test_win_rates_at_equal_length_are_near_those_that_alpaca_eval_published(
    published: dict[str, dict[str, Any]],
) -> None:
    """Nearer than the raw ones, hardly ever far off, and in about the same order; on a quarter of the votes too."""
    for every in (1, 4):
        away, raw, mine = [], [], []
        for one in published.values():
            share, longer = np.array(one["votes"][::every]) / 1000, np.array(one["longer"][::every])
            found = length_controlled(share, longer, np.arange(len(share)), resamples=10)
            mine.append(100 * found.mean)
            away.append(mine[-1] - one["length_controlled_winrate"])
            raw.append(one["win_rate"] - one["length_controlled_winrate"])
        assert abs(np.mean(away)) < 2.5
        assert np.abs(away).mean() < np.abs(raw).mean()
        assert max(np.abs(away)) < (6 if every == 1 else 10)
        if every == 1:
            assert spearmanr(mine, [one["length_controlled_winrate"] for one in published.values()])[0] > 0.95


def test_where_hardly_a_vote_is_won_few_votes_do_not_move_a_win_rate_far() -> None:
    """5 wins in 100, all of them of the longest answers: nothing says how it would be at equal length."""
    longer = np.linspace(-300, 20, 100)
    share = np.zeros(100)
    share[-5:] = 1
    found = length_controlled(share, longer, np.arange(100), resamples=200)
    assert 0.05 < found.mean < 0.2
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_few_prompts_leave_bounds_within_0_and_1() -> None:
    found = length_controlled([1.0, 0.0, 1.0], [9.0, -3.0, 1.0], [0, 1, 2], resamples=200)
    assert 0 <= found.low <= found.high <= 1


def test_equal_length_outside_the_data_is_said() -> None:
    assert outside([-5, -3, -8] * 10)
    assert outside([-5] * 97 + [5] * 3)
    assert not outside([-5] * 90 + [5] * 10)
    assert not outside([0.0] * 9)


def test_with_difficulty_it_is_a_ridge_regression_read_at_equal_length() -> None:
    """The optimum of sum_i [y log p + (1 - y) log(1 - p)] - ridge, logit p = phi + theta tanh(d / sd) + psi hard."""
    rng = np.random.default_rng(0)
    hard, longer = rng.normal(size=400), rng.normal(-60, 100, size=400)
    share = (rng.random(400) < 1 / (1 + np.exp(-(-1.0 + 1.5 * np.tanh(longer / 100) + hard)))).astype(float)
    x = np.column_stack([np.ones(400), np.tanh(longer / longer.std(ddof=1)), hard])

    def loss(b: np.ndarray) -> float:
        return float(np.logaddexp(0, x @ b).sum() - share @ (x @ b) + 0.5 * (b**2 @ [0.1, 1.0, 0.1]))

    best = minimize(loss, np.zeros(3), tol=1e-10).x
    expected = float(np.mean(1 / (1 + np.exp(-(best[0] + best[2] * hard)))))
    found = length_controlled(share, longer, np.arange(400), difficulty=hard, resamples=50)
    assert found.mean == pytest.approx(expected, abs=1e-5)


def test_with_difficulty_and_anchors_it_is_alpaca_evals_estimator() -> None:
    """The optimum of sum_i w_i [y log p + (1 - y) log(1 - p)], logit p = phi + theta tanh(d / sd) + psi difficulty.

    Anchors, versions of the baseline itself, have no phi and a weight of .2 / 2; read at d = 0, averaged over votes.
    """
    rng = np.random.default_rng(0)
    hard, longer = rng.normal(size=400), rng.normal(-60, 100, size=400)
    share = (rng.random(400) < 1 / (1 + np.exp(-(-1.0 + 1.5 * np.tanh(longer / 100) + hard)))).astype(float)
    away = rng.normal(size=300)
    told = Anchors((rng.random(300) < 1 / (1 + np.exp(-1.5 * np.tanh(away)))).astype(float), away, rng.normal(size=300))
    x = np.column_stack([np.ones(400), np.tanh(longer / longer.std(ddof=1)), hard])
    more = np.column_stack([np.zeros(300), np.tanh(away), told.difficulty])

    def loss(b: np.ndarray) -> float:
        sums = [np.logaddexp(0, z @ b).sum() - y @ (z @ b) for z, y in ((x, share), (more, told.share))]
        return float(sums[0] + 0.1 * sums[1] + 0.05 * b @ b)

    best = minimize(loss, np.zeros(3), tol=1e-10).x
    wanted = float(np.mean(1 / (1 + np.exp(-(best[0] + best[2] * hard)))))
    found = length_controlled(share, longer, np.arange(400), difficulty=hard, anchors=told, resamples=50)
    assert found.mean == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(SteerError, match="Give both"):
        length_controlled(share, longer, np.arange(400), anchors=told)


def test_many_systems_tell_how_difficult_an_instruction_is() -> None:
    rng = np.random.default_rng(1)
    truth, every = rng.normal(size=100), []
    for level in np.linspace(-3, 0, MANY):
        longer = rng.normal(-50, 100, size=100)
        logit = level + 1.5 * np.tanh(longer / 100) + truth
        share = (rng.random(100) < 1 / (1 + np.exp(-logit))).astype(float)
        every.append(votes([1] * 100, [0] * 100, share.tolist())._replace(longer=longer))
    found = difficulties(every)
    assert np.corrcoef([found[i] for i in range(100)], truth)[0, 1] > 0.75
    assert difficulties(every[:-1]) == {}


def test_without_votes_nothing_is_said() -> None:
    assert math.isnan(length_controlled([], [], []).mean)
    assert ranking(votes([], [], []), 2) == [{}, {}]


def test_bounds_of_a_win_rate_are_shares() -> None:
    share = (np.random.default_rng(1).random((2, 50)) < np.array([[0.5], [0.8]])).astype(float).ravel()
    two = votes([1] * 100, [0] * 100, share.tolist(), np.tile(np.arange(50), 2).tolist())
    found = win_rate(two._replace(seeds=np.repeat(np.arange(2), 50)))["win_rate"]
    assert (found["low"], found["high"]) == (0.0, 1.0)


def test_only_systems_that_met_are_ranked_among_each_other() -> None:
    met = votes([1] * 20, [0] * 20, [1.0] * 14 + [0.0] * 6)
    for systems, of in ((2, met), (3, met)):
        found = ranking(of, systems, resamples=50)
        assert [f["place"]["mean"] for f in found[:2]] == [2.0, 1.0]
        assert found[0]["strength"]["mean"] == pytest.approx(-found[1]["strength"]["mean"])
    apart = votes([1] * 20 + [3] * 20, [0] * 20 + [2] * 20, ([1.0] * 14 + [0.0] * 6) * 2)
    assert [bool(f) for f in ranking(apart, 4, resamples=50)] == [True, True, False, False]


def test_at_equal_lengths_length_control_changes_nothing() -> None:
    share = np.array([1.0, 1, 1, 0, 0.5, 1, 0, 1] * 50)
    found = length_controlled(share, np.zeros(400), np.arange(400), resamples=100)
    assert found.mean == pytest.approx(share.mean(), abs=1e-3)


def test_one_side_that_always_wins_stays_finite() -> None:
    found = length_controlled(np.ones(50), np.arange(50.0), np.arange(50), resamples=50)
    assert 0.9 < found.mean < 1
    (weak, strong) = ranking(votes([1] * 9, [0] * 9, [1.0] * 9), 2, resamples=50)
    assert strong["strength"]["mean"] == pytest.approx(-weak["strength"]["mean"])
    assert (strong["place"]["mean"], weak["place"]["mean"]) == (1, 2)


def test_two_systems_have_the_log_odds_of_their_wins() -> None:
    wins = np.array([[[0, 3000.0], [1000.0, 0]]])
    found = strengths(wins)[0]
    assert found[0] - found[1] == pytest.approx(math.log(3), rel=1e-3)


def test_strengths_are_those_that_made_the_votes() -> None:
    truth, rng = np.array([0.8, 0.1, -0.2, -0.7]), np.random.default_rng(1)
    i, j = np.array(pairs(4, "all")).T
    first, second = np.tile(i, 700), np.tile(j, 700)
    share = (rng.random(len(first)) < 1 / (1 + np.exp(truth[second] - truth[first]))).astype(float)
    found = ranking(votes(first, second, share, np.repeat(np.arange(700), 6).tolist()), 4, resamples=300)
    assert [f["place"]["mean"] for f in found] == [1, 2, 3, 4]
    assert all(f["strength"]["low"] <= t <= f["strength"]["high"] for f, t in zip(found, truth))
    assert found[0]["place"]["high"] == 1


def test_intervals_of_strengths_cover_the_truth() -> None:
    truth, covered = np.array([0.4, 0.0, -0.4]), []
    i, j = np.array(pairs(3, "all")).T
    for trial in range(120):
        rng = np.random.default_rng(trial)
        first, second = np.tile(i, 120), np.tile(j, 120)
        share = (rng.random(len(first)) < 1 / (1 + np.exp(truth[second] - truth[first]))).astype(float)
        found = ranking(votes(first, second, share, np.repeat(np.arange(120), 3).tolist()), 3, resamples=400)
        covered += [f["strength"]["low"] <= t <= f["strength"]["high"] for f, t in zip(found, truth)]
    assert 0.91 <= np.mean(covered) <= 0.985


def test_a_system_without_comparisons_has_no_place() -> None:
    assert ranking(votes([1], [0], [1.0]), 3, resamples=20)[2] == {}


def test_ranking_many_systems_takes_memory_for_their_prompts_not_for_their_votes() -> None:
    """40 systems make 780 comparisons of each of 40 prompts: 400 MB if each held a table of all pairs."""
    i, j = np.array(pairs(40, "all")).T
    many = votes(
        np.tile(i, 40), np.tile(j, 40), np.tile(i > j, 40).astype(float), np.repeat(np.arange(40), 780).tolist()
    )
    tracemalloc.start()
    found = ranking(many, 40, resamples=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [f["place"]["mean"] for f in found] == list(range(40, 0, -1)), "i, the higher number, won everywhere"
    assert found[0]["strength"]["n"] == 780 * 40
    assert peak < 100e6


def test_agreement_and_kappa_by_hand() -> None:
    a, b = [1, 1, 0, 0, 0.5], [1, 0, 0, 0, 1]
    found = agreement(a, b, np.arange(5))
    same = (1 + 0 + 1 + 1 + 0.5) / 5
    chance = np.mean([[1 - abs(x - y) for y in b] for x in a])
    assert found["agreement"]["mean"] == pytest.approx(same)
    assert found["kappa"] == pytest.approx((same - chance) / (1 - chance))
    assert agreement([1, 1], [1, 1], [0, 1])["kappa"] is None


def test_pairs() -> None:
    assert pairs(3, "all") == [(1, 0), (2, 0), (2, 1)]
    assert pairs(3, "baseline") == [(1, 0), (2, 0)]


def test_numpy_works_on_many_resamples_of_votes_at_once() -> None:
    rng = np.random.default_rng(0)
    i, j = np.array(pairs(8, "all")).T
    first, second, names = np.tile(i, 300), np.tile(j, 300), np.repeat(np.arange(300), len(i))
    share = rng.choice([0, 0.5, 1], len(first))
    longer = rng.normal(size=300)
    for work in (
        lambda n: ranking(votes(first, second, share, names.tolist()), 8, resamples=n),
        lambda n: length_controlled(share[:300], longer, np.arange(300), resamples=n),
    ):
        few, many = (calls(lambda n=n, work=work: work(n)) for n in (1000, 10_000))
        assert many - few < 9000  # less than a call for each further resample


def test_the_hypervolume_of_a_staircase_and_of_boxes() -> None:
    stairs = [[[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [0.5, 0.5]]]
    assert hypervolume(stairs, [0, 0]) == pytest.approx([3 + 2 + 1])
    assert hypervolume([[[2.0, 0.5]]], [1, 1]) == pytest.approx([0])
    assert hypervolume([[[-1.0, 5.0], [-0.5, 3.0]]], [-2, 1]) == pytest.approx([1 * 4 + 0.5 * 2])
    assert np.isnan(hypervolume([[[1.0, 3.0], [2.0, math.nan]]], [0, 0])).all()
    points = np.random.default_rng(0).random((3, 40, 2))
    for some, area in zip(points.tolist(), hypervolume(points, [0.1, 0.2])):
        edges = sorted({0.1, *(x for x, _ in some if x > 0.1)})
        # strips between neighbouring x, as high as the best point that is at least as far out
        strips = [(b - a) * max(0.0, *(y - 0.2 for x, y in some if x >= b)) for a, b in pairwise(edges)]
        assert area == pytest.approx(sum(strips))


def test_the_frontier_is_what_nothing_beats() -> None:
    assert unbeaten([[0, 3], [1, 1], [3, 0], [1, 0.5]]) == [True, True, True, False]
    means = [np.array([[1.0, 3.0], [1.0, 1.0]]), np.array([[2.0, 1.0], [2.0, np.nan]])]
    found = frontier([[(m, np.arange(2))] for m in means], (0.0, 0.0), resamples=50)
    assert found.mean == pytest.approx(1 * 2 + 1 * 1)  # the points (1, 2) and (2, 1)


def flat(trial: int, seeds: int, of_seed: float, prompts: int = 80) -> Interval:
    """The frontier of two settings: costs of .5 and .75 of at most 1, for rewards of 2.5 and 2.75 on average."""
    rng = np.random.default_rng(trial)
    by_prompt, by_seed = rng.normal(size=prompts), of_seed * rng.normal(size=seeds)
    points = []
    for cost in (0.5, 0.75):
        runs = [2.0 + by_prompt + by_seed[s] + rng.normal(size=prompts) + cost for s in range(seeds)]
        points.append([(np.column_stack([np.full(prompts, -cost), run]), np.arange(prompts)) for run in runs])
    return frontier(points, (-1.0, 0.0), resamples=300)


def test_the_hypervolume_holds_prompts_and_repetitions_in_its_interval() -> None:
    """By hand: within costs of .5 to .75 a reward of 2.5 is reached, within .75 to 1 one of 2.75."""
    truth = 0.25 * 2.5 + 0.25 * 2.75
    for seeds, of_seed in ((1, 0.0), (4, 0.3)):
        found = [flat(trial, seeds, of_seed) for trial in range(150)]
        assert np.mean([x.mean for x in found]) == pytest.approx(truth, abs=0.04)
        assert 0.9 <= np.mean([x.low <= truth <= x.high for x in found]) <= 0.995
    same = flat(0, 1, 0.0)
    assert same.low < same.mean < same.high
