"""What a report says of one system and of two: seeds, unknown values and amounts of text do not mislead."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steer.evaluation.annotators import meetings
from steer.evaluation.court import Court
from steer.evaluation.frontier import answer_tokens, frontiers
from steer.evaluation.result import Case, result
from steer.evaluation.systems import (
    ALL,
    NO_BASE,
    Answers,
    PerPrompt,
    RewardScale,
    System,
    dial,
    difference,
    kl,
    paired_seeds,
    raw_reward,
    slope_gains,
    summary,
)
from steer.labelling.scorer import Scorer
from steer.report.cells import claimed, excludes, finite, verdict
from steer.report.compared import comparison, headline
from steer.report.dials import gained
from steer.rows.schema import Attribute, Schema

GOOD = Schema((Attribute("good", 0, 4, 1, 1.0, edges=(0.5, 1.5, 2.5, 3.5), shown=("0", "1", "2", "3", "4")),))
JUDGE = RewardScale(GOOD, 0.0, 1.0)


def answers(scores: list[float], texts: list[str] | None = None, **more: Any) -> Answers:
    """One answer to each of so many prompts."""
    rows = [
        {"prompt": [{"role": "user", "content": str(i)}], "response": texts[i] if texts else "x", "target": {}, **more}
        for i in range(len(scores))
    ]
    return Answers(rows, np.array(scores)[:, None], np.array(scores)[:, None])


class Told:
    """Scorer of responses that are their own score."""

    attributes = ("good",)

    def score(self, rows: list[dict[str, Any]]) -> Any:
        return np.array([[float(row["response"])] for row in rows])


def told(*seeds: Answers, candidates: PerPrompt = ALL) -> dict[str, Any]:
    """The summary of one system."""
    return summary(seeds, JUDGE, JUDGE, ("good",), 50, candidates)


def test_the_only_seed_of_one_system_stands_against_all_of_the_other() -> None:
    base, many = {0: answers([1.0, 1, 1])}, {0: answers([1.0, 1, 1]), 1: answers([3.0, 3, 3]), 2: answers([3.0, 3, 3])}
    assert difference(many, base, JUDGE, 100)["mean"] == pytest.approx(4 / 3)
    assert difference(base, many, JUDGE, 100)["mean"] == pytest.approx(-4 / 3)
    assert paired_seeds({0: many[0], 2: many[2]}, {0: many[0], 1: many[1]}) == [(0, 0)]
    different = [{s: Answers(a.rows, a.gold, a.proxy) for s, a in x.items()} for x in (base, many)]
    assert len({m.seed for m in meetings(different)}) == 3


def asked(obtained: np.ndarray) -> Answers:
    """Answers to every prompt at every level, from scores [prompts, 5] of one attribute."""
    rows = [
        {"prompt": [{"role": "user", "content": str(i)}], "response": "x", "target": {"good": level}}
        for i in range(len(obtained))
        for level in range(5)
    ]
    return Answers(rows, obtained.reshape(-1, 1), obtained.reshape(-1, 1))


def test_the_gain_of_a_slope_is_the_difference_of_both_and_what_they_share_cancels() -> None:
    rng = np.random.default_rng(0)
    levels = np.arange(5.0)
    common = rng.normal(0, 1, (20, 1)) * levels  # each prompt has a slope of its own
    a, b = (asked(slope * levels + common + rng.normal(0, 0.1, (20, 5))) for slope in (0.8, 0.3))
    found = slope_gains({0: a}, {0: b}, JUDGE, ("good",), 300)
    assert found is not None
    design = np.column_stack([np.tile(levels, 20), np.ones(100)])
    slopes = [np.linalg.lstsq(design, x.gold[:, 0], rcond=None)[0][0] for x in (a, b)]
    assert found["good"]["mean"] == pytest.approx(slopes[0] - slopes[1])
    width = {
        name: figure["high"] - figure["low"]
        for name, figure in (
            ("paired", found["good"]),
            ("alone", dial([a], JUDGE, ("good",), np.array([4.0]), 300)["attributes"]["good"]["partial_slope"]),
        )
    }
    assert width["paired"] < width["alone"] / 4


def test_slopes_of_seeds_that_were_asked_alike_are_paired_and_others_are_not() -> None:
    levels = np.tile(np.arange(5.0), (6, 1))
    first, second = asked(levels), asked(levels[:3])
    found = slope_gains({0: first, 1: second}, {0: asked(0 * levels), 1: asked(levels[:3])}, JUDGE, ("good",), 50)
    assert found is not None
    assert found["good"]["mean"] == pytest.approx((6 * 1 + 3 * 0) / 9)  # all rows together
    assert found["good"]["low"] < 0 < found["good"]["high"], "seeds disagree"
    assert slope_gains({0: first}, {0: second}, JUDGE, ("good",), 50) is None


def seeds_with(slopes: Any, noise: float = 0.1) -> dict[int, Answers]:
    """A dial of each seed on 30 prompts that were asked alike."""
    rng = np.random.default_rng(0)
    return dict(enumerate(asked(s * np.arange(5.0) + rng.normal(0, noise, (30, 5))) for s in slopes))


def test_the_gain_of_a_slope_is_as_sure_as_the_seeds_that_were_paired() -> None:
    """Nine pairs of three seeds with three are no nine seeds: Student's t of the three differences."""
    found = slope_gains(seeds_with((0.5, 0.6, 0.7), 0.01), seeds_with((0.6, 0.5, 0.4), 0.01), JUDGE, ("good",), 300)
    assert found is not None
    gain, gains = found["good"], np.array([-0.1, 0.1, 0.3])
    assert gain["n"] == 3 * 30 * 5
    assert gain["high"] - gain["mean"] == pytest.approx(4.302653 * gains.std(ddof=1) / math.sqrt(3), rel=0.05)
    assert gain["p"] == gain["p_prompts"] > 0.05
    once = slope_gains(seeds_with((0.5, 0.6, 0.7)), {1: seeds_with((0.5,))[0]}, JUDGE, ("good",), 50)
    assert once is not None
    assert (once["good"]["n"], once["good"]["p"]) == (3 * 30 * 5, None), "the only one of either with all"


