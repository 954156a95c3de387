"""Features of a row for a linear model, in which parts, amounts and answers are linear.

- Parts: TF-IDF of the response's 1-, 2- and 3-grams (words and punctuation), each row of length 1: how large a part of
  the response a phrase is.
- Amounts: the same weights of single words without that division: how many there are.
- Measures, standardised: countable attributes, and how the prompt's last turn and the response share content words
  (the shares, and how many are taken up, left out and added).
- Pairs: which content word of the prompt meets which of the response, so that what answers a question can be learned
  where it does not repeat the question's words (supervised semantic indexing, Bai et al. 2009).
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse

from attribute_models.arrays import Array, Mask
from attribute_models.countable import COUNTABLE, content_words, share

TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
AMOUNTS_WEIGHT = 0.5  # of single words, beside parts of length 1
MEASURES_WEIGHT = 0.3  # of each standardised measure
PAIRS_WEIGHT = 2.0  # of pairs
FURTHEST = 5.0  # standard deviations at which a measure is clipped: a line is not trusted further out
ASKED = 256  # words of prompts that are paired, the commonest ones
ASKED_AT_ONCE = 16  # paired words of one prompt at most, the rarest

LOGGED = ("words", "characters", "sentences", "words_per_sentence", "list_items")
PLAIN = (
    *("word_length", "reading_ease", "type_token_ratio", "repetition", "question_share", "exclamation_share"),
    *("dialogue_share", "digit_share", "code_share"),
)
AGAINST = ("prompt_overlap", "response_overlap", "log_taken_up", "log_left_out", "log_added", "log_asked")
MEASURES = (*(f"log_{name}" for name in LOGGED), *PLAIN, *AGAINST)


def grams(text: str) -> list[str]:
    """Words and punctuation marks of a text in lower case, and the 2- and 3-grams of them.

    >>> grams("Go on!")
    ['go', 'on', '!', 'go on', 'on !', 'go on !']
    """
    one = TOKEN.findall(text.lower())
    two = [f"{a} {b}" for a, b in itertools.pairwise(one)]
    return one + two + [f"{a} {b}" for a, b in zip(two, one[2:])]


def pairs(prompt: str, response: str, rank: Mapping[str, int]) -> list[str]:
    """Pairs "asked<tab>said" for each content word of the response and the prompt's first ASKED_AT_ONCE by rank.

    >>> pairs("Tell me about capitals", "Rome!", {"capitals": 0})
    ['capitals\\trome']
    """
    asked = sorted((word for word in content_words(prompt) if word in rank), key=rank.__getitem__)
    return [f"{a}\t{b}" for a in asked[:ASKED_AT_ONCE] for b in content_words(response)]


def measures(texts: Iterable[tuple[str, str]]) -> Array:
    """MEASURES [n, D] of (prompt's last turn, response)."""
    lines = []
    for prompt, response in texts:
        asked, answered = content_words(prompt), content_words(response)
        both = len(asked & answered)
        amounts = (both, len(asked) - both, len(answered) - both, len(asked))
        lines.append(
            [math.log1p(COUNTABLE[name](response)) for name in LOGGED]
            + [COUNTABLE[name](response) for name in PLAIN]
            + [share(both, len(asked)), share(both, len(answered)), *map(math.log1p, amounts)]
        )
    return np.asarray(lines, dtype=np.float64).reshape(-1, len(MEASURES))


@dataclass(frozen=True)
class Counts:
    """Counts of rows before any statistics."""

    grams: sparse.csr_matrix  # [n, V]
    measures: Array  # [n, D]
    pairs: sparse.csr_matrix  # [n, P]

    def __getitem__(self, rows: Mask) -> Counts:
        return Counts(self.grams[rows], self.measures[rows], self.pairs[rows])


@dataclass(frozen=True)
class Vocabulary:
    """The terms that have a column, chosen without the scores."""

    grams: tuple[str, ...]  # V
    asked: tuple[str, ...] = ()  # words of prompts that are paired, the rarest first
    pairs: tuple[str, ...] = ()  # P

    @classmethod
    def of(cls, texts: Sequence[tuple[str, str]], min_df: int, most: int) -> Self:
        """Choose n-grams and pairs that min_df of the (prompt's last turn, response) have, at most `most` of each."""
        prompts = Counter(word for prompt in {prompt for prompt, _ in texts} for word in content_words(prompt))
        asked = _widespread(prompts, 2, ASKED)[::-1]
        rank = {word: i for i, word in enumerate(asked)}
        counted = Counter(gram for _, response in texts for gram in set(grams(response)))
        met = Counter(pair for prompt, response in texts for pair in pairs(prompt, response, rank))
        return cls(
            grams=tuple(sorted(_widespread(counted, min_df, most))),
            asked=tuple(asked),
            pairs=tuple(sorted(_widespread(met, min_df, most))),
        )

    def count(self, texts: Sequence[tuple[str, str]]) -> Counts:
        """Count the terms of (prompt's last turn, response); those without a column are not counted."""
        rank = {word: i for i, word in enumerate(self.asked)}
        return Counts(
            grams=_occurrences([grams(response) for _, response in texts], self.grams),
            measures=measures(texts),
            pairs=_occurrences([pairs(prompt, response, rank) for prompt, response in texts], self.pairs),
        )


@dataclass(frozen=True)
class Scaling:
    """The statistics that turn counts into features, learned from training rows alone."""

    idf: Array  # [V], 0 for n-grams that too few training rows have
    single: Mask  # [V], which n-grams are one word
    amount: Array  # [], root mean square length of the weighted single words of a row
    mean: Array  # [D]
    deviation: Array  # [D], 1 where a measure is constant
    met: Array  # [], root mean square length of the pairs of a row

    @classmethod
    def of(cls, counts: Counts, vocabulary: Vocabulary, min_df: int) -> Self:
        """Learn the scaling from training rows; an n-gram that fewer than min_df of them have is ignored."""
        n, size = counts.grams.shape
        df = np.bincount(counts.grams.indices, minlength=size)
        idf = np.where(df >= min_df, np.log((1 + n) / (1 + df)) + 1, 0.0)
        single = np.asarray([" " not in gram for gram in vocabulary.grams], dtype=np.bool_)
        deviation = counts.measures.std(0)
        return cls(
            idf=idf,
            single=single,
            amount=_typical(_weighted(counts.grams, idf)[:, single]),
            mean=counts.measures.mean(0),
            deviation=np.where(deviation > 1e-9, deviation, 1.0),
            met=_typical(counts.pairs),
        )

    def apply(self, counts: Counts, *, paired: bool) -> sparse.csr_matrix:
        """Features, sparse [n, V + single words + D (+ P)]; a row's depend on that row alone, to the bit."""
        weighted = _weighted(counts.grams, self.idf)
        length = np.sqrt(np.asarray(weighted.power(2).sum(1)).ravel())
        parts = sparse.diags(1 / np.where(length > 0, length, 1.0)) @ weighted
        amounts = weighted[:, self.single] * (AMOUNTS_WEIGHT / float(self.amount))
        standard = np.clip((counts.measures - self.mean) / self.deviation, -FURTHEST, FURTHEST) * MEASURES_WEIGHT
        blocks = [parts, amounts, sparse.csr_matrix(standard)]
        if paired:
            blocks.append(counts.pairs * (PAIRS_WEIGHT / float(self.met)))
        return sparse.csr_matrix(sparse.hstack(blocks, format="csr"))


def _widespread(df: Counter[str], min_df: int, most: int) -> list[str]:
    """The terms by falling document frequency, at least min_df, at most `most` of them; ties in alphabetical order."""
    return sorted((term for term in df if df[term] >= min_df), key=lambda term: (-df[term], term))[:most]


def _occurrences(terms: Sequence[Sequence[str]], columns: Sequence[str]) -> sparse.csr_matrix:
    """Count each column's term in the terms of each row: sparse [n, columns]."""
    column = {term: i for i, term in enumerate(columns)}
    places = [[column[term] for term in row if term in column] for row in terms]
    starts = np.cumsum([0, *map(len, places)])
    ones = np.ones(starts[-1])
    counted = sparse.csr_matrix((ones, [i for row in places for i in row], starts), shape=(len(places), len(column)))
    counted.sum_duplicates()
    return counted


def _weighted(counts: sparse.csr_matrix, idf: Array) -> sparse.csr_matrix:
    """Weight counts: (1 + log count) * idf (Salton and Buckley 1988)."""
    weighted = counts.copy()
    weighted.data = (1 + np.log(counts.data)) * idf[counts.indices]
    return weighted


def _typical(x: sparse.csr_matrix) -> Array:
    """Root mean square length of the rows of x [n, p], 1 if all are empty."""
    return np.asarray(np.sqrt(x.power(2).sum() / x.shape[0]) or 1.0)
