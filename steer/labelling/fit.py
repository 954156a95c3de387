"""Rows with human scores -> an attribute model with its calibration, report, schema and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import attribute_models
from attribute_models import metrics
from attribute_models.calibrated import Calibrated
from attribute_models.calibration import KINDS
from steer.config import FitConfig
from steer.errors import SteerError
from steer.labelling.label import description, guessed_scales, known_file, matrix, scored_names, turned
from steer.progress import progress
from steer.rows import Reading, Row, content_hash, directions, read, split_of
from steer.rows.binning import described
from steer.rows.directions import BETTER
from steer.rows.schema import Schema
from steer.run_folder import Run, folder_errors, hashes, rows_fingerprint, stage, write_text
from steer.settings import did_you_mean, overridden

Reports = Mapping[str, Sequence[Mapping[str, Any]]]  # heading -> report


@stage
def fit_command(config: FitConfig) -> str:
    """Fit an attribute model on human scores; its held-out tables and the summary line."""
    kind = _kind(config.model)
    run = Run(config.output, config, {"rows": rows_fingerprint(config.rows), "schema": known_file(config.schema)})
    if run.done:
        return str(run.done["summary"])
    reading = Reading(wanted=config.attribute)
    rows = list(islice(read(config.rows, reading=reading), config.limit or None))
    train = [r for r in rows if split_of(r, config.held_out, config.seed) == "train"]
    names = _names(config, rows)
    rated = _rated(train, names)
    if not rated:
        raise SteerError(
            f"{config.rows}: none of the {len(train)} training rows has a score. Fitting needs human scores."
        )
    known = description(config.rows, config.schema, names, matrix(train, names))
    schema = turned(known, config.lower, config.neither)
    model = _made(kind, config, schema)
    with progress(total=len(rated), what=f"fit {config.model}") as bar:
        try:
            model.fit(rated, matrix(rated, names))
        except (ValueError, OSError) as error:
            raise SteerError(f"{config.rows}: {error}") from None
        bar.update(len(rated))
    if _own_scale(kind):
        schema = _ranged(schema, model.held_out_)
    test = _rated([r for r in rows if split_of(r, config.held_out, config.seed) == "test"], names)
    reports = {"out of fold, split by prompt": model.report_}
    if test:
        reports[f"{len(test)} rows of held-out prompts"] = model.test(test, matrix(test, names))
    run.start()
    with folder_errors(run.folder):
        model.save(run.folder)
    schema.save(run.folder / "schema.json")
    tables = "\n".join(f"{heading}:\n{_table(kind, report)}" for heading, report in reports.items())
    if not _own_scale(kind) and model.debias_ is not None:
        tables += "\n" + _debiased(model)
    write_text(run.folder / "report.txt", tables + "\n")
    data = content_hash(iter(rated))
    write_text(run.folder / "README.md", _card(config, schema, data, len(rated), tables))
    summary = (
        f"fit {config.model}: {len(rows)} rows in, {len(rated)} used, {len(rows) - len(train)} held out, "
        f"{len(train) - len(rated)} without scores{_also(model)}. Scorer in {run.folder}."
    )
    tested = reports.get(f"{len(test)} rows of held-out prompts")
    facts = {"report": model.report_, "tested": tested, "rows": len(rated), "data": data, "files": hashes(run.folder)}
    lines = [tables, *directions.told(schema.attributes), *directions.doubts(schema.attributes, matrix(rated, names))]
    lines += directions.unlearned(schema.attributes, model.report_)
    if not _own_scale(kind):
        lines += guessed_scales(config.rows, config.schema, schema.attributes)
    return run.finish("\n".join([*lines, summary]), **facts)


def _names(config: FitConfig, rows: Sequence[Row]) -> Sequence[str]:
    """The attributes to fit, each with a score in some row."""
    scored = scored_names(rows, config.rows)
    for name in config.attribute:
        if name not in scored:
            raise SteerError(f"{config.rows}: no row has a score '{name}'; {did_you_mean(name, scored)}")
    return config.attribute or scored


def _kind(name: str) -> Any:
    """The class of a model that can be fitted."""
    try:
        kind = attribute_models.model_class(name)
    except ValueError as error:
        raise SteerError(f"--model: {error}") from None
    if not hasattr(kind, "Settings"):
        known = ", ".join(sorted(n for n in attribute_models.FITTED))
        raise SteerError(f"--model {name}: is not fitted on scores. Known: {known}.")
    return kind


def _made(kind: Any, config: FitConfig, schema: Schema) -> Any:
    """The model with its settings; calibrated, unless its scores have a scale of their own."""
    settings = overridden(kind.Settings, config.set, config.model)
    names = {f.name for f in fields(settings)}
    given = {pair.partition("=")[0] for pair in config.set}
    if "seed" in names - given:
        settings = replace(settings, seed=config.seed)
    if "lower" in names - given:
        settings = replace(settings, lower=tuple(a.name for a in schema.attributes if a.direction < 0))
    attributes = tuple(a.name for a in schema.attributes)
    ranges = {a.name: (a.low, a.high) for a in schema.attributes}
    try:
        model = kind(attributes, settings)
        if hasattr(model, "ranges"):  # one that must know the levels there are
            model.ranges = ranges
    except ValueError as error:
        raise SteerError(f"--model {config.model}: {error}") from None
    if _own_scale(kind):
        return model
    ranges = {name: (low, high) for name, (low, high) in ranges.items() if low < high}
    return Calibrated(model, calibration=config.calibration, debias=config.debias, ranges=ranges)


def _own_scale(kind: Any) -> bool:
    """Whether a model's scores are in a unit of its own and not in that of the human ones."""
    return bool(getattr(kind, "own_scale", False))


