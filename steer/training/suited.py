"""Which methods can train on rows as they are, and what the others miss: found by forming the groups of each."""

from __future__ import annotations

from typing import NamedTuple

from steer.errors import SteerError
from steer.methods import METHODS, aligned
from steer.methods.base import ROWS, Method
from steer.progress import note
from steer.rows import Source
from steer.rows.labelled import Labelled
from steer.training.prepare import caveat, conditioned, grouped
from steer.training.settings import TrainSettings


class Suited(NamedTuple):
    """What a method makes of rows: how many groups, what is missing (empty: it can train), or what to know."""

    method: str
    groups: int
    missing: str = ""
    caveat: str = ""


def suited(source: Source | Labelled) -> list[Suited]:
    """Try every method, with its default settings, on the training split of rows."""
    labelled = Labelled.of(source)
    return [_tried(name, method, labelled) for name, method in METHODS.items()]


def _tried(name: str, method: Method, labelled: Labelled) -> Suited:
    options = TrainSettings(template="tags")
    try:
        rows = labelled.training(options.held_out, options.seed, options.limit)
        _, groups, _ = grouped(rows, method, method.settings(), conditioned(labelled, method, options), name)
        if method.on_policy and not any(a.direction for a in labelled.require_levels().attributes):
            return Suited(name, len(groups), "an attribute with a better end, which a reward needs: label with one.")
    except SteerError as error:
        return Suited(name, 0, str(error).removeprefix(f"{name}: "))
    if method.on_policy and labelled.spec in ("", "human"):
        missing = (
            f'a scorer of fresh responses, and these rows name none: "steer train --method {name} --scorer SCORER".'
        )
        return Suited(name, len(groups), missing)
    if method.importance:
        missing = f'the policy that drew these responses at their targets: "steer train --method {name} --init POLICY".'
        return Suited(name, len(groups), missing)
    return Suited(name, len(groups), caveat=caveat(name, method, rows, groups))


def suited_table(source: Source | Labelled) -> str:
    """Table of all methods: can train, groups, the rows that it wants, what is missing."""
    labelled = Labelled.of(source)
    if not labelled.schema.attributes and not any(row.get("reward") is not None for row in labelled.rows):
        note(
            "these rows are as they were logged. What people said in them (scores, thumbs, pairs) becomes rewards and "
            f'levels by "steer label {labelled.name} --output LABELS", other rows need --scorer; then ask for LABELS.'
        )
    lines = [("method", "can train", "groups", "rows it wants", "why")]
    for s in suited(labelled):
        able = "no" if s.missing else "yes, but" if s.caveat else "yes"
        lines.append((s.method, able, str(s.groups or "-"), ROWS[METHODS[s.method].rows], s.missing or s.caveat or "-"))
    return aligned(lines)
