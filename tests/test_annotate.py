"""Annotators: both orders, ties half, no flips in evaluation; a ranking of systems that the truth confirms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steer.errors import SteerError
from steer.evaluation import interop as exports
from steer.evaluation.annotators import Annotator, annotator, meetings, vote, win_rates
from steer.evaluation.court import Court
from steer.evaluation.result import Case
from steer.evaluation.systems import Answers, System
from steer.labelling.scorer import load_scorer
from steer.report.judges import preferred, silent
from steer.rows.schema import Attribute, Schema

GOLD = "data_recipes.world_text:Gold"


def answers(*responses: str) -> dict[int, Answers]:
    """One seed of answers to prompts 0, 1, ..."""
    rows = [{"prompt": [{"role": "user", "content": f"q{i}"}], "response": r} for i, r in enumerate(responses)]
    return {0: Answers(rows, np.zeros((len(rows), 1)), np.zeros((len(rows), 1)))}


def longest(first: Sequence[Any], second: Sequence[Any]) -> np.ndarray:
    return np.array([0.5 + 0.5 * np.sign(len(a["response"]) - len(b["response"])) for a, b in zip(first, second)])


def test_an_annotator_who_prefers_what_stands_first_calls_all_a_tie() -> None:
    partial = Annotator("first", lambda a, b: np.ones(len(a)), ordered=True)
    votes = vote(partial, meetings([answers("x", "y"), answers("z", "w")]))
    assert votes.share.tolist() == [0.5, 0.5]
    assert votes.turned.tolist() == [1, 1]


def test_a_pair_that_is_answered_in_one_order_only_is_unknown_and_counted() -> None:
    """One who prefers what stands first and is silent where "x" stands there would else make "x" lose every pair."""

    def first(a: Sequence[Any], b: Sequence[Any]) -> np.ndarray:
        return np.array([np.nan if row["response"] == "x" else 1.0 for row in a])

    systems = [("base", answers("w", "w", "w")), ("x", answers("x", "x", "v"))]
    who = Annotator("first", first, ordered=True)
    cast = vote(who, meetings([found for _, found in systems]))
    assert np.isnan(cast.share).tolist() == np.isnan(cast.turned).tolist() == [True, True, False]
    assert cast.share[2] == 0.5
    found = win_rates([who], [name for name, _ in systems], [cast], 50)["annotators"][0]
    assert (found["comparisons"], found["unanswered"], found["systems"][1]["ties"]) == (1, 2, 1)
    assert (
        "the others, unanswered in one order or in both, are excluded"
        in silent({"win_rates": {"annotators": [found]}})[0]
    )


def test_only_prompts_that_both_answered_are_compared() -> None:
    votes = vote(Annotator("longest", longest, False), meetings([answers("aa", "b", "c"), answers("a", "bb")]))
    assert (votes.first.tolist(), votes.second.tolist(), votes.share.tolist()) == ([1, 1], [0, 0], [0.0, 1.0])
    assert votes.longer.tolist() == [-1, 1]


def test_a_scorer_prefers_the_higher_reward_and_knows_ties() -> None:
    one = annotator("countable:words", Schema((Attribute("words", 0, 9, -1),)))
    rows = [answers(text)[0].rows[0] for text in ("one two three", "one", "two")]
    assert one.prefer(rows, [rows[1], rows[2], rows[2]]).tolist() == [0, 0.5, 0.5]
    varied = Schema((Attribute("type_token_ratio", 0, 1, 1),))
    assert annotator("countable:type_token_ratio", varied).prefer(rows[:1], rows[1:2]).tolist() == [0.5]
    with pytest.raises(SteerError, match="prefers nothing"):
        annotator("countable:words")


def test_human_is_no_annotator() -> None:
    with pytest.raises(SteerError, match="Name a scorer"):
        annotator("human")


def test_a_simulated_pool_flips_labels_in_training_only(tmp_path: Path, labels: Path) -> None:
    from steer.rows import read_rows

    (tmp_path / "pool.yaml").write_text(f"gold: {GOLD}\nflips: 1.0\nannotators: 3\nnoise: 0.1\nbias: 0\n")
    rows = read_rows(labels)
    good = [r for r in rows if r["reward"] > 1][:20]
    bad = [{**r, "prompt": g["prompt"]} for r, g in zip([r for r in rows if r["reward"] < -1], good)]
    pool = annotator(f"simulated:{tmp_path / 'pool.yaml'}")
    assert pool.prefer(good[: len(bad)], bad).mean() > 0.7
    empty = np.zeros((len(bad), 1))
    found = vote(pool, meetings([{0: Answers(bad, empty, empty)}, {0: Answers(good[: len(bad)], empty, empty)}]))
    assert found.share.mean() > 0.7
    assert np.isnan(found.turned).all()  # a pool says the same in both orders, so it is asked once


HEDGED = "maybe bees give honey. perhaps bees have wings."
PLAIN = "bees give honey. bees have wings."


@pytest.mark.parametrize("schema", [None, "world"])
def test_a_pool_is_told_which_end_is_better(tmp_path: Path, schema: str | None) -> None:
    """All else equal, more hedging loses: by the schema of the rows, and by the names where there is none."""
    from data_recipes.world import SCHEMA

    (tmp_path / "pool.yaml").write_text(f"gold: {GOLD}\nnoise: 0.01\nbias: 0\nstretch: 0\nlength: 0\nstep: 0\n")
    spec = f"simulated:{tmp_path / 'pool.yaml'}"
    rows = [[answers(text)[0].rows[0]] for text in (PLAIN, HEDGED)]
    told = Schema.from_json({"attributes": SCHEMA}) if schema else None
    assert annotator(spec, told).prefer(*rows).tolist() == [1.0]
    turned = Schema((Attribute("hedging", 0, 4, 1),))
    assert annotator(spec, turned).prefer(*rows).tolist() == [0.0]  # who likes hedges says so in the schema
    (tmp_path / "pool.yaml").write_text("gold: tests.test_annotate:Words\n")
    with pytest.raises(SteerError, match=r"prefers nothing\. Name rows where one has: .* --higher NAME "):
        annotator(spec)
    assert annotator(spec, Schema((Attribute("words", 0, 9),))).prefer(*rows[::-1]).tolist() == [1.0]


def calling(*arguments: str) -> dict[int, Answers]:
    """One seed of answers that say nothing and call one tool each."""
    found = answers(*[""] * len(arguments))
    for row, each in zip(found[0].rows, arguments):
        row["tool_calls"] = [{"id": f"call {id(row)}", "function": {"name": "weigh", "arguments": {"n": each}}}]  # type: ignore[index]
    return found


def test_annotators_read_the_tools_that_a_response_calls(tmp_path: Path) -> None:
    met = meetings([calling("1", "moss"), calling("1", "two bees")])
    who = Annotator("longest", lambda a, b: np.ones(len(a)), ordered=False)
    cast = vote(who, met)
    assert cast.share.tolist() == [0.5, 1.0], "only calls that differ in more than their id are asked about"
    assert cast.longer.tolist() == [0, len("two bees") - len("moss")]
    (tmp_path / "pool.yaml").write_text("gold: tests.test_annotate:Words\nannotators: 1\nnoise: 0.01\nbias: 0\n")
    pool = annotator(f"simulated:{tmp_path / 'pool.yaml'}", Schema((Attribute("words", 0, 4, 1),)))
    few, many = ([each[0].rows[0]] for each in (calling("moss"), calling("moss and two bees")))
    assert [pool.prefer(few, many)[0], pool.prefer(many, few)[0]] == [0, 1]


def test_calls_are_written_with_votes_and_votes_are_found_by_them(tmp_path: Path) -> None:
    systems = [System(n, "", a) for n, a in (("b", calling("1", "2")), ("a", calling("3", "4")))]
    court = Court(Schema(()), load_scorer("countable:words"), load_scorer("countable:words"), [])
    who = Annotator("w", lambda a, b: np.array([1.0, 0.0]), ordered=False)
    exports.votes(tmp_path, Case(court, systems, "a", 10, annotators=[who]))
    path = tmp_path / "annotations" / "w" / "annotations.json"
    assert [line["output_2"] for line in json.loads(path.read_text())] == ['weigh({"n": "1"})', 'weigh({"n": "2"})']
    assert vote(annotator(f"votes:{path}"), meetings([s.answers for s in systems])).share.tolist() == [0.0, 1.0]
    outputs = json.loads(exports.alpaca_eval(systems[0].answers[0].rows, "b"))
    assert [line["output"] for line in outputs] == ['weigh({"n": "1"})', 'weigh({"n": "2"})']


class Words:
    """A truth without a better end."""

    attributes = ("words",)

    def score(self, rows: Sequence[Any]) -> np.ndarray:
        return np.array([[len(row["response"].split())] for row in rows])


def test_a_judge_is_told_which_end_is_better(tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text("model: m\nattributes: [helpfulness, toxicity, verbosity]\n")
    schema = Schema((Attribute("helpfulness", 0, 4), Attribute("toxicity", 0, 4, -1, 0.5)))
    judge = load_scorer(f"judge:{file}").model
    weights = {n: schema[n].direction * schema[n].weight for n in schema.own}
    told = "\n".join(judge.weighing(weights)._compared())
    assert "- helpfulness (more is better, weight 1): " in told
    assert "- toxicity (less is better, weight 0.5): " in told
    assert "- verbosity" not in told  # neither end is better: it does not count


def test_win_rates_are_those_that_a_person_would_count() -> None:
    systems = [("short", answers("a", "b", "c")), ("long", answers("aaa", "bb", "c")), ("no", answers("", "", ""))]
    who = [Annotator("longest", longest, False), Annotator("shortest", lambda a, b: 1 - longest(a, b), False)]
    met = meetings([found for _, found in systems])
    found = win_rates(who, [name for name, _ in systems], [vote(one, met) for one in who], 50)
    json.dumps(found, allow_nan=False)
    (long, none) = found["annotators"][0]["systems"][1:]
    assert long["win_rate"]["mean"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert none["win_rate"]["mean"] == 0
    assert [s["place"]["mean"] for s in found["annotators"][0]["systems"]] == [2, 1, 3]
    assert found["agreement"][0]["annotators"] == ["shortest", "longest"]
    assert found["agreement"][0]["agreement"]["mean"] == 0  # the one tie is of equal texts: no agreement
    assert (found["annotators"][0]["comparisons"], found["annotators"][0]["alike"]) == (8, 1)


def test_equal_texts_are_ties_that_nobody_was_asked_about() -> None:
    """Two who contradict each other agree on nothing, however many pairs were equal; who is silent has no win-rate."""
    texts = [f"{i}" for i in range(50)], ["same"] * 50
    systems = [answers(*(t + "aaa" for t in texts[0]), *texts[1]), answers(*texts[0], *texts[1])]
    who = [
        Annotator("longest", longest, False),
        Annotator("shortest", lambda a, b: 1 - longest(a, b), False),
        Annotator("silent", lambda a, b: np.full(len(a), np.nan), True),
        Annotator("left", lambda a, b: np.ones(len(a)), True),
    ]
    cast = [vote(one, meetings(systems)) for one in who]
    found = win_rates(who, ["a", "b"], cast, 50)
    json.dumps(found, allow_nan=False)
    first = found["agreement"][0]
    assert (first["agreement"]["mean"], first["agreement"]["n"], first["kappa"]) == (0, 50, pytest.approx(0))
    counts = [(a["comparisons"], a["alike"], a["unanswered"], a["turned"]) for a in found["annotators"]]
    assert counts == [(50, 50, 0, None), (50, 50, 0, None), (0, 50, 50, None), (50, 50, 0, 1.0)]
    rated = [a["systems"][1] for a in found["annotators"]]
    assert [one["win_rate"]["mean"] for one in rated] == [0.25, 0.75, None, 0.5]
    assert (rated[2]["length_controlled"]["mean"], rated[2]["place"]) == (None, None)
    assert [(one["wins"], one["ties"], one["losses"], one["alike"]) for one in rated[:2]] == [
        (0, 50, 50, 50),
        (50, 50, 0, 50),
    ]
    (said,) = silent({"win_rates": found})
    assert said.startswith("silent: answered 0 of 50 comparisons (0.0 %)")
    text = str(preferred({"win_rates": found}))
    assert "longest: 50 comparisons, 50 alike, not asked. " in text
    assert "left: 50 comparisons, 100.0 % of them changed with the order, 50 alike, not asked. " in text
    assert "0/50/50 (50 alike)" in text
    equal = [vote(one, meetings([systems[0], systems[0]])) for one in who]
    found = win_rates(who, ["a", "b"], equal, 50)
    assert silent({"win_rates": found}) == [], "nobody was asked, so nobody was silent"
    assert found["annotators"][2]["systems"][1]["win_rate"]["mean"] == 0.5
    assert found["agreement"][0]["agreement"]["mean"] is None


def test_equal_texts_of_a_vote_file_count_as_those_of_the_annotator_who_wrote_it(tmp_path: Path) -> None:
    systems = [System(n, "", a) for n, a in (("b", answers("yy", "same")), ("a", answers("x", "same")))]
    court = Court(Schema(()), load_scorer("countable:words"), load_scorer("countable:words"), [])
    case = Case(court, systems, "a", 10, annotators=[Annotator("w", longest, ordered=False)])
    exports.votes(tmp_path, case)
    back = annotator(f"votes:{tmp_path / 'annotations' / 'w' / 'annotations.json'}")
    assert vote(back, case.met).alike.tolist() == case.votes[0].alike.tolist() == [False, True]


def test_votes_of_others_are_read_as_alpaca_eval_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    said = [
        ("q0", "a", "b", 1),
        ("q1", "c", "d", 1.75),
        ("q2", "e", "f", 0),
        ("q0", "b", "a", 1.0),
        ("q3", "x", "y", None),
    ]
    columns = ("instruction", "output_1", "output_2", "preference")
    path.write_text(json.dumps([dict(zip(columns, line)) for line in said]))
    one = annotator(f"votes:{path}")
    found = vote(one, meetings([answers("b", "d", "e", "x"), answers("a", "c", "f", "y")]))
    assert found.share[:3].tolist() == [0.5, 0.25, 0.5]  # two disagree on the first pair
    assert np.isnan(found.share[3])
    for wrong, told in (
        ({"instruction": "q"}, "has no output_1"),
        (dict(zip(columns, ("q", "a", "b", 3))), "wanted 1 to 2"),
    ):
        path.write_text(json.dumps([wrong]))
        with pytest.raises(SteerError, match=told):
            annotator(f"votes:{path}")


def test_a_vote_file_that_is_silent_about_a_pair_gives_no_tie(tmp_path: Path) -> None:
    """Not even where the two responses are equal: one vote is one comparison."""
    path = tmp_path / "v.json"
    path.write_text(json.dumps([{"instruction": "q2", "output_1": "x", "output_2": "y", "preference": 2}]))
    systems = [("base", answers("x", "x", "x")), ("a", answers("x", "x", "y"))]
    one = annotator(f"votes:{path}")
    cast = vote(one, meetings([found for _, found in systems]))
    assert np.isnan(cast.share[:2]).all()
    assert cast.share[2] == 1.0
    found = win_rates([one], [name for name, _ in systems], [cast], 50)["annotators"][0]
    assert (found["comparisons"], found["unanswered"]) == (1, 2)
    assert (found["systems"][1]["wins"], found["systems"][1]["ties"]) == (1, 0)
    assert "answered 1 of 3 comparisons (33.3 %)" in silent({"win_rates": {"annotators": [found]}})[0]
    enough = {**found, "comparisons": 9, "unanswered": 1}
    assert silent({"win_rates": {"annotators": [enough]}}) == []


def test_votes_are_found_by_generator_and_not_by_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    pair = {"instruction": "q0", "output_1": "x", "output_2": "y", "generator_1": "base"}
    path.write_text(json.dumps([{**pair, "generator_2": name, "preference": p} for name, p in (("a", 2), ("b", 1))]))
    court = Court(Schema(()), load_scorer("countable:words"), load_scorer("countable:words"), [])
    one = annotator(f"votes:{path}")

    def shares(*names: str, **more: str) -> list[float]:
        systems = [System(n, n, answers("y")) for n in names] + [System("base", "", answers("x"))]
        for system in systems[:-1]:
            system.answers[0].rows[0].update(more)  # type: ignore[attr-defined]
        return Case(court, systems, "base", 10, annotators=[one], pairs="baseline").votes[0].share.tolist()

    assert shares("a", "b") == [1.0, 0.0]
    assert shares("mine", generator="b") == [0.0]  # whatever the user calls it, it says who wrote it
    assert np.isnan(shares("mine", generator="c")).all()  # the file is silent about c
    assert np.isnan(shares("mine")).all()  # base is known by name and this one is not
    path.write_text(json.dumps([{k: v for k, v in pair.items() if k != "generator_1"} | {"preference": 2}]))
    one = annotator(f"votes:{path}")
    assert shares("mine", generator="c") == [1.0]  # lines that name nobody are found by the text


def test_a_tie_is_written_as_one_and_a_half_and_no_answer_as_null(tmp_path: Path) -> None:
    systems = [System(n, "", a) for n, a in (("b", answers("yy", "y", "z")), ("a", answers("x", "xx", "x")))]
    court = Court(Schema(()), load_scorer("countable:words"), load_scorer("countable:words"), [])
    share = np.array([1.0, 0.5, np.nan])
    who = Annotator("some/body", lambda a, b: share, ordered=False)
    exports.votes(tmp_path, Case(court, systems, "a", 10, annotators=[who]))
    said = json.loads((tmp_path / "annotations" / "some-body" / "annotations.json").read_text())
    assert said[0] == {
        "instruction": "q0", "output_1": "x", "generator_1": "a", "output_2": "yy", "generator_2": "b",
        "annotator": "some/body", "preference": 2.0,
    }  # fmt: skip
    assert [line["preference"] for line in said] == [2.0, 1.5, None]
    back = annotator(f"votes:{tmp_path / 'annotations' / 'some-body' / 'annotations.json'}")
    found = vote(back, meetings([s.answers for s in systems]))  # in the other order
    assert found.share[:2].tolist() == [0.0, 0.5]
    assert np.isnan(found.share[2])


class Broken:
    """Somebody's annotator."""

    attributes = ("good",)

    def score(self, rows: Sequence[Any]) -> np.ndarray:
        return np.zeros((len(rows), 1))

    def prefer(self, first: Sequence[Any], second: Sequence[Any]) -> np.ndarray:
        raise KeyError("missing")


def test_an_annotator_of_the_user_that_raises_is_named() -> None:
    with pytest.raises(SteerError, match=r"^annotator tests\.test_annotate:Broken: raised KeyError"):
        annotator("tests.test_annotate:Broken").prefer([{}], [{}])
