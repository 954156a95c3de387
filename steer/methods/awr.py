"""Advantage-weighted regression (1910.00177), with a baseline that reads the prompt only.

-w log p(y | x) with w = exp(a / beta), a the standardised r - V(x), w scaled to mean 1 and then clipped. V is a ridge
on the TF-IDF of the prompt, and each prompt's value comes from a fit that has not seen it.
Differs from the official code: V is fitted once on the logs, not along with the policy; weights are clipped there as
they are, not scaled to mean 1 first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steer.methods.base import Method, weighted_nll
from steer.methods.groups import Group, exponential, rewarded, standardised
from steer.rows import Row, prompt_key
from steer.settings import Checked, option

FOLDS = 5
WORDS = 2000  # the commonest of the prompts; the ridge is solved in so many dimensions


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of awr."""

    beta: float = option(1.0, "Temperature in standard deviations of the advantage.", above=0, most=math.inf)
    clip: float = option(20.0, "The largest weight.", above=0, most=math.inf)


def values(rows: Sequence[Row]) -> list[float]:
    """V(x) of every row's prompt, from a fit without it; the mean reward if there are fewer prompts than folds."""
    rewards = [float(row["reward"]) for row in rows]
    keys = [prompt_key(row) for row in rows]
    if len(set(keys)) < FOLDS:
        return [sum(rewards) / len(rewards)] * len(rows)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    first = {key: i for i, key in reversed(list(enumerate(keys)))}  # a row of every prompt
    texts = [" ".join(turn["content"] for turn in rows[i]["prompt"]) for i in first.values()]
    sums, counts = dict.fromkeys(first, 0.0), dict.fromkeys(first, 0.0)
    for key, reward in zip(keys, rewards):
        sums[key] += reward
        counts[key] += 1.0
    means, weight = np.array([sums[k] / counts[k] for k in first]), np.array(list(counts.values()))
    # Single characters are words too: a prompt may be nothing but a question mark. No norm: a rare word in the fits
    # would weigh the others of its prompt down, and be missing when V is predicted.
    words = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", binary=True, norm=None, max_features=WORDS)
    predicted = np.zeros(len(texts))
    for fit, rest in KFold(FOLDS, shuffle=True, random_state=0).split(texts):
        model = RidgeCV(alphas=(1.0, 10.0, 100.0, 1000.0))
        model.fit(words.fit_transform([texts[i] for i in fit]).toarray(), means[fit], sample_weight=weight[fit])
        predicted[rest] = model.predict(words.transform([texts[i] for i in rest]).toarray())
    value = dict(zip(first, predicted.tolist()))
    return [value[key] for key in keys]


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Every row with a known reward, weighted by its advantage."""
    scored = rewarded(rows)
    advantages = standardised([row["reward"] - v for row, v in zip(scored, values(scored))])
    return [Group((row,), (w,)) for row, w in zip(scored, exponential(advantages, settings.beta, settings.clip))]


METHOD = Method(rows="rewards", groups=groups, loss=weighted_nll, settings=Settings, per="token")
