"""Likelihood that a response has the levels of its target, given the scores of a scorer (SteerLM 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from steer.rows.schema import Attribute, Schema

CONCENTRATION = 24.0  # of the Beta distribution of the true score around the predicted one (2406.08673)


def level_probability(attribute: Attribute, score: float, level: int) -> float:
    """Return the mass of Beta(24 r, 24 (1 - r)) over the bin of a level, r the score on 0..1.

    r stays 1/48 away from both ends, so that the distribution has a mode. The probabilities of all levels add up to 1.
    """
    from scipy.special import betainc

    def unit(x: float) -> float:
        if attribute.high == attribute.low:  # one score, one level: it is certain
            return 0.5
        return min(1.0, max(0.0, (x - attribute.low) / (attribute.high - attribute.low)))

    r = min(1 - 1 / 48, max(1 / 48, unit(score)))
    edges = [0.0, *map(unit, attribute.edges), 1.0]
    a, b = CONCENTRATION * r, CONCENTRATION * (1 - r)
    return float(betainc(a, b, edges[level + 1]) - betainc(a, b, edges[level]))


def log_likelihood(schema: Schema, scores: Mapping[str, float | None], target: Mapping[str, float]) -> float:
    """Return log P(target | prompt, response), attributes taken as independent; NaN where a score is unknown."""
    total = 0.0
    for name, level in target.items():
        score = scores.get(name)
        if score is None:
            return math.nan
        total += math.log(max(1e-30, level_probability(schema[name], score, schema[name].bin(level))))
    return total
