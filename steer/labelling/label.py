"""Rows -> scores -> levels, with the reward and the support of the levels."""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from steer.errors import SteerError
from steer.labelling.scorer import Scorer, Scores, load_scorer, placed
from steer.labelling.settings import LabelSettings
from steer.labelling.shards import read_blocks, score_parts
from steer.labelling.stored import Look, StoredRows, looked
from steer.labelling.writer import Numbers, Writer, writing
from steer.parts import Parts, Workers, in_order
from steer.progress import note
from steer.rows import PREFERENCE, Row, Source, pieces, read_rows
from steer.rows.binning import described, fitted, graded
from steer.rows.directions import FLAGS
from steer.rows.labelled import Labelled, content_of
from steer.rows.reading import InOrderError
from steer.rows.schema import REWARD, Attribute, Schema
from steer.rows.table import Mask, Table
from steer.run_folder import fingerprint, workplace
from steer.settings import did_you_mean, settings_of


def label(
    rows: Source | Labelled, *, scorer: str | Scorer | Any = "", folder: str | Path | None = None, **settings: Any
) -> Labelled:
    """Score rows and give them levels, a reward, a split and a schema, as "steer label" does.

    `scorer`: what `load_scorer` takes; "" for the human scores in the rows. `settings`: fields of `LabelSettings`. With
    a `folder` the scores are kept there part by part, a call that was interrupted goes on where it stopped, and the
    result is saved. SteerError names the row or the setting that cannot be used.
    """
    options = settings_of(LabelSettings, settings)
    name, attributes = origin(rows)
    source = rows.rows if isinstance(rows, Labelled) else rows
    listed = read_rows(source, limit=options.limit, turns=options.turns)
    access: dict[str, Any] = {"trust_remote_code": options.trust_remote_code, "engine": options.engine}
    scored_by = load_scorer(scorer or "human", **access)
    task = Task.of(listed, scored_by, options, name, attributes)
    inputs = {
        "rows": content_of(listed, rows),
        "scorer": scored_by.identity,
        "schema": file_fingerprint(options.schema),
    }
    with workplace(folder, options, inputs) as place:
        parts = Parts(place / "parts", options.shard_size, len(listed), ".npy")
        score_parts(parts, listed, scored_by, task.names, Workers.of(options))
        labels = task.labels(parts)
        result = Labelled(list(labels.rows()), labels.schema, scored_by.id, placed(scored_by.spec), name)
        if folder:
            result.save(place)
    return result


def file_fingerprint(path: str) -> str:
    """Return the `fingerprint` of a file; empty if none is named."""
    return fingerprint(path) if path else ""


def origin(rows: Source | Labelled, schema: str = "") -> tuple[str, dict[str, Attribute]]:
    """Return the rows' name in messages, and the attributes of a schema.json: the named one, else that of the rows."""
    stored = Labelled.without_rows(rows)
    return stored.name, {a.name: a for a in (Schema.load(Path(schema)) if schema else stored.schema).attributes}


