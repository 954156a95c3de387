"""The losses on pairs: dpo, ipo, slic and rso against plain arithmetic and official numbers; how pairs are made."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer import label
from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.labelling.command import label_command
from steer.methods import METHODS, contrastive, dpo, ipo, rso, slic
from steer.methods.base import Candidates
from steer.methods.groups import PAIRINGS, Group, pairs, ranked
from steer.rows import Row, read_rows
from steer.rows.schema import Attribute, Schema
from steer.training.batches import Plan
from steer.training.prepare import chosen, conditioned, grouped
from steer.training.settings import TrainSettings
from tests.conftest import Golden, mean

LOGPS = torch.tensor([[[-1.0, -2.0, 9.0], [-3.0, -1.0, -2.0]], [[-2.0, 9.0, 9.0], [-0.5, -0.25, 9.0]]])
MASK = torch.tensor([[[True, True, False], [True] * 3], [[True, False, False], [True, True, False]]])
REF = torch.tensor([[-2.0, -4.0], [-1.0, -3.0]])
C = Candidates(MASK, torch.tensor([[1.0, 0.0], [2.0, -1.0]]), REF)
PLAIN = [-3.0 - -6.0, -2.0 - -0.75]  # log p of chosen less rejected
DELTA = [PLAIN[0] - (-2.0 - -4.0), PLAIN[1] - (-1.0 - -3.0)]


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def test_the_losses_are_what_the_papers_print() -> None:
    assert dpo.loss(LOGPS, C, dpo.Settings(0.3)).tolist() == pytest.approx([-log_sigmoid(0.3 * d) for d in DELTA])
    assert ipo.loss(LOGPS, C, ipo.Settings(0.3)).tolist() == pytest.approx([(d - 1 / 0.6) ** 2 for d in DELTA])
    hinge = [max(0.0, 1 - 0.5 * d) for d in PLAIN]
    likelihood = [3.0, 2.0]
    found = slic.loss(LOGPS, C, slic.Settings(gamma=0.5, reg=0.1)).tolist()
    assert found == pytest.approx([h + 0.1 * x for h, x in zip(hinge, likelihood)])
    norms = {
        "sigmoid-norm": [-log_sigmoid(0.5 * d) for d in DELTA],
        "hinge-norm": [max(0, 1 - 0.5 * d) for d in DELTA],
        "hinge": hinge,
    }
    for name, terms in norms.items():
        assert rso.loss(LOGPS, C, rso.Settings(gamma=0.5, loss=name)).tolist() == pytest.approx(terms)


def test_a_pair_without_its_second_response_does_not_count() -> None:
    alone = C._replace(mask=MASK & torch.tensor([[[True], [True]], [[True], [False]]]))
    part = Candidates(MASK[:1], C.reward[:1], REF[:1])
    for method in (dpo, ipo, slic, rso):
        assert mean(method.METHOD, LOGPS, alone) == mean(method.METHOD, LOGPS[:1], part)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_equals_the_official_numbers(golden: Golden, beta: float) -> None:
    each = golden.official[f"dpo_beta{beta}"]["value"]
    assert dpo.loss(*golden.of(2), dpo.Settings(beta)).tolist() == pytest.approx(each, rel=1e-6)
    sigmoid = rso.Settings(gamma=beta)  # the same formula with another name for the slope
    assert rso.loss(*golden.of(2), sigmoid).tolist() == pytest.approx(each, rel=1e-6)


def test_ipo_equals_the_official_numbers(golden: Golden) -> None:
    each = golden.official["ipo_beta0.1"]["value"]
    assert ipo.loss(*golden.of(2), ipo.Settings(0.1)).tolist() == pytest.approx(each, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_hinge_norm_equals_the_official_numbers(golden: Golden, gamma: float) -> None:
    each = golden.official[f"rso_hinge_norm_gamma{gamma}"]["value"]
    found = rso.loss(*golden.of(2), rso.Settings(gamma=gamma, loss="hinge-norm")).tolist()
    assert found == pytest.approx(each, rel=1e-6)


def rows(*rewards: float | None, prompt: str = "p") -> list[Row]:
    turns = [{"role": "user", "content": prompt}]
    return [{"id": f"{prompt}{i}", "prompt": turns, "response": f"x{i}", "reward": r} for i, r in enumerate(rewards)]


def names(groups: list[object]) -> set[tuple[str, ...]]:
    return {tuple(row["id"] for row in g.rows) for g in groups}  # type: ignore[attr-defined]


def test_pairs_are_never_tied_and_the_better_one_is_first() -> None:
    some = [*rows(0.0, 2.0, 2.0, 1.0, None), *rows(3.0, 3.0, prompt="tied"), *rows(1.0, prompt="alone")]
    assert names(pairs(some, "best-worst")) == {("p1", "p0")}
    assert names(pairs(some, "all")) == {("p1", "p3"), ("p1", "p0"), ("p2", "p3"), ("p2", "p0"), ("p3", "p0")}
    assert names(pairs(some, "best-random")) <= {("p1", "p3"), ("p1", "p0")}


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if hasattr(m.settings, "pairing")])
def test_every_method_on_pairs_forms_those_that_are_asked_for(name: str) -> None:
    method, found = METHODS[name], []
    for pairing in ("best-worst", "all"):
        some, settings = [{**r, "levels": {"words": 1}} for r in rows(2.0, 1.0, 0.0)], method.settings(pairing=pairing)
        if method.condition:
            some, _ = method.condition(some, Schema((Attribute("words", 0, 2),)), settings)
        found.append(len(method.groups(some, settings)))
    assert found[1] == 3 * found[0] > 0


def compared(better: str, worse: str, group: str, prompt: str = "p", **more: Any) -> list[Row]:
    """What people said of two responses: the score `preference`, from which alone the reward comes."""
    return [
        {
            "id": f"{prompt}{group}{i}",
            "prompt": [{"role": "user", "content": prompt}],
            "group": group,
            "response": text,
            "scores": {"preference": 1.0 - i},
            "predicted": {},
            "reward": 1.0 - 2.0 * i,
            **more,
        }
        for i, text in enumerate((better, worse))
    ]


def texts(groups: Sequence[Group]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(row["response"] for row in g.rows) for g in groups)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_pair_nobody_compared_is_not_formed_and_every_given_one_is(pairing: str) -> None:
    """A beats B, B beats C and C beats D, at each of three prompts: nine pairs were given, and nine are formed."""
    given = [("A", "B"), ("B", "C"), ("C", "D")]
    some = [row for p in "pqr" for i, (x, y) in enumerate(given) for row in compared(x, y, str(i), p)]
    assert texts(pairs(some, pairing)) == Counter(dict.fromkeys(given, 3))
    assert texts(ranked(some)) == Counter(dict.fromkeys(given, 3))  # of rrhf and pro
    assert set(texts(rso.groups(some, rso.Settings(beta=math.inf, keep=2)))) == set(given)
    assert texts(contrastive.groups(some, contrastive.Settings())) == Counter(dict.fromkeys(given, 3))


def test_a_preference_beside_another_score_is_of_its_group_too() -> None:
    some = [*compared("A", "B", "0", scores={"preference": 1.0, "score": 3.0}), *compared("B", "C", "1")]
    some[1]["scores"] = {"preference": 0.0, "score": 1.0}
    assert texts(pairs(some, "all")) == Counter({("A", "B"): 1, ("B", "C"): 1})


def test_rewards_of_a_scorer_are_compared_all_over_the_prompt() -> None:
    some = [*compared("A", "B", "0"), *compared("C", "D", "1")]
    for row, reward in zip(some, (0.3, 0.1, 0.9, 0.2)):
        row |= {"reward": reward, "predicted": {"preference": reward}}
    assert texts(pairs(some, "best-worst")) == Counter({("C", "B"): 1})


class Liked:
    """Says 1 of a response that people chose, as a scorer may that is cut off at the ends of the scale."""

    attributes = ("preference", "quality")

    def score(self, rows: Sequence[Any]) -> np.ndarray:
        known = {"A": (1.0, 0.1), "B": (0.5, 0.2), "C": (1.0, 0.3), "D": (0.0, 0.9)}
        return np.array([known[row["response"]] for row in rows])


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        ({}, {("A", "B"), ("C", "D")}),  # the scores in the rows
        ({"scorer": "tests.test_pairs:Liked", "prefer": "human", "neither": ("quality",)}, {("A", "B"), ("C", "D")}),
        ({"scorer": "tests.test_pairs:Liked", "neither": ("quality",)}, {("A", "D")}),
        ({"scorer": "tests.test_pairs:Liked", "neither": ("preference",), "prefer": "human"}, {("D", "A")}),
        ({"scorer": "countable:words", "lower": ("words",)}, {("A", "D")}),  # no preference counts: all are compared
    ],
)
def test_label_says_whether_the_reward_is_what_people_preferred(
    flags: dict[str, Any], right: set[tuple[str, str]], tmp_path: Path
) -> None:
    """Only then are two responses of different comparisons not compared."""
    columns = ("id", "prompt", "group", "response", "scores")
    given = [row for x, y, group in (("A", "B", "0"), ("C", "D", "1")) for row in compared(x, y, group)]
    if "countable" in str(flags):
        for row, more in zip(given, (0, 1, 2, 3)):
            row["response"] += " x" * more
    lines = [json.dumps({column: row[column] for column in columns}) for row in given]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    config = LabelConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "run"), held_out=0, min_support=1, **flags)
    label_command(config)
    found = {tuple(text[:1] for text in pair) for pair in texts(pairs(read_rows(tmp_path / "run"), "best-worst"))}
    assert found == right


COMPARING = {"several", "several drawn", "drawn", "pairs", "levelled pairs", "scores"}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.rows in COMPARING])
def test_every_method_that_chooses_among_responses_chooses_within_what_people_compared(name: str) -> None:
    """Of A over B, B over C and C over D each comparison is learned from, and never the worse response alone."""
    given = [("A", "B"), ("B", "C"), ("C", "D")]
    some = [row for p in "pqr" for i, (x, y) in enumerate(given) for row in compared(x, y, str(i), p)]
    plain = [{key: row[key] for key in ("id", "prompt", "group", "response", "scores")} for row in some]
    labelled, options = label(plain, held_out=0, min_support=1), TrainSettings(template="tags")
    method, settings = chosen(name, ())
    _, groups, _ = grouped(list(labelled.rows), method, settings, conditioned(labelled, method, options), name)
    learned: dict[tuple[str, str], set[str]] = {}
    for group in groups:
        [comparison] = {(row["prompt"][0]["content"], row["group"]) for row in group.rows}
        learned.setdefault(comparison, set()).update(row["response"] for row in group.rows)
    assert learned.keys() == {(p, str(i)) for p in "pqr" for i in range(len(given))}
    assert all(given[int(i)][0] in responses for (_, i), responses in learned.items())


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_no_text_is_better_than_itself(pairing: str) -> None:
    """Some sets hold the same text as chosen and as rejected, or with and without white space at its end."""
    some = [*compared("A", "A", "0"), *compared("B", "C ", "1"), *compared("C", " C\n", "2")]
    assert texts(pairs(some, pairing)) == Counter({("B", "C "): 1})
    twice = [{**row, "response": text} for row, text in zip(rows(3.0, 2.0, 1.0, 0.0), ("A", "A", "B", "A"))]
    assert set(texts(pairs(twice, pairing))) == {("A", "B")}
    assert texts(ranked(twice)) == Counter({("A", "B"): 1})


def test_the_random_rejected_one_follows_from_the_prompt_and_is_any_of_them() -> None:
    many = [row for i in range(300) for row in rows(4.0, 3.0, 2.0, 1.0, prompt=f"{i}-")]
    first = pairs(many, "best-random")
    assert first == pairs(many, "best-random")
    counts = Counter(g.rows[1]["reward"] for g in first)
    assert set(counts) == {1.0, 2.0, 3.0}
    assert min(counts.values()) > 70


def test_rows_that_make_no_pair_are_refused_with_the_command_that_draws_more() -> None:
    some = [*rows(1.0, 1.0, prompt="tied"), *rows(2.0, prompt="alone")]
    wanted = (
        r"no prompt has two responses with different rewards \(1 of 2 have one response, 1 have ties only\)\..*--n 4"
    )
    for method in (dpo, ipo, slic, rso):
        with pytest.raises(SteerError, match=wanted):
            method.METHOD.groups(some, method.Settings())  # type: ignore[attr-defined]
    for make in (lambda: pairs(some, "best"), lambda: dpo.Settings(pairing="best")):
        with pytest.raises(SteerError, match=f"pairing.*'best'.*Known: {', '.join(sorted(PAIRINGS))}"):
            make()


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: dpo.Settings(beta=0.0), r"beta 0\.0: wanted above 0\."),
        (lambda: ipo.Settings(beta=-1.0), r"beta -1\.0: wanted above 0\."),
        (lambda: slic.Settings(gamma=0.0), r"gamma 0\.0: wanted above 0\."),
        (lambda: slic.Settings(reg=-1.0), r"reg -1\.0: wanted 0 or more\."),
        (lambda: rso.Settings(keep=1), r"keep 1: wanted 2 or more\."),
        (lambda: rso.Settings(loss="sigmoid"), r"loss: unknown 'sigmoid'; did you mean 'sigmoid-norm'"),
    ],
)
def test_settings_without_meaning_are_refused(make: Callable[[], Any], wanted: str) -> None:
    with pytest.raises(SteerError, match=wanted):
        make()


def test_the_sampler_takes_the_best_at_beta_zero_and_anything_at_infinity() -> None:
    rewards = [0.1, 0.9, 0.5, 0.7]
    assert rso.accepted(rewards, 0.0, 3, np.random.default_rng(0)) == [1, 3, 2]
    assert sorted(rso.accepted(rewards, 0.0, 9, np.random.default_rng(0))) == [0, 1, 2, 3]
    rng = np.random.default_rng(1)
    first = Counter(rso.accepted(rewards, math.inf, 2, rng)[0] for _ in range(4000))
    assert all(abs(count - 1000) < 120 for count in first.values())


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_first_accepted_is_that_of_a_pass_in_random_order(beta: float) -> None:
    """One kept of three: the first of a random order that its own coin accepts, which is only near exp(r_i / beta)."""
    rewards, n = [0.0, 0.4, 0.8], 20_000
    rng = np.random.default_rng(2)
    kept = Counter(rso.accepted(rewards, beta, 1, rng)[0] for _ in range(n))
    accept = [math.exp((r - 0.8) / beta) for r in rewards]
    chance = [0.0] * 3
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        alive = 1 / 6
        for i in order:
            chance[i] += alive * accept[i]
            alive *= 1 - accept[i]
    total = sum(chance)  # a pass always ends with one: the best is accepted for certain
    assert total == pytest.approx(1.0)
    for i in range(3):
        assert kept[i] / n == pytest.approx(chance[i], abs=0.015)


class Scripted:
    """Visits candidates in orders that are given, and tosses the same coin for each."""

    def __init__(self, *orders: list[int]) -> None:
        self.orders = iter(orders)

    def permutation(self, left: list[int]) -> np.ndarray:
        order = next(self.orders)
        assert sorted(order) == sorted(left)
        return np.array(order)

    def random(self) -> float:
        return 0.5


def test_the_highest_reward_falls_as_soon_as_the_best_is_accepted() -> None:
    """Else the third would be measured by the best in this pass, and wait for the next one, which the second begins."""
    draws: Any = Scripted([0, 2, 1], [1, 2])
    assert math.exp(0.5 - 1.0) > 0.5 > math.exp(0.5 - 9.0)
    assert rso.accepted([9.0, 1.0, 0.5], 1.0, 2, draws) == [0, 2]


def test_rso_forms_no_pair_of_equal_rewards() -> None:
    some = [row for i in range(40) for row in rows(1.0, 1.0, 0.0, 0.0, prompt=f"{i}-")]
    groups = rso.groups(some, rso.Settings(beta=math.inf, keep=4))
    assert {tuple(row["reward"] for row in g.rows) for g in groups} == {(1.0, 0.0)}
    assert 40 < len(groups) < 80  # two pairs of a prompt, or none: a third of the draws pairs equal ones


def test_rso_pairs_are_disjoint_and_favour_high_rewards() -> None:
    some = [row for i in range(40) for row in rows(*np.linspace(-2, 2, 16).tolist(), prompt=f"{i}-")]
    tilted, flat = (rso.groups(some, rso.Settings(beta=b, keep=8)) for b in (0.3, math.inf))
    for groups in (tilted, flat):
        ids = [row["id"] for g in groups for row in g.rows]
        assert len(ids) == len(set(ids)) == 40 * 8
        assert all(g.rows[0]["reward"] > g.rows[1]["reward"] for g in groups)
    high, plain = (np.mean([row["reward"] for g in groups for row in g.rows]) for groups in (tilted, flat))
    assert high > plain + 0.5
    assert abs(plain) < 0.2


def test_contrastive_pairs_go_from_easy_to_hard() -> None:
    some = [row for i in range(20) for row in rows(3.0, 1.0, 0.5, prompt=f"{i}-")]
    groups = contrastive.groups(some, contrastive.Settings())
    gaps = [g.rows[0]["reward"] - g.rows[1]["reward"] for g in groups]
    assert gaps == sorted(gaps, reverse=True)
    assert len(groups) == 60
    assert "curriculum" in contrastive.METHOD.needs
    plan = Plan(groups, None, None, 10, 100, 0, curriculum=11)  # type: ignore[arg-type]  # no tokens are asked for
    steps = [plan.step(step)[1] for step in range(11)]
    assert [sum(i >= 30 for i in step) for step in steps] == list(range(11))
    easy = [i for step in steps for i in step if i < 30]
    assert sorted(easy[:30]) == list(range(30))  # every pair of a half comes once before any comes twice
    assert steps == [plan.step(step)[1] for step in range(11)]
