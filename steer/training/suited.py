"""Which methods can train on rows as they are, and what the others miss: found by forming the groups of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steer.errors import SteerError
from steer.labelling.scorer import FIT
from steer.methods import METHODS, aligned, method_of
from steer.methods.base import ROWS, Method
from steer.progress import note
from steer.rows import Source
from steer.rows.directions import SAY_END
from steer.rows.labelled import Labelled
from steer.training.prepare import caveat, conditioned, grouped
from steer.training.settings import TrainSettings


class Suited(NamedTuple):
    """What a method makes of rows: how many groups, what is missing (empty: it can train), or what to know."""

    method: str
    groups: int
    missing: str = ""
    caveat: str = ""
    flag: str = ""  # of `steer train` that gives what is missing

    @property
    def able(self) -> str:
        """Whether the method can train, in words."""
        if self.missing:
            return f"with {self.flag}" if self.flag else "no"
        return "yes, but" if self.caveat else "yes"


def suited(source: Source | Labelled, names: Sequence[str] = ()) -> list[Suited]:
    """Try methods (default: every one), with their default settings, on the training split of rows."""
    methods = {name: method_of(name) for name in names or METHODS}
    labelled = Labelled.of(source)
    return [_tried(name, method, labelled) for name, method in methods.items()]


def _tried(name: str, method: Method, labelled: Labelled) -> Suited:
    options = TrainSettings(template="tags")
    try:
        rows = labelled.training(options.held_out, options.seed, options.limit)
        _, groups, _ = grouped(rows, method, method.settings(), conditioned(labelled, method, options), name)
        if method.on_policy and not any(a.direction for a in labelled.require_levels().attributes):
            return Suited(name, len(groups), f"an attribute with a better end, which a reward needs. {SAY_END}")
    except SteerError as error:
        return Suited(name, 0, str(error).removeprefix(f"{name}: "))
    if method.on_policy and labelled.spec in ("", "human"):
        command = f'"steer train --method {name} --scorer SCORER"'
        missing = f"a scorer of fresh responses, and these rows name none: {command}. {FIT}."
        return Suited(name, len(groups), missing, flag="--scorer")
    if method.importance:
        missing = f'the policy that drew these responses at their targets: "steer train --method {name} --init POLICY".'
        return Suited(name, len(groups), missing, flag="--init")
    return Suited(name, len(groups), caveat=caveat(name, method, rows, groups))


def suited_table(source: Source | Labelled, names: Sequence[str] = ()) -> str:
    """Table of methods: can train, groups, the rows that it wants, what is missing; remedies stand once below it."""
    labelled = Labelled.of(source)
    if not labelled.schema.attributes and not any(row.get("reward") is not None for row in labelled.rows):
        note(
            "these rows are as they were logged. What people said in them (scores, thumbs, pairs) becomes rewards and "
            f'levels by "steer label {labelled.name} --output LABELS", other rows need --scorer; then ask for LABELS.'
        )
    lines = [("method", "can train", "groups", "rows it wants", "why")]
    marks: dict[str, str] = {}
    for s in suited(labelled, names):
        why, _, remedy = (s.missing or s.caveat or "-").partition(". ")
        if remedy:
            why += " " + marks.setdefault(remedy, f"[{len(marks) + 1}]")
        lines.append((s.method, s.able, str(s.groups or "-"), ROWS[METHODS[s.method].rows], why))
    below = "\n".join(f"{mark} {remedy}" for remedy, mark in marks.items())
    return "\n\n".join(filter(None, (aligned(lines), below)))
