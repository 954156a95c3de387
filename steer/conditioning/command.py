"""`steer targets`: the targets that the data of a policy supports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from steer.conditioning.targets import pareto, parse_target, parse_weights, supported_map
from steer.config.conditioning import TargetsConfig
from steer.errors import SteerError
from steer.models.card import Card
from steer.rows.schema import HIGH, REWARD, Schema, number
from steer.settings import check


def targets_command(config: TargetsConfig) -> str:
    """Return what can be asked of a policy: rows per level, combinations, the best, and the best for weights."""
    check(config)
    schema, names = _schema_of(Path(config.policy))
    cells = schema.supported(names)
    total = math.prod(len(schema[n].shown) for n in names)
    target = parse_target(config.target, schema, names) if config.target else {}
    beside = f" beside {schema.text(target)}" if target else ""
    lines = [f"Rows of each level{beside}; [in brackets] fewer than {schema.minimum}, so a target there is refused:"]
    lines += [*supported_map(schema, names, target), ""]
    for a in (schema[n] for n in names if schema[n].quantiles):
        low, high = map(number, a.range)
        lines.append(f"{a.name}: any number from {low} to {high}; best is the {HIGH:.0%} quantile of the data.")
    lines.append(f"{len(cells)} of {total} combinations of all attributes have {schema.minimum} rows or more.")
    target = {n: schema[n].bin(level) for n, level in target.items()}
    fitting = {c: n for c, n in cells.items() if target.items() <= dict(zip(names, c)).items()}
    shown = sorted(fitting, key=lambda c: -schema.value(dict(zip(names, c))))
    if shown:
        lines.append(f"The {min(config.top, len(shown))} of {len(shown)} with the highest reward{beside}:")
        lines += [f"  {schema.text(dict(zip(names, c)))}  ({cells[c]} rows)" for c in shown[: config.top]]
    if cells:
        lines += ["", f"best: {schema.text(schema.best(names))}"]
    if config.weights:
        front = pareto(schema, parse_weights(config.weights, schema, names))
        if not front:
            raise SteerError(f"--weights {config.weights}: no combination of these has {schema.minimum} rows.")
        lines += ["", f"Combinations that no other beats, by {config.weights} (levels from 0 to 1):"]
        lines += [f"  {value:+.2f}  {schema.text(aim)}  ({rows} rows)" for aim, value, rows in front[: config.top]]
        lines.append(f"best for these weights: {schema.text(front[0][0])}")
    return "\n".join(lines)


def _schema_of(folder: Path) -> tuple[Schema, Sequence[str]]:
    """Return the schema and the attributes of a policy, or of labelled rows."""
    if (folder / "steer.json").is_file():
        card = Card.load(folder)
        if card.schema is None or not card.attributes:
            raise SteerError(f"{folder}: was not conditioned on attributes, so it has no targets.")
        return card.schema, card.attributes
    if (folder / "schema.json").is_file():
        schema = Schema.load(folder / "schema.json")
        if not schema.cells:
            raise SteerError(f'{folder}: its schema has no levels yet. Give the folder of "steer label".')
        return schema, [n for n in schema.names if n != REWARD]
    raise SteerError(f'{folder}: holds neither steer.json nor schema.json. Give a folder of "steer train".')
