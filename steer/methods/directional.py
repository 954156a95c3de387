"""Directional preference alignment (2402.18571): condition on how much each attribute matters, not on its level.

For every prompt some directions v are drawn, and the policy learns the response with the highest weighted score:
-log p(y | x, v), y the best under v (rejection sampling). Equal weights stand beside those that are drawn: they are
what `best` asks for. Weights are drawn independently, so a direction can be asked for where each of its weights was
seen. It trains on from a supervised policy, `after=mle` in a comparison.
Differs from the official code: none of training was released. Weights are whole numbers from 0 to 4 for each attribute
with a better end, drawn uniformly, where the paper takes unit vectors near the axis of one attribute; scores are
standardised first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steer.errors import SteerError
from steer.methods import conditional
from steer.methods.groups import DRAW_MORE, Group, compared, random_of
from steer.rows import Row, prompt_key
from steer.rows.directions import SAY_END
from steer.rows.schema import Schema
from steer.settings import Checked, option

MATTERS = ("does not matter", "matters a little", "matters somewhat", "matters much", "matters very much")
WEIGHTS = len(MATTERS)  # 0 to 4


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of directional."""

    directions: int = option(4, "Directions drawn for every prompt, beside equal weights.", least=1)


def weights(rows: Sequence[Row], schema: Schema, settings: Settings) -> tuple[list[Row], Schema]:
    """Take each prompt's best response under each of its directions, weights in place of levels; and their schema."""
    names = [n for n in schema.own if schema[n].direction]
    every = np.array([[schema[n].direction * _score(r, n) for n in names] for r in rows]).reshape(len(rows), -1)
    scored = [r for r, scores in zip(rows, every) if np.isfinite(scores).all()]
    table = every[np.isfinite(every).all(1)]
    if not names:
        raise SteerError(f"no attribute has a better end. {SAY_END}")
    if len(scored) < 2:
        raise SteerError(
            f"{len(scored)} of {len(rows)} rows have scores of all of {len(names)} attributes with a better end. "
            'Run "steer label ROWS --scorer SCORER" with attributes that have one.'
        )
    if still := [name for name, spread in zip(names, table.std(0)) if not spread > 0]:
        flags = " ".join(f"--neither {name}" for name in still)
        raise SteerError(f'{", ".join(still)}: no two scores differ. Leave it out: "steer label ROWS {flags}".')
    scores = dict(zip((r["id"] for r in scored), (table - table.mean(0)) / table.std(0)))
    chosen = []
    for candidates in compared(scored, differ=False):
        if len(candidates) == 1:
            continue
        drawn = random_of(candidates[0]).integers(WEIGHTS, size=(settings.directions, len(names)))
        for w in (np.full(len(names), WEIGHTS - 1), *drawn):
            if w.any():
                best = max(candidates, key=lambda r: (float(scores[r["id"]] @ w), r["id"]))
                levels = dict(zip(names, w.tolist()))
                chosen.append({**best, "levels": levels})
    if not chosen:
        raise SteerError(
            f"each of the {len({prompt_key(r) for r in scored})} prompts has one scored response only. {DRAW_MORE}"
        )
    return chosen, _weights(schema, names).recounted(chosen)


def _score(row: Row, name: str) -> float:
    """Predicted score of a row, else the human one; NaN if it has neither."""
    value: Any = (row.get("predicted") or {}).get(name)
    value = (row.get("scores") or {}).get(name) if value is None else value
    return math.nan if value is None else float(value)


def _weights(schema: Schema, names: Sequence[str]) -> Schema:
    """Schema of attributes whose levels are weights: more of one is more of its good end."""
    grid = tuple(range(WEIGHTS))
    attributes = tuple(
        replace(
            schema[n],
            low=0.0,
            high=WEIGHTS - 1.0,
            direction=1,
            edges=tuple(i + 0.5 for i in grid[:-1]),
            shown=tuple(map(str, grid)),
            centres=tuple(map(float, grid)),
            counts=(),
            sentences=_sentences(n, schema[n].direction),
        )
        for n in names
    )
    return Schema(attributes, {}, schema.minimum, independent=True)


def _sentences(name: str, direction: int) -> tuple[str, ...]:
    """Say in words how much the better end of an attribute matters, for each weight.

    >>> _sentences("toxicity", -1)[-1]
    'Low toxicity matters very much, 4 of 4.'
    """
    plain = name.replace("_", " ")
    subject = f"{'High' if direction > 0 else 'Low'} {plain}"
    some = (f"{subject} {matters}, {w} of {WEIGHTS - 1}." for w, matters in enumerate(MATTERS) if w)
    return f"{plain.capitalize()} {MATTERS[0]}.", *some


def one_attribute(groups: Sequence[Group]) -> str:
    """Say that the weight of a single attribute chooses nothing; else empty."""
    names = {name for group in groups for row in group.rows for name in row["levels"]}
    return f"only {names.pop()} has a better end, so every weight chooses one response" if len(names) == 1 else ""


METHOD = replace(conditional.METHOD, rows="scores", settings=Settings, condition=weights, caveat=one_attribute)
