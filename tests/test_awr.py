"""Advantage-weighted regression: the baseline reads the prompt, and never its own."""

from __future__ import annotations

import math
import random

import pytest

from steer.errors import SteerError
from steer.methods import awr
from steer.rows import Row


def rows(n: int = 200) -> list[Row]:
    """Prompts with the word hard get 3 less, whatever is answered; the response itself is worth -1 or 1."""
    rng = random.Random(0)
    made = []
    for i in range(n):
        hard, good = rng.random() < 0.5, rng.random() < 0.5
        prompt = f"{'hard' if hard else 'easy'} question {i}"
        made.append(
            {
                "id": str(i),
                "prompt": [{"role": "user", "content": prompt}],
                "response": "x",
                "reward": (2.0 if good else 0.0) - (3.0 if hard else 0.0),
                "good": good,
                "hard": hard,
            }
        )
    return made


def test_a_response_is_weighted_by_what_it_adds_to_its_prompt() -> None:
    groups = awr.groups(rows(), awr.Settings())
    mean = {
        (good, hard): [g.weights[0] for g in groups if (g.rows[0]["good"], g.rows[0]["hard"]) == (good, hard)]
        for good in (True, False)
        for hard in (True, False)
    }
    average = {k: sum(v) / len(v) for k, v in mean.items()}
    assert average[True, True] > 3 * average[False, False]  # good answers to hard prompts above poor ones to easy ones
    assert average[True, True] == pytest.approx(average[True, False], rel=0.5)
    assert math.fsum(g.weights[0] for g in groups) / len(groups) == pytest.approx(1.0)


def test_the_value_of_a_prompt_does_not_see_its_own_rewards() -> None:
    some = rows(60)
    twin = {**some[7], "id": "twin"}  # another response to the same prompt is not seen either
    before = awr.values([*some, twin])
    some[7]["reward"] += 100.0
    after = awr.values([*some, twin])
    assert after[7] == after[-1] == pytest.approx(before[7], abs=1e-9)
    assert after != pytest.approx(before)


def test_few_prompts_have_their_mean_as_value() -> None:
    some = rows(3)
    assert awr.values(some) == pytest.approx([sum(r["reward"] for r in some) / 3] * 3)
    with pytest.raises(SteerError, match=r"beta 0.0: wanted above 0"):
        awr.Settings(beta=0.0)
