"""`steer targets`: the targets that the data of a policy supports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from steer import addresses
from steer.conditioning.targets import Target, pareto, parse_target, parse_weights, ranked
from steer.config.conditioning import TargetsConfig
from steer.errors import SteerError
from steer.models.card import Card
from steer.rows.directions import BETTER
from steer.rows.schema import HIGH, REWARD, Schema, number
from steer.run_folder import is_run
from steer.settings import check


def targets_command(config: TargetsConfig) -> str:
    """Return what can be asked of a policy: rows per level, combinations, the best, and the best for weights."""
    check(config)
    config = addresses.local(config)
    schema, names = _read(Path(config.policy))
    target = parse_target(config.target, schema, names) if config.target else {}
    lines = [*_levels(schema, names, target), "", *_combinations(schema, names, target, config.top)]
    if schema.supported(names) and not target:  # with one, the first combination is the best beside it
        best = schema.text(schema.best(names)) or "no condition, for no attribute has a better end"
        lines += ["", f"best: {best}"]
    if config.weights:
        front = pareto(schema, parse_weights(config.weights, schema, names))
        if not front:
            raise SteerError(f"--weights {config.weights}: no combination of these has {schema.minimum} rows.")
        lines += ["", f"Combinations that no other beats, by {config.weights} (levels from 0 to 1):"]
        lines += [f"  {value:+.2f}  {schema.text(aim)}  ({rows} rows)" for aim, value, rows in front[: config.top]]
        lines.append(f"best for these weights: {schema.text(front[0][0])}")
    return "\n".join(lines)


def _read(folder: Path) -> tuple[Schema, Sequence[str]]:
    """Read the schema and the attributes of a policy, or of labelled rows."""
    if card := Card.find(folder):
        if card.schema is None or not card.attributes:
            raise SteerError(f"{folder}: was not conditioned on attributes, so it has no targets.")
        return card.schema, card.attributes
    if (folder / "schema.json").is_file():
        schema = Schema.load(folder / "schema.json")
        if not schema.cells:
            raise SteerError(f'{folder}: has no levels (a scorer?). Give a folder of "steer label" or "steer train".')
        return schema, [n for n in schema.names if n != REWARD]
    if is_run(folder) and not (folder / "done.json").is_file():
        raise SteerError(f"{folder}: is a run that is not finished and has no resume point. Run its command again.")
    if not folder.exists():
        raise SteerError(f"{folder}: no such folder. Check the path.")
    raise SteerError(
        f'{folder}: holds neither steer.json nor schema.json. Give a folder of "steer label" or "steer train".'
    )


def _levels(schema: Schema, names: Sequence[str], target: Target) -> Iterator[str]:
    """Yield the rows of every level of each attribute together with `target`, unsupported ones in brackets."""
    beside = f" beside {schema.text(target)}" if target else ""
    yield f"Rows of each level{beside}; [in brackets] fewer than {schema.minimum}, so a target there is refused:"
    ends = {
        n: f"{BETTER[schema[n].direction]} is better{' (guessed)' * (schema[n].origin == 'guessed')}" for n in names
    }
    width, end_width = max(map(len, names)), max(map(len, ends.values()))
    for name in names:
        counts = [schema.count({**target, name: level}) for level in range(len(schema[name].shown))]
        tallies = [(schema[name].tally(level, rows), rows) for level, rows in enumerate(counts)]
        cells = (text if rows >= schema.minimum else f"[{text}]" for text, rows in tallies)
        yield f"{name:<{width}}  {ends[name]:<{end_width}}  " + "  ".join(cells)


def _combinations(schema: Schema, names: Sequence[str], target: Target, top: int) -> Iterator[str]:
    """Yield the ranges of printed scores, the number of supported combinations, and the `top` of them with `target`."""
    for a in (schema[n] for n in names if schema[n].quantiles):
        low, high = map(number, a.range)
        yield f"{a.name}: any number from {low} to {high}; best is the {HIGH:.0%} quantile of the data."
    total = math.prod(len(schema[n].shown) for n in names)
    supported = len(schema.supported(names))
    yield f"{supported} of {total} combinations of all attributes have {schema.minimum} rows or more."
    if schema.independent:
        yield "Levels were drawn independently: any combination of levels outside brackets can be asked for."
    elif unseen := schema.unseen(names):
        yield f"{unseen[0].upper()}{unseen[1:]}."
    beside = f" beside {schema.text(target)}" if target else ""
    first = "highest reward" if any(schema[n].direction for n in names) else "most rows"
    if combinations := ranked(schema, names, target):
        yield f"The {min(top, len(combinations))} of {len(combinations)} with the {first}{beside}:"
        yield from (f"  {schema.text(aim)}  ({rows} rows)" for aim, rows in combinations[:top])