def judged(systems: list[System], **more: Any) -> dict[str, Any]:
    """The result of systems whose responses are their own scores."""
    scorer = Scorer("told", ("good",), Told())
    logs = [{**row, "response": str(i % 5)} for i, row in enumerate(answers([0.0] * 20).rows)]
    return result(Case(Court(GOOD, scorer, scorer, logs), systems, "mle", 100, **more), {})


def repeated(name: str, offsets: dict[int, float]) -> System:
    rng = np.random.default_rng(len(name))
    return System(name, name, {s: answers((o + rng.normal(0, 0.1, 20)).tolist()) for s, o in offsets.items()})


def test_what_is_left_with_one_seed_of_several_is_not_judged() -> None:
    """Neither a verdict, nor a place in the family of Holm, nor in the power of the comparison."""
    seeds = {0: 0.0, 1: 0.1, 2: -0.1}
    found = judged([repeated("mle", seeds), repeated("alone", {0: 9.0}), repeated("three", {0: 1.0, 1: 0.9, 2: 1.1})])
    alone, three = (s["difference"] for s in found["systems"] if s["difference"])
    assert alone["low"] > 0
    assert (alone["verdict"], alone["p_holm"], alone["one_seed"]) == ("not told apart", None, True)
    assert math.isnan(alone["least"])
    assert (three["verdict"], three["p_holm"]) == ("yes", three["p"]), "a family of one"
    report = {**found, "seeds": 3, "gold": "g"}
    lead = headline(finite(report))
    assert lead[0].startswith("three is +")
    assert any(line.startswith("Not judged, because it or mle has one seed") and "alone (+" in line for line in lead)
    assert "Over fewer than 3 seeds: alone (1)." in lead
    [row] = [row for row in comparison(finite(report)).rows if row[0] == "alone"]
    assert row[1].endswith(", 1 seed")
    assert row[3:5] == ["not told apart", "-"]
    once = judged([repeated("mle", {0: 0.0}), repeated("alone", {0: 9.0})])["systems"]
    assert [s["difference"]["verdict"] for s in once if s["difference"]] == ["yes"], "nobody has several"


