"""Rows with human scores -> an attribute model with its calibration, reports and schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import attribute_models
from attribute_models import metrics
from attribute_models.calibrated import Calibrated
from steer.errors import SteerError
from steer.labelling.label import description, file_fingerprint, origin, scored_names, turned
from steer.labelling.scorer import Scorer, load_scorer, readable
from steer.labelling.settings import FitSettings
from steer.labelling.stored import matrix
from steer.progress import progress
from steer.rows import Row, Source, content_hash, read_rows, split_of
from steer.rows.binning import described
from steer.rows.labelled import Labelled, content_of
from steer.rows.schema import Attribute, Schema
from steer.run_folder import folder_errors, hashes, read_done, workplace, write_json, write_text
from steer.settings import did_you_mean, overridden, settings_of

Report = Sequence[Mapping[str, Any]]  # one dict per attribute


def fit(
    rows: Source | Labelled,
    *,
    kind: str = FitSettings.kind,
    model: str = FitSettings.model,
    folder: str | Path | None = None,
    **settings: Any,
) -> Scorer:
    """Fit an attribute model on the human scores of rows, as "steer fit" does, and return it as a scorer.

    `kind`: which attribute model; `model`: the encoder or language model that it reads rows with, if it does;
    `settings`: other fields of `FitSettings`. The scorer's `report` has the held-out figures of each attribute. With a
    `folder` it is saved there for `load_scorer`, and fitted only once. SteerError names what cannot be used.
    """
    options = settings_of(FitSettings, {"kind": kind, "model": model, **settings})
    name, attributes = origin(rows, options.schema)
    listed = rows.rows if isinstance(rows, Labelled) else read_rows(rows, limit=options.limit, wanted=options.attribute)
    listed = listed[: options.limit or None]
    inputs = {"rows": content_of(listed, rows), "schema": file_fingerprint(options.schema)}
    with workplace(folder, options, inputs) as place:
        if not read_done(place):
            fitted = Fitted.of(listed, options, name, attributes)
            fitted.save(place)
            write_json(place / "done.json", fitted.facts(place))
        scorer = load_scorer(str(place))
    return scorer if folder else replace(scorer, spec="")


@dataclass(frozen=True)
class Fitted:
    """An attribute model that was fitted on rated rows, the schema of its scores, and how well it predicts."""

    kind: Any  # class of the attribute model
    model: Any
    schema: Schema
    rated: Sequence[Row]  # training rows with a score
    train: int  # training rows
    total: int  # rows
    reports: Mapping[str, Report]  # heading -> report: out of fold and, if there are any, on held-out prompts

    @staticmethod
    def of(rows: Sequence[Row], settings: FitSettings, name: str, attributes: Mapping[str, Attribute]) -> Fitted:
        """Fit on the training rows, test on the others.

        `name`: what messages call the rows; `attributes`: those whose ranges and directions are known.
        """
        s, kind = settings, attribute_model(settings.kind)
        rows = [readable(row) for row in rows]
        train = [r for r in rows if split_of(r, s.held_out, s.seed) == "train"]
        names = _names(s, rows, name)
        rated = _rated(train, names)
        if not rated:
            raise SteerError(f"{name}: none of the {len(train)} training rows has a score. Fitting needs human scores.")
        scores = matrix(rated, names)
        schema = turned(description(attributes, names, matrix(train, names)), s.higher, s.lower, s.neither)
        model = _unfitted(kind, s, schema)
        with progress(what=f"fit {s.kind} on {len(rated)} rows", unit=""):
            try:
                model.fit(rated, scores)
            except (ValueError, OSError) as error:
                raise SteerError(f"{name}: {error}") from None
        if own_scale(kind):
            schema = _ranged(schema, model.held_out_)
        reports = {"out of fold, split by prompt": model.report_}
        if test := _rated([r for r in rows if split_of(r, s.held_out, s.seed) == "test"], names):
            reports[f"{len(test)} rows of held-out prompts"] = model.test(test, matrix(test, names))
        return Fitted(kind, model, schema, rated, len(train), len(rows), reports)

    @property
    def scores(self) -> np.ndarray[Any, Any]:
        """Return human scores [n, A] of the rated rows."""
        return matrix(self.rated, [a.name for a in self.schema.attributes])

    @property
    def data(self) -> str:
        """Return the content hash of the rated rows."""
        return content_hash(self.rated)

    def save(self, folder: Path) -> None:
        """Write the model, its schema and the tables of its reports."""
        with folder_errors(folder):
            self.model.save(folder)
        self.schema.save(folder / "schema.json")
        write_text(folder / "report.txt", self.tables() + "\n")

    def facts(self, folder: Path) -> dict[str, Any]:
        """Return the content of done.json for the model that was saved in a folder."""
        report, *tested = self.reports.values()
        facts = {"report": report, "tested": tested[0] if tested else None, "rows": len(self.rated)}
        return facts | {"data": self.data, "files": hashes(folder)}

    def tables(self) -> str:
        """Show the reports, and the effect of debiasing."""
        table = getattr(self.kind, "table", metrics.table)
        parts = [f"{heading}:\n{table(report)}" for heading, report in self.reports.items()]
        if not own_scale(self.kind) and self.model.debias_ is not None:
            parts.append(_debiased(self.model))
        return "\n".join(parts)


def attribute_model(name: str) -> Any:
    """Return the class of an attribute model that can be fitted."""
    if name not in attribute_models.MODELS:
        raise SteerError(f"--kind: unknown '{name}'; {did_you_mean(name, attribute_models.FITTED)}")
    kind = attribute_models.model_class(name)
    if not hasattr(kind, "Settings"):
        known = ", ".join(sorted(attribute_models.FITTED))
        raise SteerError(f"--kind {name}: is not fitted on scores. Known: {known}.")
    return kind


def own_scale(kind: Any) -> bool:
    """Whether a model's scores are in another unit than the human ones."""
    return bool(getattr(kind, "own_scale", False))


