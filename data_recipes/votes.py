"""Read the vote of a comparison of two responses, in whatever words, numbers or columns a file writes it.

Every layout with two sides reads its vote here. (1, 0): a, the first response, is better; (0, 1): b is; (.5, .5): a
tie; None: the vote is unknown. A word that is none of these is refused by name, never counted as unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from data_recipes import cells
from data_recipes.metadata import words
from data_recipes.streams import DataError, Record

Vote = tuple[float, float]

A, B, TIE = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)
SIDES: dict[str, Vote] = {"a": A, "b": B, "tie": TIE}
COLUMNS = words("""
    preference winner vote preferred preferred_response better better_response verdict overall_preference overall_pref
    human_preference judgment judgement choice
""")
ONE_HOT = re.compile(r"(?:winner|won|is_winner|preferred)_(?:(?:model|response|assistant|answer)_)?(a|b|tie)(_.*)?")
ANSWERS = ("response", "conversation", "answer", "output", "completion", "text", "messages")

NOUN = r"(?:model|response|assistant|answer|output|system|option|completion|candidate|side|conversation|chat|text)"
BETTER = r"(?:(?:is|was|the|much|slightly|significantly|clearly|far|strongly|somewhat|wins?|won|winner|better|best) ?)*"
FIRST, SECOND = "a|first|left", "b|second|right"
SIDED = re.compile(rf"(?:the )?(?:{NOUN} )?(?:(?P<a>{FIRST})|(?P<b>{SECOND}))(?: {NOUN})?(?: {BETTER})?")
PLACED = re.compile(rf"(?:{NOUN} )(?P<n>[0-2])")  # response_1: the first or the second, by what else occurs
SIGNED = re.compile(r"\[*(?P<first>a|b) *(?P<sign>[<>=~≈≻≺]+) *(?P<second>a|b)\]*")  # A>B, [[B>>A]], A=B
TIES = re.compile(
    r"(?:(?:a )?(?:tie|ties|tied|draw|drawn|equal|equally|same|the same|about the same|similar|neutral|n|c)"
    r"(?: (?:good|bad|both bad|bothbad|both good|bothgood))?"
    r"|both(?: ?(?:good|bad|equal|equally good|equally bad|are (?:good|bad|equal)))?|a b|neither(?: is better)?"
    r"|no (?:preference|difference|winner)|not different)"
)
UNKNOWN = ("", "not sure", "n a", *words("unknown unsure na nan none null invalid error skip skipped"))


def vote(value: Any) -> Vote | None:
    """Return the vote that a value is: a word, or a number above 0 for a, below 0 for b and 0 for a tie."""
    number = _figure(value)
    if number is None and isinstance(value, str):
        if (signed := SIGNED.fullmatch(value.strip().lower())) and signed["first"] != signed["second"]:
            return _signed(signed)
        words = re.sub(r"[^a-z0-9]+", " ", value.strip().lower()).strip()
        words = re.sub(r" ?votes?$", "", words)  # the left_vote and bothbadvote of arena's logs
        if sided := SIDED.fullmatch(words):
            return A if sided["a"] else B
        if words in UNKNOWN and value.strip() not in ("=",):
            return None
        if TIES.fullmatch(words):
            return TIE
        known = "a, b, model_a, model_b, first, second, left, right, tie, both bad, or nothing where it is unknown"
        raise DataError(f"the vote '{value:.60}' is none that is known: {known}. {remedy(value)}")
    if number is None and value is not None:
        raise DataError(f"the vote {value!r:.60} is neither a word nor a number. {remedy('VALUE')}")
    return None if number is None else A if number > 0 else B if number < 0 else TIE


def _signed(match: re.Match[str]) -> Vote:
    """Return the vote of A>B, A=B and the like."""
    if not {*match["sign"]} & {*"<>≻≺"}:
        return TIE
    greater = match["first"] if {*match["sign"]} & {*">≻"} else match["second"]
    return SIDES[greater]


def _figure(value: Any) -> float | None:
    """Return the number that a vote is written as, or None if it is a word or nothing."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    try:
        return float(value) if isinstance(value, str) and math.isfinite(float(value)) else None
    except ValueError:
        return None


def remedy(value: Any) -> str:
    """Return how the command line says what a value means."""
    said = "_".join(str(value).split())
    return f'Say what it means: --map "preference=COLUMN:{said}=a,..." (a, b, tie or unknown).'


def counted(value: Any) -> tuple[Vote | None, list[Vote]]:
    """Return the vote of most of several voters, in a list, and each of those that are known; a tie if as many differ.

    >>> counted(["A", "B", "A", "n/a"])
    ((1.0, 0.0), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
    """
    if not isinstance(value, list):
        return vote(value), []
    known = [each for each in map(vote, value) if each is not None]
    lead = sum(a - b for a, b in known)
    return (A if lead > 0 else B if lead < 0 else TIE) if known else None, known


