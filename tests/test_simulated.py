"""Simulated annotators: the pool's figures, determinism, and that evaluation never flips."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import attribute_models
import attribute_models.own
from attribute_models.judge import Judge
from attribute_models.simulated import Settings, Simulated
from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.evaluation.annotators import annotator, annotators, identified
from steer.evaluation.court import fitting
from steer.iteration.rounds import Rounds
from steer.labelling.command import label_command
from steer.labelling.fit import fit
from steer.labelling.scorer import load_scorer
from steer.rows import read_rows
from steer.rows.schema import Attribute, Schema


def truth(row: dict[str, Any]) -> dict[str, float]:
    """The number that a response starts with, and how far it is from 4."""
    value = float(row["response"].split()[0])
    return {"good": value, "bad": 4 - value}


truth.attributes = ("good", "bad")  # type: ignore[attr-defined]
GOLD = "test_simulated:truth"
EXACT = Settings(gold=GOLD, bias=0, stretch=0, noise=0, length=0, taste=0, step=0)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def rows(count: int, value: float | None = None) -> list[dict[str, Any]]:
    return [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "response": f"{i % 5 if value is None else value} {i}"}
        for i in range(count)
    ]


def test_without_any_fault_the_ratings_are_the_truth() -> None:
    exact = Simulated(dataclasses.replace(EXACT, training=False))
    assert exact.attributes == ("good", "bad")
    assert exact.score(rows(10)).tolist() == [[i % 5, 4 - i % 5] for i in range(10)]


def test_a_quarter_of_the_labels_is_turned_in_training_and_none_in_evaluation() -> None:
    training = Simulated(EXACT)
    found = training.score(rows(4000, 1.0))[:, 0]
    assert set(found) == {1.0, 3.0}  # mirrored in the middle of 0 to 4
    share = float(np.mean(found == 3.0))
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)
    only = dataclasses.replace(EXACT, gold="test_simulated:Good")
    better, worse = rows(4000, 3.0), rows(4000, 1.0)
    share = float(np.mean(Simulated(only).prefer(better, worse)))
    assert abs(share - 0.75) < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert Simulated(dataclasses.replace(only, training=False)).prefer(better, worse).all()


class Good:
    attributes = ("good",)

    def score(self, rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
        return np.array([[truth(row)["good"]] for row in rows])


def test_the_same_seed_gives_the_same_labels_in_any_order_and_company() -> None:
    settings = Settings(gold=GOLD)
    one, other = Simulated(settings), Simulated(settings)
    some = rows(50)
    found = one.score(some)
    assert np.array_equal(other.score(some[::-1])[::-1], found)
    assert np.array_equal(np.concatenate([other.score([row]) for row in some]), found)
    assert not np.array_equal(Simulated(dataclasses.replace(settings, seed=1)).score(some), found)


def test_a_pair_the_other_way_round_gets_the_other_answer() -> None:
    pool = Simulated(Settings(gold="test_simulated:Good"))
    first, second = rows(200, 2.0), [{**row, "response": "3 " + row["response"]} for row in rows(200)]
    assert np.array_equal(pool.prefer(first, second), 1 - pool.prefer(second, first))


class Two:
    """Two numbers that a response starts with."""

    attributes = ("good", "bad")

    def score(self, rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
        return np.array([[float(x) for x in row["response"].split()[:2]] for row in rows])


def pair(good: float, bad: float, count: int = 200) -> list[dict[str, Any]]:
    return [{"prompt": [{"role": "user", "content": f"q{i}"}], "response": f"{good} {bad}"} for i in range(count)]


def test_all_else_equal_more_of_a_bad_attribute_loses_and_of_a_neutral_one_changes_nothing() -> None:
    exact = dataclasses.replace(EXACT, gold="test_simulated:Two", training=False)
    less, more = pair(2, 1), pair(2, 3)
    assert Simulated(exact, {"good": 1, "bad": -0.5}).prefer(less, more).all()
    assert not Simulated(exact, {"good": 1, "bad": 0.5}).prefer(less, more).any()
    noisy = Simulated(dataclasses.replace(exact, noise=1.0, bias=0.5, stretch=0.2, taste=0.5), {"good": 1, "bad": 0})
    won = [noisy.prefer(pair(3, bad, 4000), pair(1, 2, 4000)).mean() for bad in (0, 4)]
    assert won[0] > 0.8
    assert abs(won[0] - won[1]) < 4 * math.sqrt(2 * 0.2 * 0.8 / 4000)  # only the draws of chance differ


def test_an_attribute_that_is_unknown_for_one_of_two_counts_for_neither() -> None:
    exact = Simulated(dataclasses.replace(EXACT, gold="test_simulated:Two", training=False), {"good": 1, "bad": -0.5})
    assert exact.prefer(pair(math.nan, 1), pair(4, 2)).all()  # by the bad one alone
    assert not exact.prefer(pair(3, 1), pair(4, math.nan)).any()  # by the good one alone


def test_a_pair_of_which_nothing_that_counts_is_known_gets_no_answer() -> None:
    pool = Simulated(Settings(gold="test_simulated:Two", length=2.0), {"good": 1, "bad": 0})
    unknown, known = pair(math.nan, 1), pair(4, 2)
    for first, second in ((unknown, known), (known, unknown), (unknown, pair(math.nan, 3))):
        votes = pool.ballots(first, second)
        assert np.isnan(votes.share).all()
        assert not votes.flipped.any()
        assert np.isnan(pool.prefer(first, second)).all()


def test_equal_sums_are_a_tie_that_is_never_flipped() -> None:
    exact = dataclasses.replace(EXACT, gold="test_simulated:Two", flips=1.0)
    pool = Simulated(exact, {"good": 1, "bad": -1})
    votes = pool.ballots(pair(3, 2), pair(2.1, 1.1))
    assert set(votes.share) == {0.5}
    assert not votes.flipped.any()
    assert set(pool.prefer(pair(3, 2), pair(2.1, 1.2))) == {0.0}, "what is no tie is flipped"


@pytest.mark.parametrize(
    "weights", [{"good": 1.0, "bad": -0.5}, {"good": 3.0, "bad": -1.0}, {"good": 0.0, "bad": -2.0}]
)
def test_the_chance_of_a_preference_is_the_normal_one_of_weights_and_noise(weights: dict[str, float]) -> None:
    """P = Phi(sum_k w_k d_k / (noise sqrt(2 sum_k w_k^2))), for differences d and without tastes and biases."""
    noise = 1.5  # every annotator is as careful on average as this one
    settings = dataclasses.replace(EXACT, gold="test_simulated:Two", training=False, annotators=1, noise=noise)
    pool = Simulated(settings, weights)
    (who,) = pool.pool
    size = math.sqrt(2 * sum(w * w for w in weights.values()))
    for good, bad in ((1, 0), (0, 1)):
        gain = (weights["good"] * good + weights["bad"] * bad) / (who.noise * size)
        chance = 0.5 * (1 + math.erf(gain / math.sqrt(2)))
        found = pool.prefer(pair(2 + good, 1 + bad, 4000), pair(2, 1, 4000)).mean()
        assert abs(found - chance) < 4 * math.sqrt(0.25 / 4000)


def test_length_is_liked_or_disliked_once_whatever_the_weights() -> None:
    """Two levels of an attribute that counts alone outweigh a length whose liking is worth one and a half of them."""
    for seed in range(6):
        settings = dataclasses.replace(EXACT, gold="test_simulated:Two", length=1.0, annotators=1, seed=seed)
        bad = Simulated(dataclasses.replace(settings, training=False), {"good": 0.0, "bad": -1.0})
        (who,) = bad.pool
        short, long = pair(2, 1), [{**row, "response": "2 1" + " word" * 297} for row in pair(2, 1)]
        assert bad.prefer(long, short).all() == (who.length > 0)  # the same sign as for a good attribute
        gain = abs(who.length) * math.log(300 / 3)  # in levels
        worse = [{**row, "response": row["response"].replace("2 1", f"2 {1 + gain + 0.1}", 1)} for row in long]
        assert not bad.prefer(worse, short).any()


def test_the_pool_of_the_world_agrees_with_its_truth_in_five_of_six_pairs(labels: Path) -> None:
    from data_recipes.world_text import WEIGHTS

    some = read_rows(labels)
    one, other = some[::2], [{**row, "prompt": first["prompt"]} for first, row in zip(some[::2], some[1::2])]
    pool = Simulated.of(str(Path(__file__).resolve().parents[1] / "examples" / "annotators.yaml")).evaluating()
    gold = attribute_models.own.load("data_recipes.world_text:Gold")
    gain = (gold.score(one) - gold.score(other)) @ np.array(list(WEIGHTS.values()))
    assert pool.attributes == tuple(WEIGHTS)
    assert np.mean(pool.prefer(one, other) == (gain > 0)) > 5 / 6 - 2 * math.sqrt(5 / 36 / len(one))


def test_annotators_differ_by_as_much_as_is_asked() -> None:
    pool = Simulated(Settings(gold=GOLD, annotators=4000, bias=0.3, stretch=0.15, noise=0.5, length=0.2)).pool
    assert np.std([who.bias for who in pool]) == pytest.approx(0.3, rel=0.05)
    assert np.std([math.log(who.stretch) for who in pool]) == pytest.approx(0.15, rel=0.05)
    assert np.mean([who.noise for who in pool]) == pytest.approx(0.5, rel=0.02)
    assert np.std([who.length for who in pool]) == pytest.approx(0.2, rel=0.05)


def test_ratings_stay_on_the_steps_and_within_the_ends_and_follow_the_truth() -> None:
    pool = Simulated(Settings(gold=GOLD, training=False, noise=1.0))
    some = rows(500)
    found = pool.score(some)
    assert set(found.ravel()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    exact = [[i % 5, 4 - i % 5] for i in range(500)]
    assert np.corrcoef(found[:, 0], np.array(exact)[:, 0])[0, 1] > 0.6
    biases = np.mean([who.bias for who in pool.pool], axis=0)
    shift = (Simulated(dataclasses.replace(EXACT, bias=0.3, training=False)).score(some) - exact).mean(0)
    assert shift == pytest.approx(np.clip(biases, -0.5, 0.5), abs=0.1)


def test_length_is_liked_by_some_and_disliked_by_others() -> None:
    pool = Simulated(dataclasses.replace(EXACT, length=0.5, training=False))
    (likes,) = {who.length for who in pool.pool[:1]}
    alone = Simulated(dataclasses.replace(EXACT, length=0.5, training=False, annotators=1))
    row = {"prompt": [{"role": "user", "content": "q"}], "response": "2 " + "word " * 498}
    # log((1 + 499) / 50) = log 10 times the liking of the only annotator
    assert alone.score([row])[0, 0] == pytest.approx(np.clip(2 + likes * math.log(10), 0, 4))


def test_saved_and_named_by_file(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(f"gold: {GOLD}\nnoise: 1\ntraining: false\n")
    pool = Simulated.of(str(tmp_path / "pool.yaml"))
    assert pool.settings == Settings(gold=GOLD, noise=1, training=False)
    pool.save(tmp_path / "saved")
    again = attribute_models.load(tmp_path / "saved")
    assert np.array_equal(again.score(rows(20)), pool.score(rows(20)))
    assert Simulated.of(GOLD).settings == Settings(gold=GOLD)


def test_the_examples_can_be_loaded() -> None:
    examples = Path(__file__).resolve().parents[1] / "examples"
    assert Simulated.of(str(examples / "annotators.yaml")).settings == Settings(gold="data_recipes.world_text:Gold")
    assert Judge.of(str(examples / "judge.yaml")).attributes == ("helpfulness", "verbosity", "tone")


class Weighed(Good):
    weights = (1.0,)


class Less(Good):
    """A truth that says which end of an attribute is better, though the name says another."""

    weights: ClassVar = {"good": -1.0}


def test_a_truth_is_any_scorer_and_says_which_end_is_better(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    less, more = rows(20, 1.0), [{**row, "response": f"3 {row['response']} more"} for row in rows(20)]

    def preferred(gold: str, schema: Schema | None = None) -> list[float]:
        file.write_text(f"gold: {gold}\nbias: 0\nstretch: 0\nnoise: 0\nlength: 0\n")
        return annotator(f"simulated:{file}", schema).prefer(more, less).tolist()

    rated = [{**row, "id": f"{i}", "scores": {"good": truth(row)["good"]}} for i, row in enumerate(rows(60))]
    fit(rated, folder=tmp_path / "scorer", lower=("good",), held_out=0)
    assert preferred("test_simulated:Good") == [1.0] * 20
    assert preferred("test_simulated:Less") == [0.0] * 20
    assert annotator("test_simulated:Less").prefer(more, less).tolist() == [0.0] * 20  # by itself, as in a pool
    assert preferred(str(tmp_path / "scorer")) == [0.0] * 20
    assert preferred("countable:words", Schema((Attribute("words", 0, 9),))) == [1.0] * 20
    for gold, message in (("nowhere", "no such folder"), ("human", r"Fit one: .*, then gold: SCORER\.")):
        with pytest.raises(SteerError, match=f"{file}: gold: scorer {gold!r}?.*{message}".replace("'human'?", "human")):
            preferred(gold)


def test_a_pool_that_judges_flips_no_rating(tmp_path: Path) -> None:
    """As gold or proxy of an evaluation, as its annotator by default, and as the judge of a round."""
    (tmp_path / "pool.yaml").write_text(f"gold: {GOLD}\nflips: 1\nbias: 0\nstretch: 0\nnoise: 0\nlength: 0\n")
    spec, some = f"simulated:{tmp_path / 'pool.yaml'}", rows(10)
    schema = Schema((Attribute("good", 0, 4, 1), Attribute("bad", 0, 4, -1)))
    exact = [[i % 5, 4 - i % 5] for i in range(10)]
    assert load_scorer(spec).score(some, schema.own).tolist() == [[4 - good, 4 - bad] for good, bad in exact]
    assert fitting(spec, "--gold", schema).score(some, schema.own).tolist() == exact
    (gold,) = annotators((), spec, schema)
    best, worst = ({**some[0], "response": f"{value} x"} for value in (4, 0))
    assert gold.prefer([best], [worst]).tolist() == [1.0]
    judge, _ = Rounds.judge(SimpleNamespace(schema=schema, logs=some), load_scorer(spec))  # type: ignore[arg-type]
    assert judge.score(some, schema.own).tolist() == exact


def test_a_pool_whose_truth_was_fitted_again_is_another_scorer(tmp_path: Path) -> None:
    rated = [{**row, "id": f"{i}", "scores": {"good": truth(row)["good"]}} for i, row in enumerate(rows(60))]
    for name, count in (("one", 60), ("two", 50)):
        fit(rated[:count], folder=tmp_path / name, held_out=0)
    (tmp_path / "pool.yaml").write_text(f"gold: {tmp_path / 'one'}\n")
    before = identified(f"simulated:{tmp_path / 'pool.yaml'}")
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "two").rename(tmp_path / "one")
    assert identified(f"simulated:{tmp_path / 'pool.yaml'}") != before


def test_label_with_a_pool_over_the_worlds_truth(labels: Path, tmp_path: Path) -> None:
    scorer = "simulated:data_recipes.world_text:Gold"
    label_command(LabelConfig(str(labels), str(tmp_path / "rated"), scorer=scorer, min_support=1))
    found = read_rows(tmp_path / "rated")
    assert {r["scorer"].split(":")[0] for r in found} == {"simulated"}
    assert {s for r in found for s in r["predicted"].values()} == {0.0, 1.0, 2.0, 3.0, 4.0}


WRONG = [
    ("gold: nowhere", "wanted MODULE:NAME"),
    ("gold: test_simulated:Weighed", "its weights are (1.0,). Give a number for each attribute"),
    ("gold: test_simulated:nobody", "Check the name"),
    ("gold: test_simulated:GOLD", "is no class with `score` and no function"),
    ("golden: x", "Unknown setting 'golden'. Did you mean 'gold'"),
    (f"gold: {GOLD}\nflips: 2", "flips from 0 to 1"),
    (f"gold: {GOLD}\nnoise: loud", "'noise' is 'loud'; wanted a number"),
    ("[1]", "wanted settings"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_settings_name_the_remedy(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        Simulated.of(str(tmp_path / "pool.yaml"))
