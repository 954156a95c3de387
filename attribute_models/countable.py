"""Attributes that can be counted: exact, verifiable, nothing to download.

COUNTABLE maps a name to a function of the response; AGAINST_PROMPT to a function of the prompt's last turn and the
response. Both are pure and defined on every string: a share of nothing is 0, and so is a rate over no words or no
sentences. A word is a run of letters, digits and underscores that may hold apostrophes ("don't" is one word, "3.14"
two); scripts written without spaces therefore give long words. Letter case never matters.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from attribute_models import Row, settings, texts, unknown, write_settings
from attribute_models.arrays import Array

WORD = re.compile(r"\w+(?:['’]\w+)*")
LIST_ITEM = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+(?=\S)", re.MULTILINE)
# A sentence ends at . ! ? or … before white space (closing quotes and brackets may stand between), at 。！？, at a
# blank line. An abbreviation ("Dr. Who") therefore ends one.
SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++(?=[\"'”’»)\]*_]*(?:\s|$))|[。！？]+|\n[ \t]*\n|$")
QUOTED = re.compile(r"\"(?:[^\"\n]|\n(?!\n))*\"|“[^”“]*”")
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
SPACE = re.compile(r"\s+")
VOWELS = re.compile(r"[aeiouy]+")
SILENT_E = re.compile(r"(?:[aeiouy]l|[^aeiouyl])e$")

# English words that say nothing about the subject; every other word is a content word.
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about after all also am an and any are as at be been before being but by can could did do does for from had
        has have he her here him his how i if in into is it its just me more most my no not now of on only or other our
        out over please she should so some such than that the their them then there these they this those to too up us
        was we were what when where which who why will with would you your""",
    )
)


@functools.lru_cache(maxsize=8)
def tokens(text: str) -> tuple[str, ...]:
    """Words of a text in lower case. The last few texts are cached: several attributes read each of them.

    >>> tokens("Don't look: 2 cats!")
    ("don't", 'look', '2', 'cats')
    """
    return tuple(WORD.findall(text.lower()))


@functools.lru_cache(maxsize=8)
def sentence_ends(text: str) -> tuple[str, ...]:
    """The end of each sentence, "" if nothing closes it. A list item is a sentence; a stretch without words is none.

    >>> sentence_ends('Really?! "Yes." It is 3.5 m')
    ('?!', '.', '')
    """
    ends = []
    plain = LIST_ITEM.sub("\n\n", text)
    start = 0
    for end in SENTENCE_END.finditer(plain):
        if WORD.search(plain, start, end.start()):
            ends.append(end.group().strip())
        start = end.end()
    return tuple(ends)


@functools.lru_cache(maxsize=50_000)
def syllables(word: str) -> int:
    """Groups of the vowels a e i o u y (accents dropped), less a silent final e, at least one.

    >>> [syllables(word) for word in ("the", "table", "while", "banana", "Café")]
    [1, 2, 1, 3, 2]
    """
    silent = SILENT_E.search(word.lower())
    plain = unicodedata.normalize("NFKD", word.lower())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return max(1, len(VOWELS.findall(plain)) - bool(silent))


@functools.lru_cache(maxsize=8)
def content_words(text: str) -> frozenset[str]:
    """The distinct words of a text that are not in STOP_WORDS."""
    return frozenset(tokens(text)) - STOP_WORDS


def share(part: float, whole: float) -> float:
    """Divide part by whole; 0 of nothing."""
    return part / whole if whole else 0.0


def inked(text: str) -> int:
    """Characters of a text that are not white space."""
    return len(SPACE.sub("", text))


def words(text: str) -> float:
    """Number of words."""
    return float(len(tokens(text)))


# Characters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def length(text: str) -> float:
    """Number of words, where each character counts as one in scripts without spaces between words.

    >>> length("two words"), length("你好。 two words")
    (2.0, 4.0)
    """
    rest, count = UNSPACED.subn(" ", text)
    return words(rest) + count


def characters(text: str) -> float:
    """Number of characters (Unicode code points), white space included."""
    return float(len(text))


def word_length(text: str) -> float:
    """Mean characters per word."""
    return share(sum(map(len, tokens(text))), len(tokens(text)))


def sentences(text: str) -> float:
    """Number of sentences; a last one without a full stop counts, a list item counts."""
    return float(len(sentence_ends(text)))


def words_per_sentence(text: str) -> float:
    """Mean words per sentence."""
    return share(words(text), sentences(text))


