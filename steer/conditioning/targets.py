"""Parse what users ask for into levels that the data supports; list the combinations, and find the best."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from steer.errors import SteerError
from steer.rows.schema import Attribute, Schema
from steer.settings import did_you_mean

Target = dict[str, float]
_PART = re.compile(r"([^=<>]+)(=|>=|<=)([^=<>]+)")


def parse_target(text: str, schema: Schema, names: Sequence[str]) -> Target:
    """Parse `helpful=5 verbosity=low`, `best` or `none` into levels in the order of `names`.

    Parts are separated by spaces or commas. A range (`warmth=1..3`, `helpful>=4`) becomes the level in it that gives
    the best supported combination. `names` are the attributes that the policy was conditioned on; others are refused.
    """
    if text.strip() == "best":
        return schema.best(names)
    if text.strip() in ("none", ""):
        return {}
    asked: dict[str, Sequence[float]] = {}
    for part in text.replace(",", " ").split():
        match = _PART.fullmatch(part)
        if not match:
            raise SteerError(f"target '{part}': write NAME=LEVEL, for example {names[0]}={schema[names[0]].shown[-1]}.")
        name, sign, value = match.groups()
        if name not in names:
            raise SteerError(f"target: unknown attribute '{name}'; {did_you_mean(name, names)}")
        if name in asked:
            raise SteerError(f"target: '{name}' is given twice.")
        asked[name] = _levels(schema[name], sign, value)
    return _best_within({n: asked[n] for n in names if n in asked}, schema)


def _levels(attribute: Attribute, sign: str, value: str) -> Sequence[float]:
    """Return the levels that a part allows."""
    low, dots, high = value.partition("..")
    part = f"{attribute.name}{sign}{value}"
    if not dots:
        level = attribute.parse(value, part)
        if attribute.quantiles:
            return [_nearest(attribute, level if sign != "<=" else -math.inf, level if sign != ">=" else math.inf)]
        assert isinstance(level, int)
        return range(0 if sign == "<=" else level, len(attribute.shown) if sign == ">=" else level + 1)
    first, last = (attribute.parse(end, part) for end in (low, high))
    if sign != "=" or first > last:
        raise SteerError(f"target {part}: write a range as {attribute.name}=LOW..HIGH.")
    if attribute.quantiles:
        return [_nearest(attribute, first, last)]
    assert isinstance(first, int)
    assert isinstance(last, int)
    return range(first, last + 1)


def _nearest(attribute: Attribute, first: float, last: float) -> float:
    """Clamp the best score (medium, if no end is better) to first..last."""
    return min(max(attribute.parse("best" if attribute.direction else "medium"), first), last)


def _best_within(asked: Mapping[str, Sequence[float]], schema: Schema) -> Target:
    """Return the supported combination with the highest value (ties: most rows).

    If none is supported, it is the unsupported one with the highest value.
    """
    names = tuple(asked)
    whole = [[schema[n].bin(level) for level in levels] for n, levels in asked.items()]
    cells = {c: n for c, n in schema.supported(names).items() if all(x in r for x, r in zip(c, whole))}
    if not cells:
        cells = dict.fromkeys(product(*whole), 0)
    best = max(cells, key=lambda c: (schema.value(dict(zip(names, c))), cells[c]))
    return {n: asked[n][whole[i].index(x)] for i, (n, x) in enumerate(zip(names, best))}


def drawn_targets(schema: Schema, names: Sequence[str], count: int, seed: int) -> list[Target]:
    """Draw targets as often as they occur among the supported ones: the control to chosen targets."""
    cells = _cells(schema, names)
    share = np.array(list(cells.values()), dtype=float)
    picks = np.random.default_rng(seed).choice(len(cells), count, p=share / share.sum())
    levels = list(cells)
    return [dict(zip(names, levels[i])) for i in picks]


def factorial(schema: Schema, names: Sequence[str], size: int, seed: int) -> list[Target]:
    """Draw `size` targets from the supported cells of the full factorial over `names`, each level alike.

    Cells are drawn without replacement as long as they last, weighted so that the margins of the draw come near to
    uniform (iterative proportional fitting of the cell weights); that breaks the correlation of the logs.
    """
    array = np.array(list(_cells(schema, names)))  # [C, A]
    weights = np.ones(len(array))
    for _, j in product(range(50), range(len(names))):
        margin = np.bincount(array[:, j], weights=weights, minlength=array[:, j].max() + 1)
        weights /= margin[array[:, j]]
        weights /= weights.sum()
    rng = np.random.default_rng(seed)
    # Systematic sampling keeps the drawn margins near the weights.
    order = rng.permutation(len(array))
    points = (np.arange(size) + rng.random()) / size
    picked = order[np.searchsorted(np.cumsum(weights[order]), points).clip(max=len(array) - 1)]
    return [dict(zip(names, (int(x) for x in array[i]))) for i in rng.permutation(picked)]


def _cells(schema: Schema, names: Sequence[str]) -> dict[tuple[int, ...], int]:
    """Return the supported combinations with their rows; SteerError if there are none."""
    if not (cells := schema.supported(names)):
        schema.best(names)  # raises an error with the remedy
    return cells


def opposite(target: Target, schema: Schema) -> Target:
    """Mirror a target on every attribute's scale; if unsupported, return the nearest supported combination."""
    mirrored: Target = {n: len(schema[n].shown) - 1 - level for n, level in target.items()}
    return mirrored if schema.count(mirrored) >= schema.minimum else schema.nearest(mirrored) or mirrored


