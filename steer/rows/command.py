"""`steer data`: the embedded world, or rows in any known layout, as a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from data_recipes import votes, world, world_model
from steer.config.rows import DataConfig
from steer.progress import progress, quiet
from steer.rows import directions
from steer.rows.binning import named
from steer.rows.contract import Row
from steer.rows.exported import exported
from steer.rows.notices import noted, reasons
from steer.rows.schema import Schema
from steer.rows.sources import WORLD, Sources
from steer.rows.survey import DROPPED, Survey, surveyed
from steer.rows.writing import write_parts, write_rows
from steer.run_folder import Run, stage


@stage
def data_command(config: DataConfig) -> str:
    """Write rows with a split, and for the world its schema and an untrained model; return the summary."""
    sources = Sources((config.source, *config.mix), config)
    run = Run(config.output, config, sources.fingerprints())
    if run.done:
        return str(run.done["summary"])
    survey = surveyed(sources, config, config.output)  # before anything is written
    run.start()
    rows = progress(survey.kept(), total=survey.total, what=f"data {config.source}")
    written = write_parts(rows, run.folder, config.output_shards, survey.total, config.output_format)
    dropped: list[Row] = [{"why": why} for why in (*sources.skipped, *sources.tally.dropped)] + survey.dropped
    if dropped:
        write_rows(dropped, run.folder / "left_out.jsonl")
    _write_schema(run.folder, config, survey, sources.tally.records)
    lines = [*_report(config, sources, survey), *_exports(config, run.folder, survey)]
    summary = (
        f"data: {survey.total} rows in, {written} out, {len(sources.skipped)} skipped; "
        f"{survey.counts['train']} for training, {survey.counts['test']} held out."
    )
    facts = {"left_out": len(dropped), "layouts": dict(sources.tally.records)}
    return run.finish("\n".join([*lines, summary]), rows=written, duplicates=survey.counts["duplicates"], **facts)


def _write_schema(folder: Path, config: DataConfig, survey: Survey, layouts: Mapping[str, int]) -> None:
    """Write schema.json, which fit and label read beside the rows, where the scales of attributes are known."""
    if config.source == WORLD:
        Schema.from_json({"attributes": world.SCHEMA}).save(folder / "schema.json")
        with quiet():
            world_model.save(folder / "model", seed=config.seed)
    elif known := survey.known_scales(layouts)[0]:
        Schema(tuple(named(name, low, high) for name, (low, high) in known.items())).save(folder / "schema.json")


def _report(config: DataConfig, sources: Sources, survey: Survey) -> Iterator[str]:
    """Yield what was recognised, the scores, what was dropped and why, and warnings."""
    tally, counts = sources.tally, survey.counts
    for name, records in tally.records.items():
        yield f"recognised: {name} ({records} records, {tally.rows[name]} rows)"
    yield from votes.summary(tally.votes, tally.votes_at)
    yield from survey.scales.table()
    yield from noted(tally)
    if config.source != WORLD:  # which brings its own schema
        yield from _scales(survey, tally.records)
        attributes = [named(name, *survey.scales.span(name)[1:]) for name in survey.scales.attributes]
        yield from directions.better_ends(attributes, ' in "steer fit" and "steer label"')
    yield from reasons(sources.skipped, "skipped")
    yield from reasons(tally.dropped, "left out")
    if counts["merged"]:
        yield f"merged: {counts['merged']} rows into others with the same prompt and response, as further raters"
    for name, label in DROPPED.items():
        if counts[name]:
            yield f"left out: {counts[name]} {label.format(config.similarity)}"
    if sources.skipped or tally.dropped or survey.dropped:
        yield "left_out.jsonl names every one of them."
    yield from _warnings(config, survey)


def _scales(survey: Survey, layouts: Mapping[str, int]) -> Iterator[str]:
    """Yield the scales of the attributes, known and guessed."""
    known, others = survey.known_scales(layouts)
    if known:
        shown = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in known.items())
        yield f"scale: {shown} (known of the layout, or --range)."
    if others:
        shown = ", ".join(f"{name} {span}" for name, span in others.items())
        yield f"scale, *guessed* from what occurs: {shown}. --range NAME=LOW:HIGH sets it."


def _warnings(config: DataConfig, survey: Survey) -> Iterator[str]:
    """Yield notes and warnings about the rows."""
    if survey.thoughts:
        yield f"note: {survey.thoughts} responses have reasoning, kept in 'reasoning_content' (steer train --thinking)."
    if name := survey.system_name:
        yield f"note: 'system' stays a column: a word such as '{name}' names a system and is no system prompt."
    if survey.leaks and config.duplicates == "keep":
        yield f"warning: {survey.leaks} prompts are in training and held out: --duplicates exact or near, or --resplit."
    if not survey.counts["train"]:
        yield "warning: no row is for training. --resplit splits again, whatever the column 'split' says."
    yield from (f"warning: {warning}" for warning in survey.scales.warnings())
    if not survey.scales.attributes and "levels" not in survey.columns and "response" in survey.columns:
        yield "note: no row has a score. --map NAME=COLUMN.PATH reads one; steer label --scorer SCORER needs none."


def _exports(config: DataConfig, folder: Path, survey: Survey) -> Iterator[str]:
    """Write the rows for other trainers; yield a line for each, and how candidates were ordered."""
    for name in config.export:
        value = survey.value() if name == "trl-preference" else lambda row: None
        counts = exported(folder, name, value)
        parts = (
            f"{records} {side}" + (f" ({unused} rows in none of them)" if unused else "")
            for side, (records, unused) in counts.items()
        )
        yield f"exported: {name}, {', '.join(parts)}"
        if name == "trl-preference":
            yield from _order(survey)


def _order(survey: Survey) -> Iterator[str]:
    """Yield how the candidates of a prompt are ordered, and a warning if the name of the score says otherwise."""
    by, lower = survey.order()
    yield f"chosen is the {'lowest' if lower else 'highest'} {by}, rejected the {'highest' if lower else 'lowest'}."
    end, origin = directions.of_name(by)
    if origin == "known" and end == (1 if lower else -1):
        remedy = f"--by {'' if lower else '-'}{by}"
        yield f"warning: of '{by}' {directions.BETTER[end]} is better, so chosen is the worse one: {remedy}."
