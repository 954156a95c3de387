"""An attribute model debiased, calibrated to the scale of human scores, and clipped to their range."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attribute_models import (
    Row,
    Scored,
    calibration,
    load,
    scored,
    settings,
    texts,
    tupled,
    unknown,
    write_settings,
)
from attribute_models import debias as debiasing
from attribute_models.arrays import Array
from attribute_models.calibration import Curve
from attribute_models.countable import AGAINST_PROMPT, COUNTABLE, Countable, length
from attribute_models.debias import Debias
from attribute_models.folds import folds_by_prompt, prompt_keys
from attribute_models.learned import Learned
from attribute_models.metrics import report

FOLDS = 5


class Calibrated(Learned):
    """Scores of another model, debiased, then mapped by a curve per attribute, then clipped to `ranges`.

    `calibration` is one of `calibration.KINDS`; `debias` is "" or the measure of verbosity: an attribute of the model
    or a countable one. Both are learned from the model's `held_out_` predictions. After `fit`: `curves_`, `means_` (the
    affine curves, by which the report decides what can be learned) and `debias_`; `held_out_` [n, A], the model's
    held-out predictions through curves that did not see the row's prompt either; `report_`, their `metrics.report`.
    """

    name = "calibrated"
    evidence = "curves_"

    def __init__(
        self,
        model: Any,
        *,
        calibration: str = "quantile",
        debias: str = "",
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.model = model
        self.attributes: tuple[str, ...] = tuple(model.attributes)
        self.calibration = calibration
        self.debias = debias
        self.ranges = dict(ranges or {})

    def fit(self, rows: Sequence[Row], scores: ArrayLike) -> Self:
        """Fit the model on scores [n, A] (NaN = unknown), then debiasing and curves on its held-out predictions."""
        self._check()
        truth = np.asarray(scores, dtype=np.float64)
        self.model.fit(rows, truth)
        self.debias_: Debias | None = None
        raw = self.model.held_out_
        if self.debias:
            verbosity = self._verbosity(rows, raw)
            self.debias_ = debiasing.fit(self.debias, self.attributes, raw, verbosity)
            raw = self.debias_(raw, verbosity)
        prompts = prompt_keys(rows)
        self.held_out_ = self._clip(self._cross_fitted(self.calibration, raw, truth, prompts))
        known = ~np.isnan(raw) & ~np.isnan(truth)
        self.curves_, self.means_ = (
            tuple(calibration.fit(kind, raw[k, a], truth[k, a]) for a, k in enumerate(known.T))
            for kind in (self.calibration, "affine")
        )
        self.report_ = self._report(rows, truth, self.held_out_, self._cross_fitted("affine", raw, truth, prompts))
        return self

    def test(self, rows: Sequence[Row], scores: ArrayLike) -> list[dict[str, Any]]:
        """Report on rows with scores [n, A] that were not used in the fit."""
        raw = self._raw(rows).scores
        expected = np.column_stack([curve(raw[:, a]) for a, curve in enumerate(self.means_)])
        return self._report(rows, np.asarray(scores, dtype=np.float64), self._calibrated(raw), expected)

    def _report(self, rows: Sequence[Row], truth: Array, predicted: Array, expected: Array) -> list[dict[str, Any]]:
        return report(
            truth,
            predicted,
            self.attributes,
            [length(response) for _, response in texts(rows)],
            groups=prompt_keys(rows),
            expected=expected,
            debiased=bool(self.debias),
            raters=[row.get("raters") for row in rows],
        )

    def _cross_fitted(self, kind: str, raw: Array, truth: Array, prompts: NDArray[np.str_]) -> Array:
        """Held-out predictions [n, A] through curves fitted on other prompts; unchanged if there is only one prompt."""
        out = np.full_like(raw, np.nan)
        for a in range(raw.shape[1]):
            known = np.flatnonzero(~np.isnan(raw[:, a]) & ~np.isnan(truth[:, a]))
            if not len(known):
                continue
            fold = folds_by_prompt(prompts[known], FOLDS)
            for k in range(fold.max() + 1):
                seen, new = known[fold != k], known[fold == k]
                out[new, a] = calibration.fit(kind, raw[seen, a], truth[seen, a])(raw[new, a])
        return out

    def _score(self, rows: Sequence[Row]) -> Scored:
        raw = self._raw(rows)
        return Scored(self._calibrated(raw.scores), raw.truncated)

    def _raw(self, rows: Sequence[Row]) -> Scored:
        """The model's scores, debiased."""
        raw = scored(self.model, rows)
        out = np.array(raw.scores, dtype=np.float64)
        return Scored(self.debias_(out, self._verbosity(rows, out)) if self.debias_ else out, raw.truncated)

    def _calibrated(self, raw: Array) -> Array:
        """Map scores through the curves, then clip: [n, A] -> [n, A]."""
        return self._clip(np.column_stack([curve(raw[:, a]) for a, curve in enumerate(self.curves_)]))

    def save(self, folder: str | Path) -> None:
        """Write the model into the folder `model`, then `model.json`, which holds that model's digest."""
        self.model.save(Path(folder) / "model")
        state = {
            "model": "calibrated",
            "attributes": self.attributes,
            "calibration": self.calibration,
            "debias": self.debias,
            "ranges": self.ranges,
            "curves": [asdict(curve) for curve in self.curves_],
            "means": [asdict(curve) for curve in self.means_],
            "debiased": asdict(self.debias_) if self.debias_ else None,
            "report": self.report_,
            "inner": _digest(Path(folder)),
        }
        write_settings(folder, state)

    def save_plain(self, folder: str | Path) -> list[str]:
        """Write a plain sequence classifier; return what its outputs lack of the scores. Only for a `regression`."""
        if not hasattr(self.model, "save_plain"):
            raise ValueError(
                f"is a scorer of the kind {self.model.name}, which no other program reads. "
                "Fit one with --kind regression."
            )
        remarks = []
        if self.debias_ or not self.model.calibrate(self.curves_):
            remarks.append(f"before calibration ({self.calibration}), which its head cannot hold")
        self.model.save_plain(folder)
        return [*remarks, *(["not clipped to their ranges"] if self.ranges else [])]

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote; `held_out_` is not saved."""
        state = settings(folder)
        if state["inner"] != _digest(Path(folder)):
            raise ValueError(f"{folder}: its model does not belong to its calibration. Fit and save it again.")
        loaded = cls(
            load(Path(folder) / "model"),
            calibration=state["calibration"],
            debias=state["debias"],
            ranges={name: (low, high) for name, (low, high) in state["ranges"].items()},
        )
        loaded.curves_, loaded.means_ = (tuple(Curve(**tupled(c)) for c in state[name]) for name in ("curves", "means"))
        loaded.debias_ = Debias(**tupled(state["debiased"])) if state["debiased"] else None
        loaded.report_ = state["report"]
        return loaded

    def _verbosity(self, rows: Sequence[Row], scores: Array) -> Array:
        """Verbosity [n]: a column of the scores [n, A], or a countable attribute."""
        if self.debias in self.attributes:
            return scores[:, self.attributes.index(self.debias)]
        return Countable((self.debias,)).score(rows)[:, 0]

    def _clip(self, scores: Array) -> Array:
        for a, name in enumerate(self.attributes):
            if name in self.ranges:
                scores[:, a] = scores[:, a].clip(*self.ranges[name])
        return scores

    def _check(self) -> None:
        """ValueError for an unknown measure of verbosity or an empty range."""
        known = {*self.attributes, *COUNTABLE, *AGAINST_PROMPT}
        if self.debias and self.debias not in known:
            raise ValueError(unknown("measure of verbosity", self.debias, known))
        for name, (low, high) in self.ranges.items():
            if name not in self.attributes:
                raise ValueError(unknown("attribute in ranges", name, self.attributes))
            if not low < high:
                raise ValueError(f"The range of {name!r} is ({low}, {high}). Give its lower end first.")


def _digest(folder: Path) -> str:
    """Digest of the inner model's model.json, which in turn holds the digest of its weights."""
    path = folder / "model" / "model.json"
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
