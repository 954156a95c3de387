"""Reward-ranked fine-tuning (RAFT, 2304.06767): likelihood of the best of the K responses that the last round drew.

Of one response none is the best of several: prompts that have no other, or of whose draws one was not cut off, are
left out and counted.
Differs from the official code: that trains on prompts too, here a prompt is never a target; every round starts from the
base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.errors import SteerError
from steer.methods.base import Method, weighted_nll
from steer.methods.groups import DRAW_MORE, Group, compared, singles
from steer.rows import Row
from steer.settings import Checked, option


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of raft."""

    k: int = option(0, "Choose among the first k responses of a prompt, in the order of the rows (0: all).", least=0)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """The best response of every prompt that has several, or of every comparison that people made."""
    prompts = compared(rows)
    several = [c for c in prompts if len(c) > 1]
    if not several:
        raise SteerError(
            f"each of the {len(prompts)} prompts has one response only, so there is no best one. {DRAW_MORE}"
        )
    place = {row["id"]: i for i, row in enumerate(rows)}
    first = [sorted(c, key=lambda row: place[row["id"]])[: settings.k or None] for c in several]
    return singles([max(c, key=lambda row: row["reward"]) for c in first])


METHOD = Method(
    rows="several",
    groups=groups,
    loss=weighted_nll,
    settings=Settings,
    per="token",
    pool="last",
)