def ranked(schema: Schema, names: Sequence[str], beside: Target) -> list[tuple[Target, int]]:
    """Return the supported combinations that have the levels of `beside`, with their rows.

    The highest reward comes first; of equal ones, as where no end is better, that with the most rows.
    """
    fixed = {n: schema[n].bin(level) for n, level in beside.items()}
    every: list[tuple[Target, int]] = [(dict(zip(names, c)), rows) for c, rows in schema.supported(names).items()]
    fitting = [(target, rows) for target, rows in every if fixed.items() <= target.items()]
    return sorted(fitting, key=lambda pair: (-schema.value(pair[0]), -pair[1]))


def parse_weights(text: str, schema: Schema, names: Sequence[str]) -> dict[str, float]:
    """Parse `helpful=.7,verbosity=-.3`: how much the better end of each counts (the upper, if neither is)."""
    weights: dict[str, float] = {}
    for part in text.replace(",", " ").split():
        name, equals, value = part.partition("=")
        if name not in names:
            raise SteerError(f"--weights: unknown attribute '{name}'; {did_you_mean(name, names)}")
        try:
            weights[name] = float(value) * (schema[name].direction or 1)
        except ValueError:
            raise SteerError(f"--weights '{part}': write NAME=NUMBER, for example {name}=0.5.") from None
        if not equals or not math.isfinite(weights[name]) or not weights[name]:
            raise SteerError(f"--weights '{part}': wanted a number that is not 0.")
    return weights


def pareto(schema: Schema, weights: Mapping[str, float]) -> list[tuple[Target, float, int]]:
    """Return the supported combinations that no other beats on the weighted attributes, the best weighted sum first.

    Each comes with its sum of weights times level centres on a scale from 0 to 1, and its rows.
    """
    names = tuple(weights)
    cells = schema.supported(names)
    gains = {c: tuple(math.copysign(x, weights[n]) for n, x in zip(names, c)) for c in cells}
    front = [c for c, best in zip(gains, unbeaten(list(gains.values()))) if best]

    def value(cell: Sequence[int]) -> float:
        return sum(weights[n] * share(schema[n], x) for n, x in zip(names, cell))

    ordered = sorted(front, key=lambda c: (-value(c), -cells[c]))
    return [(dict(zip(names, c)), value(c), cells[c]) for c in ordered]


def unbeaten(points: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each point is on the Pareto front: no other is at least as good in every column and better in one."""
    x = np.array(points, dtype=float)
    return [not bool(((x >= p).all(1) & (x > p).any(1)).any()) for p in x]


def share(attribute: Attribute, level: int) -> float:
    """Return a level's centre as a share of the way from the lowest centre to the highest."""
    first, last = attribute.centres[0], attribute.centres[-1]
    return (attribute.centres[level] - first) / (last - first) if last > first else 0.0
