"""Reward-augmented direct preference optimisation (2410.08067): pairs conditioned on a goal, which decides the winner.

A pair of responses gives two: conditioned on the levels of the better one it wins; conditioned on those of the worse
one the worse one wins, being nearer to what was asked. The loss is dpo's. Two goals that read alike drop out in
training. Conditions are whole: after a dropout the worse response could win.
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
    """Two pairs of every pair, each conditioned on the levels of its winner."""
    goals = []
    for (better, worse), weights in pairs(levelled(rows), settings.pairing):
        goals.append(Group((better, {**worse, "levels": better["levels"]}), weights))
        goals.append(Group((worse, {**better, "levels": worse["levels"]}), weights))
    return goals


METHOD = Method(
    rows="levelled pairs",
    groups=groups,
    loss=dpo.loss,
    settings=dpo.Settings,
    per="prompt",
    needs={"ref", "whole condition"},
    condition=levels,
    rate=0.05,
)