def test_slopes_are_claimed_after_holm_over_all_systems_and_attributes() -> None:
    rng = np.random.default_rng(4)
    grids = {"mle": {0: asked(0.5 * np.arange(5.0) + rng.normal(0, 1, (40, 5)))}}
    grids |= {f"null {i}": {0: asked(0.5 * np.arange(5.0) + rng.normal(0, 1, (40, 5)))} for i in range(20)}
    grids |= {"steep": {0: asked(2.0 * np.arange(5.0) + rng.normal(0, 1, (40, 5)))}}
    dials = judged([repeated("mle", {0: 0.0})], grids=grids, dial="mle")["dials"]
    slopes = {d["name"]: d["less"]["slopes"]["good"] for d in dials if d["less"]}
    alone = [name for name, slope in slopes.items() if excludes(slope)]
    assert len(alone) > 1, "one in twenty excludes 0 by chance"
    assert [name for name, slope in slopes.items() if claimed(slope)] == ["steep"]
    said = gained(dials)
    assert said[0].startswith("Slopes above those of mle, paired by prompt and target: steep on good (")
    assert "null" not in said[0]
    assert any(
        line.startswith("Slopes not distinguished from those of mle where 21 are compared (Holm): n") for line in said
    )


def test_one_seed_has_an_interval_over_prompts_and_no_p_value() -> None:
    base, one = {0: answers([1.0, 1, 1])}, {0: answers([3.0, 3, 3.5])}
    found = difference(one, base, JUDGE, 100)
    assert found["p"] is None
    assert found["low"] > 0
    assert found["over"] == "prompts only"
    several = {**one, 1: answers([3.0, 3.1, 3])}
    once = difference(several, base, JUDGE, 100)
    assert (once["p"], once["over"]) == (None, "prompts and seeds of one of the two"), "who else was trained once"
    assert once["p_prompts"] is not None
    model = {0: replace(base[0], base=NO_BASE)}
    untrained = difference(several, model, JUDGE, 100)
    assert untrained["p"] == untrained["p_prompts"] == once["p_prompts"], "a model as it comes has no seeds"
    assert untrained["over"] == "prompts and seeds"


def test_a_few_prompts_that_all_differ_alike_are_not_judged() -> None:
    base, other = {0: answers([1.0, 2.0])}, {0: answers([1.2, 2.2])}
    found = difference(other, base, JUDGE, 100)
    assert found["mean"] == pytest.approx(0.2)
    assert (found["low"], found["high"], found["p_prompts"]) == (None, None, None)
    assert verdict(found) == "-"


def test_systems_are_paired_on_the_bases_that_they_share() -> None:
    """Else in the order of their seeds: two models, or a model and given responses."""
    at = [replace(answers([float(i)]), base=i) for i in range(4)]
    given = replace(answers([0.0]), base=NO_BASE)
    assert paired_seeds({0: at[0], 1: at[1]}, {1: at[1], 0: at[0]}) == [(0, 0), (1, 1)]
    assert paired_seeds({0: at[0], 1: at[1], 2: at[0]}, {0: at[0]}) == [(0, 0), (2, 0)]
    assert paired_seeds({0: at[0], 1: at[1]}, {2: at[2], 3: at[3]}) == [(0, 2), (1, 3)]
    assert paired_seeds({0: at[0], 1: at[1]}, {0: at[2]}) == [(0, 0), (1, 0)]
    assert paired_seeds({0: at[0], 1: at[1]}, {0: given}) == [(0, 0), (1, 0)]
    assert paired_seeds({0: given, 1: given}, {0: given, 1: given}) == [(0, 0), (1, 1)]


def test_words_are_counted_over_seeds_as_every_other_figure_is() -> None:
    """Seeds that write 20, 40 and 60 words say little of the mean of others, however alike their own answers are."""
    texts = [[" ".join(["x"] * (length + i % 2)) for i in range(30)] for length in (20, 40, 60)]
    found = told(*(answers([1.0] * 30, text) for text in texts))["words"]
    assert found["mean"] == pytest.approx(40.5)
    t = 4.302653  # Student's, 95 %, 2 degrees of freedom
    assert found["high"] - found["mean"] == pytest.approx(t * 20 / math.sqrt(3), rel=0.05)