def reading_ease(text: str) -> float:
    """Reading ease of Flesch (1948): about 0 (hard) to 100 (easy), not bounded; 0 for a text without words."""
    if not tokens(text):
        return 0.0
    return 206.835 - 1.015 * words_per_sentence(text) - 84.6 * sum(map(syllables, tokens(text))) / words(text)


def type_token_ratio(text: str) -> float:
    """Distinct words over words. Falls with length.

    >>> type_token_ratio("the cat and the dog")
    0.8
    """
    return share(len(set(tokens(text))), len(tokens(text)))


def repetition(text: str) -> float:
    """Share of the word 3-grams that occurred before in the same text.

    >>> repetition("a b c a b c")
    0.25
    """
    sequence = tokens(text)
    grams = list(zip(sequence, sequence[1:], sequence[2:]))
    return share(len(grams) - len(set(grams)), len(grams))


def question_share(text: str) -> float:
    """Share of the sentences that end with a question mark.

    >>> question_share("Who? Me. Why?! No")
    0.5
    """
    ends = sentence_ends(text)
    return share(sum("?" in end or "？" in end for end in ends), len(ends))


def exclamation_share(text: str) -> float:
    """Share of the sentences that end with an exclamation mark."""
    ends = sentence_ends(text)
    return share(sum("!" in end or "！" in end for end in ends), len(ends))


def dialogue_share(text: str) -> float:
    """Share of the words that stand inside double quotes, straight or curly; a quote that never closes is none.

    >>> dialogue_share('"Run now," he said.')
    0.5
    """
    return share(sum(len(tokens(quoted)) for quoted in QUOTED.findall(text)), len(tokens(text)))


def digit_share(text: str) -> float:
    """Share of the characters that are decimal digits, white space not counted.

    >>> digit_share("in 10")
    0.5
    """
    return share(sum(map(str.isdecimal, text)), inked(text))


def list_items(text: str) -> float:
    """Lines that start with a markdown bullet (- * + •) or a number (1. or 1))."""
    return float(len(LIST_ITEM.findall(text)))


def code_share(text: str) -> float:
    """Share of the characters inside backtick spans or fences (an open fence runs to the end), white space not counted.

    >>> code_share("ab `cd`")
    0.6666666666666666
    """
    return share(sum(map(inked, CODE.findall(text))), inked(text))


def prompt_overlap(prompt: str, response: str) -> float:
    """Share of the prompt's distinct content words that the response has.

    >>> prompt_overlap("Tell a story about a dog and a kite", "The dog ran. Tell me!")
    0.5
    """
    asked = content_words(prompt)
    return share(len(asked & content_words(response)), len(asked))


def response_overlap(prompt: str, response: str) -> float:
    """Share of the response's distinct content words that the prompt has."""
    return prompt_overlap(response, prompt)


# Attribute -> function of the response.
COUNTABLE: dict[str, Callable[[str], float]] = {
    count.__name__: count
    for count in (
        *(words, characters, word_length, sentences, words_per_sentence, reading_ease, type_token_ratio, repetition),
        *(question_share, exclamation_share, dialogue_share, digit_share, list_items, code_share),
    )
}

# Attribute -> function of (the prompt's last turn, the response).
AGAINST_PROMPT: dict[str, Callable[[str, str], float]] = {
    "prompt_overlap": prompt_overlap,
    "response_overlap": response_overlap,
}


class Countable:
    """Scores rows on attributes that are counted; there is nothing to fit.

    `attributes` are names of COUNTABLE or AGAINST_PROMPT; another name is a ValueError that lists them. Units are those
    of the functions, and no score is ever unknown.
    """

    def __init__(self, attributes: Sequence[str]) -> None:
        self.attributes = tuple(attributes)
        known = COUNTABLE | AGAINST_PROMPT
        for name in self.attributes:
            if name not in known:
                raise ValueError(unknown("countable attribute", name, known))

    def score(self, rows: Sequence[Row]) -> Array:
        """Exact values [n, A], never NaN."""
        values = [
            [COUNTABLE[a](response) if a in COUNTABLE else AGAINST_PROMPT[a](prompt, response) for a in self.attributes]
            for prompt, response in texts(rows)
        ]
        return np.asarray(values, dtype=np.float64).reshape(len(values), len(self.attributes))

    def save(self, folder: str | Path) -> None:
        """Write `model.json`."""
        write_settings(folder, {"model": "countable", "attributes": self.attributes})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote."""
        return cls(settings(folder)["attributes"])
