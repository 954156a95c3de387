"""Reward-weighted regression ("reward regression" of 2308.12050; Peters & Schaal 2007).

-w log p(y | x) with w = exp(z / beta), z the reward standardised over the training set, w scaled to mean 1 over it and
then clipped. Divided by the response tokens of the step, not by the weights, so a step of poor rows is a small step.
Differs from the official code: rewards are standardised first, weights scaled to mean 1 and clipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steer.methods.base import Method, weighted_nll
from steer.methods.groups import Group, exponential, rewarded, standardised
from steer.rows import Row
from steer.settings import Checked, option


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of rwr."""

    beta: float = option(1.0, "Temperature in standard deviations of the reward.", above=0, most=math.inf)
    clip: float = option(20.0, "The largest weight.", above=0, most=math.inf)


def weights(rewards: Sequence[float], s: Settings) -> list[float]:
    """min(clip, exp(z / beta) / mean(exp(z / beta))) for z the standardised rewards."""
    return exponential(standardised(rewards), s.beta, s.clip)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Every row with a known reward, weighted."""
    scored = rewarded(rows)
    return [Group((row,), (w,)) for row, w in zip(scored, weights([row["reward"] for row in scored], settings))]


METHOD = Method(rows="rewards", groups=groups, loss=weighted_nll, settings=Settings, per="token")
