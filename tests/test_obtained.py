"""Scores beside targets: whose levels they become, which of several responses is kept, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from steer.errors import SteerError
from steer.evaluation.obtained import table
from steer.evaluation.statistics import interval
from steer.labelling.obtained import Selection, side_by_side
from steer.labelling.scorer import Scorer
from steer.methods import directional
from steer.models.card import Card
from steer.rows.binning import fitted
from steer.rows.schema import Attribute, Schema
from steer.serve.api import scored
from steer.serve.wire import ScoreRequest

NAMES = ("help", "harm")
PLAIN = Schema((Attribute("help", 0.0, 4.0, 1), Attribute("harm", 0.0, 4.0, -1)))
SCHEMA = fitted(PLAIN, np.array([[i, j] for i in range(5) for j in range(5)], float))


class Written:
    """Scores that stand in the response: "3 1"."""

    attributes = NAMES

    def score(self, rows: Sequence[Any]) -> list[list[float]]:
        """[n, 2]."""
        return [[float(x) for x in row["response"].split()] for row in rows]


class Counted:
    """A score that stands in the response."""

    attributes = ("words",)

    def score(self, rows: Sequence[Any]) -> list[list[float]]:
        """[n, 1]."""
        return [[float(row["response"])] for row in rows]


class Flipping(Written):
    """Mirrors its scores, as a simulated pool of annotators does with labels for training."""

    def score(self, rows: Sequence[Any]) -> list[list[float]]:
        """[n, 2]."""
        return [[4 - x for x in line] for line in super().score(rows)]

    def evaluating(self) -> Written:
        """Without the mirror."""
        return Written()


SCORER = Scorer("written", NAMES, Written(), SCHEMA)


def row(response: str, target: dict[str, int], asked: str = "") -> dict[str, Any]:
    prompt = [{"role": "user", "content": "q"}]
    return {"id": response, "prompt": prompt, "response": response, "target": target, "asked": asked}


def card(method: str, schema: Schema, names: tuple[str, ...] = NAMES) -> Card:
    return Card("base", "", "lora", method, attributes=names, schema=schema)


@pytest.fixture
def weighing() -> Card:
    """A policy whose targets are weights."""
    logged = [
        {**row(f"{i} {j}", {}), "reward": float(i - j), "predicted": {"help": float(i), "harm": float(j)}}
        for i in range(5)
        for j in range(5)
    ]
    _, schema = directional.weights(logged, SCHEMA, directional.Settings())
    assert schema["harm"].direction == 1, "a weight, of which more is more of the good end"
    return card("directional", schema)


def test_weights_choose_where_every_sum_of_scores_is_the_same() -> None:
    """More help is as much more harm, so the rewards are equal and the directions are not."""
    logged = [
        {**row(f"{i} {i}", {}), "reward": 0.0, "predicted": {"help": float(i), "harm": float(i)}} for i in range(5)
    ]
    chosen, _ = directional.weights(logged, SCHEMA, directional.Settings(directions=20))
    assert {row["response"] for row in chosen} == {"0 0", "4 4"}


def test_what_was_obtained_is_told_without_the_flips_of_a_training() -> None:
    flipping = Scorer("flipping", NAMES, Flipping(), SCHEMA)
    (found,) = Selection(flipping).knowing(None).labelled([row("3 0", {"help": 3})])
    assert found["predicted"] == {"help": 3.0, "harm": 0.0}
    service: Any = SimpleNamespace(scorer=flipping, names=NAMES, schema=SCHEMA)
    (served,) = scored(service, ScoreRequest(prompt="q", responses=["3 0"]))
    assert served["scores"] == {"help": 3.0, "harm": 0.0}


def test_a_policy_of_weights_is_scored_by_the_scorers_schema(weighing: Card) -> None:
    selection = Selection(SCORER, n=2).knowing(weighing)
    harmful, kind = (row(text, {"help": 0, "harm": 4}, "help=0 harm=4") for text in ("4 4", "3 0"))
    assert selection.kept([harmful, kind]) == [{**kind, "best_of": 2}]
    (found,) = selection.labelled([kind])
    assert found["levels"] == SCHEMA.levels({"help": 3.0, "harm": 0.0, "reward": found["reward"]})
    assert found["reward"] == SCHEMA.reward({"help": 3.0, "harm": 0.0})
    assert side_by_side([found], selection.schema) == "> q\n[help=0 harm=4]\n3 0\n  obtained help=3 harm=0"
    assert table([found], selection.schema or SCHEMA) == "no level was asked for that has a score."
    with pytest.raises(SteerError, match=r"^--rerank target: the policy's targets are no levels that are scored\. Use"):
        Selection(SCORER, n=2, by_target=True).knowing(weighing)


def test_a_policy_of_levels_is_scored_by_its_own_schema() -> None:
    own = SCHEMA.turned({"harm": (1, 1.0)})
    selection = Selection(SCORER, n=2, by_target=False).knowing(card("conditional", own))
    assert selection.schema == own
    rows = [row("4 4", {"harm": 0}, "harm=0"), row("3 0", {"harm": 0}, "harm=0")]
    assert selection.kept(rows) == [{**rows[0], "best_of": 2}]
    (found,) = selection.labelled(rows[:1])
    assert side_by_side([found], own) == "> q\n[harm=0]\n4 4\n  obtained harm=4 (asked 0) help=4"
    assert Selection(SCORER, n=2, by_target=True).knowing(card("conditional", own)).kept(rows) == [
        {**rows[1], "best_of": 2}
    ]
    assert Selection(SCORER).knowing(None).schema == SCHEMA


def test_every_response_that_is_printed_has_a_head_of_its_own_where_a_prompt_has_several() -> None:
    answers = [row("one\nmore", {"harm": 0}, "harm=0"), row("two", {}, "")]
    assert side_by_side(answers, SCHEMA) == "> q\n[harm=0]\none\nmore\n[none]\ntwo"
    assert side_by_side([row("one\nmore", {}, ""), row("two", {}, "")], None) == "> q\n[1]\none\nmore\n[2]\ntwo"
    assert side_by_side(answers[1:], SCHEMA) == "> q\ntwo"
    calling = {**row("", {}, ""), "tool_calls": [{"function": {"name": "weigh", "arguments": {"what": "moss"}}}]}
    assert side_by_side([calling], None) == '> q\nweigh({"what": "moss"})'


def test_a_reward_that_was_asked_for_is_told() -> None:
    selection = Selection(SCORER).knowing(card("conditional", SCHEMA, ("reward",)))
    rows = selection.labelled([row("4 0", {"reward": 4}), row("0 4", {"reward": 4})])
    mean = sum(r["reward"] for r in rows) / 2
    head = f"reward={SCHEMA['reward'].shown[4]} | reward | {SCHEMA['reward'].span(4)}"
    assert table(rows, SCHEMA).splitlines()[1] == f"{head} | {mean:.2f} | 50% | 50% | 2", "one prompt has no interval"


def test_the_table_has_intervals_over_prompts_what_levels_mean_and_none() -> None:
    words = Attribute("words", 1.0, 90.0, 0, edges=(13.5, 40.0), shown=("0", "1", "2"), centres=(8.0, 20.0, 60.0))
    lengths = Schema((words,))
    rows = [
        {"prompt": [{"role": "user", "content": f"q{i // 2}"}], "target": target, "predicted": {"words": score}}
        | {"levels": lengths.levels({"words": score})}
        for target, scores in (({"words": 1}, (10.0, 20.0, 30.0, 60.0, 14.0, 15.0)), ({}, (7.0, 8.0)))
        for i, score in enumerate(scores)
    ]
    asked, prompts = rows[:6], [row["prompt"][0]["content"] for row in rows[:6]]
    mean = interval([row["predicted"]["words"] for row in asked], prompts).text()
    met = interval([row["levels"]["words"] == 1 for row in asked], prompts)
    share = f"{4 / 6:.0%} [{max(0.0, met.low):.0%}, {min(1.0, met.high):.0%}]"
    least = 0.025 ** (1 / 3)  # all of three prompts, not of six responses
    assert table(rows, lengths).splitlines()[1:] == [
        f"words=1 | words | 13.5 to below 40 | {mean} | {share} | 100% [{least:.0%}, 100%] | 6",
        "none | words | - | 7.50 | - | - | 2",
    ]


def test_the_scorer_of_a_policys_rows_is_found_or_said_to_be_gone(tmp_path: Path) -> None:
    known = replace(card("conditional", SCHEMA), scorer="countable:words", scorer_spec="countable:words")
    assert Selection.of("", known).scorer.id == "countable:words"
    assert Selection.of("countable:sentences", known).scorer.id == "countable:sentences"
    gone = str(tmp_path / "gone")
    for other, message in (
        (None, "--score: the policy names no scorer. Name one with --scorer"),
        (replace(known, scorer_spec=""), "--score: the policy names no scorer"),
        (replace(known, scorer_spec="human"), "--score: people scored the policy's rows"),
        (replace(known, scorer_spec=gone), f"cannot be loaded: scorer '{gone}': no such folder"),
        (replace(known, scorer="linear:0123"), "countable:words is countable:words now, .* labelled by linear:0123"),
    ):
        with pytest.raises(SteerError, match=message):
            Selection.of("", other)


def test_a_response_that_meets_an_open_level_is_nearer_than_one_that_nearly_does() -> None:
    """The lowest and highest level have no end: words=250 is in the level from 62 words on, words=60 is not."""
    words = Attribute("words", 0.0, 300.0, 0, edges=(30.0, 62.0), centres=(15.0, 45.0, 80.0), shown=("0", "1", "2"))
    scorer = Scorer("written", ("words",), Counted(), Schema((words,)))
    selection = Selection(scorer, n=2, by_target=True).knowing(None)
    for texts in (("60", "250"), ("250", "60")):
        (kept,) = selection.kept([row(text, {"words": 2}) for text in texts])
        assert kept["response"] == "250"
    (kept,) = selection.kept([row(text, {"words": 1}) for text in ("61", "50")])
    assert kept["response"] == "50"  # of two that meet it, the one nearer to its middle
    exact: Any = {"words": words.position(np.array(60.0)).item()}
    (kept,) = selection.kept([row("64", exact), row("50", exact)])
    assert kept["response"] == "64"  # an exact score was asked for


def test_a_response_without_a_score_is_neither_near_nor_far() -> None:
    selection = Selection(SCORER, n=2, by_target=True).knowing(card("conditional", SCHEMA))
    for texts in (("nan 0", "3 0"), ("3 0", "nan 0")):
        with pytest.raises(SteerError, match=r"^scorer written: gives no score to a response\.$"):
            selection.kept([row(text, {"help": 3}) for text in texts])
