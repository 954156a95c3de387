"""The linear attribute model: its algebra, what must not matter, what must be seen, and real ratings."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

import attribute_models
from attribute_models import metrics
from attribute_models.features import (
    AMOUNTS_WEIGHT,
    FURTHEST,
    MEASURES,
    MEASURES_WEIGHT,
    PAIRS_WEIGHT,
    Scaling,
    Vocabulary,
)
from attribute_models.folds import folds_by_prompt, prompt_key
from attribute_models.linear import Linear, LinearSettings, ridge

Array = NDArray[np.float64]
SHARED = Path(__file__).resolve().parents[2] / "shared"
FIXED = LinearSettings(alphas=(3.0,))
WORDS = (
    "red",
    "blue",
    "big",
    "small",
    "fast",
    "slow",
    "old",
    "new",
    "warm",
    "cold",
    "dog",
    "cat",
    "bird",
    "fish",
    "tree",
)


def row(prompt: str, response: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "response": response}


def world(n: int = 240, seed: int = 0) -> tuple[list[dict[str, Any]], Array]:
    """Rows, two per prompt, and scores [n, 2]: how many warm words there are, and how large their part is."""
    rng = np.random.default_rng(seed)
    rows, scores = [], []
    for i in range(n):
        said = rng.choice(WORDS, rng.integers(4, 20)).tolist()
        warm = sum(word in ("warm", "red", "fast") for word in said)
        rows.append(row(f"question{i // 2}", " ".join(said)))
        scores.append([warm, warm / len(said)])
    return rows, np.asarray(scores) + rng.normal(0, [0.3, 0.03], (n, 2))


def report_of(model: Linear, rows: list[dict[str, Any]], scores: Array) -> list[dict[str, Any]]:
    """The report of the held-out predictions."""
    lengths = [len(one["response"].split()) for one in rows]
    return metrics.report(scores, model.held_out_, model.attributes, lengths)


@pytest.fixture(scope="module")
def fitted() -> Linear:
    rows, scores = world()
    return Linear(("amount", "part")).fit(rows, scores)


def test_ridge_solves_the_normal_equations_for_every_penalty() -> None:
    rng = np.random.default_rng(0)
    x, y, alphas = rng.normal(size=(30, 12)) + 3, rng.normal(size=30), (0.1, 2.0, 50.0)
    coefficients, intercepts = ridge(sparse.csr_matrix(x), y, alphas, tolerance=1e-10)
    centred = x - x.mean(0)
    for m, alpha in enumerate(alphas):
        expected = np.linalg.solve(centred.T @ centred + alpha * np.eye(12), centred.T @ (y - y.mean()))
        assert coefficients[:, m] == pytest.approx(expected, abs=1e-8)
        assert intercepts[m] == pytest.approx(y.mean() - x.mean(0) @ expected)


@pytest.mark.parametrize("x", [np.zeros((6, 3)), np.ones((6, 3))])
def test_ridge_predicts_the_mean_where_there_is_nothing_to_see(x: Array) -> None:
    y = np.arange(6.0)
    coefficients, intercepts = ridge(sparse.csr_matrix(x), y, (1.0,), tolerance=1e-8)
    assert x @ coefficients[:, 0] + intercepts[0] == pytest.approx([2.5] * 6)
    assert ridge(sparse.csr_matrix(x), np.full(6, 4.0), (1.0,), tolerance=1e-8)[1] == pytest.approx([4.0])


def test_features_are_what_their_formulas_say() -> None:
    texts = [("about cats", "red red dog"), ("about dogs", "dog!"), ("on cats", "red cat"), ("", "")]
    vocabulary = Vocabulary.of(texts, min_df=1, most=99)
    assert vocabulary.grams == ("!", "cat", "dog", "dog !", "red", "red cat", "red dog", "red red", "red red dog")
    assert vocabulary.asked == ("cats",)  # "about" and "on" say nothing, one prompt has "dogs"
    assert vocabulary.pairs == ("cats\tcat", "cats\tdog", "cats\tred")
    counts = vocabulary.count(texts)
    scaling = Scaling.of(counts, vocabulary, min_df=2)  # of n-grams, two rows have "dog" and "red"
    x = scaling.apply(counts, paired=True).toarray()
    idf = math.log(5 / 3) + 1
    dog, red = idf, (1 + math.log(2)) * idf  # of the first row
    length = math.hypot(dog, red)
    assert x[0, :9] == pytest.approx([0, 0, dog / length, 0, red / length, 0, 0, 0, 0])
    typical = math.sqrt((dog**2 + red**2 + idf**2 + idf**2) / 4)
    single = [0, 0, dog, red]  # ! cat dog red
    assert x[0, 9:13] == pytest.approx([AMOUNTS_WEIGHT * weight / typical for weight in single])
    words = [math.log1p(n) for n in (3, 1, 2, 0)]
    deviation = math.sqrt(sum((w - sum(words) / 4) ** 2 for w in words) / 4)
    column = 13 + MEASURES.index("log_words")
    assert x[:, column] == pytest.approx([MEASURES_WEIGHT * (w - sum(words) / 4) / deviation for w in words])
    pair = PAIRS_WEIGHT / math.sqrt((2 + 2) / 4)  # two pairs in the first row and in the third
    assert x[:, -3:] == pytest.approx(np.asarray([[0, pair, pair], [0, 0, 0], [pair, 0, pair], [0, 0, 0]]))
    assert scaling.apply(counts, paired=False).toarray().tolist() == x[:, :-3].tolist()
    endless = scaling.apply(vocabulary.count([("", "red " * 1000)]), paired=False).toarray()
    assert endless[0, column] == FURTHEST * MEASURES_WEIGHT


def test_the_most_widespread_terms_are_kept() -> None:
    texts = [("p", "a b"), ("p", "a b"), ("p", "a c"), ("p", "c a")]
    assert Vocabulary.of(texts, min_df=2, most=99).grams == ("a", "a b", "b", "c")
    assert Vocabulary.of(texts, min_df=2, most=2).grams == ("a", "a b")  # ties in alphabetical order


def test_a_prompt_is_in_one_fold_and_folds_are_even_in_any_order() -> None:
    prompts = np.asarray([prompt_key(row(f"p{i % 23}", "")) for i in range(100)])
    fold = folds_by_prompt(prompts, 5)
    assert all(len(set(fold[prompts == key])) == 1 for key in prompts)
    assert sorted(np.bincount(fold).tolist()) == pytest.approx([20] * 5, abs=4)
    order = np.random.default_rng(0).permutation(100)
    assert folds_by_prompt(prompts[order], 5).tolist() == fold[order].tolist()
    assert set(folds_by_prompt(prompts[:3], 5)) == {0, 1, 2}


def test_rows_without_a_prompt_are_split_by_their_response() -> None:
    assert prompt_key(row(" ", "a")) != prompt_key(row(" ", "b"))
    assert prompt_key(row("p", "a")) == prompt_key(row("p", "b"))


def test_prompts_that_differ_in_calls_tools_or_options_are_different_prompts() -> None:
    plain, call = row("p", "a"), {"function": {"name": "weigh", "arguments": '{"what": "moss"}'}}
    others = [
        {**plain, "prompt": [{**turn, "tool_calls": [call]} for turn in plain["prompt"]]},
        {**plain, "tools": [{"name": "weigh"}]},
        {**plain, "chat_template_kwargs": {"enable_thinking": False}},
    ]
    assert len({prompt_key(each) for each in [plain, *others]}) == 4
    assert prompt_key({**plain, "tools": [], "chat_template_kwargs": {}}) == prompt_key(plain)
    assert prompt_key({**plain, "tools": '[{"name": "weigh", "strict": null}]'}) == prompt_key(others[1])


def test_amounts_and_parts_are_both_learned() -> None:
    rows, scores = world(800)
    for found in report_of(Linear(("amount", "part")).fit(rows, scores), rows, scores):
        assert found["pearson"] > 0.9, found
        assert found["rmse"] < 0.5 * found["baseline_rmse"], found


def test_what_answers_a_question_is_learned_without_shared_words() -> None:
    rng = np.random.default_rng(1)
    subjects = {"pets": ["dog", "cat"], "plants": ["oak", "fern"], "metals": ["iron", "zinc"]}
    rows, scores = [], []
    for i in range(400):
        topic = rng.choice(list(subjects))
        said = rng.choice(["dog", "cat", "oak", "fern", "iron", "zinc"], 4, replace=False).tolist()
        rows.append(row(f"tell me about {topic} number{i}", " ".join(said)))
        scores.append([sum(word in subjects[topic] for word in said)])
    model = Linear(("helpful",)).fit(rows, scores)
    assert model.paired_.tolist() == [True]
    assert report_of(model, rows, np.asarray(scores))[0]["pearson"] > 0.95
    good, bad = model.score([row("tell me about pets", "dog cat"), row("tell me about pets", "oak iron")])[:, 0]
    assert good > bad + 1


def test_pairs_that_do_not_help_are_dropped() -> None:
    rows, scores = world()
    rows = [row(f"{i % 5} cats and {i % 7} dogs", one["response"]) for i, one in enumerate(rows)]
    model = Linear(("amount",)).fit(rows, scores[:, :1])
    assert model.paired_.tolist() == [False]
    assert model.vocabulary_.pairs == ()
    assert np.isfinite(model.score(rows)).all()


def test_held_out_predictions_use_no_score_of_the_prompt() -> None:
    rows, scores = world()
    moved = scores.copy()
    moved[6:8] += 100  # both rows of one prompt
    before, after = (Linear(("amount", "part"), FIXED).fit(rows, y).held_out_ for y in (scores, moved))
    assert after[6:8].tolist() == before[6:8].tolist()
    others = np.r_[0:6, 8:240]
    assert np.abs(after[others] - before[others]).max() > 0.1


def test_held_out_predictions_use_no_other_text_of_the_prompt() -> None:
    rows, scores = world()
    other = [*rows[:7], row("question3", "dog dog dog"), *rows[8:]]
    before, after = (Linear(("amount", "part"), FIXED).fit(r, scores).held_out_ for r in (rows, other))
    assert after[6].tolist() == before[6].tolist()
    assert after[7].tolist() != before[7].tolist()


def test_the_order_of_rows_does_not_matter(fitted: Linear) -> None:
    rows, scores = world()
    order = np.random.default_rng(2).permutation(len(rows))
    again = Linear(fitted.attributes).fit([rows[i] for i in order], scores[order])
    assert again.alpha_.tolist() == fitted.alpha_.tolist()
    assert again.held_out_ == pytest.approx(fitted.held_out_[order], abs=1e-6)
    assert again.score(rows) == pytest.approx(fitted.score(rows), abs=1e-6)


def test_rows_with_unknown_scores_change_nothing(fitted: Linear) -> None:
    rows, scores = world()
    junk = [row("question1", "warm " * 50), row("", ""), row("other", "dog zebra")]
    again = Linear(fitted.attributes).fit([*junk, *rows], np.vstack([np.full((3, 2), math.nan), scores]))
    assert again.score(rows).tolist() == fitted.score(rows).tolist()
    assert again.held_out_[3:].tolist() == fitted.held_out_.tolist()
    assert np.isnan(again.held_out_[:3]).all()


def test_an_attribute_learns_from_its_own_known_rows_alone() -> None:
    rows, scores = world()
    scores[:100, 1] = math.nan
    both = Linear(("amount", "part")).fit(rows, scores)
    alone = Linear(("amount",)).fit(rows, scores[:, :1])
    assert both.score(rows)[:, 0].tolist() == alone.score(rows)[:, 0].tolist()
    assert np.isnan(both.held_out_[:, 1]).tolist() == np.isnan(scores[:, 1]).tolist()
    assert [found["n"] for found in report_of(both, rows, scores)] == [240, 140]
    scores[:100, 0] = math.nan
    masked, deleted = (
        Linear(("amount", "part")).fit(rows, scores),
        Linear(("amount", "part")).fit(rows[100:], scores[100:]),
    )
    assert masked.score(rows).tolist() == deleted.score(rows).tolist()


def test_chance_is_called_chance() -> None:
    rows, scores = world()
    permuted = scores[np.random.default_rng(5).permutation(len(scores)), :1]
    (found,) = report_of(Linear(("amount",)).fit(rows, permuted), rows, permuted)
    assert found["learnable"] is False
    assert found["rmse"] < 1.05 * found["baseline_rmse"]


def test_a_row_is_scored_alike_alone_and_in_company(fitted: Linear) -> None:
    rows, _ = world(seed=9)
    rows += [row("", ""), row("x", "\ud800 ?!"), row("question1", "unheard of")]
    together = fitted.score(rows)
    assert np.isfinite(together).all()
    assert np.vstack([fitted.score([one]) for one in rows]).tolist() == together.tolist()
    assert fitted.score([]).shape == (0, 2)


def test_a_saved_model_gives_the_same_bits(fitted: Linear, tmp_path: Path) -> None:
    rows, _ = world(seed=9)
    fitted.save(tmp_path)
    loaded = attribute_models.load(tmp_path)
    assert isinstance(loaded, Linear)
    assert loaded.score(rows).tolist() == fitted.score(rows).tolist()
    loaded.save(tmp_path / "again")
    for name in ("model.json", "weights.npz"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert len(list(tmp_path.iterdir())) == 3  # no temporary file is left


def test_weights_of_another_model_are_refused(fitted: Linear, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="does not belong"):
        attribute_models.load(tmp_path)
    (tmp_path / "weights.npz").unlink()
    with pytest.raises(ValueError, match="does not belong"):
        attribute_models.load(tmp_path)


@pytest.mark.parametrize(
    ("scores", "settings", "message"),
    [
        ([[float(i)] for i in range(9)] + [[math.nan]] * 31, {}, "'good' has 9 rows with a known score and needs 10"),
        ([[3.0]] * 40, {}, "'good' has the same score on all 40 known rows"),
        ([[1.0, 2.0]] * 40, {}, r"shape \[40, 2\]"),
        ([[1.0]] * 39 + [[math.inf]], {}, "finite"),
        ([[float(i)] for i in range(40)], {"folds": 1}, "2 folds or more"),
        ([[float(i)] for i in range(40)], {"alphas": (0.0, 1.0)}, "alphas above 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(
    scores: list[list[float]], settings: dict[str, Any], message: str
) -> None:
    rows = [row("one" if i < 20 else "two", f"word{i}") for i in range(40)]
    with pytest.raises(ValueError, match=message):
        Linear(("good",), LinearSettings(**settings)).fit(rows, scores)


def test_what_cannot_be_fitted_names_the_flags_of_what_can() -> None:
    rows = [row("one" if i < 20 else "two", f"word{i}") for i in range(40)]
    scores = [[float(i), 3.0, float(-i), 3.0] for i in range(40)]
    with pytest.raises(
        ValueError, match=r"'b' has .* Rate more rows, or fit the others: --attribute a --attribute c\.$"
    ):
        Linear(("a", "b", "c", "d")).fit(rows, scores)
    with pytest.raises(ValueError, match=r"'b' has .* Rate more rows\.$"):
        Linear(("b",)).fit(rows, [[3.0]] * 40)


def test_a_model_that_is_not_fitted_says_so() -> None:
    with pytest.raises(ValueError, match="not fitted"):
        Linear(("good",)).score([row("x", "y")])


def test_real_ratings_are_predicted_on_unseen_prompts() -> None:
    path = SHARED / "data" / "nlg_novikova.jsonl.gz"
    if not path.is_file():
        pytest.skip("shared/data/nlg_novikova.jsonl.gz is not beside this checkout")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    attributes = tuple(found[0]["attributes"])
    rows = [row(one["prompt"], one["response"]) for one in found]
    scores = [[one["attributes"][name] for name in attributes] for one in found]
    model = Linear(attributes).fit(rows, scores)
    report = report_of(model, rows, np.asarray(scores))
    assert len(rows) == report[0]["n"] == 2460
    for figures in report:
        assert figures["pearson"] > 0.25, figures
        assert figures["rmse"] < figures["baseline_rmse"], figures