def cast(record: Record) -> tuple[Vote | None, float | None, set[str], list[Vote]]:
    """Return the vote of a record, its strength if it is a number, the columns that hold it, and single voters' votes.

    The vote is in one of COLUMNS, there or in `attributes`, as a word, a number, the name of one of `model_a` and
    `model_b`, or a list of several voters' votes; or in columns such as `winner_model_a`, one of which is 1.
    """
    if hot := {column: found[1] for column in record if (found := ONE_HOT.fullmatch(column))}:
        chosen = {side for column, side in hot.items() if cells.number(record[column]) == 1}
        if len(chosen) > 1:
            raise DataError(f"columns {', '.join(hot)}: {len(chosen)} of them are 1. Correct the record.")
        return SIDES[chosen.pop()] if chosen else None, None, set(hot), []
    column, value = _written(record)
    if not column:
        return None, None, set(), []
    named = [side for side in "ab" if isinstance(value, str) and value and record.get(f"model_{side}") == value]
    if len(named) == 1:
        return SIDES[named[0]], None, {column}, []
    try:
        (leaning, single), strength = counted(value), _figure(value)
    except DataError as error:
        raise DataError(f"column '{column}': {error}") from None
    return leaning, None if strength is None else abs(strength), {column}, single


def aspects(record: Record, names: Iterable[str]) -> Record:
    """Return a comparison with those of the named columns in `attributes` that hold votes: on aspects, not on all."""
    if not compares(record):
        return record
    apart = {"prompt", *COLUMNS, *(name for name in record if name.endswith(("_a", "_b")))}
    voted = {name: record[name] for name in names if name not in apart and in_words(record.get(name))}
    rest = {column: value for column, value in record.items() if column not in voted}
    return {**rest, "attributes": {**(record.get("attributes") or {}), **voted}} if voted else record


def in_words(value: Any) -> tuple[Vote | None, list[Vote]] | None:
    """Return what `counted` returns of a vote in words, or a list of them; None if a value is neither."""
    words = value if isinstance(value, list) else [value]
    if not words or not all(isinstance(word, str) and _figure(word) is None for word in words):
        return None
    try:
        return counted(value)
    except DataError:
        return None


def _written(record: Record) -> tuple[str, Any]:
    """Return the column that holds the vote of a record, and its value."""
    attributes = record.get("attributes")
    for place in (record, attributes if isinstance(attributes, dict) else {}):
        for column in COLUMNS:
            if place.get(column) is not None:
                return column, place[column]
    return "", None


def compares(record: Record) -> bool:
    """Whether a record has two answers side by side."""
    return _compares(tuple(record))


@lru_cache(maxsize=1000)
def _compares(columns: tuple[str, ...]) -> bool:
    return any(f"{name}_a" in columns and f"{name}_b" in columns for name in ANSWERS)


def figures(record: Record) -> list[float]:
    """Return the numbers that the votes of a record are; none if they are words, or the record compares nothing."""
    value = _written(record)[1] if compares(record) else None
    return [n for each in (value if isinstance(value, list) else [value]) if (n := _placed(each)) is not None]


def _placed(value: Any) -> float | None:
    """Return the number that a vote is, alone or as in response_1."""
    placed = PLACED.fullmatch(re.sub(r"[^a-z0-9]+", " ", value.lower()).strip()) if isinstance(value, str) else None
    return float(placed["n"]) if placed else _figure(value)


@dataclass(frozen=True)
class Coding:
    """Meaning of the numbers of one file; empty `words`: above 0 is a, below 0 is b."""

    words: tuple[tuple[float, str], ...] = ()

    def read(self, record: Record) -> Record:
        """Write the votes of a record in words, unless the numbers of its file are strengths."""
        if not self.words or not figures(record):
            return record
        column, value = _written(record)
        word = [self._word(each) for each in value] if isinstance(value, list) else self._word(value)
        if record.get(column) is not None:
            return {**record, column: word}
        return {**record, "attributes": {**record["attributes"], column: word}}

    def _word(self, value: Any) -> Any:
        """Return what the number of one vote means; a vote in words stays."""
        placed = _placed(value)
        return value if placed is None else dict(self.words)[placed]

    @property
    def meaning(self) -> str:
        """Return the coding in words."""
        if not self.words:
            return "a number above 0 means a, below 0 b, *guessed* (--map 'preference=COLUMN:+=b,-=a' turns it round)"
        meaning = ", ".join(f"{value:g} means {word}" for value, word in self.words)
        if {value for value, _ in self.words} != {0.0, 1.0, 2.0}:
            return meaning
        return f"{meaning}, *guessed* (--map 'preference=COLUMN:0=a,1=b,2=tie' if 0 is the first)"


