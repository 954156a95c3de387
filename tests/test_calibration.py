"""Calibration and debiasing: their formulas, what they promise, and models that carry them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import attribute_models
from attribute_models import calibration, debias, metrics
from attribute_models.calibrated import Calibrated
from attribute_models.calibration import KINDS
from attribute_models.folds import prompt_keys
from attribute_models.linear import Linear

Array = NDArray[np.float64]


def ratings(n: int = 2000, seed: int = 0) -> tuple[Array, Array]:
    """Shrunk predictions and ratings 0 to 4 with a correlation of about .6."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=n)
    return 2 + 0.5 * true, np.clip(np.floor(2.5 + true + 1.2 * rng.normal(size=n)), 0, 4)


def levels(x: Array) -> list[float]:
    """The share of each whole number 0 to 4, halves upwards."""
    return (np.bincount(np.floor(x + 0.5).astype(int), minlength=5) / len(x)).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_every_curve_keeps_the_order_and_the_nans(kind: str) -> None:
    predicted, truth = ratings()
    curve = calibration.fit(kind, predicted, truth)
    new = np.linspace(-5, 9, 500)
    assert (np.diff(curve(new)) >= 0).all()
    assert np.isnan(curve(np.asarray([np.nan, 1.0]))).tolist() == [True, False]


def test_affine_is_least_squares_and_spread_has_the_moments_of_the_truth() -> None:
    predicted, truth = ratings()
    slope, intercept = np.polyfit(predicted, truth, 1)
    affine, spread = (calibration.fit(kind, predicted, truth) for kind in ("affine", "spread"))
    new = np.asarray([-3.0, 0.0, 2.5, 9.0])
    assert affine(new) == pytest.approx(intercept + slope * new)
    assert spread(predicted).mean() == pytest.approx(truth.mean())
    assert spread(predicted).std() == pytest.approx(truth.std())


def test_isotonic_is_right_on_average_at_every_height() -> None:
    predicted, truth = ratings()
    found = calibration.fit("isotonic", predicted, truth)(predicted)
    for part in np.array_split(np.argsort(predicted), 5):
        assert found[part].mean() == pytest.approx(truth[part].mean(), abs=0.12)
    assert found.std() < truth.std() * 0.75


def test_quantile_gives_levels_as_often_as_people_did() -> None:
    predicted, truth = ratings()
    found = calibration.fit("quantile", predicted, truth)(predicted)
    assert levels(found) == pytest.approx(levels(truth), abs=2e-3)
    assert levels(predicted)[4] < 0.02 < levels(truth)[4]  # shrunk predictions hardly reach the top
    assert len(np.unique(found)) > 1900  # rows keep their order inside a level
    assert metrics.spearman(found, predicted) == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_predictions_that_many_rows_share_become_the_middle_of_their_quantiles(share: float) -> None:
    """The truth, sorted, is dealt out to the rows in order; a share of them may have predictions of their own."""
    predicted, truth = ratings()
    rng = np.random.default_rng(1)
    own = rng.random(len(predicted)) < share
    tied = np.where(own, predicted, np.round(predicted))
    found = calibration.fit("quantile", tied, truth)(tied)
    edges = [0.0, 0.5, 1.5, 2.5, 3.5, 4.0]  # a rating is spread evenly between the midpoints to its neighbours
    counts = [int((truth == level).sum()) for level in range(5)]
    dealt = np.concatenate([np.linspace(a, b, n) for a, b, n in zip(edges, edges[1:], counts)])
    for value in np.unique(tied[~own]):
        at = np.sort(tied) == value
        if at.mean() > 0.02:
            assert found[tied == value] == pytest.approx(dealt[at].mean(), abs=0.01), value
    assert found.mean() == pytest.approx(dealt.mean(), abs=0.02)
    assert (np.diff(found[np.argsort(tied, kind="stable")]) >= 0).all()


def test_falling_predictions_become_the_mean() -> None:
    predicted, truth = ratings()
    assert calibration.fit("affine", -predicted, truth)(predicted) == pytest.approx(truth.mean())
    assert calibration.fit("isotonic", -predicted, truth)(predicted) == pytest.approx(truth.mean())
    assert calibration.fit("quantile", np.ones(9), truth[:9])(np.asarray([5.0])) == pytest.approx(truth[:9].mean())


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="Choose one of none, affine"):
        calibration.fit("izotonic", *ratings(10))


