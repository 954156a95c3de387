"""Attributes, their levels, and the support of the data: how often each combination of levels occurs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from steer.errors import SteerError
from steer.rows.directions import ORIGINS
from steer.run_folder import read_json, write_json
from steer.settings import did_you_mean

Scores = np.ndarray[Any, Any]

HIGH = 0.95  # the quantile that `best` asks for where scores are printed and not levels
MOST = 1e100  # a number beyond it cannot be computed with
REWARD = "reward"  # the derived attribute: one scalar per response, the Decision Transformer's return


def spread(mean: float, sd: float) -> float:
    """Return the standard deviation to divide by: 1 where values are equal but for rounding."""
    return 1.0 if sd <= 1e-9 * max(1.0, abs(mean)) else sd


@dataclass(frozen=True)
class Attribute:
    """A named axis of a response.

    `edges` are the inner bin edges in score units, ascending: a score on an edge belongs to the upper level (never
    Python's half-to-even `round`). `shown` is what users and conditions read for each level, `centres` the mean score
    of the data per level, `counts` how many rows have it. `direction`: 1 higher is better, -1 lower, 0 neither.
    `quantiles`: of the data's scores, every twentieth from the lowest to the highest, where a condition prints each
    row's own score and not its level; then any score between them can be asked for, and `shown` are the centres.
    `sentences`: what a policy in words reads for each level, see `condition.sentences`; empty before it is trained.

    A level is a whole number (int), or a place between levels (float) that stands for one score; see `position`.
    """

    name: str
    low: float
    high: float
    direction: int = 1
    weight: float = 1.0
    edges: tuple[float, ...] = ()
    shown: tuple[str, ...] = ()
    centres: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    quantiles: tuple[float, ...] = ()
    origin: str = "given"  # of the direction: given by a person, known from the name, or guessed
    continuous: bool = False  # scores between two neighbouring whole numbers: quantiles, and not these two as levels
    sentences: tuple[str, ...] = ()

    def level(self, score: float) -> int:
        """Return the level of a score.

        >>> Attribute("quality", 0, 4, edges=(0.5, 1.5, 2.5, 3.5)).level(2.5)
        3
        """
        return bisect_right(self.edges, score)

    @property
    def _native(self) -> bool:
        """Whether there is a level for every whole score of the range, and for nothing else."""
        grid = np.arange(self.low + 0.5, self.high)
        return len(grid) > 0 and not self.continuous and self.edges == tuple(grid.tolist())

    def position(self, scores: Scores) -> Scores:
        """Return the continuous levels of scores; NaN stays.

        On a native grid the distance from its low end, else linear between the centres and beyond them alike.
        """
        if self._native:
            return np.asarray(scores - self.low)
        x, y = np.asarray(self.centres), np.arange(len(self.centres), dtype=float)
        if len(x) < 2:
            return np.asarray(scores * 0.0)
        inside = np.interp(scores, x, y)
        below = (scores - x[0]) / (x[1] - x[0])
        above = y[-1] + (scores - x[-1]) / (x[-1] - x[-2])
        return np.asarray(np.where(scores < x[0], below, np.where(scores > x[-1], above, inside)))

    def score(self, level: float) -> float:
        """Return the score of a level: the centre of a whole one, else the score whose `position` it is."""
        if isinstance(level, int):
            return self.centres[level]
        if self._native:
            return self.low + level
        first = min(max(int(level), 0), len(self.centres) - 2)  # beyond the ends as next to them
        return self.centres[first] + (level - first) * (self.centres[first + 1] - self.centres[first])

    def bin(self, level: float) -> int:
        """Return the whole level that a level lies in."""
        return level if isinstance(level, int) else self.level(self.score(level))

    def show(self, level: float) -> str:
        """Return what users read for a level."""
        return self.shown[level] if isinstance(level, int) else number(self.score(level))

    def span(self, level: int) -> str:
        """Return the scores that have a level, in the attribute's unit; empty if the level shows its own score.

        >>> Attribute("words", 1, 90, edges=(13.5, 40), shown=("0", "1", "2")).span(1)
        '13.5 to below 40'
        """
        if self._native or not self.edges:
            return ""
        edges, last = [f"{edge:.4g}" for edge in self.edges], len(self.edges)
        if level in (0, last):
            return f"{edges[-1]} or more" if level else f"below {edges[0]}"
        return f"{edges[level - 1]} to below {edges[level]}"

    def tally(self, level: int, rows: int) -> str:
        """Return a level, its scores and its number of rows: `1: 20`, or `1 = 14 to below 40: 20`."""
        span = self.span(level)
        return f"{self.shown[level]}{f' = {span}' if span else ''}: {rows}"

    def at(self, share: float) -> float:
        """Return the place of a quantile of the data's scores."""
        return float(self.position(np.array(np.interp(share, np.linspace(0, 1, len(self.quantiles)), self.quantiles))))

    @property
    def range(self) -> tuple[float, float]:
        """Return the lowest and the highest score that can be asked for, if scores are printed."""
        return round(self.quantiles[0], 2), round(self.quantiles[-1], 2)

    @cached_property
    def readings(self) -> dict[str, float]:
        """Return the level of every text that asks for one: what is shown, its plain number, the words of `allowed`.

        Where scores are printed the words are quantiles, for an extreme is one odd row.
        """
        last = len(self.shown) - 1
        ends: list[float] = [0, (last + 1) // 2, last]
        low, middle, high = [self.at(share) for share in (1 - HIGH, 0.5, HIGH)] if self.quantiles else ends
        words: dict[str, float] = {"low": low, "lowest": low, "high": high, "highest": high}
        if last > 1:
            words |= {"medium": middle, "middle": middle}
        if self.direction:
            words |= {"best": high, "worst": low} if self.direction > 0 else {"best": low, "worst": high}
        if self.quantiles:
            return words
        numbers = {number_text(float(s)): i for i, s in enumerate(self.shown) if _is_number(s)}
        return words | numbers | {s: i for i, s in enumerate(self.shown)}

    @property
    def allowed(self) -> str:
        """Return what can be asked for, as the end of an error."""
        words = [w for w in ("low", "medium", "high", "best", "worst") if w in self.readings]
        range_text = f"has {', '.join(self.shown)}"
        if self.quantiles:
            range_text = "goes from {} to {} in the data".format(*map(number, self.range))
        neither = "" if self.direction else " Neither end is better."
        return f"{self.name} {range_text}. Also: {', '.join(words)}.{neither}"

    def parse(self, text: str, part: str = "") -> float:
        """Parse what a user wrote; also `low`, `medium`, `high`, and `best` and `worst` if one end is better.

        `part`: what an error calls it, where it is more than NAME=LEVEL.
        """
        if text in self.readings:
            return self.readings[text]
        if self.quantiles and _is_number(text):
            return float(self.position(np.array(round(float(text), 2))))
        raise SteerError(f"target {part or f'{self.name}={text}'}: no such level; {self.allowed}")


def number_text(number: float) -> str:
    """Write a number as levels are shown: `3.0` -> `3`, `0.5` -> `0.5`; nothing is rounded away."""
    return str(number).removesuffix(".0")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def number(score: float) -> str:
    """Write a score as conditions print it (2308.12050): two decimals, and never -0.00."""
    return f"{score:z.2f}"


@dataclass(frozen=True)
class Schema:
    """All attributes, the joint counts of their levels, and the constants of the reward.

    `cells` maps joint levels (in attribute order, None where unknown) to rows; `reward_mean` and `reward_std`
    standardise the reward, so that a label means the same on another machine. `independent`: levels of one attribute
    were drawn without a look at the others', so a combination is supported as its rarest level is.
    """

    attributes: tuple[Attribute, ...]
    cells: dict[tuple[int | None, ...], int] = field(default_factory=dict)
    minimum: int = 5
    reward_mean: float = 0.0
    reward_std: float = 1.0
    independent: bool = False

    def __getitem__(self, name: str) -> Attribute:
        if (attribute := self._by_name.get(name)) is not None:
            return attribute
        raise SteerError(f"unknown attribute '{name}'; {did_you_mean(name, self.names)}")

    @cached_property
    def _by_name(self) -> dict[str, Attribute]:
        return {a.name: a for a in reversed(self.attributes)}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return all attribute names, the derived reward last."""
        return tuple(a.name for a in self.attributes)

    @cached_property
    def own(self) -> tuple[str, ...]:
        """Return the attributes that are scored, without the derived reward."""
        return tuple(n for n in self.names if n != REWARD)

    @property
    def counted(self) -> list[str]:
        """Return the attributes that the reward counts: those with a better end and a weight."""
        return [n for n in self.own if self[n].direction and self[n].weight]

    @property
    def levelled(self) -> bool:
        """Whether every attribute has levels, counted in rows."""
        return all(a.counts for a in self.attributes)

    def turned(self, turns: Mapping[str, tuple[int, float]]) -> Schema:
        """Return the schema with the directions and weights that `turns` gives."""
        changed = (
            replace(a, direction=turns[a.name][0], weight=turns[a.name][1], origin="given") if a.name in turns else a
            for a in self.attributes
        )
        return replace(self, attributes=tuple(changed))

    def alike(self, other: Schema, names: Iterable[str]) -> bool:
        """Whether a level of these attributes means the same scores in another schema."""
        return all(n in other.names and self[n].edges == other[n].edges for n in names)

    def levels(self, scores: Mapping[str, float | None]) -> dict[str, int]:
        """Return the levels of the known scores."""
        return {a.name: a.level(s) for a in self.attributes if (s := scores.get(a.name)) is not None}

    def reward(self, scores: Mapping[str, float | None]) -> float | None:
        """Return the direction-aware weighted sum of scores, standardised; None if a score that counts is unknown."""
        total = 0.0
        for a in self.attributes:
            if a.name != REWARD and a.weight and a.direction:
                score = scores.get(a.name)
                if score is None:
                    return None
                total += a.direction * a.weight * score
        return (total - self.reward_mean) / self.reward_std

    def count(self, target: Mapping[str, float]) -> int:
        """Count rows that have all levels of `target` together; none beyond the range of a printed score.

        Where levels are independent, those that have the rarest of them.
        """
        if self.independent and len(target) > 1:
            return min(self.count({n: level}) for n, level in target.items())
        if any(level != self._inside(n, level) for n, level in target.items()):
            return 0
        levels, rows = self._table
        at = [self.names.index(n) for n in target]
        asked = [self[n].bin(level) for n, level in target.items()]
        return int(rows[(levels[:, at] == asked).all(1)].sum())

    def together(self, one: str, other: str) -> Scores:
        """Count the rows that have each level of one attribute with each of another: [levels of one, of the other]."""
        levels, rows = self._table
        counts = np.zeros((len(self[one].shown), len(self[other].shown)), dtype=np.int64)
        i, j = (levels[:, self.names.index(name)] for name in (one, other))
        known = (i >= 0) & (j >= 0)
        np.add.at(counts, (i[known], j[known]), rows[known])
        return counts

    @cached_property
    def _table(self) -> tuple[Scores, Scores]:
        """The cells as levels [C, A], -1 where unknown, and their rows [C]: many attributes have many cells."""
        flat = (-1 if level is None else level for cell in self.cells for level in cell)
        levels = np.fromiter(flat, np.int32, len(self.cells) * len(self.attributes))
        rows = np.fromiter(self.cells.values(), np.int64, len(self.cells))
        return levels.reshape(len(self.cells), len(self.attributes)), rows

    def _inside(self, name: str, level: float) -> float:
        """Return the nearest place within the range of the data's scores; whole levels stay."""
        a = self[name]
        if isinstance(level, int) or not a.quantiles:
            return level
        low, high = a.position(np.array(a.range)).tolist()
        return float(min(max(level, low), high))

    def supported(self, names: Sequence[str]) -> dict[tuple[int, ...], int]:
        """Return the joint levels over `names` seen in at least `minimum` rows, with their counts."""
        at = [self.names.index(n) for n in names]
        counts: Counter[tuple[int | None, ...]] = Counter()
        for cell, rows in self.cells.items():
            counts[tuple(cell[i] for i in at)] += rows
        return {c: n for c, n in sorted(counts.items(), key=str) if None not in c and n >= self.minimum}  # type: ignore[misc]

    def check_levels(self, levels: Mapping[str, float], place: str) -> None:
        """Refuse levels of a row that the schema does not have."""
        for name, level in levels.items():
            a = self[name]
            if (isinstance(level, int) or not a.quantiles) and not 0 <= level <= len(a.shown) - 1:
                raise SteerError(
                    f"{place}: the level {level} of '{name}' does not exist; levels go from 0 to {len(a.shown) - 1}. "
                    "Correct the row, or label with the schema that it was made with."
                )

    def check(self, target: Mapping[str, float]) -> None:
        """Refuse a target outside the data's support, naming the nearest supported one."""
        seen = self.count(target)
        if seen >= self.minimum:
            return
        asked, near = self.text(target), self.nearest(target)
        if near is None:
            raise SteerError(f"target {asked}: seen in {seen} rows, and no combination of these has {self.minimum}.")
        beyond = [n for n, level in target.items() if level != self._inside(n, level)]
        if beyond:
            low, high = map(number, self[beyond[0]].range)
            raise SteerError(
                f"target {asked}: seen in no row, for {beyond[0]} goes from {low} to {high} in the data. Nearest "
                f"supported: {self.text(near)}. --allow-unsupported asks for it all the same."
            )
        raise SteerError(
            f"target {asked}: seen together in {seen} rows, fewer than {self.minimum}. Nearest supported: "
            f"{self.text(near)} ({self.count(near)} rows). --allow-unsupported asks for it all the same."
        )

    def nearest(self, target: Mapping[str, float]) -> dict[str, float] | None:
        """Return the supported combination of the same attributes with the fewest levels between; ties: most rows."""
        inside = {n: self._inside(n, level) for n, level in target.items()}
        if self.count(inside) >= self.minimum:
            return inside
        cells = self.supported(tuple(target))
        if not cells:
            return None
        near = min(cells, key=lambda c: (sum(abs(a - b) for a, b in zip(c, target.values())), -cells[c]))
        return dict(zip(target, near))

    def best(self, names: Sequence[str]) -> dict[str, float]:
        """Return the jointly supported combination with the highest reward (level centres); ties: most rows.

        Empty, so no condition, where no attribute has a better end; beside one that has, the others take the level that
        is most common with it. The reward by itself is at its highest supported level. Where scores are printed it is
        their HIGH quantile, if that lies in this level.
        """
        cells = self.supported(names)
        if not cells:
            raise SteerError(
                f'{self.unseen(names)}. Condition on fewer attributes, or lower --min-support in "steer label".'
            )
        if not any(self[n].direction for n in names):
            return {}
        highest = max(cells.items(), key=lambda item: (self.value(dict(zip(names, item[0]))), item[1]))
        return {n: self._high(self[n], level) for n, level in zip(names, highest[0])}

    def unseen(self, names: Sequence[str]) -> str:
        """Say that no row, or too few, have all of these attributes, and what can be asked for; empty if some have."""
        if self.supported(names):
            return ""
        single = [(n, level, rows) for n in names for (level,), rows in self.supported((n,)).items()]
        name, level, _ = max(single, key=lambda each: each[2], default=(names[0], 0, 0))
        few = f"no combination of {', '.join(names)} occurs in {self.minimum} rows"
        return f"{few}. Ask for fewer attributes, such as --target {self.text({name: level})}" if single else few

    def _high(self, a: Attribute, level: int) -> float:
        place = a.parse("best") if a.quantiles and a.direction else level
        return place if a.bin(place) == level else level

    def unasked(self, names: Sequence[str]) -> dict[str, float]:
        """Return the target of requests that name none: the best, without attributes that have no better end.

        Empty, so no condition, where none has a better end, or no combination is supported.
        """
        better = [n for n in names if self[n].direction]
        if not better or not self.supported(names):
            return {}
        return {n: level for n, level in self.best(names).items() if n in better}

    def value(self, target: Mapping[str, float]) -> float:
        """Return the direction-aware weighted sum of the level centres of a target."""
        asked = [(self[n], level) for n, level in target.items()]
        return sum(a.direction * a.weight * a.score(level) for a, level in asked)

    def recounted(self, rows: Iterable[Mapping[str, Any]]) -> Schema:
        """Return the same levels and constants with counts and support of other rows."""
        cells = Counter(tuple(row["levels"].get(n) for n in self.names) for row in rows)
        counts = [Counter[int]() for _ in self.names]
        for cell, number in cells.items():
            for count, level in zip(counts, cell):
                if level is not None:
                    count[level] += number
        attributes = tuple(
            replace(a, counts=tuple(count[i] for i in range(len(a.shown)))) for a, count in zip(self.attributes, counts)
        )
        return replace(self, attributes=attributes, cells=dict(cells))

    def text(self, target: Mapping[str, float]) -> str:
        """Write levels as users do: `helpful=5 verbosity=1`."""
        return " ".join(f"{n}={self[n].show(level)}" for n, level in target.items())

    def save(self, path: Path) -> None:
        """Write schema.json."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; `Schema.from_json` reads it back."""
        cells = [[list(cell), rows] for cell, rows in sorted(self.cells.items(), key=str)]
        attributes = [asdict(a) for a in self.attributes]
        attributes = [{k: v for k, v in a.items() if k != "continuous" or v} for a in attributes]
        whole = {**asdict(self), "attributes": attributes, "cells": cells}
        return {k: v for k, v in whole.items() if k != "independent" or v}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Schema:
        """Read the schema that `to_json` wrote, or a user; ValueError if it is none."""
        if not isinstance(value, dict) or not isinstance(value.get("attributes"), list):
            raise ValueError("it has no list of attributes")
        attributes = tuple(_attribute(a) for a in value["attributes"])
        if len({a.name for a in attributes}) < len(attributes):
            raise ValueError("two attributes have one name")
        cells = dict(_cell(cell, attributes) for cell in value.get("cells", []))
        rest = ("minimum", "reward_mean", "reward_std", "independent")
        schema = Schema(attributes, cells, **{k: value[k] for k in rest if k in value})
        if not _whole(schema.minimum) or not _finite(schema.reward_mean) or not _finite(schema.reward_std):
            raise ValueError("minimum, reward_mean or reward_std is no number")
        if schema.reward_std <= 0:
            raise ValueError("reward_std is not above 0")
        if not isinstance(schema.independent, bool):
            raise ValueError("independent is neither true nor false")
        return schema

    @staticmethod
    def load(path: Path) -> Schema:
        """Read schema.json."""
        value = read_json(path)
        try:
            return Schema.from_json(value)
        except (KeyError, TypeError, ValueError) as error:
            raise SteerError(
                f'{path}: not a schema ({error}). It wants {{"attributes": [{{"name", "low", "high"}}]}}.'
            ) from None


def _finite(value: Any) -> bool:
    """Whether a value of JSON is a number that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _attribute(value: Any) -> Attribute:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("an attribute has no name")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    attribute = Attribute(**fields)
    for name in ("low", "high", "direction", "weight"):
        if not _finite(getattr(attribute, name)):
            raise ValueError(f"{name} of '{attribute.name}' is no number")
    if not isinstance(attribute.continuous, bool):
        raise ValueError(f"continuous of '{attribute.name}' is neither true nor false")
    if attribute.low > attribute.high or attribute.direction not in (-1, 0, 1):
        raise ValueError(f"'{attribute.name}' wants low < high and a direction of 1, -1 or 0")
    if attribute.origin not in ORIGINS:
        raise ValueError(f"the origin of '{attribute.name}' is none of {', '.join(ORIGINS)}")
    for name, good in LISTS.items():
        values = getattr(attribute, name)
        if not isinstance(values, tuple) or not all(map(good, values)):
            raise ValueError(f"{name} of '{attribute.name}' is no list of what belongs there")
    if any(a >= b for a, b in pairwise(attribute.edges)) or any(a > b for a, b in pairwise(attribute.quantiles)):
        raise ValueError(f"edges or quantiles of '{attribute.name}' do not rise")
    if attribute.sentences and len(attribute.sentences) != len(attribute.shown):
        raise ValueError(f"'{attribute.name}' wants as many sentences as levels that are shown")
    lengths = {len(attribute.edges) + 1, len(attribute.shown), len(attribute.centres), len(attribute.counts)}
    if (attribute.edges or attribute.centres or attribute.counts) and len(lengths) > 1:
        raise ValueError(f"'{attribute.name}' wants one edge less than levels that are shown, centres and counts")
    return attribute


def _text(value: Any) -> bool:
    return isinstance(value, str)


LISTS: Mapping[str, Callable[[Any], bool]] = {
    "edges": _finite,
    "shown": _text,
    "centres": _finite,
    "counts": _whole,
    "quantiles": _finite,
    "sentences": _text,
}  # what each list of an attribute holds


def _cell(value: Any, attributes: Sequence[Attribute]) -> tuple[tuple[int | None, ...], int]:
    """Read joint levels and the number of rows that have them."""
    levels, rows = value if isinstance(value, list) and len(value) == 2 else ((), -1)
    if not isinstance(levels, list) or len(levels) != len(attributes) or not _whole(rows):
        raise ValueError("cells are no list of [levels, rows]")
    for level, a in zip(levels, attributes):
        if level is not None and not (_whole(level) and level < len(a.shown)):
            raise ValueError(f"cells name the level {level!r:.40} of '{a.name}', which does not exist")
    return tuple(levels), int(rows)