def _ranged(schema: Schema, predicted: Any) -> Schema:
    """The attributes with the range of what was predicted."""
    found = described(tuple(a.name for a in schema.attributes), predicted)
    pairs = zip(schema.attributes, found.attributes)
    return replace(schema, attributes=tuple(replace(a, low=b.low, high=b.high) for a, b in pairs))


def _rated(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    unknown = np.isnan(matrix(rows, names))
    return [row for row, missing in zip(rows, unknown.tolist()) if not all(missing)]


def _table(kind: Any, report: Sequence[Mapping[str, Any]]) -> str:
    return str(kind.table(report)) if hasattr(kind, "table") else metrics.table(report)


def _debiased(model: Calibrated) -> str:
    """What debiasing did, one line per attribute."""
    found = model.debias_
    assert found is not None
    lines = [
        f"{name}: Spearman with {found.by} {_shown(before)} before, {_shown(after)} after, lambda {size:.4g}"
        for name, before, after, size in zip(model.attributes, found.before, found.after, found.lambdas)
        if name != found.by
    ]
    return "\n".join(["debiased, out of fold:", *lines])


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _also(model: Any) -> str:
    """What else a model has to say of its training, such as rows that it could not read whole."""
    told = getattr(getattr(model, "model", model), "note_", "")
    return f", {told}" if told else ""


CARD = """---
library_name: steer
tags: [steer, attribute-model, {model}]
---
# Attribute model `{model}`

Scores a response on {attributes}.

| attribute | low | high | better |
|---|---|---|---|
{table}

- Fitted on {rows} rows of `{source}`, whose content hash is `{data}`, with `{settings}` and seed {seed}.
- Calibration: {calibration}. Debiased by: {debias}.
- Training rows are in `config.json`, the figures below in `done.json` too.

```
{report}
```

Label rows with it: `steer label ROWS --scorer {folder} --output LABELS`. In Python, without steer:
`attribute_models.load("{folder}").score(rows)`.
"""


def _card(config: FitConfig, schema: Schema, data: str, rows: int, report: str) -> str:
    """The README.md of a scorer."""
    better = {a.name: BETTER[a.direction] + " (guessed)" * (a.origin == "guessed") for a in schema.attributes}
    own = bool(_own_scale(_kind(config.model)))
    return CARD.format(
        model=config.model,
        attributes=", ".join(a.name for a in schema.attributes),
        table="\n".join(f"| {a.name} | {a.low:g} | {a.high:g} | {better[a.name]} |" for a in schema.attributes),
        rows=rows,
        source=Path(config.rows).name,
        data=data,
        settings=" ".join(config.set) or "the default settings",
        seed=config.seed,
        calibration="none, a scale of its own" if own else f"{config.calibration}, {KINDS[config.calibration]}",
        debias=config.debias or "nothing",
        report=report,
        folder=config.output,
    )
