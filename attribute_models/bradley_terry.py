"""A scalar reward from preferences (Bradley and Terry 1952): P(a beats b) = sigmoid(r(a) - r(b)), r linear in features.

Rows of one prompt (and of one `group`, where they have it) make a pair wherever one scores higher than the other: the
chosen and the rejected of preference logs, whose `preference` is 1 and 0, or any two ratings. The reward's zero is the
mean training row; its unit is the log-odds of winning, so it is on no scale of levels and is not calibrated. Features
are those of the linear model, or the frozen hidden states of a language model.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, stdtrit

from attribute_models import Row, Scored, archive, bases, texts, tupled
from attribute_models.arrays import Array, Indices, Mask, Standard
from attribute_models.countable import length
from attribute_models.embeddings import Embeddings, EmbeddingsSettings
from attribute_models.features import Counts, Scaling, Vocabulary
from attribute_models.folds import Keys, check_penalties, folds_by_prompt, prompt_key, prompt_keys
from attribute_models.learned import Learned
from attribute_models.metrics import FEW_PROMPTS, NOT_LEARNABLE, shown

VARIANTS = ("plain", "margin", "scaled")
ARRAYS = ("coefficients", "intercept", "alpha")  # fitted, saved beside the scaling's


@dataclass(frozen=True)
class BradleyTerrySettings:
    """Settings of `BradleyTerry`."""

    variant: str = "plain"  # margin: win by the gap of the scores (Llama 2); scaled: the gap weighs the pair
    model: str = ""  # Hugging Face model whose hidden states are the features; none: those of `linear`
    pooling: str = "auto"  # as for `embeddings`
    alphas: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # penalties to choose from
    folds: int = 5
    min_df: int = 2  # rows that must have a term
    max_features: int = 50_000
    max_length: int = 1024
    tail: str = "template"  # as for `embeddings`
    cache: str = "auto"  # as for `embeddings`
    trust_remote_code: bool = False


class Pairs(NamedTuple):
    """P pairs of rows."""

    better: Indices  # [P]
    worse: Indices  # [P]
    gap: Array  # [P], of their scores, 1 on average


class BradleyTerry(Learned):
    """One reward per attribute, learned from pairs.

    After `fit`: `alpha_` [A]; `held_out_` [n, A], rewards by models that never saw the row's prompt (the penalty is
    chosen by them); `report_`, how often the better response of a held-out pair has the higher reward.
    """

    name = "bradley-terry"
    Settings = BradleyTerrySettings
    settings: BradleyTerrySettings
    own_scale = True

    def _check(self) -> None:
        s = self.settings
        if s.variant not in VARIANTS:
            raise ValueError(f"variant is {s.variant!r}. Choose one of {', '.join(VARIANTS)}.")
        check_penalties(s.folds, s.alphas)
        shared = {f.name: getattr(s, f.name) for f in fields(EmbeddingsSettings) if hasattr(s, f.name)}
        self.reader = Embeddings((), EmbeddingsSettings(**shared)) if s.model else None

    def fit(self, rows: Sequence[Row], scores: ArrayLike) -> Self:
        """Learn from rows and scores [n, A], NaN = unknown. ValueError for an attribute with pairs of one prompt."""
        truth, count = np.asarray(scores, dtype=np.float64), len(self.attributes)
        prompts, inputs = prompt_keys(rows), self._inputs(rows, learn=True)
        self.alpha_, columns = np.zeros(count), []
        self.held_out_ = np.full(truth.shape, np.nan)
        for a, name in enumerate(self.attributes):
            pairs = pairs_of(rows, truth[:, a])
            used = np.unique(np.concatenate([pairs.better, pairs.worse]))
            if len(set(prompts[pairs.better])) < 2:
                raise ValueError(
                    f"Attribute {name!r} has {len(pairs.gap)} pairs of rows with one prompt and different scores, "
                    "from fewer than 2 prompts. Give responses to the same prompts, or another --kind."
                )
            self.alpha_[a] = self.settings.alphas[self._choose(inputs, pairs, used, prompts, a)]
            columns.append((pairs, used))
        x = self._features(inputs, np.unique(np.concatenate([used for _, used in columns])))
        self.coefficients_ = np.zeros((x.shape[1], count))
        self.intercept_ = np.zeros(count)
        for a, (pairs, used) in enumerate(columns):
            w = solved(x[pairs.better] - x[pairs.worse], pairs.gap, self.settings.variant, [self.alpha_[a]])[0]
            self.coefficients_[:, a], self.intercept_[a] = w, -float((x[used] @ w).mean())
        self.report_ = self._report(rows, truth, self.held_out_)
        return self

    def _choose(self, inputs: Any, pairs: Pairs, used: Indices, prompts: Keys, a: int) -> int:
        """Index of the best penalty by held-out log-loss; sets the held-out rewards of the rows `used`."""
        alphas, fold = self.settings.alphas, folds_by_prompt(prompts[used], self.settings.folds)
        of = np.full(len(prompts), -1)
        of[used] = fold
        predicted = np.full((len(alphas), len(prompts)), np.nan)
        for k in range(fold.max() + 1):
            x, seen = self._features(inputs, used[fold != k]), of[pairs.better] != k
            differences = x[pairs.better[seen]] - x[pairs.worse[seen]]
            for m, w in enumerate(solved(differences, pairs.gap[seen], self.settings.variant, alphas)):
                predicted[m, used[fold == k]] = x[used[fold == k]] @ w - (x[used[fold != k]] @ w).mean()
        losses = [np.logaddexp(0, p[pairs.worse] - p[pairs.better]).mean() for p in predicted]
        best = int(np.argmin(losses))
        self.held_out_[used, a] = predicted[best, used]
        return best

    def _inputs(self, rows: Sequence[Row], *, learn: bool = False) -> Any:
        """Inputs of the features before any statistics: counts, or hidden states [n, D]."""
        if self.reader is not None:
            states, self._truncated = self.reader.embed(rows, cached=learn)
            return states
        pairs = texts(rows)
        if learn:
            self.vocabulary_ = Vocabulary.of(pairs, self.settings.min_df, self.settings.max_features)
        return self.vocabulary_.count(pairs)

    def _features(self, inputs: Any, train: Indices | None = None) -> Any:
        """Features of all rows; `train`: learn `scaling_` from these rows first."""
        if train is not None and isinstance(inputs, Counts):
            chosen = np.isin(np.arange(inputs.grams.shape[0]), train)
            self.scaling_: Any = Scaling.of(inputs[chosen], self.vocabulary_, self.settings.min_df)
        elif train is not None:
            self.scaling_ = Standard.of(inputs[train])
        return self.scaling_.apply(inputs, paired=True)

    def _score(self, rows: Sequence[Row]) -> Scored:
        x = self._features(self._inputs(rows))
        return Scored(np.asarray(x @ self.coefficients_) + self.intercept_, self._truncated if self.reader else None)

    def test(self, rows: Sequence[Row], scores: ArrayLike) -> list[dict[str, Any]]:
        """Report on rows with scores [n, A] that were not used in the fit."""
        return self._report(rows, np.asarray(scores, dtype=np.float64), self.score(rows))

    def _report(self, rows: Sequence[Row], truth: Array, rewards: Array) -> list[dict[str, Any]]:
        lengths, prompts = np.asarray([length(str(row["response"])) for row in rows]), prompt_keys(rows)
        return [
            {"attribute": name, **accuracy(pairs_of(rows, truth[:, a]), rewards[:, a], lengths, prompts, name)}
            for a, name in enumerate(self.attributes)
        ]

    @staticmethod
    def table(report: Sequence[dict[str, Any]]) -> str:
        """One line per attribute, then the warnings."""
        lines = [
            f"{r['attribute']}: {r['pairs']} pairs, accuracy {shown(r['accuracy'])} "
            f"({shown(r['accuracy_low'])} to {shown(r['accuracy_high'])}), log-loss {shown(r['log_loss'])} "
            f"(of a coin .693); the longer response is the better one in {shown(r['longer'])}, so length alone has "
            f"{shown(r['length_alone'])}; accuracy {shown(r['similar'])} in {r['similar_pairs'] or 0} pairs of "
            f"similar length, {shown(r['given_length'])} ({shown(r['given_length_low'])} to "
            f"{shown(r['given_length_high'])}) given length"
            for r in report
        ]
        return "\n".join([*lines, *(r["warning"] for r in report if r["warning"])])

    def save(self, folder: str | Path) -> None:
        """Write `weights.npz` and `model.json`."""
        state = self.state | {"report": self.report_}
        if self.reader is None:
            state["vocabulary"] = asdict(self.vocabulary_)
        else:
            state["base"] = self.reader.backbone.digest
            state["settings"]["model"] = bases.placed(self.settings.model)
        archive.save(folder, state, {f"own_{n}": getattr(self, f"{n}_") for n in ARRAYS} | vars(self.scaling_))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote; `held_out_` is not saved."""
        state, arrays = archive.load(folder)
        loaded = cls.of(state)
        loaded.report_ = state["report"]
        for name in ARRAYS:
            setattr(loaded, f"{name}_", arrays[f"own_{name}"])
        if loaded.reader is None:
            loaded.vocabulary_ = Vocabulary(**tupled(state["vocabulary"]))
        else:
            bases.unchanged(loaded.settings.model, state["base"])
        kind: Any = Standard if loaded.reader else Scaling
        loaded.scaling_ = kind(**{field.name: arrays[field.name] for field in fields(kind)})
        return loaded


