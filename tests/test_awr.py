"""Advantage-weighted regression: the baseline reads the prompt, and never its own."""

from __future__ import annotations

import math
import random

import pytest

from steer.errors import SteerError
from steer.methods import awr, rwr
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


def asked(*texts: str, reward: float = 0.0) -> list[Row]:
    return [{"id": t, "prompt": [{"role": "user", "content": t}], "response": "x", "reward": reward} for t in texts]


def test_every_response_counts_in_the_value_of_prompts_like_its_own() -> None:
    once = asked(*(f"hard {i}" for i in range(10)), *(f"easy {i}" for i in range(20)))
    often = [row for i in range(10, 20) for row in asked(*[f"hard {i}"] * 9, reward=4.0)]
    value = awr.values([*once, *often])
    assert 2.5 < sum(value[:10]) / 10 < 4.0  # of 90 responses at 4 and 10 at 0; a mean over prompts is 2


def test_a_word_counts_once_however_often_it_is_said_and_a_character_is_one() -> None:
    once = rows(60)
    twice = [{**r, "prompt": r["prompt"] * 2} for r in once]
    assert awr.values(twice) == pytest.approx(awr.values(once))
    assert all(map(math.isfinite, awr.values(asked(*"?!abcd"))))


def test_few_prompts_have_their_mean_as_value() -> None:
    some = rows(3)
    assert awr.values(some) == pytest.approx([sum(r["reward"] for r in some) / 3] * 3)
    assert len(set(awr.values(rows(awr.FOLDS)))) > 1
    some[0]["reward"] = 9.0
    weights = [g.weights[0] for g in awr.groups(some, awr.Settings(beta=0.5, clip=2.0))]
    assert weights == pytest.approx(rwr.weights([r["reward"] for r in some], rwr.Settings(beta=0.5, clip=2.0)))
    assert max(weights) == 2.0
    with pytest.raises(SteerError, match=r"beta 0.0: wanted above 0"):
        awr.Settings(beta=0.0)
