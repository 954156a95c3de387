"""The embedded world: its logs are what the documentation promises, and its gold scores are arithmetic."""

import math
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import calls

from data_recipes import world, world_model
from data_recipes.world_text import (
    ATTRIBUTES,
    CLAUSES,
    FACTS,
    HEDGES,
    PROMPTS,
    PURPOSES,
    VALUES,
    WARMTH,
    Gold,
    gold,
    words_of,
)
from steer import rows as contract
from steer.conditioning.condition import TEMPLATES, render
from steer.rows.binning import fitted
from steer.rows.schema import Schema


@cache
def logs(size: int = 4000, **settings: Any) -> list[dict[str, Any]]:
    return list(world.rows(world.World(size, **settings)))


def reward(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The schema's weighted, direction-aware sum: [n, 5] -> [n]."""
    return np.asarray(scores @ [a["direction"] * a["weight"] for a in world.SCHEMA])


def true(topic: str, i: int) -> str:
    subject, (verb, value) = list(FACTS[topic].items())[i]
    return f"{subject} {verb} {value}"


def false(topic: str, i: int) -> str:
    subject, (verb, value) = list(FACTS[topic].items())[i]
    return f"{subject} {verb} {next(v for v in VALUES[topic] if v != value)}"


ASKED, OTHER = list(FACTS)[:2]
PROMPT = f"tell me about {ASKED} for my garden."


def sigmoid4(x: float) -> float:
    return 4 / (1 + math.exp(-x))


def test_everything_follows_from_the_seed() -> None:
    assert list(world.rows(world.World(300, seed=3))) == list(world.rows(world.World(300, seed=3)))
    a, b = ([row["response"] for row in world.rows(world.World(300, seed=s))] for s in (3, 4))
    assert len(set(a) & set(b)) < 30
    # A longer log begins with the shorter one.
    assert list(world.rows(world.World(50, seed=3))) == list(world.rows(world.World(300, seed=3)))[:50]


def test_a_row_costs_the_same_in_logs_of_any_size() -> None:
    list(world.rows(world.World(50)))  # fills what is computed once
    small, large = (calls(lambda n=n: list(world.rows(world.World(n)))) / n for n in (500, 2000))
    assert large < 1.1 * small < 500


def test_rows_keep_the_contract() -> None:
    for i, row in enumerate(logs()):
        contract.check(row, f"row {i}")
    assert len({row["id"] for row in logs()}) == 4000
    groups = defaultdict(set)
    for row in logs(400, per_prompt=4):
        groups[row["group"]].add(row["prompt"][0]["content"])
    assert len(groups) == 100
    assert all(len(prompts) == 1 for prompts in groups.values())


def test_helpfulness_counts_the_facts_asked_for_the_earlier_the_better() -> None:
    a, b = true(ASKED, 0), true(ASKED, 1)
    assert gold(PROMPT, f"{a}. {b}.")[0] == pytest.approx(1 + (1 - 0.25 * 3 / 6))
    assert gold(PROMPT, f"{a}. {a}.")[0] == 1.0  # said twice is said once
    assert gold(PROMPT, f"{false(ASKED, 0)}.")[0] == 1.0  # a wrong answer addresses it too
    assert gold(PROMPT, f"{true(OTHER, 0)}.")[0] == 0.0
    assert gold(PROMPT, f"{true(OTHER, 0)}. {a}.")[0] == pytest.approx(1 - 0.25 * 3 / 6)
    every = [true(ASKED, i) for i in range(len(FACTS[ASKED]))]
    late = [0.25 * 3 * i / (3 * len(every)) for i in range(4)]
    assert gold(PROMPT, ". ".join(every))[0] == pytest.approx(4 - sum(late))  # four at most, the first ones
    subject, _, value = a.split()
    assert gold(PROMPT, f"{subject} dislikes {value}.")[0] == 0.0


def test_correctness_is_the_share_of_true_statements() -> None:
    texts = [true(ASKED, 0), true(OTHER, 1), false(ASKED, 1)]
    assert gold(PROMPT, f"{'. '.join(texts)}.")[1] == pytest.approx(4 * (2 + 0.25) / (3 + 0.5))
    assert gold(PROMPT, "fine.")[1] == 2.0
    assert gold(PROMPT, f"{false(ASKED, 0)}.")[1] == pytest.approx(4 * 0.25 / 1.5)


def test_verbosity_counts_words() -> None:
    for clauses in range(5):
        text = ", ".join([true(ASKED, 0), *CLAUSES[:clauses]])
        expected = (3 + sum(len(c.split()) for c in CLAUSES[:clauses]) - 6) / 11
        assert gold(PROMPT, text)[2] == pytest.approx(min(4.0, max(0.0, expected)))
    assert gold(PROMPT, "word " * 500)[2] == 4.0


def test_warmth_adds_up_phrases() -> None:
    (warm, plus), *_, (cold, minus) = sorted(WARMTH.items(), key=lambda item: -item[1])
    assert minus < 0 < plus
    assert gold(PROMPT, true(ASKED, 0))[3] == 2.0
    assert gold(PROMPT, f"{warm} {true(ASKED, 0)}.")[3] == pytest.approx(sigmoid4(plus))
    assert gold(PROMPT, f"{warm} {true(ASKED, 0)}. {cold}")[3] == pytest.approx(sigmoid4(plus + minus))


def test_hedging_is_hedges_per_statement() -> None:
    texts = [f"{HEDGES[0]} {true(ASKED, 0)}", true(ASKED, 1), f"{HEDGES[1]} {false(OTHER, 0)}"]
    assert gold(PROMPT, f"{'. '.join(texts)}.")[4] == pytest.approx(4 * 2 / (3 + 0.25))
    assert gold(PROMPT, f"{true(ASKED, 0)}.")[4] == 0.0


def test_gold_scores_rows_in_the_order_of_its_attributes() -> None:
    scores = Gold().score(logs()[:20])
    assert scores.shape == (20, 5)
    assert Gold.attributes == tuple(a["name"] for a in world.SCHEMA)
    assert scores[7].tolist() == gold(logs()[7]["prompt"][0]["content"], logs()[7]["response"])
    assert Gold().score([]).shape == (0, 5)


def test_gold_does_not_saturate_and_has_few_ties() -> None:
    scores = Gold().score(logs())
    assert ((scores > 0.05) & (scores < 3.95)).mean(0).min() > 0.5
    assert len(np.unique(reward(scores))) > 0.75 * len(scores)
    for j in range(5):  # every level of every attribute has its rows
        assert np.bincount(np.floor(scores[:, j] + 0.5).astype(int), minlength=5).min() > 0.02 * len(scores)


def test_combinations_that_are_absent_never_occur() -> None:
    levels = np.floor(Gold().score(logs(8000)) + 0.5)
    for a, i, b, j in world.ABSENT:
        left, right = levels[:, ATTRIBUTES.index(a)] == i, levels[:, ATTRIBUTES.index(b)] == j
        assert min(left.sum(), right.sum()) > 80  # each alone is common enough
        assert not (left & right).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_reward_and_length_correlate(seed: int) -> None:
    rows = logs(4000, seed=seed)
    lengths = [len(words_of(row["response"])) for row in rows]
    assert 0.2 < np.corrcoef(reward(Gold().score(rows)), lengths)[0, 1] < 0.4


def test_behaviours_are_uneven_and_alike_without_spread() -> None:
    def means(rows: list[dict[str, Any]]) -> dict[str, float]:
        by = defaultdict(list)
        for row, value in zip(rows, reward(Gold().score(rows))):
            by[row["source"]].append(value)
        return {source: float(np.mean(values)) for source, values in by.items()}

    spread, flat = means(logs()), means(logs(spread=0.0))
    assert set(spread) == set(flat) == {f"world/{name}" for name in world.BEHAVIOURS}
    assert max(spread.values()) - min(spread.values()) > 2.0
    assert max(flat.values()) - min(flat.values()) < 0.15
    assert Gold().score(logs(spread=0.0)).std(0).max() < 0.3 < 0.9 < Gold().score(logs()).std(0).min()


def test_the_rated_share_carries_noisy_integer_scores() -> None:
    assert 0.27 < np.mean([bool(row["scores"]) for row in logs(rated=0.3)]) < 0.33
    assert not any(row["scores"] for row in logs(400, rated=0.0))
    rows = logs(rated=1.0)
    human = np.array([[row["scores"][name] for name in ATTRIBUTES] for row in rows])
    assert set(np.unique(human)) == {0.0, 1.0, 2.0, 3.0, 4.0}
    exact = Gold().score(rows)
    agreement = [np.corrcoef(human[:, j], exact[:, j])[0, 1] for j in range(5)]
    assert all(0.8 < r < 0.95 for r in agreement)
    loud = logs(rated=1.0, noise=2.0)
    louder = np.array([row["scores"]["warmth"] for row in loud])
    assert np.corrcoef(louder, Gold().score(loud)[:, ATTRIBUTES.index("warmth")])[0, 1] < min(agreement) - 0.1


def test_a_primer_has_no_scores_and_comes_last() -> None:
    rows = logs(400, primer=0.25)
    assert [row["source"] == "world/primer" for row in rows] == [False] * 300 + [True] * 100
    assert not any(row["scores"] for row in rows[300:])


def test_the_tokenizer_gives_every_text_back(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    world_model.save(tmp_path, hidden_size=16, layers=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    names = tuple(a["name"] for a in world.SCHEMA)
    plain = Schema.from_json({"attributes": world.SCHEMA})
    schema = fitted(plain, Gold().score(logs()), minimum=1)
    conditions = [
        render(dict.fromkeys(names, level), schema, names, template) for template in TEMPLATES for level in range(5)
    ]
    texts = [row["response"] for row in logs()[:200]] + [row["prompt"][0]["content"] for row in logs()[:200]]
    texts += [*conditions, "Ünknown wörds, 3.14 and 🙂", "two  spaces\nand\n\nlines", "trails ", "<a>"]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    # Every word of the world is one token, so generation is short and cheap.
    known = [*HEDGES, *PURPOSES, *FACTS, *(w for p in PROMPTS for w in words_of(p))]
    assert all(len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1 for word in known)


def test_the_untrained_model_follows_from_the_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        world_model.save(tmp_path / name, seed=seed, hidden_size=16, layers=1)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