def _names(settings: FitSettings, rows: Sequence[Row], where: str) -> Sequence[str]:
    """Return the attributes to fit, each with a score in some row."""
    scored = scored_names(rows, where, '; "steer label ROWS --scorer SCORER" needs none')
    for name in settings.attribute:
        if name not in scored:
            raise SteerError(f"{where}: no row has a score '{name}'; {did_you_mean(name, scored)}")
    return settings.attribute or scored


def _unfitted(kind: Any, settings: FitSettings, schema: Schema) -> Any:
    """Build the model with its settings; calibrated, unless its scores have another unit."""
    own = overridden(kind.Settings, settings.set, settings.kind)
    names, named = {f.name for f in fields(own)}, {pair.partition("=")[0] for pair in settings.set}
    if settings.model and "model" not in names:
        raise SteerError(f"--model {settings.model}: --kind {settings.kind} reads rows without one. Remove the flag.")
    attributes = tuple(a.name for a in schema.attributes)
    lower = tuple(a.name for a in schema.attributes if a.direction < 0)
    shared = {"seed": settings.seed, "lower": lower} | ({"model": settings.model} if settings.model else {})
    own = replace(own, **{name: value for name, value in shared.items() if name in names - named})
    ranges = {a.name: (a.low, a.high) for a in schema.attributes}
    try:
        model = kind(attributes, own)
    except ValueError as error:
        raise SteerError(f"--kind {settings.kind}: {error}") from None
    if hasattr(model, "ranges"):  # it has to know which levels there are
        model.ranges = ranges
    if own_scale(kind):
        return model
    ranges = {name: (low, high) for name, (low, high) in ranges.items() if low < high}
    return Calibrated(model, calibration=settings.calibration, debias=settings.debias, ranges=ranges)


def _ranged(schema: Schema, predicted: Any) -> Schema:
    """Set the ranges of the attributes to those of predictions [n, A]."""
    pairs = zip(schema.attributes, described([a.name for a in schema.attributes], predicted).attributes)
    return replace(schema, attributes=tuple(replace(a, low=b.low, high=b.high) for a, b in pairs))


def _rated(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return the rows with a score on any of the attributes."""
    return [row for row, scores in zip(rows, matrix(rows, names)) if not np.isnan(scores).all()]


def _debiased(model: Calibrated) -> str:
    """Show the effect of debiasing, one line per attribute."""
    debias = model.debias_
    assert debias is not None
    lines = [
        f"{name}: Spearman with {debias.by} {metrics.shown(before)} before, {metrics.shown(after)} after, "
        f"lambda {size:.4g}"
        for name, before, after, size in zip(model.attributes, debias.before, debias.after, debias.lambdas)
        if name != debias.by
    ]
    return "\n".join(["debiased, out of fold:", *lines])
