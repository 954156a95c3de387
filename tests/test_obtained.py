"""Scores beside targets: whose levels they become, which of several responses is kept, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from steer.errors import SteerError
from steer.labelling.obtained import Selection, side_by_side
from steer.labelling.scorer import Scorer
from steer.methods import directional
from steer.models.card import Card
from steer.rows.binning import fitted
from steer.rows.schema import Attribute, Schema

NAMES = ("help", "harm")
PLAIN = Schema((Attribute("help", 0.0, 4.0, 1), Attribute("harm", 0.0, 4.0, -1)))
SCHEMA = fitted(PLAIN, np.array([[i, j] for i in range(5) for j in range(5)], float))


class Written:
    """Scores that stand in the response: "3 1"."""

    attributes = NAMES

    def score(self, rows: Sequence[Any]) -> list[list[float]]:
        """[n, 2]."""
        return [[float(x) for x in row["response"].split()] for row in rows]


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


def test_a_policy_of_weights_is_scored_by_the_scorers_schema(weighing: Card) -> None:
    selection = Selection(SCORER, n=2).knowing(weighing)
    harmful, kind = (row(text, {"help": 0, "harm": 4}, "help=0 harm=4") for text in ("4 4", "3 0"))
    assert selection.kept([harmful, kind]) == [{**kind, "best_of": 2}]
    (found,) = selection.labelled([kind])
    assert found["levels"] == SCHEMA.levels({"help": 3.0, "harm": 0.0, "reward": found["reward"]})
    assert found["reward"] == SCHEMA.reward({"help": 3.0, "harm": 0.0})
    assert side_by_side([found], selection.schema) == "> q\n[help=0 harm=4]\n3 0\n  obtained help=3 harm=0"
    assert selection.table([found]) == "no level was asked for that has a score."
    with pytest.raises(SteerError, match=r"^--rerank target: the policy's targets are weights, not levels\. Use --rer"):
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


def test_a_reward_that_was_asked_for_is_told() -> None:
    selection = Selection(SCORER).knowing(card("conditional", SCHEMA, ("reward",)))
    rows = selection.labelled([row("4 0", {"reward": 4}), row("0 4", {"reward": 4})])
    mean = sum(r["reward"] for r in rows) / 2
    assert selection.table(rows).splitlines()[1] == f"reward={SCHEMA['reward'].shown[4]} | {mean:.2f} | 50% | 50% | 2"
