"""Make a schema from scores: ranges, directions, levels and support."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from steer.errors import SteerError
from steer.rows import directions
from steer.rows.schema import REWARD, Attribute, Schema, Scores, number, spread
from steer.rows.table import BLOCK, Table

MOST_GRADES = 10  # distinct scores between two neighbouring whole numbers; more of them are continuous
TWENTIETHS = np.linspace(0, 1, 21)  # of the data, at which printed scores are known


def described(names: Sequence[str], scores: Scores | Table) -> Schema:
    """Return a schema without levels from human scores [n, A]: ranges from the data, directions from the names."""
    attributes, table = [], Table.of(scores)
    for j, name in enumerate(names):
        present = _known(table.column(j))
        if not len(present):
            raise SteerError(f"attribute '{name}': no row has a score.")
        attributes.append(graded(named(name, float(present.min()), float(present.max())), present))
    return Schema(tuple(attributes))


def named(name: str, low: float, high: float) -> Attribute:
    """Return an attribute without levels whose direction follows from its name."""
    direction, origin = directions.of_name(name)
    return Attribute(name, low, high, direction, float(direction != 0), origin=origin)


def graded(a: Attribute, scores: Scores) -> Attribute:
    """Mark an attribute from 0 to 1, or such a range, as continuous if its scores take many values in between.

    Its two native levels would be all that is left of them.
    """
    unit = float(a.low).is_integer() and a.high - a.low == 1
    return replace(a, continuous=True) if unit and _many(_known(scores)) else a


def _known(scores: Scores) -> Scores:
    """Return the scores [n] that are known: the same array if all are."""
    unknown = np.isnan(scores)
    return scores[~unknown] if unknown.any() else scores


def _pieces(scores: Scores) -> Iterator[Scores]:
    """Yield scores [n] a block at a time: what is computed of all at once would take their memory again."""
    return (scores[first : first + BLOCK] for first in range(0, len(scores), BLOCK))


def _many(scores: Scores) -> bool:
    """Whether more than MOST_GRADES values occur in scores [n]."""
    values = np.empty(0)
    for piece in _pieces(scores):
        values = np.union1d(values, piece)
        if len(values) > MOST_GRADES:
            return True
    return False


def fitted(
    schema: Schema,
    scores: Scores | Table,
    *,
    bins: str = "native",
    levels: int = 5,
    minimum: int = 5,
    edges: Mapping[str, Sequence[float]] | None = None,
) -> Schema:
    """Give a described schema its levels, reward constants and support from scores [n, A] (NaN unknown).

    `bins`: `native` (one level per integer of the attribute's range; quantiles where the range is no small integer
    grid), `uniform` (equal widths) or `quantile` (equal counts; fewer levels, each with rows, where scores tie);
    `edges` are the inner ones of attributes that have theirs. The reward is added last, with quantile levels.
    """
    own = [a for a in schema.attributes if a.name != REWARD]
    table = Table.of(scores)
    if table.width != len(own):
        raise ValueError(f"{table.width} columns of scores for {len(own)} attributes")
    inner_edges = edges or {}
    binned = [_binned(a, table.column(j), bins, levels, inner_edges.get(a.name, ())) for j, a in enumerate(own)]
    reward = _summed(own, table)
    mean, std = 0.0, 1.0
    if not np.isnan(reward).all() and any(a.weight and a.direction for a in own):
        mean = float(np.nanmean(reward))
        std = spread(mean, float(np.nanstd(reward)))
        reward -= mean
        reward /= std
        binned.append(_binned(Attribute(REWARD, -5.0, 5.0), reward, "quantile", levels))
    cells: Counter[tuple[int | None, ...]] = Counter()
    place = 0
    for block in table.blocks():
        rewards = reward[place : place + len(block)]
        cells.update(zip(*map(_levels, binned, (*block.T, rewards))))  # without levels of a reward if there is none
        place += len(block)
    return Schema(tuple(binned), dict(cells), minimum, mean, std)


def _levels(a: Attribute, scores: Scores) -> list[int | None]:
    """Return the level of each score; None where it is unknown."""
    levels = np.searchsorted(a.edges, scores, side="right").tolist()
    return [None if math.isnan(score) else level for score, level in zip(scores.tolist(), levels)]


def _summed(attributes: Sequence[Attribute], scores: Table) -> Scores:
    """Return the direction-aware weighted sums of scores, [n, A] -> [n]: `Schema.reward` without its constants."""
    total = np.zeros(len(scores))
    for j, a in enumerate(attributes):
        if a.weight and a.direction:
            column = scores.column(j)
            column *= a.direction * a.weight
            total += column
    return total


def _binned(a: Attribute, scores: Scores, bins: str, levels: int, inner_edges: Sequence[float] = ()) -> Attribute:
    present = _known(scores)
    if not len(present):
        raise SteerError(f"attribute '{a.name}': no training row has a score, so it has no levels. Leave it out.")
    whole = float(a.low).is_integer() and float(a.high).is_integer() and not a.continuous
    if bins == "native" and whole and 1 <= a.high - a.low <= 10 and not inner_edges:
        edges = [a.low + i + 0.5 for i in range(int(a.high - a.low))]
        shown = [str(int(a.low) + i) for i in range(len(edges) + 1)]
    else:
        if inner_edges:
            edges = list(inner_edges)
        elif bins == "uniform":
            edges = sorted(set(np.linspace(a.low, a.high, levels + 1)[1:-1].tolist()) - {a.low})
        else:
            edges = _quantiles(present, levels)
        shown = [str(i) for i in range(len(edges) + 1)]
    level = np.empty(len(present), np.min_scalar_type(len(edges)))
    for piece, out in zip(_pieces(present), _pieces(level)):
        out[:] = np.searchsorted(edges, piece, side="right")
    counts = [int(np.count_nonzero(level == i)) for i in range(len(shown))]
    outer = [min([a.low, *edges[:1]]), *edges, max([a.high, *edges[-1:]])]  # edges of a user may lie outside the data
    centres = [
        float(present[level == i].mean()) if counts[i] else (outer[i] + outer[i + 1]) / 2 for i in range(len(shown))
    ]
    return replace(a, edges=tuple(edges), shown=tuple(shown), centres=tuple(centres), counts=tuple(counts))


def _quantiles(known: Scores, levels: int) -> list[float]:
    """Return edges of levels with equal counts. If ties overfill a level the others share the rest; none is empty."""
    edges: list[float] = []
    rest = np.sort(known)
    for left in range(levels, 1, -1):
        edge = _quantile(rest, 1 / left)
        if edge <= rest[0]:  # as many zeros as that: a level of their own
            above = rest[np.searchsorted(rest, rest[0], side="right") :]
            if not len(above):
                break
            edge = float(above[0])
        edges.append(edge)
        rest = rest[np.searchsorted(rest, edge) :]
    return edges


def _quantile(rising: Scores, share: float) -> float:
    """Return what `np.quantile` gives, to the bit, for scores [n] that rise: it would copy them."""
    place = (len(rising) - 1) * share
    first = int(place)
    low, high = float(rising[first]), float(rising[min(first + 1, len(rising) - 1)])
    above, gap = place - first, high - low
    return high - gap * (1 - above) if above >= 0.5 else low + gap * above


def exact(rows: Sequence[dict[str, Any]], schema: Schema, names: Sequence[str]) -> tuple[list[dict[str, Any]], Schema]:
    """Return rows whose levels of `names` are the places of their own scores, and a schema with the range of these.

    A level that no score has, because it was edited, stays.
    """
    scores: dict[str, list[float]] = {n: [] for n in names if len(schema[n].centres) > 1}
    placed_rows = []
    for row in rows:
        levels = dict(row.get("levels") or {})
        for name, placed in scores.items():
            score = _score_of(row, schema[name], levels.get(name))
            if score is not None:
                placed.append(score)
                levels[name] = float(schema[name].position(np.array(score)))
        placed_rows.append(row | {"levels": levels})
    attributes = tuple(
        replace(
            a, quantiles=tuple(np.quantile(scores[a.name], TWENTIETHS).tolist()), shown=tuple(map(number, a.centres))
        )
        if scores.get(a.name)
        else a
        for a in schema.attributes
    )
    return placed_rows, replace(schema, attributes=attributes)


def _score_of(row: Mapping[str, Any], a: Attribute, level: int | None) -> float | None:
    """Return the score of the scorer, or of people, that has this level."""
    scores = (
        [row.get("reward")] if a.name == REWARD else [(row.get(k) or {}).get(a.name) for k in ("predicted", "scores")]
    )
    return next((float(s) for s in scores if s is not None and a.level(s) == level), None)
