"""Describe the scores of a source: how many, their range, and signs of two scales in one attribute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from data_recipes.marks import Row
from data_recipes.metadata import words

MOST_VALUES = 500  # an attribute with more distinct values is continuous: its values are not kept one by one
FEW = 8  # as many scores of either kind must be there before two scales are suspected


HELPSTEER = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), (0.0, 4.0))
KNOWN: dict[str, dict[str, tuple[float, float]]] = {  # layout -> attribute -> (lowest, highest)
    "UltraFeedback": {
        **dict.fromkeys(("instruction_following", "honesty", "truthfulness", "helpfulness"), (1.0, 5.0)),
        "overall_score": (1.0, 10.0),
        "fine-grained_score": (1.0, 5.0),
    },
    "Prometheus feedback": {"score": (1.0, 5.0)},
    "Prometheus preferences": {"score": (1.0, 5.0)},
    "SummEval": dict.fromkeys(("coherence", "consistency", "fluency", "relevance"), (1.0, 5.0)),
    "summarize-from-feedback axis": dict.fromkeys(("overall", "accuracy", "coverage", "coherence"), (1.0, 7.0)),
    "WebGPT comparisons": {"score": (-1.0, 1.0)},
    "PKU-SafeRLHF": {"severity_level": (0.0, 3.0)},
}
LABELS = words("""
    spam fails_task lang_mismatch pii not_appropriate hate_speech sexual_content quality toxicity humor helpfulness
    creativity violence political_content moral_judgement
""")
KNOWN |= dict.fromkeys(("OASST messages", "OASST trees"), dict.fromkeys(LABELS, (0.0, 1.0)))


def known(layouts: Iterable[str], names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the scales that all layouts of a source agree on; HelpSteer is recognised by its five attributes."""
    names = set(names)
    own = [HELPSTEER if names >= {*HELPSTEER} and name not in KNOWN else KNOWN.get(name, {}) for name in layouts]
    first = own[0] if own else {}
    return {name: scale for name, scale in first.items() if name in names and all(o.get(name) == scale for o in own)}


@dataclass
class Scale:
    """The scores of one attribute from one source."""

    count: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    fractions: int = 0  # strictly between 0 and 1
    whole: int = 0  # whole numbers above 1
    broken: int = 0  # other numbers, such as 3.5
    values: dict[float, list[int]] = field(default_factory=dict)  # value -> [count, first row, last row]

    def add(self, value: float, position: int) -> None:
        """Count one score of the row at this position."""
        self.count += 1
        self.low, self.high = min(self.low, value), max(self.high, value)
        whole = float(value).is_integer()
        self.fractions += 0 < value < 1
        self.whole += whole and value > 1
        self.broken += not whole and not 0 < value < 1
        seen = self.values.setdefault(value, [0, position, position])
        seen[0], seen[2] = seen[0] + 1, position

    def merge(self, later: Scale, rows: int) -> None:
        """Count the scores of rows that follow `rows` others."""
        self.count += later.count
        self.low, self.high = min(self.low, later.low), max(self.high, later.high)
        self.fractions, self.whole = self.fractions + later.fractions, self.whole + later.whole
        self.broken += later.broken
        for value, (count, first, last) in later.values.items():
            if value in self.values or len(self.values) < MOST_VALUES:
                seen = self.values.setdefault(value, [0, rows + first, 0])
                seen[0], seen[2] = seen[0] + count, rows + last

    def doubts(self) -> Iterator[str]:
        """Yield why this may be two scales in one."""
        enough = max(FEW, self.count // 100)
        if self.fractions >= enough and self.whole >= enough and not self.broken:
            yield f"{self.fractions} scores are fractions between 0 and 1, {self.whole} are whole numbers above 1"
        if self.fractions or self.broken or len(self.values) < 4:
            return
        ends = [self.values.get(self.low, [0, 0, 0]), self.values.get(self.high, [0, 0, 0])]
        (low, first_low, last_low), (high, first_high, last_high) = ends
        if min(low, high) < FEW or not (last_low < first_high or last_high < first_low):
            return
        cut = min(last_low, last_high)
        both = sum(first <= cut < last for _, first, last in self.values.values())
        if both >= 2:  # a file sorted by score has each of its values in one place
            kinds = [f"{self.low:g}", f"{self.high:g}"]
            first, second = kinds if last_low < first_high else kinds[::-1]
            yield f"{first} stands only in the first {cut + 1} rows, {second} only after them, what is between in both"


class Scales:
    """The scales of all attributes, source by source; of many rows, merged from those of some rows each."""

    def __init__(self) -> None:
        self.rows = 0
        self.attributes: dict[str, dict[str, Scale]] = {}

    def add(self, row: Row, source: str) -> None:
        """Count the scores of one row."""
        self.rows += 1
        for name, value in row["scores"].items():
            if value is not None:
                scales = self.attributes.setdefault(name, {})
                scales.setdefault(str(row.get("source") or source), Scale()).add(value, self.rows - 1)

    def merge(self, later: Scales) -> None:
        """Count the scores of the rows that follow."""
        for name, scales in later.attributes.items():
            mine = self.attributes.setdefault(name, {})
            for source, scale in scales.items():
                mine.setdefault(source, Scale()).merge(scale, self.rows)
        self.rows += later.rows

    def table(self) -> list[str]:
        """Return a line for each attribute: rows with a score, and its range."""
        lines = []
        width = max(map(len, self.attributes), default=0)
        for name, scales in self.attributes.items():
            count, low, high = self.span(name)
            unknown = f", {self.rows - count} unknown" if count < self.rows else ""
            lines.append(f"{name:<{width}}  {count} scores from {low:g} to {high:g}{unknown}")
            if len({(s.low, s.high) for s in scales.values()}) > 1:
                lines[-1] += "; " + ", ".join(f"{source}: {s.low:g} to {s.high:g}" for source, s in scales.items())
        return lines

    def span(self, name: str) -> tuple[int, float, float]:
        """Return (number of scores, lowest, highest) of an attribute over all sources."""
        scales = self.attributes[name].values()
        return sum(s.count for s in scales), min(s.low for s in scales), max(s.high for s in scales)

    def warnings(self) -> list[str]:
        """Return a sentence for each attribute that may hold two scales."""
        lines = []
        for name, scales in self.attributes.items():
            lines += [f"'{name}' may hold two scales: {doubt}" for s in scales.values() for doubt in s.doubts()]
            known = [(source, s) for source, s in scales.items() if s.count >= FEW]
            (first, a), *others = known or [("", Scale())]
            for source, b in others:
                if unlike(a, b) or unlike(b, a):
                    pair = ((first, a), (source, b))
                    spans = [f"{place} from {s.low:g} to {s.high:g} ({s.count})" for place, s in pair]
                    lines.append(f"'{name}' may hold two scales: {', '.join(spans)}")
        return [f"{doubt}. Nothing was changed; bring them to one scale, or give them two names." for doubt in lines]


def unlike(a: Scale, b: Scale) -> bool:
    """Whether two sources scored on known scales that differ: 0-4 and 1-5, shares and points, 1-5 and 1-10 or 0-100.

    One source that is merely better than the other is no reason.
    """
    grids = not (a.fractions or a.broken or b.fractions or b.broken)
    shifted = grids and (a.low, b.low) == (0, 1) and b.high == a.high + 1 >= 5
    shares = a.high <= 1 and a.fractions >= FEW and b.whole >= FEW
    longer = b.high in (10, 100) and a.high in (1, 4, 5, 7) and b.high >= 2 * a.high
    return shifted or shares or longer
