"""Rewards from preferences: the objective's formula, pairs, held-out accuracy, real logs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import attribute_models
from attribute_models.bradley_terry import BradleyTerry, BradleyTerrySettings, accuracy, pairs_of, solved
from steer.config.labelling import FitConfig, LabelConfig
from steer.errors import SteerError
from steer.labelling.command import fit_command, label_command
from steer.rows import read, read_rows, write_rows
from steer.run_folder import read_json

Array = NDArray[np.float64]
FEW = BradleyTerrySettings(alphas=(1.0, 10.0), min_df=1)


def world(n: int = 160, seed: int = 0) -> tuple[list[dict[str, Any]], Array]:
    """Pairs, the chosen one with more kind words."""
    rng = np.random.default_rng(seed)
    rows, scores = [], []
    for i in range(n):
        said = [rng.choice(["kind", "rude", "cat", "dog", "tree"], 8).tolist() for _ in range(2)]
        said.sort(key=lambda words: words.count("rude") - words.count("kind"))
        for side, words in enumerate(said):
            prompt = [{"role": "user", "content": f"p{i // 2}"}]  # two pairs of every prompt
            rows.append({"prompt": prompt, "response": " ".join(words), "group": str(i)})
            scores.append([1.0 - side])
    return rows, np.asarray(scores)


@pytest.mark.parametrize("variant", ["plain", "margin", "scaled"])
def test_the_solution_is_a_minimum_of_the_papers_objective(variant: str) -> None:
    rng = np.random.default_rng(0)
    d, gap = rng.normal(size=(40, 3)), rng.uniform(0.5, 2, 40)

    def objective(w: Array) -> float:
        terms = []
        for row, g in zip(d, gap):
            margin = float(row @ w) - (g if variant == "margin" else 0.0)
            terms.append((g if variant == "scaled" else 1.0) * math.log1p(math.exp(-margin)))
        return sum(terms) + 2.0 / 2 * float(w @ w)

    (w,) = solved(d, gap, variant, [2.0])
    for step in rng.normal(size=(20, 3)):
        assert objective(w) <= objective(w + 1e-2 * step)


def test_pairs_are_of_one_prompt_and_one_group_and_gaps_are_one_on_average() -> None:
    def row(prompt: str, group: str = "") -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": prompt}], "response": "r", "group": group}

    rows = [row("a"), row("a"), row("a"), row("b"), row("b", "g"), row("b", "h"), row("a")]
    pairs = pairs_of(rows, np.asarray([3.0, 1.0, 1.0, 9.0, 5.0, 2.0, math.nan]))
    assert list(zip(pairs.better.tolist(), pairs.worse.tolist())) == [(0, 1), (0, 2)]
    assert pairs.gap.tolist() == [1.0, 1.0]


def test_accuracy_counts_ties_half_and_its_interval_holds_prompts_together() -> None:
    pairs = pairs_of(*(lambda rows, y: (rows, y[:, 0]))(*world(40)))
    rewards = np.where(np.arange(80) % 2 == 0, 1.0, 0.0)
    rewards[[0, 1]] = 0.5
    rewards[[2, 3]] = 0.0, 1.0
    prompts = np.asarray([str(i // 4) for i in range(80)])
    found = accuracy(pairs, rewards, np.zeros(80), prompts, "preference")
    assert found["accuracy"] == pytest.approx(38.5 / 40)
    assert found["longer"] == 0.5
    assert found["accuracy_low"] < 38.5 / 40 < found["accuracy_high"]
    assert accuracy(pairs, np.zeros(80), np.zeros(80), prompts, "preference")["learnable"] is False


def test_bounds_of_an_accuracy_are_shares() -> None:
    """Few pairs, of which one is wrong: mean -+ t * error would go beyond 1."""
    pairs = pairs_of(*(lambda rows, y: (rows, y[:, 0]))(*world(5)))
    rewards = np.asarray([0.0, 1.0] + [1.0, 0.0] * 4)
    found = accuracy(pairs, rewards, np.arange(10) % 3, np.arange(10), "preference")
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["accuracy_high"] == 1.0
    assert 0 <= found["accuracy_low"] < 0.8


def lengths_of(better: list[int], worse: list[int]) -> tuple[Any, Array, Any]:
    """Pairs of rows with these word counts, their lengths, and a prompt for each pair."""
    rows = [
        {"prompt": [{"role": "user", "content": f"p{i // 2}"}], "response": "", "group": ""}
        for i in range(2 * len(better))
    ]
    scores = np.asarray([1.0, 0.0] * len(better))
    lengths = np.asarray([n for pair in zip(better, worse) for n in pair], dtype=float)
    return pairs_of(rows, scores), lengths, np.asarray([str(i // 2) for i in range(2 * len(better))])


def test_a_reward_of_length_alone_adds_nothing_and_says_so() -> None:
    pairs, lengths, prompts = lengths_of([20] * 72 + [10] * 28, [10] * 72 + [20] * 28)
    found = accuracy(pairs, lengths, lengths, prompts, "preference")
    assert (found["accuracy"], found["longer"], found["length_alone"]) == (0.72, 0.72, 0.72)
    assert found["given_length"] == 0.5  # right in every pair whose longer side is better, wrong in all others
    assert found["learnable"] is False
    assert "the scorer adds nothing to length: accuracy 0.720" in found["warning"]
    right = np.tile([1.0, 0.0], 100)
    assert accuracy(pairs, right, lengths, prompts, "preference")["learnable"] is True
    few = accuracy(pairs, right, lengths, np.asarray([str(int(p) % 3) for p in prompts]), "preference")
    assert few["learnable"] is None
    assert "preference: accuracy 1.000 over 100 pairs. The held-out rows answer fewer than 4 prompts" in few["warning"]


def test_pairs_of_similar_length_have_an_accuracy_of_their_own() -> None:
    pairs, lengths, prompts = lengths_of([11, 10, 30, 30], [10, 11, 10, 10])
    found = accuracy(pairs, np.asarray([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]), lengths, prompts, "preference")
    assert (found["similar_pairs"], found["similar"], found["accuracy"]) == (2, 0.5, 0.75)
    assert found["given_length"] == pytest.approx((3 / 3 + 0 / 1) / 2)


def test_the_better_of_unseen_prompts_are_told_and_saved_to_the_bit(tmp_path: Path) -> None:
    rows, scores = world()
    model = BradleyTerry(("preference",), FEW).fit(rows, scores)
    assert model.report_[0]["accuracy"] > 0.8
    assert model.report_[0]["pairs"] == 160
    assert model.score(rows).mean() == pytest.approx(0.0, abs=1e-9)
    new, y = world(30, seed=4)
    assert model.test(new, y)[0]["accuracy"] > 0.8
    model.save(tmp_path)
    assert attribute_models.load(tmp_path).score(new).tolist() == model.score(new).tolist()


def test_held_out_rewards_use_no_preference_of_the_prompt() -> None:
    rows, scores = world()
    fixed = BradleyTerrySettings(alphas=(3.0,), min_df=1)
    moved = scores.copy()
    moved[:4] = 1 - moved[:4]  # both pairs of the first prompt
    one, other = (BradleyTerry(("preference",), fixed).fit(rows, y).held_out_ for y in (scores, moved))
    assert one[:4].tolist() == other[:4].tolist()
    assert np.abs(one - other).max() > 0


def test_hidden_states_are_features_too(tiny: Path, tmp_path: Path) -> None:
    rows, scores = world(60)
    settings = BradleyTerrySettings(model=str(tiny), pooling="mean", cache="none", alphas=(10.0, 100.0))
    model = BradleyTerry(("preference",), settings).fit(rows, scores)
    assert model.report_[0]["accuracy"] > 0.55
    model.save(tmp_path)
    assert attribute_models.load(tmp_path).score(rows).tolist() == model.score(rows).tolist()


def test_without_pairs_the_remedy_is_named() -> None:
    rows, scores = world(20)
    with pytest.raises(ValueError, match=r"0 pairs .* Give responses to the same prompts"):
        BradleyTerry(("preference",), FEW).fit(rows, np.ones_like(scores))


def test_real_preferences_give_a_reward(shared: Path, tmp_path: Path) -> None:
    """Logs in the format of HH-RLHF -> a scorer -> `<reward>`; pairs with a blank side are left out before."""
    source, pairs = shared / "data" / "pairs_hh_harmless_test.jsonl.gz", tmp_path / "pairs.jsonl"
    write_rows((row for i, row in enumerate(read(source, skipped=[])) if i < 2000), pairs)
    settings = ("alphas=30,100", "min_df=5")
    said = fit_command(FitConfig(str(pairs), str(tmp_path / "scorer"), kind="bradley-terry", set=settings))
    (own,) = read_json(tmp_path / "scorer" / "done.json")["report"]
    assert own["accuracy_low"] > 0.5
    assert f"{own['pairs']} pairs" in said
    label_command(LabelConfig(str(pairs), str(tmp_path / "labels"), scorer=str(tmp_path / "scorer")))
    rows = read_rows(tmp_path / "labels")
    assert {row["levels"]["reward"] for row in rows} == {0, 1, 2, 3, 4}
    with pytest.raises(SteerError, match="another unit"):
        label_command(LabelConfig(str(pairs), str(tmp_path / "l"), scorer=str(tmp_path / "scorer"), prefer="human"))
