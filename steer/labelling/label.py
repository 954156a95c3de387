"""Rows -> scores -> levels, with the reward, the support and the histogram of the levels."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from steer.config import LabelConfig
from steer.errors import SteerError
from steer.labelling.likelihood import log_likelihood
from steer.labelling.scorer import Scorer, Scores, load_scorer, placed
from steer.labelling.shards import part_file, read_parts, score_parts, shard_of
from steer.rows import Row, directions, read, split_of, write
from steer.rows.binning import described, fitted
from steer.rows.contract import PREFERENCE
from steer.rows.schema import REWARD, Attribute, Schema
from steer.run_folder import Run, fingerprint, rows_fingerprint, stage
from steer.settings import did_you_mean

SHOWN = 5  # joint levels that a histogram names


@stage
def label_command(config: LabelConfig) -> str:
    """Score rows and give them levels, a reward and a schema; level histogram and summary line.

    Rows are streamed, to check them, to score them part by part (each part is a resume point) and to write them; held
    are their scores and a number for each id. With `shard` only that share of the parts is scored, and the run that
    finds all parts writes the rows.
    """
    scorer = load_scorer(config.scorer)
    inputs = {"rows": rows_fingerprint(config.rows), "scorer": scorer.id, "schema": known_file(config.schema)}
    run = Run(config.output, config, inputs)
    if run.done:
        return str(run.done["summary"])
    if config.prefer == "human" and getattr(scorer.model, "own_scale", False):
        raise SteerError(f"--prefer human: the scores of {scorer.id} are in another unit than those in the rows.")
    shard, shards = shard_of(config)
    given, names = _asked(config, scorer)
    human, train, targets = _checked(config, names)
    if given is None:  # what will be refused is refused before anything is written
        known = human[train] if scorer.model is None else np.zeros((1, len(names)))
        turned(scorer.schema or description(config.rows, "", names, known), config.lower, config.neither)
    _edges(config, names)
    known_before = given or (_levels(config, scorer, names, human[train]) if scorer.model is None else None)
    if known_before:
        _exist(targets, known_before, config.rows)
    run.start()
    score_parts(config, scorer, names, _rows(config), len(human))
    parts = -(-len(human) // config.shard_size)
    if missing := sum(not part_file(config, i).is_file() for i in range(parts)):
        return (
            f"label: shard {shard + 1} of {shards} is scored; {missing} of {parts} parts are still to come. "
            f'When all shards are done, the same command without --shard writes the rows to "{config.output}".'
        )
    found = read_parts(config, len(human))
    predicted, flags = found[:, :-1], found[:, -1]
    first, second = (predicted, human) if config.prefer == "predicted" else (human, predicted)
    scores = np.where(np.isnan(first), second, first)
    schema = given or _levels(config, scorer, names, scores[train])
    _exist(targets, schema, config.rows)
    rows = (
        labelled(row, schema, s, p, scorer.id, split_of(row, config.held_out, config.seed))
        | ({} if np.isnan(flag) else {"truncated": bool(flag)})
        | ({"comparable": "group"} if preferred else {})
        for row, s, p, flag, preferred in zip(_rows(config), scores, predicted, flags, _preferred(schema, first, human))
    )
    written = write(run.folder / "rows.jsonl", rows)
    schema.save(run.folder / "schema.json")
    unknown, cut = int(np.isnan(scores).any(1).sum()), int(np.nansum(flags))
    summary = (
        f"label: {written} rows in, {written} out, 0 skipped; {int(train.sum())} for training, "
        f"{written - int(train.sum())} held out; {unknown} with an unknown attribute"
        f"{'' if np.isnan(flags).all() else f'; {cut} truncated'}; scorer {scorer.id}."
    )
    facts = {"rows": written, "scorer": scorer.id, "spec": placed(config.scorer), "truncated": cut}
    own = [schema[n] for n in schema.own]
    report = getattr(scorer.model, "report_", ())
    lines = [histogram(schema), *_counted(own), *directions.told(own)]
    lines += directions.doubts(own, scores[train], report if config.prefer == "predicted" else ())
    lines += directions.unlearned(own, report)
    if given is None and scorer.schema is None:
        lines += guessed_scales(config.rows, "", own)
    return run.finish("\n".join([*lines, summary]), **facts)


def _preferred(schema: Schema, first: Scores, human: Scores) -> list[bool]:
    """Which rows [n] owe their reward to a preference of people: it says nothing outside of its `group`.

    `first` [n, A]: the scores that count where they are known.
    """
    if PREFERENCE not in schema.own or not (schema[PREFERENCE].direction and schema[PREFERENCE].weight):
        return [False] * len(human)
    j = schema.own.index(PREFERENCE)
    told: list[bool] = (~np.isnan(human[:, j]) & (np.isnan(first[:, j]) | (first is human))).tolist()
    return told


def _asked(config: LabelConfig, scorer: Scorer) -> tuple[Schema | None, Sequence[str]]:
    """The schema whose levels are kept, where one is named, and the attributes to score."""
    if not config.schema:
        return None, scorer.attributes or scored_names(_rows(config), config.rows)
    given = Schema.load(Path(config.schema))
    if not all(a.counts for a in given.attributes):
        raise SteerError(f'{config.schema}: has no levels. Give the schema.json that "steer label" wrote.')
    return given, given.own


def _levels(config: LabelConfig, scorer: Scorer, names: Sequence[str], scores: Scores) -> Schema:
    """Levels, constants of the reward and support from the scores [n, A] of the training rows."""
    plain = turned(scorer.schema or description(config.rows, "", names, scores), config.lower, config.neither)
    edges = _edges(config, plain.names)
    return fitted(plain, scores, bins=config.bins, levels=config.levels, minimum=config.min_support, edges=edges)


def _edges(config: LabelConfig, names: Sequence[str]) -> dict[str, list[float]]:
    """What --edges says: attribute -> ascending edges."""
    found: dict[str, list[float]] = {}
    for text in config.edges:
        name, _, told = text.partition("=")
        if name not in names:
            raise SteerError(f"--edges {text}: unknown attribute '{name}'; {did_you_mean(name, names)}")
        try:
            found[name] = [float(edge) for edge in told.split(",")]
        except ValueError:
            found[name] = []
        if not found[name] or not all(a < b for a, b in pairwise([-math.inf, *found[name], math.inf])):
            raise SteerError(f"--edges {text}: wanted NAME=EDGE,EDGE,... in rising order, such as words=20,50,100.")
    if found and config.schema:
        raise SteerError("--edges: the levels are those of --schema. Leave one of the two out.")
    return found


def levelled(row: Row, schema: Schema, scores: Scores, predicted: Scores, scorer: str) -> Row:
    """Add the predicted scores [A], and the levels and the reward of the `scores` [A] that count, to one row."""
    known = _known(schema, scores)
    reward = known.get(REWARD)
    levels = {n: level for n, level in schema.levels(known).items() if schema[n].shown}
    guess = {n: round(float(s), 4) for n, s in zip(schema.own, predicted) if not np.isnan(s)}
    return {**row, "predicted": guess, "scorer": scorer, "levels": levels, "reward": reward}


def labelled(row: Row, schema: Schema, scores: Scores, predicted: Scores, scorer: str, split: str) -> Row:
    """Add scores, levels, reward, split and their provenance to one row of training data."""
    out = levelled(row, schema, scores, predicted, scorer) | {"split": split}
    if (row.get("scores") or {}).get(PREFERENCE) is not None:
        out["comparable"] = "prompt"  # as any score; what people preferred is so in its group only
    if row.get("target"):
        value = log_likelihood(schema, _known(schema, scores), row["target"])
        out["likelihood"] = None if math.isnan(value) else value
    return out


def _known(schema: Schema, scores: Scores) -> dict[str, float]:
    """The known scores of [A] by attribute, with the reward where the schema has one and it can be computed."""
    known = {n: float(s) for n, s in zip(schema.own, scores) if not np.isnan(s)}
    reward = schema.reward(known) if REWARD in schema.names else None
    return known if reward is None else {**known, REWARD: reward}


def histogram(schema: Schema) -> str:
    """Rows per level of each attribute, the commonest joint levels, and what is empty: levels and pairs of levels."""
    width = max(len(n) for n in schema.names)
    lines = [
        f"{a.name:<{width}}  " + "  ".join(f"{s}: {c}" for s, c in zip(a.shown, a.counts)) for a in schema.attributes
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
        told = "; ".join(f"{schema.text(dict(zip(schema.own, cell)))}: {count}" for cell, count in top)
        lines.append(f"commonest: {told or 'none'}.")
        apart = [
            f"{a.name}={a.shown[i]} with {b.name}={b.shown[j]}"
            for (a, b) in combinations(own, 2)
            for i, j in np.ndindex(len(a.shown), len(b.shown))
            if a.counts[i] and b.counts[j] and not schema.count({a.name: i, b.name: j})
        ]
        more = f" and {len(apart) - SHOWN} more pairs" if len(apart) > SHOWN else ""
        lines += [f"never together: {', '.join(apart[:SHOWN])}{more}."] if apart else []
    return "\n".join(lines)


def _counted(attributes: Sequence[Attribute]) -> list[str]:
    """How the levels in the rows, which count from 0, are shown and asked for."""
    moved = [
        f"{a.name} 0 is {a.shown[0]}, {len(a.shown) - 1} is {a.shown[-1]}" for a in attributes if a.shown[0] != "0"
    ]
    return [f"'levels' in the rows count from 0: {'; '.join(moved)}."] if moved else []


def matrix(rows: Sequence[Row], names: Sequence[str]) -> Scores:
    """Human scores [n, A]; NaN where unknown."""
    values = [[row["scores"].get(n) for n in names] for row in rows]
    return np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float).reshape(
        len(rows), len(names)
    )


def scored_names(rows: Iterable[Row], path: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(n for row in rows for n, s in row["scores"].items() if s is not None))
    if not names:
        raise SteerError(f"{path}: no row has a score. Give human scores, or a --scorer.")
    if REWARD in names:
        raise SteerError(f"{path}: '{REWARD}' is what the sum of all scores is called here. Rename that score.")
    return names


def _rows(config: LabelConfig) -> Iterator[Row]:
    return islice(read(config.rows), config.limit or None)


def _exist(targets: Mapping[tuple[str, float], str], schema: Schema, path: str) -> None:
    """Refuse targets of rows at levels that the schema does not have."""
    for (name, level), row in targets.items():
        if name in schema.names:
            schema.check_levels({name: level}, f"{path}: row '{row}': column 'target'")


def _checked(
    config: LabelConfig, names: Sequence[str]
) -> tuple[Scores, np.ndarray[Any, np.dtype[np.bool_]], dict[tuple[str, float], str]]:
    """Read every row once before anything is written: human scores [n, A], which rows train, and their targets.

    Of targets only the attributes and levels that occur are kept, each with the id of the first such row.
    """
    human, train = array("d"), array("b")
    targets: dict[tuple[str, float], str] = {}
    for row in _rows(config):
        for asked in (row.get("target") or {}).items():
            targets.setdefault(asked, row["id"])
        human.extend(math.nan if (score := row["scores"].get(name)) is None else score for name in names)
        train.append(split_of(row, config.held_out, config.seed) == "train")
    if not any(train) and not config.schema:
        remedy = 'Lower --held-out, or split them anew by "steer data ROWS --resplit" first'
        raise SteerError(f"{config.rows}: all {len(train)} rows are held out. {remedy}.")
    return np.frombuffer(human).reshape(len(train), len(names)), np.frombuffer(train, dtype=np.bool_), targets


def description(rows: str, schema: str, names: Sequence[str], scores: Scores) -> Schema:
    """Ranges and directions: the named schema, else the one beside the rows, else what the scores tell."""
    known = _known_before(rows, schema)
    told = described(names, scores)
    return Schema(tuple(known.get(n, told[n]) for n in names))


def _known_before(rows: str, schema: str) -> dict[str, Attribute]:
    """The attributes of the named schema, else of the one beside the rows; none where there is no such file."""
    folder = Path(rows) if Path(rows).is_dir() else Path(rows).parent
    path = Path(schema) if schema else folder / "schema.json"
    return {a.name: a for a in Schema.load(path).attributes} if schema or path.is_file() else {}


def guessed_scales(rows: str, schema: str, attributes: Iterable[Attribute]) -> list[str]:
    """One line about attributes whose range is that of the scores which occur, as nothing says what the scale is."""
    known = _known_before(rows, schema)
    guessed = [a for a in attributes if a.name not in {*known, "preference"}]
    shown = [f"{a.name} {a.low:g} to {a.high:g}" for a in guessed]
    if not shown:
        return []
    return [
        f"scale, *guessed* from what occurs: {', '.join(shown)}. "
        '"steer data ROWS --range NAME=LOW:HIGH" sets it, or knows it of the layout.'
    ]


def turned(schema: Schema, lower: Sequence[str], neither: Sequence[str]) -> Schema:
    """The schema with the directions that the command line gives."""
    for name in (*lower, *neither):
        if name not in schema.names:
            raise SteerError(f"--lower/--neither: unknown attribute '{name}'; {did_you_mean(name, schema.names)}")
    turns: Mapping[str, tuple[int, float]] = dict.fromkeys(lower, (-1, 1.0)) | dict.fromkeys(neither, (0, 0.0))
    return schema.turned(turns)


def known_file(path: str) -> str:
    return fingerprint(path) if path else ""
