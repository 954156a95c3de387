"""`steer fit` and `steer label`: run folders around the library, and the summaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from attribute_models.calibration import KINDS
from steer import addresses
from steer.config.labelling import FitConfig, LabelConfig
from steer.labelling.fit import Fitted, attribute_model, own_scale
from steer.labelling.label import Labels, Task, file_fingerprint, origin
from steer.labelling.scorer import load_scorer, placed
from steer.labelling.shards import score_parts
from steer.labelling.stored import StoredRows
from steer.parts import Parts, Workers, kept, shard_of
from steer.rows import directions, read_rows
from steer.rows.directions import BETTER
from steer.rows.schema import Attribute, Schema
from steer.rows.spool import nameless
from steer.rows.writing import write_parts
from steer.run_folder import Run, rows_fingerprint, stage, write_text

SHOWN = 5  # joint levels that a histogram names


@stage
def fit_command(config: FitConfig) -> str:
    """Fit an attribute model on human scores into a run folder; return its tables and the summary line."""
    attribute_model(config.kind)  # before anything is read
    inputs = {"rows": rows_fingerprint(config.rows), "schema": file_fingerprint(config.schema)}
    run = Run(config.output, config, inputs)
    if run.done:
        return str(run.done["summary"])
    rows = read_rows(config.rows, limit=config.limit, wanted=config.attribute)
    known = origin(config.rows, config.schema)[1]
    fitted = Fitted.of(rows, config, config.rows, known)
    run.start()
    fitted.save(run.folder)
    write_text(run.folder / "README.md", _card(config, fitted))
    attributes, (report, *_) = fitted.schema.attributes, fitted.reports.values()
    doubts = directions.doubts(attributes, lambda j: fitted.scores[:, j])
    lines = [fitted.tables(), *directions.better_ends(attributes), *doubts]
    lines += directions.unlearned(attributes, report)
    if not own_scale(fitted.kind):
        lines += guessed_scales(attributes, known)
    used, note = len(fitted.rated), getattr(getattr(fitted.model, "model", fitted.model), "note_", "")
    summary = (
        f"fit {config.kind}: {fitted.total} rows in, {used} used, {fitted.total - fitted.train} held out, "
        f"{fitted.train - used} without scores{f', {note}' if note else ''}. Scorer in {run.folder}."
    )
    return run.finish("\n".join([*lines, summary]), **fitted.facts(run.folder))


@stage
def label_command(config: LabelConfig) -> str:
    """Label rows in a run folder; return the histogram of the levels and the summary line.

    Rows are streamed: to check them, to score them part by part (each part is a resume point), and to write them. With
    `shard` only that share of the parts is scored, and the run that finds all parts writes the rows.
    """
    scorer = load_scorer(config.scorer, trust_remote_code=config.trust_remote_code, engine=config.engine)
    inputs = {
        "rows": rows_fingerprint(config.rows),
        "scorer": scorer.identity,
        "schema": file_fingerprint(config.schema),
    }
    run = Run(config.output, config, inputs)
    if run.done:
        return str(run.done["summary"])
    shard = shard_of(config.shard, overwrite=config.overwrite)
    processes = config.num_proc if config.workers == "processes" else 1
    rows = StoredRows(config.rows, config.output, config.limit, config.turns, processes)
    name, known = origin(config.rows)
    # Scores are too many for memory. The processes that read also score and write.
    with nameless(config.output) as human, nameless(config.output) as counted, kept():
        task = Task.of(rows, scorer, config, name, known, human)
        run.start()
        parts = Parts(run.folder / "parts", config.shard_size, len(task.train), ".npy", shard)
        score_parts(parts, rows.lines(), scorer, task.names, Workers.of(config))
        if config.shard:
            parts.note_done()
        if parts.missing:
            return parts.pending("label", config.output, done="scored")
        labels = task.labels(parts, counted)
        written = write_parts(
            labels.lines(rows), run.folder, config.output_shards, len(task.train), config.output_format
        )
        labels.schema.save(run.folder / "schema.json")
        facts = {
            "rows": written,
            "scorer": scorer.id,
            "spec": placed(config.scorer),
            "truncated": labels.truncated or 0,
        }
        return run.finish(_label_summary(labels, known), **facts)


def _label_summary(labels: Labels, known: Mapping[str, Attribute]) -> str:
    """Return the histogram, lines on the attributes, and the number of rows."""
    task, schema = labels.task, labels.schema
    own = [schema[n] for n in schema.own]
    earlier = task.settings.schema  # its counts stay too: they are what a policy may be asked for
    lines = [f"levels and support of {earlier or 'the rows for training'}:"]
    lines += [histogram(schema), *_counted(own), *directions.better_ends(own)]
    report = task.scorer.report
    trained = replace(labels.scores, kept=task.train)
    lines += directions.doubts(own, trained.column, report if task.settings.prefer == "predicted" else ())
    lines += directions.unlearned(own, report)
    if not task.settings.schema and task.scorer.schema is None:
        lines += guessed_scales(own, known, fresh=task.scorer.model is not None)
    total, train = len(task.train), int(task.train.sum())
    truncated = "" if labels.truncated is None else f"; {labels.truncated} truncated"
    unknown = sum(int(np.isnan(block).any(1).sum()) for block in labels.scores.blocks())
    lines += _unrewarded(labels) if unknown else []
    lines.append(
        f"label: {total} rows in, {total} out, 0 skipped; {train} for training, {total - train} held out; "
        f"{unknown} with an unknown attribute{truncated}; scorer {task.scorer.id}."
    )
    return "\n".join(lines)


def _unrewarded(labels: Labels) -> list[str]:
    """Name the attribute without which at least twice as many rows would have a reward, if there is one."""
    names = labels.task.names
    counts = np.array([n in labels.schema.counted for n in names])
    rewarded, without = 0, np.zeros(len(names), dtype=np.int64)
    for block in labels.scores.blocks():
        gone = np.isnan(block) & counts
        missing = gone.sum(1)
        rewarded += int((missing == 0).sum())
        without += (missing[:, None] == gone).sum(0)
    best = int(np.where(counts, without, 0).argmax())
    if counts.sum() < 2 or not counts[best] or without[best] < 2 * max(rewarded, 1):
        return []
    return [
        f"reward: {rewarded} of {len(labels.task.train)} rows have one, for it takes all attributes with a better end; "
        f"with --neither {names[best]} {without[best]} would."
    ]


def histogram(schema: Schema) -> str:
    """Show the scores and rows of each level, the commonest joint levels, and empty levels and pairs of levels."""
    width = max(len(n) for n in schema.names)
    lines = [
        f"{a.name:<{width}}  " + "  ".join(a.tally(i, count) for i, count in enumerate(a.counts))
        for a in schema.attributes
    ]
    own = [schema[n] for n in schema.own]
    empty = [f"{a.name}={s}" for a in schema.attributes for s, c in zip(a.shown, a.counts) if not c]
    joint = schema.supported(schema.own)
    lines.append(
        f"{len(joint)} of {np.prod([len(a.shown) for a in own])} combinations of levels have "
        f"{schema.minimum} rows or more" + (f"; empty: {', '.join(empty)}." if empty else ".")
    )
    if len(own) > 1:
        top = sorted(joint.items(), key=lambda cell: -cell[1])[:SHOWN]
        common = "; ".join(f"{schema.text(dict(zip(schema.own, cell)))}: {count}" for cell, count in top)
        lines.append(f"commonest: {common or 'none'}.")
        apart = [
            f"{a.name}={a.shown[i]} with {b.name}={b.shown[j]}"
            for (a, b) in combinations(own, 2)
            for i, j in np.argwhere(schema.together(a.name, b.name) == 0)
            if a.counts[i] and b.counts[j]
        ]
        more = f" and {len(apart) - SHOWN} more pairs" if len(apart) > SHOWN else ""
        lines += [f"never together: {', '.join(apart[:SHOWN])}{more}."] if apart else []
    return "\n".join(lines)


def _counted(attributes: Sequence[Attribute]) -> list[str]:
    """Explain how the levels in the rows, which count from 0, are shown and asked for."""
    moved = [
        f"{a.name} 0 is {a.shown[0]}, {len(a.shown) - 1} is {a.shown[-1]}" for a in attributes if a.shown[0] != "0"
    ]
    return [f"'levels' in the rows count from 0: {'; '.join(moved)}."] if moved else []


def guessed_scales(
    attributes: Iterable[Attribute], known: Mapping[str, Attribute], *, fresh: bool = False
) -> list[str]:
    """Return a line about attributes whose range is that of the scores that occur, as nothing gives their scale.

    `fresh`: a scorer gave the scores, so no range in the rows' file could hold for them.
    """
    guessed = [f"{a.name} {a.low:g} to {a.high:g}" for a in attributes if a.name not in {*known, "preference"}]
    if not guessed:
        return []
    remedy = 'Set it with "steer data ROWS --range NAME=LOW:HIGH"; known layouts bring their own.'
    remedy = "--edges NAME=EDGE,... sets where levels meet." if fresh else remedy
    return [f"scale, *guessed* from what occurs: {', '.join(guessed)}. {remedy}"]


CARD = """---
library_name: steer
tags: [steer, attribute-model, {kind}]
---
# Attribute model `{kind}`

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
`attribute_models.load("{here}").score(rows)`.
"""


def _card(config: FitConfig, fitted: Fitted) -> str:
    """Write the README.md of a scorer."""
    attributes = fitted.schema.attributes
    better = {a.name: BETTER[a.direction] + " (guessed)" * (a.origin == "guessed") for a in attributes}
    settings = [*([f"model={config.model}"] if config.model else []), *config.set]
    calibration = f"{config.calibration}, {KINDS[config.calibration]}"
    return CARD.format(
        kind=config.kind,
        attributes=", ".join(a.name for a in attributes),
        table="\n".join(f"| {a.name} | {a.low:g} | {a.high:g} | {better[a.name]} |" for a in attributes),
        rows=len(fitted.rated),
        source=Path(config.rows).name,
        data=fitted.data,
        settings=" ".join(settings) or "the default settings",
        seed=config.seed,
        calibration="none, a scale of its own" if own_scale(fitted.kind) else calibration,
        debias=config.debias or "nothing",
        report=fitted.tables(),
        folder=(folder := addresses.named(config.output)),
        here=folder.rsplit("/", 1)[-1] if addresses.is_address(folder) else folder,  # a copy of it
    )
