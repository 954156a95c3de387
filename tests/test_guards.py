"""Guards on plain lists: what stops a loop, what does not, and which round is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from steer.errors import SteerError
from steer.evaluation.systems import RewardScale
from steer.iteration.guards import Figures, Limits, alarm, best, fell, limits, outrun
from steer.iteration.watch import figures, watched
from steer.labelling.scorer import Scorer
from steer.models.policy import load_policy
from steer.rows.schema import Attribute, Schema

GOOD = Figures([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], kl=0.1, words=20.0, distinct=0.4)
LOGGED = list(range(1, 41))


def rounds(*means: float, size: int = 200, noise: float = 0.3, seed: int = 0) -> list[Figures]:
    """Rounds whose gold rewards have these means on the same prompts, while the proxy only rises."""
    rng = np.random.default_rng(seed)
    prompts = rng.normal(size=size)
    return [
        Figures((prompts + i).tolist(), (prompts + mean + noise * rng.normal(size=size)).tolist(), words=20.0)
        for i, mean in enumerate(means)
    ]


def test_a_fall_of_gold_below_its_best_stops_the_loop() -> None:
    seen = rounds(0.0, 0.5, 0.9, 0.6)
    assert [bool(alarm(seen[:i], Limits(), 6)) for i in range(1, 5)] == [False, False, False, True]
    assert "gold fell by 0.3" in alarm(seen, Limits(), 6)
    assert "from round 2" in alarm(seen, Limits(), 6)
    assert alarm(seen, Limits(gold=0), 6) == ""
    assert best(seen) == 2


def test_the_fall_is_a_paired_one_sided_t_test_shared_among_the_earlier_rounds() -> None:
    gaps = [0.3, 0.1, 0.5, 0.2, -0.1]
    seen = [Figures([0.0] * 5, x) for x in ([0.0] * 5, [1.0] * 5, [1.0 - gap for gap in gaps])]
    mean, sd = sum(gaps) / 5, math.sqrt(sum((g - 0.2) ** 2 for g in gaps) / 4)
    least = t.ppf(1 - 0.2 / 2, df=4) * sd / math.sqrt(5)
    assert fell(seen, 0.2) == f"gold fell by {mean:.2f} sd from round 1, more than the {least:.2f} of chance"
    p = 2 * float(t.sf(mean / sd * math.sqrt(5), df=4))
    assert fell(seen, p * 1.01)
    assert not fell(seen, p * 0.99)


def test_a_proxy_that_rises_alone_stops_the_loop_before_gold_falls_beyond_chance() -> None:
    seen = rounds(0.0, 0.5, 0.9, 0.88)
    assert not fell(seen, 0.05)
    assert [bool(alarm(seen[:i], Limits(), 6)) for i in range(1, 5)] == [False, False, False, True]
    assert alarm(seen, Limits(), 6).startswith("the proxy rose by 1.00 sd from round 2, and gold by -0.0")
    assert alarm(seen, Limits(gold=0), 6) == ""
    still = [x._replace(proxy=seen[0].proxy) for x in seen]
    assert alarm(still, Limits(), 6) == "", "a proxy that does not rise outruns nothing"
    assert alarm(rounds(0.0, 0.5, 0.9, 1.0), Limits(), 6) == "", "nor does one whose rise gold shares a little"


def test_what_the_proxy_has_over_gold_is_tested_by_prompt() -> None:
    """The rise of the proxy is beyond chance; whether its lead over gold is decides."""
    rises, lead = [1.0, 1.2, 0.8, 1.1, 0.9], [1.6, 0.1, 2.4, 0.0, 1.2]
    start = Figures([0.0] * 5, [0.0] * 5)
    seen = [start, Figures(rises, [a - b for a, b in zip(rises, lead)])]
    mean = sum(lead) / 5
    sd = math.sqrt(sum((x - mean) ** 2 for x in lead) / 4)
    p = float(t.sf(mean / sd * math.sqrt(5), df=4))
    assert outrun(seen, p * 1.01)
    assert not outrun(seen, p * 0.99)


@pytest.mark.parametrize("means", [[0.0] * 7, [0.0, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5]])
@pytest.mark.parametrize("agreement", [0.0, 0.7])
def test_a_clean_loop_is_stopped_no_more_often_than_was_said(means: list[float], agreement: float) -> None:
    """Of 200 loops of six rounds; more than 9.6 % where the chance is 5 % would be 3 standard errors too many."""
    stopped = 0
    for seed in range(200):
        seen = rounds(*means, size=60, noise=1.0, seed=seed)
        rng = np.random.default_rng([seed, 1])
        for i, one in enumerate(seen):  # a proxy that gains what gold gains, and sees the same responses
            gold = np.asarray(one.gold) - means[i]
            proxy = means[i] + agreement * gold + rng.normal(size=60)
            seen[i] = one._replace(proxy=proxy.tolist())
        stopped += any(alarm(seen[:i], Limits(), 6) for i in range(2, 8))
    assert stopped / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_prompts_without_a_reward_are_left_out() -> None:
    seen = rounds(0.0, 1.0, 0.0)
    holes = [x._replace(gold=[math.nan, *list(x.gold or [])[1:]]) for x in seen]
    assert alarm(holes, Limits(), 6).count("from round 1") == 2
    assert best(holes) == 1


def test_without_a_gold_scorer_the_proxy_chooses_and_nothing_falls() -> None:
    seen = [x._replace(gold=None) for x in rounds(0.0, 1.0, 0.0)]
    assert alarm(seen, Limits(), 6) == ""
    assert best(seen) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kl": 1.2}, "the KL from the base is 1.20 nats per token, above 1"),
        ({"words": 41.0}, "responses have 41 words, longer than 99.5% of the logs"),
        ({"words": 1.0}, "responses have 1 words, shorter than 99.5% of the logs"),
        ({"distinct": 0.19}, "distinct-2 fell to 0.19, below 0.5 of 0.40"),
        ({"repeated": 0.25}, "the share of repeated trigrams rose from 0.0% to 25.0%, by more than 20.0%"),
        ({"unfinished": 0.3}, "the share of responses that do not end rose from 0.0% to 30.0%, by more than 20.0%"),
        ({"leaked": 0.02}, "the share of responses with condition text rose from 0.0% to 2.0%, by more than 1.0%"),
    ],
)
def test_degenerate_responses_stop_the_loop(change: dict[str, float], says: str) -> None:
    bad = GOOD._replace(**change)
    assert alarm([GOOD, bad], Limits(), 6, LOGGED) == says
    assert alarm([GOOD, GOOD], Limits(), 6, LOGGED) == ""
    (name,) = change
    off = limits((f"{'length' if name == 'words' else name}=0",))
    assert alarm([GOOD, bad], off, 6, LOGGED) == ""


def test_what_was_out_of_bounds_before_the_first_round_stops_nothing() -> None:
    start = GOOD._replace(words=60.0, leaked=0.5, kl=3.0)
    assert alarm([start], Limits(), 6, LOGGED) == ""
    assert alarm([start, start], Limits(), 6, LOGGED) == ""


def test_several_reasons_are_all_said_and_unknown_figures_say_nothing() -> None:
    bad = GOOD._replace(leaked=0.02, words=41.0)
    assert alarm([GOOD, bad], Limits(), 6, LOGGED).count(";") == 1
    unknown = Figures(GOOD.proxy, GOOD.gold, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
    assert alarm([GOOD, unknown], Limits(), 6, LOGGED) == ""


def test_all_guards_can_be_turned_off() -> None:
    bad = GOOD._replace(gold=[-9.0, -9.1, -9.2], leaked=1.0, words=41.0)
    assert alarm([GOOD, bad], limits(("off",)), 6, LOGGED) == ""
    assert limits(()) == Limits()


@pytest.mark.parametrize("pair", ["gold=0.6", "kl=-1", "distinct=1", "leaked=nan"])
def test_limits_that_cannot_be_meant_are_refused(pair: str) -> None:
    with pytest.raises(SteerError, match=rf"--guard {pair.partition('=')[0]}="):
        limits((pair,))


@pytest.mark.parametrize(("kls", "text"), [(4.0, "KL from the base is 2.0"), (0.1, "that do not end")])
def test_a_policy_that_never_ends_trips_a_guard(tiny: Path, kls: float, text: str) -> None:
    """Its KL is known though nothing ended: that of its tokens, without an end."""
    policy = load_policy(str(tiny))
    judge = RewardScale(Schema((Attribute("good", 0, 4),)), 0.0, 1.0)
    scorer = Scorer("ones", ("good",), Ones())

    def seen(number: float, *, finished: bool) -> Figures:
        row = {"prompt": [], "response": "bees bees", "finished": finished, "tokens": 8, "ref_logp": 0.0}
        rows = [{"id": str(i), "logp": number, **row} for i in range(4)]
        return figures(watched(policy, rows, {"proxy": (scorer, judge)}, 0))

    rounds = [seen(0.0, finished=True), seen(kls * 4, finished=False)]
    assert rounds[1].kl == pytest.approx(kls * 4 / 8)  # nats over the tokens that were drawn
    assert text in alarm(rounds, Limits(), 2)


class Ones:
    """Finds all alike."""

    attributes = ("good",)

    def score(self, rows: Sequence[Any]) -> np.ndarray[Any, Any]:
        return np.ones((len(rows), 1))