@dataclass(frozen=True)
class Task:
    """Rows that can be labelled: each was read and checked once.

    `rows` are iterated over several times and need not be in memory; their splits are, of one byte each.
    """

    rows: Iterable[Row]
    scorer: Scorer
    settings: LabelSettings
    name: str  # what messages call the rows
    attributes: Mapping[str, Attribute]  # whose ranges and directions are known before any score
    names: tuple[str, ...]  # attributes to score, A
    human: Table  # [n, A], NaN where unknown
    train: Mask  # [n]
    targets: Mapping[tuple[str, float], str]  # (attribute, level) -> id of the first row that has this target

    @staticmethod
    def of(
        rows: Iterable[Row],
        scorer: Scorer,
        settings: LabelSettings,
        name: str,
        attributes: Mapping[str, Attribute],
        file: BinaryIO | None = None,
    ) -> Task:
        """Read every row once; SteerError for anything that would stop the labelling later.

        `file`: where the human scores are kept; in memory if there is none.
        """
        s = settings
        if s.prefer == "human" and getattr(scorer.model, "own_scale", False):
            raise SteerError(f"--prefer human: the scores of {scorer.id} are in another unit than those in the rows.")
        kept = _kept_schema(s).own if s.schema else scorer.attributes
        try:
            names, human, train, targets = _read_once(rows, kept, name, s, file)
        except InOrderError as error:
            if not isinstance(rows, StoredRows):
                raise
            rows.read_alone(error)
            names, human, train, targets = _read_once(rows, kept, name, s, file)
        if not s.schema and not train.any():
            remedy = 'Lower --held-out, or split them again by "steer data ROWS --resplit" first'
            raise SteerError(f"{name}: all {len(train)} rows are held out. {remedy}.")
        task = Task(rows, scorer, s, name, attributes, tuple(names), human, train, targets)
        if not s.schema:
            task._described(replace(human, kept=train) if scorer.model is None else np.zeros((1, len(names))))
        _edges(s, names)
        if s.schema or scorer.model is None:  # the levels do not wait for predictions
            task._check_targets(task._schema(human))
        return task

    def labels(self, parts: Parts, file: BinaryIO | None = None) -> Labels:
        """Turn the scorer's output in `parts`, predicted scores and truncation flags [k, A + 1] each, into levels.

        `file`: where the scores that count are kept; in memory if there is none.
        """
        scores, truncated = Table(file or io.BytesIO(), len(self.names)), None
        for output, human in zip(read_blocks(parts), self.human.blocks(parts.size)):
            predicted, flags = output[:, :-1], output[:, -1]
            first, second = (predicted, human) if self.settings.prefer == "predicted" else (human, predicted)
            scores.add(np.where(np.isnan(first), second, first))
            if not np.isnan(flags).all():
                truncated = (truncated or 0) + int(np.nansum(flags))
        schema = self._schema(scores)
        self._check_targets(schema)
        s = self.settings
        if s.bins == "native" and not s.schema:
            edges = _edges(s, schema.names)
            for name in (a.name for a in schema.attributes if a.continuous and a.name not in edges):
                note(f"'{name}' takes many values between two whole numbers: its levels are quantiles, not these two.")
        return Labels(self, schema, scores, parts, truncated)

    def _schema(self, scores: Table) -> Schema:
        """Return the schema with levels and support from the training rows' scores, or the one that is kept."""
        s = self.settings
        if s.schema:
            return _kept_schema(s)
        trained = replace(scores, kept=self.train)
        plain = self._described(trained)
        edges = _edges(s, plain.names)
        return fitted(plain, trained, bins=s.bins, levels=s.levels, minimum=s.min_support, edges=edges)

    def _described(self, scores: Scores | Table) -> Schema:
        """Return the schema without levels."""
        plain = self.scorer.schema or description(self.attributes, self.names, scores)
        s = self.settings
        return turned(plain, s.higher, s.lower, s.neither)

    def _check_targets(self, schema: Schema) -> None:
        """Refuse targets of rows at levels that the schema does not have."""
        for (attribute, level), row in self.targets.items():
            if attribute in schema.names:
                schema.check_levels({attribute: level}, f"{self.name}: row '{row}': column 'target'")


@dataclass(frozen=True)
class Labels:
    """The levels of rows and the scores that they come from."""

    task: Task
    schema: Schema
    scores: Table  # [n, A], those that count
    parts: Parts  # predicted scores, and flags: 1 where the scorer could not read the whole row, NaN if unknown
    truncated: int | None  # rows with a flag of 1; None if no flag is known

    def rows(self) -> Iterator[Row]:
        """Read the rows again and yield them with their labels."""
        reader = iter(self.task.rows)
        for numbers in self._numbers():
            yield from self.writer.rows(list(islice(reader, len(numbers.train))), numbers)

    def lines(self, rows: StoredRows) -> Iterator[bytes]:
        """Yield the rows with their labels as lines, made by the processes of the stored rows."""
        reader, numbers, writer = rows.lines(), self._numbers(), self.writer
        blocks = ((list(islice(reader, len(each.train))), each) for each in numbers)
        for lines in in_order(blocks, writer, partial(writing, writer), rows.processes, "wrote rows"):
            yield from lines

    @property
    def writer(self) -> Writer:
        """Return what gives rows their labels."""
        return Writer(self.schema, self.task.scorer.id)

    def _numbers(self) -> Iterator[Numbers]:
        """Yield the numbers of some rows after the other."""
        task, size = self.task, self.parts.size
        blocks = zip(read_blocks(self.parts), self.scores.blocks(size), task.human.blocks(size))
        for first, (out, scores, human) in zip(count(0, size), blocks):
            train, preferred = task.train[first : first + size], self._preferred(out, human)
            for start in range(0, len(out), pieces.MOST):
                some = slice(start, start + pieces.MOST)
                yield Numbers(train[some], out[some], scores[some], preferred[some])

    def _preferred(self, output: Scores, human: Scores) -> Mask:
        """Return which rows [k] owe their reward to a human preference, which means nothing outside of its `group`."""
        schema = self.schema
        if PREFERENCE not in schema.counted:
            return np.zeros(len(human), np.bool_)
        j = schema.own.index(PREFERENCE)
        counts = np.isnan(output[:, j]) | (self.task.settings.prefer == "human")
        preferred: Mask = ~np.isnan(human[:, j]) & counts
        return preferred


