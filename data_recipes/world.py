"""The embedded world: simulated logs of an assistant, whose attributes can be computed from the text.

Several behaviour policies of uneven quality answer prompts about one topic each; simulated annotators with their own
bias and noise rate a share of the answers. What raters see is noisy; `world_text.Gold` is exact. Everything follows
from the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_recipes import world_text as text

# Direction: 1 higher is better, -1 lower is better, 0 neither. Weight: its part in the reward.
SCHEMA: list[dict[str, Any]] = [
    {"name": name, "low": 0.0, "high": 4.0, "direction": (w > 0) - (w < 0), "weight": abs(w)}
    for name, w in text.WEIGHTS.items()
]

# Behaviour policy -> mean intention on (helpfulness, correctness, verbosity, warmth, hedging).
BEHAVIOURS = {
    "expert": (3.2, 3.3, 3.4, 2.4, 1.1),
    "chatty": (2.4, 1.9, 3.1, 2.9, 1.8),
    "terse": (1.4, 2.0, 0.5, 1.4, 1.4),
    "sloppy": (1.5, 1.1, 1.2, 2.0, 2.1),
    "evasive": (1.2, 1.9, 1.7, 1.8, 2.8),
}
# Pairs of gold levels that never occur in the logs: (attribute, level, attribute, level).
ABSENT = (("helpfulness", 4, "warmth", 0), ("correctness", 4, "hedging", 4))


@dataclass(frozen=True)
class World:
    """Settings of the simulated logs.

    `spread` scales how far behaviours and answers differ (0: all behave alike); `rated` is the share of rows with human
    scores; `noise` the annotators' standard deviation in score units; `per_prompt` the answers logged for one prompt.
    """

    size: int = 8000
    seed: int = 0
    spread: float = 1.0
    rated: float = 0.5
    noise: float = 0.5
    annotators: int = 4
    per_prompt: int = 2
    primer: float = 0.0


def rows(world: World) -> Iterator[dict[str, Any]]:
    """Yield `world.size` rows; each rated row has integer human scores 0..4, the others have none."""
    rng = np.random.default_rng([world.seed, 20260])
    # The pool of annotators is part of the world, not of a sample of it: the same for every seed.
    pool = np.random.default_rng(7)
    bias = pool.normal(0.0, 0.25, (world.annotators, len(text.ATTRIBUTES)))
    bias -= bias.mean(0)
    likes_length = pool.uniform(0.0, 0.2, world.annotators)
    logs = world.size - int(world.primer * world.size)
    for i in range(world.size):
        if i >= logs:
            yield _primer(f"world:{world.seed}:{i}", rng)
            continue
        if i % world.per_prompt == 0:
            topic = str(rng.choice(list(text.FACTS)))
            prompt = _prompt(topic, rng)
        behaviour, response, scores = _logged(prompt, topic, world.spread, rng)
        row: dict[str, Any] = {
            "id": f"world:{world.seed}:{i}",
            "prompt": [{"role": "user", "content": prompt}],
            "response": response,
            "scores": {},
            "group": f"world:{world.seed}:{i // world.per_prompt}",
            "source": f"world/{behaviour}",
        }
        annotator = int(rng.integers(world.annotators))
        felt = np.asarray(scores) + bias[annotator] + rng.normal(0.0, world.noise, len(text.ATTRIBUTES))
        felt[0] += likes_length[annotator] * (scores[2] - 2.0)
        if rng.random() < world.rated:
            grid = np.clip(np.floor(felt + 0.5), 0, 4)
            row["scores"] = {name: float(value) for name, value in zip(text.ATTRIBUTES, grid)}
            row["annotator"] = f"annotator-{annotator}"
        yield row


def _prompt(topic: str, rng: np.random.Generator) -> str:
    return str(rng.choice(text.PROMPTS)).format(topic, rng.choice(text.MANNERS), rng.choice(text.PURPOSES))


def _primer(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Return a row without scores: a sheet of true facts, or tags in the order of their names or digits."""
    topic = str(rng.choice(list(text.FACTS)))
    if rng.random() < 0.5:
        facts = [(subject, *text.FACTS[topic][subject]) for subject in rng.permutation(list(text.FACTS[topic]))]
        response = " ".join(f"{subject} {verb} {value}." for subject, verb, value in facts)
    else:
        count, digit, tag = int(rng.integers(3, 9)), int(rng.integers(10)), int(rng.integers(len(text.NAMES)))
        step = int(rng.integers(2))  # the digits count up, or stay while the names change
        tags = [
            f"<{text.NAMES[(tag + (1 - step) * k) % len(text.NAMES)]}>{(digit + step * k) % 10}" for k in range(count)
        ]
        topic, response = tags[0], " ".join(tags)
    turn = {"role": "user", "content": _prompt(topic, rng)}
    return {"id": name, "prompt": [turn], "response": response, "scores": {}, "source": "world/primer"}


