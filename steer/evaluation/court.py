"""Gold and proxy scorers, the unit of their rewards, and the logs that they are compared on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from steer.errors import SteerError
from steer.evaluation.systems import Answers, RewardScale
from steer.labelling.scorer import Scorer, scorer_of_new
from steer.methods.base import Array
from steer.rows import Row
from steer.rows.schema import Schema


@dataclass
class Court:
    """Scorers that judge; `rows` give the unit of the reward (their sd under each scorer), correlation and spans."""

    schema: Schema
    gold: Scorer
    proxy: Scorer
    rows: Sequence[Row]

    def scored(self, rows: Sequence[Row]) -> Answers:
        """Score responses with both scorers."""
        own = self.schema.own
        gold = self.gold.score(rows, own)
        return Answers(rows, gold, gold if self.proxy is self.gold else self.proxy.score(rows, own))

    @cached_property
    def logs(self) -> Answers:
        """The rows with their scores by both scorers."""
        return self.scored(self.rows)

    @cached_property
    def by_gold(self) -> RewardScale:
        """Gold's reward in sd of the rows."""
        return RewardScale.of(self.schema, self.logs.gold)

    @cached_property
    def by_proxy(self) -> RewardScale:
        """The proxy's reward in sd of the rows."""
        return RewardScale.of(self.schema, self.logs.proxy)

    @cached_property
    def spans(self) -> Array:
        """Span from 5 to 95 % of each attribute in the rows, in levels [A]."""
        return self.by_gold.spans(self.logs.gold)


def fitting(spec: str, flag: str, schema: Schema, *, trust_remote_code: bool = False) -> Scorer:
    """Load a scorer that judges, without flipped labels; SteerError if it cannot judge all attributes of the schema.

    `flag`: what the user names it by.
    """
    scorer = scorer_of_new(spec, flag, trust_remote_code=trust_remote_code)
    missing = [n for n in schema.own if n not in scorer.attributes]
    if missing:
        raise SteerError(f"scorer {scorer.id}: cannot judge new responses on {', '.join(missing)}. Name another one.")
    return scorer.evaluating()