def test_answers_without_a_score_are_counted_where_their_mean_is_told() -> None:
    scored = {**told(answers([1.0, math.nan, 3.0])), "name": "a", "difference": None}
    whole = {**told(answers([1.0, 2.0, 3.0])), "name": "b", "difference": None}
    report = {"systems": [scored, whole], "baseline": "b", "gold": "g", "dials": [], "seeds": 3}
    assert "Answers without a gold score are excluded from its means: a (1 of 3)." in headline(report)


def test_more_seeds_do_not_make_text_less_distinct() -> None:
    texts = [f"one {i % 3} three {i}" for i in range(12)]
    one = answers([1.0] * 12, texts)
    assert {k: told(one)[k] for k in ("distinct_1", "distinct_2", "unique")} == {
        k: told(one, one, one)[k] for k in ("distinct_1", "distinct_2", "unique")
    }


def test_the_tools_that_answers_call_are_part_of_their_text() -> None:
    seed = answers([1.0] * 2, ["", ""])
    for row, name in zip(seed.rows, ("weigh", "count")):
        row.update(prompt=seed.rows[0]["prompt"], tool_calls=[{"function": {"name": name}}])  # type: ignore[attr-defined]
    figures = told(seed)
    assert (figures["unique"], figures["distinct_1"], figures["words"]["mean"]) == (1.0, 1.0, 1.0)


def test_logs_are_as_distinct_as_so_many_answers_a_prompt_would_be() -> None:
    one, other = answers([1.0] * 5, list("abcde")), answers([1.0] * 5, list("ababa"))
    both = Answers([*one.rows, *other.rows], np.vstack([one.gold, other.gold]), np.vstack([one.gold, other.gold]))
    assert told(both)["distinct_1"] == 0.5
    assert told(both, candidates=PerPrompt(1, 1))["distinct_1"] == 1.0


def test_systems_are_as_distinct_as_so_many_answers_a_prompt_as_each_has() -> None:
    """Four answers to a prompt of one stand beside one of the other: words of the first alone, and what is unique."""
    rng = np.random.default_rng(0)
    drawn = [answers([1.0] * 9, [" ".join(rng.choice(list("abcdefgh"), 6)) for _ in range(9)]) for _ in range(4)]
    parts = [np.vstack([a.gold for a in drawn]), np.vstack([a.proxy for a in drawn])]
    many = Answers([row for a in drawn for row in a.rows], *parts)
    scorer = Scorer("told", ("good",), Told())
    court = Court(GOOD, scorer, scorer, [{**row, "response": str(i)} for i, row in enumerate(drawn[0].rows)])
    systems = [System("one", "mle", {0: drawn[0]}), System("four", "mle", {0: many})]
    one, four = result(Case(court, systems, "", 50), {})["systems"]
    assert one["distinct_2"] == four["distinct_2"] == told(drawn[0])["distinct_2"]
    assert four["unique"] == told(many)["unique"] is not None
    assert one["unique"] is None
    logged = result(Case(court, systems[1:], "", 50, drawn[0]), {})["systems"]
    assert [s["name"] for s in logged] == ["logs", "four"]
    assert logged[0]["distinct_2"] == logged[1]["distinct_2"], "the logs have one answer a prompt, so one counts"


def drawn(ref: float, most: int) -> list[dict[str, Any]]:
    """Every response of a process that ends with chance 1/2 at each step, as often as it is drawn in 2^most draws.

    It writes a token and goes on, or ends; after `most` tokens it is cut off. The reference ends with chance `ref`.
    """
    go = math.log(0.5 / (1 - ref))
    rows = []
    for tokens in range(most + 1):
        done = tokens < most
        gain = tokens * go + done * math.log(0.5 / ref)
        row = {"prompt": [{"role": "user", "content": str(tokens)}], "response": "a " * tokens, "target": {}}
        rows += [{**row, "finished": done, "logp": gain - 5.0, "ref_logp": -5.0}] * 2 ** (most - tokens - done)
    return rows


