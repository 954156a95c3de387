"""One ridge regression per attribute on the features of `features`.

The penalty is chosen per attribute by cross-validation that is split by prompt. All statistics of a fold (document
frequencies, means, deviations) come from its training rows; only the list of terms is shared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.linalg import solve_banded

from attribute_models import Row, Scored, archive, texts
from attribute_models.arrays import Array
from attribute_models.features import MEASURES, Counts, Scaling, Vocabulary
from attribute_models.folds import Keys, check_penalties, folds_by_prompt, known_alike, known_scores
from attribute_models.learned import Learned
from attribute_models.progress import progress

ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
PAIRS_GAIN = 0.01  # share of the squared error that pairs of words must save to be used
CHUNK = 4096  # rows scored at once
ARRAYS = ("coefficients", "intercept", "alpha", "paired")  # fitted, saved beside the scaling's


def ridge(x: sparse.csr_matrix, y: Array, alphas: ArrayLike, *, tolerance: float) -> tuple[Array, Array]:
    """Ridge of y [n] on x [n, p] with a free intercept, for m penalties: (coefficients [p, m], intercepts [m]).

    The dual solution (K + alpha)^-1 y, with K the Gram matrix of the centred rows, lies for every alpha in the same
    Krylov space. Lanczos with full reorthogonalisation gives its basis Q and the tridiagonal T = Q'KQ, and then the
    solution is |y| Q (T + alpha)^-1 e1 (Golub and Van Loan, Matrix Computations, 10.1). It stops when the residual of
    the smallest alpha, which is a product of off-diagonals over pivots of T + alpha, is below tolerance |y|.
    """
    penalties = np.asarray(alphas, dtype=np.float64)
    mean, transposed = np.asarray(x.mean(0)).ravel(), x.T.tocsr()
    centred = y - y.mean()
    length = math.sqrt(_dot(centred, centred))
    if length == 0:
        return np.zeros((x.shape[1], len(penalties))), np.full(len(penalties), y.mean())
    v, basis, diagonal, beside = centred / length, [], [], []
    residual, pivot, step = 1.0, 1.0, 0.0
    while residual >= tolerance:
        basis.append(v)
        v = x @ (transposed @ v)
        v -= v.mean()
        diagonal.append(_dot(basis[-1], v))
        for q in basis:
            v -= _dot(q, v) * q
        pivot = diagonal[-1] + penalties.min() - step**2 / pivot
        step = math.sqrt(_dot(v, v))
        beside.append(step)
        residual *= step / pivot
        v /= step or 1.0
    first, off = np.eye(len(basis))[0], beside[:-1]
    solved = [  # [m, steps]
        solve_banded((1, 1), [[0.0, *off], np.asarray(diagonal) + alpha, [*off, 0.0]], first) for alpha in penalties
    ]
    coefficients = transposed @ (length * np.stack(basis, 1) @ np.stack(solved, 1))
    return coefficients, y.mean() - mean @ coefficients


def _dot(x: Array, y: Array) -> float:
    """Product of two vectors without BLAS: on a busy machine its threads cost far more than so short a sum."""
    return float(np.einsum("i,i", x, y))


@dataclass(frozen=True)
class LinearSettings:
    """Settings of `Linear`."""

    alphas: tuple[float, ...] = ALPHAS  # penalties to choose from
    folds: int = 5  # parts of the cross-validation
    min_df: int = 2  # rows that must have a term
    max_features: int = 50_000  # most n-grams kept, and as many pairs


class Linear(Learned):
    """Predicts scores from text; each attribute learns from its own known rows.

    After `fit`: `alpha_` and `paired_` [A], the penalty and whether pairs of words are used; `held_out_` [n, A],
    predictions by models that never saw the row's prompt, NaN where the score is unknown (both choices are made by
    them). `load` restores all but `held_out_`.
    """

    name = "linear"
    Settings = LinearSettings
    settings: LinearSettings

    def _check(self) -> None:
        check_penalties(self.settings.folds, self.settings.alphas)

    def fit(self, rows: Sequence[Row], scores: ArrayLike) -> Self:
        """Learn from rows and scores [n, A], NaN = unknown. A row without any known score changes nothing.

        An attribute with fewer than FEWEST known rows, 2 distinct prompts or 2 values raises ValueError.
        """
        s = self.settings
        at, rated, y, prompts = known_scores(rows, scores, self.attributes)
        pairs = texts(rated)
        self.vocabulary_ = Vocabulary.of(pairs, s.min_df, s.max_features)
        counts = self.vocabulary_.count(pairs)
        self.alpha_ = np.zeros(len(self.attributes))
        self.paired_ = np.zeros(len(self.attributes), dtype=np.bool_)
        self.held_out_ = np.full((len(rows), len(self.attributes)), np.nan)
        for group in known_alike(~np.isnan(y)):
            known = ~np.isnan(y[:, group[0]])
            self.held_out_[at[known][:, None], group] = self._choose(counts[known], y[known], prompts[known], group)
        self._refit(counts, y)
        return self

    def _choose(self, counts: Counts, scores: Array, prompts: Keys, group: list[int]) -> Array:
        """Set penalty and pairing of a group of attributes with all scores known; return their held-out predictions.

        Counts of n rows, scores [n, A], prompts' keys [n] -> [n, G]. Pairs must cut the squared error by PAIRS_GAIN; if
        they do not on the folds so far, the other folds are not computed.
        """
        alphas = self.settings.alphas
        y, fold = scores[:, group], folds_by_prompt(prompts, self.settings.folds)
        predicted = np.zeros((*y.shape, 2, len(alphas)))  # [n, G, without or with pairs, penalties]
        helpful = np.full(len(group), len(self.vocabulary_.pairs) > 0)
        for k in range(fold.max() + 1):
            new = fold == k
            scaling = Scaling.of(counts[~new], self.vocabulary_, self.settings.min_df)
            for paired in (0, 1) if helpful.any() else (0,):
                x = scaling.apply(counts, paired=bool(paired))
                x_train, x_new = x[~new], x[new]
                for j in np.flatnonzero(helpful | (paired == 0)):
                    coefficients, intercepts = ridge(x_train, y[~new, j], alphas, tolerance=1e-4)
                    predicted[new, j, paired] = x_new @ coefficients + intercepts
            seen = fold <= k
            error = ((predicted[seen] - y[seen, :, None, None]) ** 2).mean(0)  # [G, 2, penalties]
            helpful &= error[:, 1].min(1) < (1 - PAIRS_GAIN) * error[:, 0].min(1)
        each, paired_ = np.arange(len(group)), helpful.astype(np.int64)
        best = error[each, paired_].argmin(1)
        self.alpha_[group], self.paired_[group] = np.asarray(alphas)[best], helpful
        return predicted[:, each, paired_, best]

    def _refit(self, counts: Counts, y: Array) -> None:
        """Set scaling, coefficients and intercepts from all known rows of scores [n, A]; drop pairs nobody uses."""
        if not self.paired_.any():
            self.vocabulary_ = Vocabulary(self.vocabulary_.grams)
            counts = Counts(counts.grams, counts.measures, counts.pairs[:, :0])
        self.scaling_ = Scaling.of(counts, self.vocabulary_, self.settings.min_df)
        features = self.scaling_.apply(counts, paired=True)
        self.coefficients_ = np.zeros((features.shape[1], len(self.attributes)))
        self.intercept_ = np.zeros(len(self.attributes))
        for a, paired in enumerate(self.paired_):
            known, width = ~np.isnan(y[:, a]), features.shape[1] - (0 if paired else counts.pairs.shape[1])
            coefficients, intercept = ridge(features[known, :width], y[known, a], self.alpha_[[a]], tolerance=1e-8)
            self.coefficients_[:width, a], self.intercept_[a] = coefficients[:, 0], intercept[0]

    def _score(self, rows: Sequence[Row]) -> Scored:
        """Predictions [n, A], never NaN; those of a row do not depend on the other rows."""
        scores = []
        with progress(total=len(rows), what="score") as bar:
            for start in range(0, len(rows), CHUNK):
                part = texts(rows[i] for i in range(start, min(start + CHUNK, len(rows))))
                features = self.scaling_.apply(self.vocabulary_.count(part), paired=True)
                scores.append(features @ self.coefficients_ + self.intercept_)
                bar.update(len(part))
        return Scored(np.concatenate(scores), None)

    def save(self, folder: str | Path) -> None:
        """Write `weights.npz` and `model.json`."""
        state = self.state | {"measures": MEASURES, "vocabulary": asdict(self.vocabulary_)}
        archive.save(folder, state, {name: getattr(self, f"{name}_") for name in ARRAYS} | vars(self.scaling_))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote; `held_out_` is not saved."""
        state, arrays = archive.load(folder)
        if tuple(state["measures"]) != MEASURES:
            raise ValueError(f"{folder}: does not belong to this version. Fit and save the model again.")
        model = cls.of(state)
        model.vocabulary_ = Vocabulary(**{name: tuple(terms) for name, terms in state["vocabulary"].items()})
        for name in ARRAYS:
            setattr(model, f"{name}_", arrays[name])
        model.scaling_ = Scaling(**{field.name: arrays[field.name] for field in fields(Scaling)})
        return model
