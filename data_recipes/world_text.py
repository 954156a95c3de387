"""The text of the embedded world: its facts, its phrases, and the exact gold scores of a response.

A response is a few short fact sentences ("bees make honey."), which may be hedged ("maybe bees make honey."), stretched
by a clause ("bees make honey, as everyone knows.") and opened by warm or cold phrases. Everything that is scored is
counted from the text alone, so generated text has exact gold scores too. All scores lie on 0..4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_recipes.metadata import words

# Topic -> verb and "subject value" pairs. A false statement takes the value of another subject of its topic.
_TOPICS = {
    "colours": ("is", "snow white, grass green, coal black, blood red, gold yellow, cobalt blue"),
    "products": ("give", "bees honey, cows milk, hens eggs, sheep wool, spiders webs, oysters pearls"),
    "diets": ("eat", "pandas bamboo, rabbits carrots, squirrels nuts, bats moths, seals fish, mice corn"),
    "homes": ("inhabit", "whales oceans, camels deserts, bears forests, goats mountains, moles tunnels, otters rivers"),
    "capitals": ("graces", "paris france, rome italy, cairo egypt, tokyo japan, lima peru, oslo norway"),
    "materials": ("needs", "bread flour, wine grapes, paper wood, glass sand, beer barley, rope hemp"),
    "sounds": ("utter", "dogs barks, lions roars, ducks quacks, cats purrs, owls hoots, snakes hisses"),
    "trades": ("sell", "bakers cakes, florists roses, tailors suits, grocers plums, cobblers shoes, butchers meat"),
}
FACTS: dict[str, dict[str, tuple[str, str]]] = {  # topic -> subject -> (verb, true value)
    topic: {pair.split()[0]: (verb, pair.split()[1]) for pair in pairs.split(", ")}
    for topic, (verb, pairs) in _TOPICS.items()
}
TOPIC = {subject: topic for topic, facts in FACTS.items() for subject in facts}
VALUES = {topic: tuple(value for _, value in facts.values()) for topic, facts in FACTS.items()}
HEDGES = ("maybe", "perhaps", "possibly", "supposedly")
CLAUSES = (
    "as everyone knows",
    "which is easy to check",
    "at least around here",
    "as the old books say",
    "and children learn it early",
    "no matter the season",
    "to put it simply",
    "as my teacher told me",
)
# Phrase -> how much warmth it adds (logits of the warmth score).
WARMTH = {
    "hello friend!": 1.0,
    "happy to help!": 1.15,
    "what a lovely question!": 1.3,
    "good to hear you!": 0.9,
    "thank you for asking!": 1.1,
    "glad you asked!": 1.05,
    "fine.": -0.9,
    "you again.": -1.15,
    "must i repeat this.": -1.3,
    "listen now.": -1.0,
    "stop asking me.": -1.1,
    "do not bother me.": -1.05,
}
PROMPTS = (
    "tell me about {} for my {} {}.",
    "what should i know about {} for a {} {}?",
    "please explain {}, it is for the {} {}.",
    "i wonder about {} because of my {} {}.",
    "can you describe {} for our {} {}?",
    "my {1} {2} is on {0}.",
)
MANNERS = ("short", "new", "old", "little", "big", "good", "late", "secret")
PURPOSES = words("""
    homework garden journey speech quiz book class party letter song poster museum play blog film lesson tale game trip
    report riddle diary toast poem
""")
# Attribute -> its part in the reward: below 0 where less is better, 0 where neither end is.
WEIGHTS = {"helpfulness": 1.0, "correctness": 1.0, "verbosity": 0.0, "warmth": 0.5, "hedging": -0.5}
ATTRIBUTES = tuple(WEIGHTS)
NAMES = (*ATTRIBUTES, "reward", "quality", "helpful")  # tags that the world's tokenizer holds whole
WORD = re.compile(r"[a-z]+")


def words_of(text: str) -> list[str]:
    """Return the words in lower case, without punctuation.

    >>> words_of("maybe bees give honey.")
    ['maybe', 'bees', 'give', 'honey']
    """
    return WORD.findall(text.lower())


def facts_of(words: Sequence[str]) -> list[tuple[int, str, bool]]:
    """Return (position, subject, true or not) of every well-formed statement, each distinct statement once.

    >>> facts_of(words_of("bees give honey. snow is red. bees give honey."))
    [(0, 'bees', True), (3, 'snow', False)]
    """
    facts: dict[tuple[str, str], tuple[int, str, bool]] = {}
    for i, (subject, verb, value) in enumerate(zip(words, words[1:], words[2:])):
        topic = TOPIC.get(subject)
        if topic and FACTS[topic][subject][0] == verb and value in VALUES[topic]:
            facts.setdefault((subject, value), (i, subject, FACTS[topic][subject][1] == value))
    return list(facts.values())


def gold(prompt: str, response: str) -> list[float]:
    """Return the exact scores, in the order of ATTRIBUTES, each on 0..4.

    helpfulness: different subjects of the asked topic that are addressed, four at most, each counting 1 less .25 times
    how late it comes;
    correctness: 4 (true + 1/4) / (statements + 1/2), so 2 where nothing is stated;
    verbosity: (words - 6) / 11;
    warmth: 4 sigmoid(sum of the phrase weights);
    hedging: 4 hedges / (statements + 1/4), lower is better.
    """
    words = words_of(response)
    facts = facts_of(words)
    asked = {word for word in words_of(prompt) if word in FACTS}
    first = {subject: i for i, subject, _ in reversed(facts) if TOPIC[subject] in asked}
    helpfulness = sum(1 - 0.25 * i / len(words) for i in sorted(first.values())[:4])
    correctness = 4 * (sum(true for _, _, true in facts) + 0.25) / (len(facts) + 0.5)
    verbosity = (len(words) - 6) / 11
    warmth = 4 / (1 + math.exp(-sum(w * response.count(phrase) for phrase, w in WARMTH.items())))
    hedging = 4 * sum(word in HEDGES for word in words) / (len(facts) + 0.25)
    return [min(4.0, max(0.0, x)) for x in (helpfulness, correctness, verbosity, warmth, hedging)]


class Gold:
    """Ground truth of the world, with the interface of an attribute model; only evaluation may see it."""

    attributes = ATTRIBUTES
    weights = WEIGHTS

    def score(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
        """Return the exact scores [n, 5] on 0..4."""
        scores = [gold(row["prompt"][-1]["content"], row["response"]) for row in rows]
        return np.asarray(scores, dtype=np.float64).reshape(len(rows), len(ATTRIBUTES))