@pytest.mark.parametrize(("ref", "most"), [(0.9, 1), (0.9, 4), (0.2, 3)])
def test_the_kl_is_that_of_all_that_was_drawn_and_what_was_cut_off_stands_beside_it(ref: float, most: int) -> None:
    """KL = KL(Bernoulli(1/2) || Bernoulli(ref)) times the steps that are reached: sum over t < most of 2^-t."""
    rows = drawn(ref, most)
    assert len(rows) == 2**most
    step = 0.5 * math.log(0.5 / ref) + 0.5 * math.log(0.5 / (1 - ref))
    exact = step * sum(0.5**t for t in range(most))
    found = told(Answers(rows, np.zeros((len(rows), 1)), np.zeros((len(rows), 1))))
    assert found["kl"]["mean"] == pytest.approx(exact)
    assert found["kl"]["n"] == len(rows)
    assert 1 - found["finished"] == pytest.approx(0.5**most)
    ended = [kl(row) for row in rows if row["finished"]]
    assert np.mean(ended) != pytest.approx(exact)  # what ended is a selection


def test_a_frontier_says_how_much_of_it_was_cut_off() -> None:
    rows = drawn(0.2, 3)
    some = Answers(rows, np.ones((8, 1)), np.ones((8, 1)))
    lower = Answers([{**row, "logp": row["logp"] - 0.1} for row in rows], some.gold, some.gold)
    systems = [System("a0", "a", {0: some}, "a"), System("a1", "a", {0: lower}, "a")]
    measured = frontiers(systems, JUDGE, 50)
    assert measured is not None
    [found] = measured["families"]
    assert found["cut_off"] == pytest.approx(1 / 8)
    assert measured["most"]["kl"] == pytest.approx(2 * np.mean([kl(row) for row in rows]))


def test_a_frontier_is_measured_against_every_cost_that_is_known() -> None:
    """By hand: the reward that is reached within a cost, averaged over costs up to twice that of the best system."""
    some = {"prompt_tokens": 10, "tokens": 5, "logp": 0.0, "ref_logp": -2.0, "finished": True}
    low, high = answers([1.0, 1.0], ["a b"] * 2, **some), answers([3.0, 3.0], ["a b c d"] * 2, **some | {"logp": 2.0})
    facts = {"seconds": 10.0, "train_tokens": 100, "drawn_tokens": 50}
    systems = [
        System("a0", "a", {0: low}, "a", facts=facts),
        System("a1", "a", {0: high}, "a", facts={**facts, "candidates": 4, "branches": 2}),
        System("told", "told", {0: low}, facts={}),
        System("far", "far", {0: answers([2.0, 2.0], ["a " * 99] * 2, **some | {"logp": 97.0})}),
    ]
    found = frontiers(systems, JUDGE, 50)
    assert found is not None
    assert found["most"] == {"kl": 8.0, "words": 8.0, "seconds": 20.0, "tokens": 300.0, "answer_tokens": 4 * (10 + 20)}
    volumes = {f["name"]: {cost: v["mean"] for cost, v in f["volumes"].items()} for f in found["families"]}
    assert volumes["a"] == pytest.approx(
        {"kl": 0.25 * 1 + 0.5 * 3, "words": 0.25 * 1 + 0.5 * 3, "seconds": 1.5, "tokens": 1.5}
        | {"answer_tokens": (60 - 15) / 120 * 1 + 0.5 * 3}
    ), "nothing up to the first point, its reward up to the second, then that of the second"
    assert volumes["far"]["kl"] == volumes["far"]["words"] == 0.0, (
        "what lies beyond adds nothing, and stretches nothing"
    )
    assert volumes["told"] == pytest.approx(
        {"kl": 0.75, "words": 0.75, "seconds": 1.0, "tokens": 1.0, "answer_tokens": 1 - 15 / 120}
    ), "one setting without training has a frontier too"


def test_an_answer_costs_what_all_its_candidates_took() -> None:
    kept = answers([1.0, 2.0], ["a", "b"], prompt_tokens=10, tokens=9, candidate_tokens=20)
    best = System("best", "mle", {0: kept}, facts={"candidates": 4, "branches": 2})
    assert answer_tokens(kept, best).tolist() == [2 * (10 + 20)] * 2, "and not four times the one that was kept"


def frontier_of(*systems: System) -> dict[str, Any]:
    found = frontiers(systems, JUDGE, 50)
    assert found is not None
    return found