def pairs_of(rows: Sequence[Row], scores: Array) -> Pairs:
    """All pairs of rows of one prompt, and group, with different known scores [n]; gaps are over their mean."""
    together: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if not math.isnan(scores[i]):
            together[prompt_key(row), str(row.get("group") or "")].append(i)
    pairs = [(i, j) for same in together.values() for i in same for j in same if scores[i] > scores[j]]
    better, worse = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    gap = scores[better] - scores[worse]
    return Pairs(better, worse, gap / gap.mean() if len(gap) else gap)


def solved(differences: Any, gap: Array, variant: str, alphas: Sequence[float]) -> list[Array]:
    """Solve for the coefficients [D] of each penalty from the differences [P, D] of better and worse rows.

    Minimises the sum over pairs of softplus(-d w) + alpha/2 |w|^2; `margin`: softplus(gap - d w) (Llama 2, 2307.09288,
    equation 2); `scaled`: gap softplus(-d w) (HelpSteer2-Preference, 2410.01257, equation 3).
    """
    d = sparse.csr_matrix(differences) if sparse.issparse(differences) else np.asarray(differences)
    weight = gap if variant == "scaled" else np.ones_like(gap)
    margin = gap if variant == "margin" else np.zeros_like(gap)
    solutions: dict[float, Array] = {}
    w = np.zeros(d.shape[1])
    for alpha in sorted(alphas, reverse=True):  # each starts from the solution of the larger penalty

        def loss(w: Array, alpha: float = alpha) -> tuple[float, Array]:
            short = margin - d @ w
            slope = d.T @ (-weight * expit(short)) + alpha * w
            return float(weight @ np.logaddexp(0, short) + alpha / 2 * (w @ w)), slope

        w = minimize(loss, w, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
        solutions[alpha] = w
    return [solutions[alpha] for alpha in alphas]


SIMILAR = 1.2  # word counts of a pair whose ratio is at most this are similar


def accuracy(pairs: Pairs, rewards: Array, lengths: Array, prompts: Keys, name: str) -> dict[str, Any]:
    """Share of pairs whose better row has the higher reward (ties: half), with 95 % intervals clustered by prompt.

    longer: how often the longer row is the better one; length_alone: the accuracy of always saying the longer or always
    the shorter; similar: accuracy in pairs of similar length. given_length: the mean of the accuracy where the longer
    is the better one and where the shorter is, which is one half for a reward that knows length alone.
    """
    both = ~(np.isnan(rewards[pairs.better]) | np.isnan(rewards[pairs.worse]))
    better, worse = pairs.better[both], pairs.worse[both]
    margin, longer = rewards[better] - rewards[worse], lengths[better] - lengths[worse]
    count = len(margin)
    figures: dict[str, Any] = dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high", "log_loss", "longer"))
    figures |= dict.fromkeys(("length_alone", "similar_pairs", "similar"))
    figures |= dict.fromkeys(("given_length", "given_length_low", "given_length_high"))
    if count:
        right = (margin > 0) + 0.5 * (margin == 0)
        _, cluster = np.unique(prompts[better], return_inverse=True)
        figures |= _shares("accuracy", right, [np.ones(count, dtype=bool)], cluster)
        figures["log_loss"] = float(np.logaddexp(0, -margin).mean())
        figures["longer"] = float(((longer > 0) + 0.5 * (longer == 0)).mean())
        figures["length_alone"] = max(figures["longer"], 1 - figures["longer"])
        alike = np.abs(np.log(np.maximum(lengths[better], 1) / np.maximum(lengths[worse], 1))) <= math.log(SIMILAR)
        figures |= {"similar_pairs": int(alike.sum()), "similar": float(right[alike].mean()) if alike.any() else None}
        figures |= _shares("given_length", right, [longer > 0, longer < 0], cluster)
    low, left = figures["accuracy_low"], figures["given_length_low"]
    lengths_differ = bool(count) and bool((longer != 0).any())
    learnable: bool | None = low is not None and low > 0.5 and (not lengths_differ or (left is not None and left > 0.5))
    warning = None
    if not learnable and low is not None and low > 0.5:
        warning = (
            f"{name}: the scorer adds nothing to length: accuracy {shown(figures['accuracy'])} over {count} pairs, "
            f"{shown(figures['length_alone'])} by length alone, {shown(figures['given_length'])} ({shown(left)} to "
            f"{shown(figures['given_length_high'])}) given length. {OTHER_FEATURES}"
        )
    elif low is None:
        learnable = None
        warning = f"{name}: accuracy {shown(figures['accuracy'])} over {count} pairs. {FEW_PROMPTS}"
    elif not learnable:
        finding = f"accuracy {shown(figures['accuracy'])} over {count} pairs is not above that of a coin"
        warning = f"{name}: {NOT_LEARNABLE}: {finding}. {OTHER_FEATURES}"
    return {"pairs": count, **figures, "learnable": learnable, "warning": warning}


OTHER_FEATURES = (
    "This is about these features and pairs: an encoder's may tell more (--model NAME), or more pairs. Or do not "
    "steer by it."
)


def _shares(name: str, right: Array, strata: Sequence[Mask], cluster: Indices) -> dict[str, Any]:
    """Mean over strata [n] of the share of `right` [n], and its interval where there are 4 clusters [n]."""
    if not all(stratum.any() for stratum in strata):
        return {}
    means = [float(right[stratum].mean()) for stratum in strata]
    value, groups = sum(means) / len(means), int(cluster.max()) + 1
    if groups < 4:
        return {name: value}
    parts = zip(strata, means)
    away = sum(stratum * (right - mean) / (len(strata) * stratum.sum()) for stratum, mean in parts)
    error = math.sqrt(float((np.bincount(cluster, weights=away) ** 2).sum()) * groups / (groups - 1))
    half = float(stdtrit(groups - 1, 0.975)) * error
    return {name: value, f"{name}_low": max(0.0, value - half), f"{name}_high": min(1.0, value + half)}