def test_lambda_is_the_smallest_that_takes_length_out() -> None:
    rng = np.random.default_rng(3)
    length = rng.gamma(2.0, 50.0, 1500)
    liked = rng.normal(size=1500) + 0.02 * length
    size = debias.smallest(liked, length)
    for sign in (1, -1):  # whether length is liked or disliked
        assert debias.smallest(sign * liked, length) == pytest.approx(sign * size)
        rest = metrics.spearman(sign * (liked - size * length), length)
        assert rest is not None
        assert abs(rest) <= debias.LIMIT
    short = metrics.spearman(liked - 0.99 * size * length, length)
    assert short is not None
    assert short > debias.LIMIT
    assert debias.smallest(rng.normal(size=1500), np.ones(1500)) == 0.0


def rows(n: int, seed: int = 0) -> tuple[list[dict[str, Any]], Array]:
    """Two responses to each prompt; quality 0 to 4 is liked for good words and, wrongly, for length."""
    rng = np.random.default_rng(seed)
    made, scores = [], []
    for i in range(n):
        said = rng.choice(["good", "bad", "the", "cat", "sat", "and", "ran"], rng.integers(5, 40))
        liking = (said == "good").sum() / len(said) * 8 + len(said) / 15
        made.append({"prompt": [{"role": "user", "content": f"p{i // 2}"}], "response": " ".join(said)})
        scores.append([np.clip(np.floor(liking + rng.normal()), 0, 4)])
    return made, np.asarray(scores, dtype=float)


@pytest.fixture(scope="module")
def fitted() -> Calibrated:
    return Calibrated(Linear(("quality",)), debias="words", ranges={"quality": (0, 4)}).fit(*rows(400))


def test_scores_are_debiased_calibrated_and_inside_the_range(fitted: Calibrated) -> None:
    found, truth = fitted.score(rows(400)[0])[:, 0], rows(400)[1][:, 0]
    assert found.min() >= 0
    assert found.max() <= 4
    assert levels(found) == pytest.approx(levels(truth), abs=0.1)
    assert fitted.debias_ is not None
    assert fitted.debias_.before[0] is not None
    assert fitted.debias_.before[0] > 0.2
    assert abs(fitted.report_[0]["spearman_with_length"]) < 0.1
    assert fitted.report_[0]["learnable"] is True


def test_a_saved_calibrated_model_gives_the_same_bits(fitted: Calibrated, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = attribute_models.load(tmp_path)
    new, _ = rows(50, seed=7)
    assert loaded.score(new).tolist() == fitted.score(new).tolist()
    assert loaded.test(new, np.zeros((50, 1))) == fitted.test(new, np.zeros((50, 1)))  # type: ignore[attr-defined]
    assert attribute_models.name_of(tmp_path) == "linear"
    (tmp_path / "model" / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="does not belong to its calibration"):
        attribute_models.load(tmp_path)


def test_held_out_figures_come_from_curves_that_did_not_see_the_prompt() -> None:
    made, scores = rows(200)
    moved = scores.copy()
    moved[6:8] = 4 - moved[6:8]

    class Given:
        """A model whose held-out predictions do not depend on scores."""

        attributes = ("quality",)

        def fit(self, rows: Any, scores: Any) -> None:
            self.held_out_ = np.asarray([[row["response"].count("good")] for row in rows], dtype=float)

    one, other = (Calibrated(Given()).fit(made, y).held_out_ for y in (scores, moved))
    assert one[6:8].tolist() == other[6:8].tolist()
    assert np.abs(one - other).max() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"debias": "wrods"}, "Did you mean 'words'"),
        ({"ranges": {"god": (0, 4)}}, "Unknown attribute in ranges"),
        ({"ranges": {"quality": (4, 0)}}, "lower end first"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibrated(Linear(("quality",)), **settings).fit(*rows(40))


def test_rows_of_a_group_stay_together_across_prompts() -> None:
    made = [
        {"prompt": [{"role": "user", "content": f"p{i}"}], "response": "x", "group": f"g{i // 3}"} for i in range(9)
    ]
    keys = prompt_keys(made)
    assert len(set(keys)) == 3
    assert all(len(set(keys[i : i + 3])) == 1 for i in (0, 3, 6))
    made[8] = {**made[8], "prompt": made[0]["prompt"]}  # one prompt in two groups ties them
    assert len(set(prompt_keys(made))) == 2
    assert prompt_keys(made[::-1]).tolist() == prompt_keys(made)[::-1].tolist()


def test_where_all_rows_share_a_prompt_responses_are_held_out() -> None:
    made = [{"prompt": [{"role": "user", "content": "Write."}], "response": f"r{i % 4}"} for i in range(8)]
    assert len(set(prompt_keys(made))) == 4