def coding(records: Iterable[Record]) -> Coding:
    """Find what the numbers mean that occur as votes in the records of one file; DataError if they are ambiguous.

    With one below 0 they are strengths, above 0 for a. 1 and 2 name the first and the second response, and 0 or 1.5 is
    then a tie; of 0, 1 and 2 this is a guess, for 0 may be the first. 0 and 1 may name them too, or say whether a won;
    and 1 to 5 may be any scale.
    """
    values = sorted({value for record in records for value in figures(record)})
    if not values or values[0] < 0 or values in ([0.0], [1.0]):
        return Coding()
    if {1.0, 2.0} <= set(values) <= {0.0, 1.0, 1.5, 2.0}:
        meant = {0.0: "tie", 1.0: "a", 1.5: "tie", 2.0: "b"}
        return Coding(tuple((value, meant[value]) for value in values))
    shown = ", ".join(f"{value:g}" for value in values[:6]) + (", ..." if len(values) > 6 else "")
    example = f"{values[0]:g}=a,{values[-1]:g}=b" if len(values) > 1 else f"{values[0]:g}=a"
    raise DataError(
        f"the votes are {shown}, which may mean more than one thing. Say what they mean: "
        f'--map "preference=COLUMN:{example}" (a, b, tie or unknown; + and - stand for all numbers above and below 0).'
    )


def split(path: str) -> tuple[str, dict[str, str]]:
    """Parse COLUMN:1=a,2=b,0=tie: a column and the meaning of its values, none if only a column is named."""
    column, colon, meanings = path.partition(":")
    pairs = [part.rpartition("=") for part in meanings.split(",")]
    if not colon or not all(sign for _, sign, _ in pairs):
        return path, {}
    for value, _, side in pairs:
        if side not in (*SIDES, "unknown"):
            raise DataError(f"--map preference={path}: '{value}' cannot mean '{side}'. Use a, b, tie or unknown.")
    return column, {value.lower(): side for value, _, side in pairs}


def meant(value: Any, meanings: dict[str, str]) -> Any:
    """Return the vote in words that the map gives a value, or a list of them for a list of values."""
    if isinstance(value, list):
        return [meant(each, meanings) or "unknown" for each in value]
    if value is None or value == "":
        return None
    number = _figure(value)
    plain = f"{number:g}" if number is not None else "_".join(str(value).lower().split())
    sign = "" if number is None else "+" if number > 0 else "-" if number < 0 else "0"
    side = meanings.get(plain, meanings.get(sign))
    if side is None and sign == "0" and {"+", "-"} & {*meanings}:
        side = "tie"
    if side is None:
        known = ", ".join(f"{value}={side}" for value, side in meanings.items())
        raise DataError(f"the vote {value!r:.60} has no meaning in --map, which says {known}. Say what it means too.")
    return None if side == "unknown" else side


# What the votes of the named sets mean; others are said by their coding.
MEANINGS = {
    "HelpSteer2 preferences": "preference_strength above 0 means the second",
    "HelpSteer3 preferences": "overall_preference above 0 means the second",
    "PKU-SafeRLHF": "better_response_id counts from 0",
    "SHP": "labels 1 means the first",
    "summarize-from-feedback comparisons": "choice counts from 0",
    "WebGPT comparisons": "the better has the score above 0",
    "Prometheus preferences": "A or B",
}


def side(better: Any) -> str:
    """Return what `summary` calls the preference of a first response."""
    return {1.0: "a", 0.0: "b", 0.5: "tie"}.get(better, "unknown")


def hidden(record: Record) -> str:
    """Return where a record holds votes that nobody named, such as votes.quality; nothing if it holds none."""
    objects = {column: value for column, value in record.items() if isinstance(value, dict)}
    paths = [f"{column}.{name}" for column, inner in objects.items() for name, v in inner.items() if in_words(v)]
    paths += [column for column, value in record.items() if isinstance(value, list) and in_words(value)]
    overall = [path for path in paths if re.search("overall|preference|better|quality", path)]
    return (overall or paths or [""])[0]


def summary(counts: Mapping[tuple[str, str], int], places: Iterable[str] = ()) -> Iterator[str]:
    """Yield a line for each meaning of votes, from the number of each (meaning, side).

    `places`: where records without a known vote hold some.
    """
    if counts and all(name == "unknown" for _, name in counts):
        total = sum(counts.values())
        example = "".join(f", for example --map preference={place}" for place in [*places][:1])
        yield (
            f"votes: none of {total} comparisons says which is better, {total} unknown: "
            f"--map preference=COLUMN{example}."
        )
        return
    for meaning in dict.fromkeys(meaning for meaning, _ in counts):
        a, b, ties, unknown = (counts.get((meaning, name), 0) for name in (*SIDES, "unknown"))
        rest = "".join(f", {n} {name}" for n, name in ((ties, "ties"), (unknown, "unknown")) if n)
        yield (
            f"votes: the first response (a) is better in {a}, the second (b) in {b}{rest}"
            + (f"; {meaning}" if meaning else "")
            + "."
        )
