"""Chain of hindsight (2302.02676): an answer, then another one to the same prompt, each conditioned on its own levels.

-log p of both answers, averaged over the tokens of a step. Pairs of responses with different rewards make a chain in
either order: the second answer reads the first one and `AGAIN` as turns before it.
Pairs of which an answer calls tools are left out and counted: results would have to stand between the two.
Differs from the official code: feedback is the condition, not a sentence; chains have two answers, there one too; no
words of the first answer are hidden at random, and there is no likelihood of other text beside it; the mean is over
tokens, there over the means of packed rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steer.errors import SteerError
from steer.methods import conditional
from steer.methods.groups import Group, levelled, pairs, singles
from steer.methods.preferences import Pairing
from steer.rows import Row

Settings = Pairing
AGAIN = "Answer again."  # the turn between two answers


def chain(first: Row, second: Row) -> list[Row]:
    """Rows of a chain: the first answer as it is, and the second one to a prompt that holds the first."""
    name = f"{first['id']} {second['id']}"
    turns = [{"role": "assistant", "content": first["response"]}, {"role": "user", "content": AGAIN}]
    after = {**second, "id": name, "prompt": [*second["prompt"], *turns]}
    return [row | {"conversation": name} for row in (first, after)]


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Chains of every pair in both orders, a row for each answer."""
    every = pairs(levelled(rows), settings.pairing)
    formed = [g for g in every if not any(row.get("tool_calls") for row in g.rows)]
    if not formed:
        raise SteerError(
            f"an answer of each of the {len(every)} pairs calls tools, whose results would have to stand between the "
            "answers of a chain. Take reward-augmented, which learns from such pairs."
        )
    return singles([row for g in formed for two in (g.rows, g.rows[::-1]) for row in chain(*two)])


METHOD = replace(
    conditional.METHOD,
    rows="levelled pairs",
    groups=groups,
    settings=Settings,
)
