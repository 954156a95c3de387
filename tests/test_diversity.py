"""Diversity by hand, and what must not change it."""

import json
import math
import re
from typing import Any

import pytest

from steer.errors import SteerError
from steer.evaluation.diversity import distinct, diversity, leaked, repeated

RESPONSES = ["a b c", "a b c", "a b d", "x y", "x x x x x"]
PROMPTS = ["p", "p", "p", "q", "q"]


def test_every_figure_by_hand() -> None:
    found = diversity(RESPONSES, PROMPTS, [True, True, False, True, False])
    means = {name: figure["mean"] if isinstance(figure, dict) else figure for name, figure in found.items()}
    assert means == pytest.approx(
        {
            "distinct_1": (4 / 9 + 2 / 7) / 2,  # p: a b c d of 9 words; q: x y of 7
            "distinct_2": (3 / 6 + 2 / 5) / 2,  # p: ab bc bd of 6; q: xy xx of 5
            "distinct_1_all": 6 / 16,
            "distinct_2_all": 5 / 11,
            "unique": (2 / 3 + 2 / 2) / 2,
            "repeated_3": (0 + 0 + 0 + (1 - 1 / 3)) / 4,  # "x y" has no 3-gram
            "words": 16 / 5,
            "finished": 3 / 5,
        }
    )
    assert {name: found[name]["n"] for name in ("unique", "repeated_3", "words")} == {
        "unique": 2,
        "repeated_3": 4,
        "words": 5,
    }


def test_flags_are_optional() -> None:
    assert set(diversity(RESPONSES, PROMPTS, [True] * 5)) - set(diversity(RESPONSES, PROMPTS)) == {"finished"}


def test_the_order_of_rows_does_not_matter_inside_a_prompt_or_between() -> None:
    flags = [True, True, False, True, False]
    order = [4, 2, 3, 0, 1]
    shuffled = diversity(*([column[i] for i in order] for column in (RESPONSES, PROMPTS, flags)))
    for name, figure in diversity(RESPONSES, PROMPTS, flags).items():
        assert shuffled[name] == pytest.approx(figure, abs=0.1), name  # prompts are drawn in another order


def test_interleaved_prompts_keep_their_own_rows() -> None:
    # Inside a prompt all lengths agree: between the prompts lies all the spread there is, however often it is repeated.
    lengths = ["a", "b b b"] * 5
    once, often = (diversity(lengths * n, list(range(10)) * n)["words"] for n in (1, 7))
    assert (often["low"], often["high"]) == pytest.approx((once["low"], once["high"]))
    assert once["high"] - once["low"] > 1


def test_collapse_onto_one_text_shows_across_prompts_only() -> None:
    prompts = [f"p{i}" for i in range(20)]
    same, own = diversity(["one two"] * 20, prompts), diversity([f"{i} {i + 100}" for i in range(20)], prompts)
    assert same["distinct_1"]["mean"] == own["distinct_1"]["mean"] == 1
    assert same["distinct_1_all"] == pytest.approx(2 / 40)
    assert own["distinct_1_all"] == 1


def test_a_single_response_says_nothing_about_uniqueness() -> None:
    found = diversity(["a", "a", "b"], [1, 1, 2])
    assert (found["unique"]["mean"], found["unique"]["n"]) == (1 / 2, 1)


@pytest.mark.parametrize("responses", [[], [""], ["", " "]])
def test_empty_text_gives_strict_json(responses: list[str]) -> None:
    found = json.loads(json.dumps(diversity(responses, list(range(len(responses)))), allow_nan=False))
    assert found["distinct_1_all"] is None
    assert found["repeated_3"]["mean"] is None
    assert found["words"]["mean"] == (0 if responses else None)


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [("a b c d", 3, 0), ("a a a a a", 3, 1 - 1 / 3), ("a b a b a", 2, 1 - 2 / 4), ("a b", 3, math.nan)],
)
def test_repeated_counts_what_stood_before(text: str, n: int, expected: float) -> None:
    assert repeated(text.split(), n) == pytest.approx(expected, nan_ok=True)


def test_ngrams_do_not_cross_responses() -> None:
    assert distinct([["a", "b"], ["a", "b"]], 2) == 1 / 2  # not ab ba ab
    assert math.isnan(distinct([["a"], ["b"]], 2))


@pytest.mark.parametrize(("responses", "share"), [(["<quality>4 hi", "hi", "a <b>5"], 1 / 3), ([], math.nan)])
def test_leaked_condition_text(responses: list[str], share: float) -> None:
    assert leaked(responses, re.compile(r"<(quality|helpful)>\d")) == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize("given", [(["a"], []), (["a"], [1], [True, False])])
def test_columns_of_different_length_are_refused(given: Any) -> None:
    with pytest.raises(SteerError, match="responses need"):
        diversity(*given)
