"""Targets of the fresh responses of a round: supported by the data, drawn as `--goals` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from steer.conditioning.targets import Target, share, unbeaten
from steer.rows.schema import Schema

SHARE = 0.1  # of the supported combinations, from the best: what `near` draws from
DRAWN = 64  # preferences that `weights` draws for one round


def goals(
    schema: Schema,
    names: Sequence[str],
    count: int,
    explore: float,
    seed: int,
    kind: str = "near",
    weights: Mapping[str, float] | None = None,
) -> list[Target]:
    """Draw `count` targets: `best`, and for a share 1 - `explore` supported ones chosen as `kind` says.

    `near`: the best tenth; `pareto`: the Pareto front over attributes with a better end; `support`: all; `weights`: the
    best for these weights (as from `targets.parse_weights`), by default for weights uniform on the simplex.
    """
    best, rng = schema.best(names), np.random.default_rng(seed)
    cells = sorted(schema.supported(names), key=lambda c: -schema.value(dict(zip(names, c))))
    if kind == "best":
        return [best] * count
    if kind == "near":
        cells = cells[: max(1, int(SHARE * len(cells)))]
    elif kind == "pareto":
        cells = pareto(schema, names, cells)
    elif kind == "weights":
        cells = preferred(schema, names, cells, [weights] if weights else _preferences(schema, names, rng))
    picks = rng.integers(len(cells), size=count)
    return [best if x < explore else dict(zip(names, cells[i])) for x, i in zip(rng.random(count), picks)]


def pareto(schema: Schema, names: Sequence[str], cells: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Pareto front of joint levels: no other is at least as good in every attribute and better in one."""
    ends = [(i, schema[n].direction) for i, n in enumerate(names) if schema[n].direction]
    front = unbeaten([[sign * cell[i] for i, sign in ends] for cell in cells])
    return [cell for cell, best in zip(cells, front) if best]


def preferred(
    schema: Schema,
    names: Sequence[str],
    cells: Sequence[tuple[int, ...]],
    preferences: Sequence[Mapping[str, float]],
) -> list[tuple[int, ...]]:
    """Joint levels with the highest weighted sum of level centres, scaled to 0..1, for each preference."""
    points = np.array([[share(schema[n], level) for n, level in zip(names, cell)] for cell in cells])  # [C, A]
    weights = np.array([[p.get(n, 0.0) for n in names] for p in preferences])
    return [cells[i] for i in (weights @ points.T).argmax(1)]


def _preferences(schema: Schema, names: Sequence[str], rng: np.random.Generator) -> list[dict[str, float]]:
    """Draw weights of the attributes that have a better end, signed towards it, uniform on the simplex."""
    ends = [n for n in names if schema[n].direction]
    drawn = rng.dirichlet(np.ones(len(ends)), DRAWN) if ends else np.zeros((1, 0))
    return [{n: schema[n].direction * float(x) for n, x in zip(ends, row)} for row in drawn]