def _read_once(
    rows: Iterable[Row], names: Sequence[str], where: str, settings: LabelSettings, file: BinaryIO | None
) -> tuple[Sequence[str], Table, Mask, dict[tuple[str, float], str]]:
    """Return the attributes to score, human scores, which rows train [n], and targets with the ids of the first rows.

    The attributes are those with a human score where no `names` are given.
    """
    names = names or scored_names(rows, where, ", or a --scorer")
    human, train, targets = Table(file or io.BytesIO(), len(names)), array("b"), dict[tuple[str, float], str]()
    for ids, found in looked(rows, Look(names, settings.held_out, settings.seed)):
        for target, i in found.targets.items():
            targets.setdefault(target, ids[i])
        human.add(found.scores)
        train.extend(found.train)
    return names, human, np.frombuffer(train, dtype=np.bool_), targets


def _kept_schema(settings: LabelSettings) -> Schema:
    """Load the earlier schema whose levels are kept."""
    schema = Schema.load(Path(settings.schema))
    if not schema.levelled:
        raise SteerError(f'{settings.schema}: has no levels. Give the schema.json that "steer label" wrote.')
    for flag in ("edges", "higher", "lower", "neither"):
        if getattr(settings, flag):
            raise SteerError(f"--{flag}: levels and directions are those of --schema. Use one of the two.")
    counted = [schema.names.index(n) for n in schema.counted]
    scored = counted and any(None not in [cell[i] for i in counted] for cell in schema.cells)
    if not counted if REWARD in schema.names else scored:
        raise SteerError(
            f"{settings.schema}: its directions changed after its reward was measured. Label without --schema, and say "
            f"which end is better by {FLAGS}."
        )
    return schema


def _edges(settings: LabelSettings, names: Sequence[str]) -> dict[str, list[float]]:
    """Parse the ascending edges that --edges gives, by attribute."""
    edges: dict[str, list[float]] = {}
    for text in settings.edges:
        name, _, values = text.partition("=")
        if name not in names:
            raise SteerError(f"--edges {text}: unknown attribute '{name}'; {did_you_mean(name, names)}")
        try:
            edges[name] = [float(edge) for edge in values.split(",")]
        except ValueError:
            edges[name] = []
        if not edges[name] or not all(a < b for a, b in pairwise([-math.inf, *edges[name], math.inf])):
            raise SteerError(f"--edges {text}: wanted NAME=EDGE,EDGE,... in rising order, such as words=20,50,100.")
    return edges


def scored_names(rows: Iterable[Row], where: str, otherwise: str) -> tuple[str, ...]:
    """Return the attributes that have a human score in some row; SteerError if there is none.

    `otherwise`: how the message ends, on what needs no human scores.
    """
    names = tuple(dict.fromkeys(n for row in rows for n, s in row["scores"].items() if s is not None))
    if not names:
        raise SteerError(
            f"{where}: no row has a score. Give human scores (steer data --map NAME=COLUMN.PATH){otherwise}."
        )
    if REWARD in names:
        raise SteerError(f"{where}: '{REWARD}' is what the sum of all scores is called here. Rename that score.")
    return names


def description(attributes: Mapping[str, Attribute], names: Sequence[str], scores: Scores | Table) -> Schema:
    """Return a schema without levels: attributes that are known, and others from names and scores [n, A]."""
    from_scores, table = described(names, scores), Table.of(scores)
    return Schema(tuple(graded(attributes.get(n, from_scores[n]), table.column(j)) for j, n in enumerate(names)))


def turned(schema: Schema, higher: Sequence[str], lower: Sequence[str], neither: Sequence[str]) -> Schema:
    """Set the directions of the attributes that are better when higher or lower, and of those without a better end."""
    turns: dict[str, tuple[int, float]] = {}
    for names, turn in ((higher, (1, 1.0)), (lower, (-1, 1.0)), (neither, (0, 0.0))):
        for name in names:
            if name not in schema.names:
                raise SteerError(f"{FLAGS}: unknown attribute '{name}'; {did_you_mean(name, schema.names)}")
            if turns.setdefault(name, turn) != turn:
                raise SteerError(f"{FLAGS}: '{name}' is named in two of them. Use one.")
    return schema.turned(turns)