def test_a_method_whose_settings_share_no_seed_is_listed_without_a_frontier() -> None:
    one, other = answers([1.0, 1.0]), answers([2.0, 2.0])
    found = frontier_of(
        System("a0", "a", {0: one}, "a"), System("a1", "a", {1: other}, "a"), System("b", "b", {0: one})
    )
    assert [f["name"] for f in found["families"]] == ["b"]
    assert found["left_out"] == [{"name": "a", "reason": "its 2 settings share no seed"}]


def test_an_estimate_of_the_kl_below_0_reaches_no_more_than_one_of_0() -> None:
    """Reward 1 within every cost from 0 to the bound is 1, however far below 0 the estimate lies."""
    near = answers([1.0, 1.0], logp=-5.0, ref_logp=0.0)
    far = answers([2.0, 2.0], logp=5.0, ref_logp=0.0)
    found = frontier_of(System("near", "a", {0: near}), System("far", "b", {0: far}))
    assert found["most"]["kl"] == 10.0
    assert {f["name"]: f["volumes"]["kl"]["mean"] for f in found["families"]} == {"near": 1.0, "far": 2.0 * 0.5}


def test_what_nobody_knows_of_endings_is_not_called_finished() -> None:
    assert frontier_of(System("given", "given", {0: answers([1.0, 2.0])}))["families"][0]["cut_off"] is None
    assert told(answers([1.0, 2.0]))["finished"] is None
    assert told(answers([1.0, 2.0], finished=False))["finished"] == 0.0


def test_an_answer_without_a_score_does_not_take_its_prompt_along() -> None:
    rows = answers([0.0, 1.0]).rows
    twice = Answers([*rows, *rows], np.array([[1.0], [np.nan], [3.0], [2.0]]), np.zeros((4, 1)))
    found = difference({0: twice}, {0: answers([0.0, 0.0])}, JUDGE, 100)
    assert (found["mean"], found["n"]) == (2.0, 2)


def test_levels_hit_are_those_that_labelling_gives() -> None:
    """150 words are of the top level, though nearer to the centre of the one below."""
    words = Attribute(
        "words", 0, 1000, 0, 0.0, (22.7, 40.8, 69.5, 123.2), ("0", "1", "2", "3", "4"), (15.0, 31.0, 54.0, 92.0, 244.0)
    )
    judge = RewardScale(Schema((words,)), 0.0, 1.0)
    assert judge.labels(np.array([[150.0], [np.nan]]))[:, 0].tolist() == pytest.approx([4.0, np.nan], nan_ok=True)
    assert words.level(150.0) == 4
    seeds = [answers([150.0, 10.0])]
    for row, level in zip(seeds[0].rows, (4, 0)):
        row["target"] = {"words": level}
    found = dial(seeds, judge, ["words"], np.array([3.0]), 50)["attributes"]["words"]
    assert found["exact"]["mean"] == 1.0


def test_no_better_end_is_no_reward() -> None:
    neutral = Schema((Attribute("long", 0, 4, 0, 0.0),))
    assert np.isnan(raw_reward(neutral, np.ones((3, 1)))).all()
    judge = RewardScale.of(neutral, np.ones((3, 1)))
    assert np.isnan(judge.reward(np.ones((3, 1)))).all()


def test_logs_that_are_alike_but_for_rounding_give_no_unit() -> None:
    judge = RewardScale.of(GOOD, np.full((100, 1), 0.7) + np.linspace(0, 1e-15, 100)[:, None])
    assert abs(judge.reward(np.array([[0.8]]))[0]) < 1


def test_many_comparisons_get_p_values_fine_enough_for_holm() -> None:
    def with_scores(shift: float) -> Answers:
        return answers([shift] * 20, [str(shift + 0.01 * (i % 5)) for i in range(20)])

    scorer = Scorer("told", ("good",), Told())
    logs = [{**r, "response": str(i % 5)} for i, r in enumerate(answers([0.0] * 20).rows)]
    court = Court(GOOD, scorer, scorer, logs)
    systems = [System(f"s{i}", "mle", {0: court.scored(with_scores(float(i > 0)).rows)}) for i in range(8)]
    found = result(Case(court, systems, "s0", 100), {})
    p = [s["difference"]["p_holm"] for s in found["systems"] if s["difference"]]
    assert len(p) == 7
    assert max(p) < 0.05
