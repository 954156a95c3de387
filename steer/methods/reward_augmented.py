"""Reward-augmented direct preference optimisation (2410.08067): pairs behind a goal, turned by the goal.

A pair of responses gives two: behind the levels of the better one it wins, behind those of the worse one that one does,
as the response nearer to what was asked. The loss is dpo's, with the goal as condition; where the condition shows the
two goals alike, training leaves both out. No part of a condition is ever left out: behind what is left, the worse
response would win.
Differs from the official code: the goal is a condition of levels, not a system prompt with raw scores, and the
reference reads the prompt without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from steer.methods import dpo
from steer.methods.base import Method, levels
from steer.methods.groups import Group, levelled, pairs
from steer.rows import Row

Settings = dpo.Settings


def groups(rows: Sequence[Row], settings: dpo.Settings) -> list[Group]:
    """Two pairs of every pair, each behind the levels of its winner."""
    made = []
    for (better, worse), weights in pairs(levelled(rows), settings.pairing):
        made.append(Group((better, {**worse, "levels": better["levels"]}), weights))
        made.append(Group((worse, {**better, "levels": worse["levels"]}), weights))
    return made


METHOD = Method(
    groups=groups,
    loss=dpo.loss,
    settings=dpo.Settings,
    per="prompt",
    needs={"ref", "whole condition"},
    condition=levels,
    fresh="rounds",
    rate=0.05,
)
