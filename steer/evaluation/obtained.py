"""The table of what was obtained beside what was asked for: `steer generate --score`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from steer.evaluation.statistics import Interval, interval, share_bounds
from steer.rows import Row, prompt_key
from steer.rows.schema import REWARD, Schema

HEAD = (
    "asked for",
    "attribute",
    "the level means",
    "mean score [95 % over prompts]",
    "at the level",
    "within one",
    "responses",
)


def table(rows: Sequence[Row], schema: Schema) -> str:
    """Show a line per target and attribute: scores obtained, how often its level was met, and `none` where asked for.

    Rows are labelled; those whose targets are no levels have no line. Intervals are bootstraps over prompts, and exact
    where all prompts meet a level or none does; one prompt gives none.
    """
    groups: dict[tuple[tuple[str, float], ...], list[Row]] = {}
    for row in rows:
        if row["target"] or not row.get("asked"):
            groups.setdefault(tuple(row["target"].items()), []).append(row)
    lines = list(chain.from_iterable(_lines(dict(target), members, schema) for target, members in groups.items()))
    return "\n".join(map(" | ".join, [HEAD, *lines])) if lines else "no level was asked for that has a score."


def _lines(target: Mapping[str, float], rows: Sequence[Row], schema: Schema) -> list[list[str]]:
    """Cells of one target's lines, one per attribute that responses have a level of."""
    lines = []
    for name in target or schema.own:
        scored = [row for row in rows if name in row["levels"]]
        if not scored:
            continue
        a, prompts = schema[name], [prompt_key(row) for row in scored]
        mean = interval([row["reward"] if name == REWARD else row["predicted"][name] for row in scored], prompts)
        meaning, shares = "", ["", ""]
        if target:
            asked = a.bin(target[name])
            gaps = np.array([abs(row["levels"][name] - asked) for row in scored])
            meaning = a.span(asked) if isinstance(target[name], int) else ""
            shares = [_percent(share_bounds(interval(gaps <= most, prompts), prompts)) for most in (0, 1)]
        cells = (schema.text(target) or "none", name, meaning, _bounded(mean), *shares, str(len(scored)))
        lines.append([cell or "-" for cell in cells])
    return lines


def _bounded(x: Interval) -> str:
    return x.text() if x.low == x.low else f"{x.mean:.2f}"


def _percent(x: Interval) -> str:
    return f"{x.mean:.0%} [{x.low:.0%}, {x.high:.0%}]" if x.low == x.low else f"{x.mean:.0%}"
