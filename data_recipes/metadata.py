"""Tell scores from other numbers of a response: ratings are scores, measures and counts are not.

`metadata` goes by the name alone. `Values` is for names that say nothing: a rating is bounded and does not count rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from data_recipes.cells import one_way


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text: how lists of names are written here."""
    return tuple(text.split())


WORDS = words("""
    id ids uuid guid hash sha index idx unnamed row rows line offset position seed temperature timestamp ts time
    date datetime year month day hour minute created updated modified latency ms sec secs second seconds millis
    duration elapsed runtime ttft price cost costs usd eur cents token tokens version revision epoch step steps
    batch fold page age size bytes turns port pid model annotator worker longitude latitude redacted anony anonymized
    retry retries attempt attempts logprob logprobs penalty cached stream streaming synthetic rowid rownum rownumber
""")
ABOUT = words("std stdev stddev stderr var variance weight at")  # last words of names of what is no score
ABOUT_RATINGS = words("timestamp stamp ts time datetime date ms id ids uuid guid hash version count source by")
WEIGHTS = words("weight sampleweight exampleweight instanceweight rowweight lossweight")  # what a row's loss is times
COUNTED = {"word", "words", "char", "chars", "character", "characters", "sentence", "sentences", "letters", "lines"}
COUNTS = {"count", "counts", "num", "n", "number", "total", "avg", "mean"}
BOUNDS = {"max", "min", "maximum", "minimum", "scale", *COUNTS} - {"total", "avg", "mean"}  # of ratings: no ratings
DELETED = words("deleted isdeleted wasdeleted removed isremoved wasremoved")  # true: somebody took it back
DELETED_AT = words("deletedat removedat")  # filled: the same
RATED = re.compile(r"scor|rating|rated|quality|grade|stars?$|level$")
RATERS = {"rater", "raters"}  # counted like ratings; rater_1 is a rating
WHOLE = {
    "turn",
    "turnnumber",
    "turncount",
    "weights",
    *WEIGHTS,
    *DELETED,
    *DELETED_AT,
    "archived",
    "isarchived",
    "topp",
    "topk",
    "level0",
    "maxtokens",
    "thinking",
    "enablethinking",
    *words("israted wasrated hasrating hasratings isscored hasscore hasscores isgraded"),
}
MOST = 500  # distinct values that are kept


@cache
def name_parts(column: str) -> tuple[str, ...]:
    """Return the words and numbers of a name: num_tokens and numTokens are ("num", "tokens")."""
    return tuple(part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", column))


@cache
def metadata(column: str) -> bool:
    """Whether the name of a column says that its number is no score: latency_ms, num_tokens, year, __index_level_0__.

    >>> metadata("num_tokens"), metadata("createdAt"), metadata("turn_rating"), metadata("timeliness")
    (True, True, False, False)
    >>> metadata("max_rating"), metadata("rating_count"), metadata("mean_rating")
    (True, True, False)
    >>> metadata("rating_timestamp"), metadata("score_std"), metadata("response_time_rating")
    (True, True, False)
    """
    parts = name_parts(column)
    if "".join(parts) in WHOLE or "index" in parts or "unnamed" in parts:
        return True
    rated = any(RATED.search(part) for part in parts)
    if BOUNDS & {*parts} and (rated or RATERS & {*parts} or {*parts} <= BOUNDS):
        return True
    last = next((part for part in reversed(parts) if not part.isdigit()), "")
    if last in ABOUT or (rated and last in ABOUT_RATINGS and "of" not in parts):  # but quality_of_source is a rating
        return True
    if rated:
        return False
    return bool({*WORDS} & {*parts}) or bool(COUNTED & {*parts} and COUNTS & {*parts})


@dataclass
class Values:
    """Numbers of one column whose name does not say whether they are scores."""

    count: int = 0
    words: int = 0  # texts that are no number
    forms: dict[str, str] = field(default_factory=dict)  # how numbers are written -> the first one
    low: float = float("inf")
    high: float = float("-inf")
    whole: bool = True
    rising: bool = True
    last: float = float("-inf")
    distinct: set[float] = field(default_factory=set)

    def add(self, value: float) -> None:
        """Count one value."""
        self.count += 1
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.whole = self.whole and float(value).is_integer()
        self.rising = self.rising and (self.count == 1 or value == self.last + 1)
        self.last = value
        if len(self.distinct) < MOST:
            self.distinct.add(value)

    def spoken(self) -> str:
        """Return why these are words, or "" if most of them are numbers."""
        return f"words in {self.words} of {self.words + self.count} rows" if self.words >= self.count else ""

    def fault(self) -> str:
        """Return why these are no ratings, or "" if they may be.

        Most rows hold numbers, written in one way. Ratings lie within -10 and 10, or are whole numbers within 0 and
        100 of which most occur again.
        """
        if spoken := self.spoken():
            return spoken
        if not one_way(self.forms):
            return f"written in several ways: {', '.join(self.forms.values())}"
        if self.whole and self.rising and self.count > 5:
            return f"{self.low:g} to {self.high:g}, it counts the rows"
        if self.low >= -10 and self.high <= 10:
            return ""
        again = self.count >= 20 and len(self.distinct) <= self.count / 2
        if self.low >= 0 and self.high <= 100 and self.whole and (again or all(v % 5 == 0 for v in self.distinct)):
            return ""
        return f"{self.low:g} to {self.high:g}, no scale of ratings"