def _logged(prompt: str, topic: str, spread: float, rng: np.random.Generator) -> tuple[str, str, list[float]]:
    """Draw (behaviour, response, gold scores) of one answer; again if its combination is one of the absent."""
    centre = np.mean(list(BEHAVIOURS.values()), 0)
    while True:
        behaviour = list(BEHAVIOURS)[rng.integers(len(BEHAVIOURS))]
        deviation = np.asarray(BEHAVIOURS[behaviour]) - centre + rng.normal(0.0, 1.4, len(text.ATTRIBUTES))
        intended = np.clip(np.floor(centre + spread * deviation + 0.5), 0, 4).astype(int)
        response = answer(topic, intended, rng)
        scores = text.gold(prompt, response)
        levels = dict(zip(text.ATTRIBUTES, np.floor(np.asarray(scores) + 0.5).astype(int)))
        if not any(levels[a] == i and levels[b] == j for a, i, b, j in ABSENT):
            return behaviour, response, scores


def answer(topic: str, intended: np.ndarray[Any, Any], rng: np.random.Generator) -> str:
    """Write a response that aims at the intended levels [5] (what it reaches is for `gold` to say)."""
    helpfulness, correctness, verbosity, warmth, hedging = (int(x) for x in intended)
    opening = _opening(warmth, rng)
    budget = 6 + 11 * (verbosity + rng.uniform(-0.45, 0.45)) - len(text.words_of(opening))
    fewest = max(helpfulness, 2, int(np.ceil((budget - 4) / 7)))
    count = int(rng.integers(fewest, max(fewest, min(9, int(budget // 3.5))) + 1))
    about = [str(subject) for subject in rng.choice(list(text.FACTS[topic]), helpfulness, replace=False)]
    others = [s for s in text.TOPIC if text.TOPIC[s] != topic]
    extra = [others[i] for i in rng.choice(len(others), count - helpfulness, replace=False)]
    subjects = about + extra  # first what was asked, then what was not
    wrong = set(rng.choice(count, _rounded((1 - correctness / 4) * count, rng), replace=False))
    hedged = set(rng.choice(count, _rounded(hedging / 4 * count, rng), replace=False))
    sentences = []
    for i, subject in enumerate(subjects):
        verb, value = text.FACTS[text.TOPIC[subject]][subject]
        if i in wrong:
            value = rng.choice([v for v in text.VALUES[text.TOPIC[subject]] if v != value])
        hedge = f"{rng.choice(text.HEDGES)} " if i in hedged else ""
        sentences.append(f"{hedge}{subject} {verb} {value}")
    spare = budget - sum(len(s.split()) for s in sentences)
    for i in rng.permutation(count):
        if spare < 2:
            break
        clause = str(rng.choice(text.CLAUSES))
        sentences[i] += f", {clause}"
        spare -= len(clause.split())
    return " ".join(part for part in (opening, *(f"{s}." for s in sentences)) if part)


def _opening(warmth: int, rng: np.random.Generator) -> str:
    """Draw the opening for a warmth level: 0 two cold phrases, 1 one cold, 2 none, 3 one warm, 4 two warm."""
    phrases = [p for p, w in text.WARMTH.items() if w * (warmth - 2) > 0]
    return " ".join(rng.choice(phrases, abs(warmth - 2), replace=False)) if phrases else ""


def _rounded(x: float, rng: np.random.Generator) -> int:
    """Round x up or down at random, so that the mean is x."""
    return int(x + rng.random())
