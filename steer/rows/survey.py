"""A look at all rows before `steer data` writes: counts, scales, prompts on both sides, and what follows from them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from data_recipes import duplicates, scales, votes
from data_recipes.mapped import parsed
from data_recipes.scales import Scales
from data_recipes.turns import NUMBER, content_id
from steer.config import DataConfig
from steer.errors import SteerError
from steer.rows import Row, Tally, directions, prompt_key
from steer.rows.notices import corrected, not_scores, reasons
from steer.settings import did_you_mean

EXPORTS = ("trl-prompt-completion", "trl-preference", "steerlm")


def score_ranges(given: Iterable[str]) -> dict[str, tuple[float, float]]:
    """NAME=LOW:HIGH, as the command line gives them."""
    ranges = {}
    for text in given:
        found = re.fullmatch(rf"([^=]+)=({NUMBER.pattern}):({NUMBER.pattern})", text)
        if not found or float(found[2]) >= float(found[3]):
            raise SteerError(f"--range {text}: wanted NAME=LOW:HIGH, for example quality=1:5.")
        ranges[found[1]] = (float(found[2]), float(found[3]))
    return ranges


@dataclass
class Survey:
    """What one pass over all rows finds out, and what is decided from it."""

    config: DataConfig
    total: int = 0
    scales: Scales = field(default_factory=Scales)
    sizes: dict[str, Counter[str]] = field(default_factory=dict)  # source -> prompt -> rows
    sides: dict[bytes, set[str]] = field(default_factory=dict)  # normalised prompt -> sides that it is on
    columns: set[str] = field(default_factory=set)
    thoughts: int = 0  # rows whose response has reasoning of its own
    named: tuple[str, str] | None = None  # a column `system` with a single word in it
    near: duplicates.Near | None = None
    judged: dict[str, list[Row]] = field(default_factory=dict)  # content -> scores of each row, with --merge-raters
    mixed: dict[str, set[str]] | None = None  # source -> prompts that the weights keep

    def __post_init__(self) -> None:
        if self.config.weight and len(self.config.weight) != 1 + len(self.config.mix):
            raise SteerError(f"--weight: wanted {1 + len(self.config.mix)}, one for each source in their order.")
        if self.config.weight and len({self.config.source, *self.config.mix}) <= len(self.config.mix):
            raise SteerError("--weight: a source is named twice. Name it once, with the sum of its weights.")
        for name in self.config.export:
            if name not in EXPORTS:
                raise SteerError(f"--export: unknown '{name}'; {did_you_mean(name, EXPORTS)}")
        self.near = duplicates.Near(self.config.similarity) if self.config.duplicates == "near" else None

    def add(self, place: str, row: Row) -> None:
        """Look at one row."""
        self.total += 1
        self.scales.add(row, place)
        self.columns.update(row)
        self.thoughts += bool(row.get("reasoning_content"))
        if isinstance(row.get("system"), str):
            self.named = self.named or ("system", row["system"])
        if self.config.weight:
            self.sizes.setdefault(place, Counter())[prompt_key(row)] += 1
        if self.config.merge_raters:
            self.judged.setdefault(content_id(row), []).append({**row["scores"], **row.get("raters", {})})
        normal = self.asked(row)
        sides = self.sides.setdefault(duplicates.key(normal), set())
        if self.near and row["split"] == "test" and "test" not in sides:
            self.near.add(normal)
        sides.add(row["split"])

    def merged(self, row: Row) -> Row | None:
        """The row with what all raters of its response said; None where an earlier row has it already."""
        if not self.config.merge_raters:
            return row
        given = self.judged[content_id(row)]
        if not given:
            return None
        self.judged[content_id(row)] = []
        if len(given) == 1:
            return row
        scores, raters = dict(row["scores"]), dict(row.get("raters", {}))
        for name in dict.fromkeys(name for one in given for name in one):
            found = [v for one in given for v in (one[name] if isinstance(one.get(name), list) else [one.get(name)])]
            known = [v for v in found if v is not None]
            if known:
                raters[name], scores[name] = found, sum(known) / len(known)
        return {**row, "scores": scores, "raters": raters}

    def asked(self, row: Row) -> str:
        """What must not stand on both sides: the prompt, or the response where the prompt is the same for all."""
        if bare(row, self.config.prompt):
            return duplicates.normal({"prompt": [{"content": row["response"]}]})
        return prompt_key(row) if self.config.duplicates == "keep" else duplicates.normal(row)

    def close(self, names: Sequence[str], skipped: Sequence[str], tally: Tally) -> None:
        """Refuse what can't be done, and choose the prompts of a mixture of the sources with these names."""
        if not self.total:
            first = f" The first: {next(chain(skipped, tally.dropped))}" if skipped or tally.dropped else ""
            raise SteerError(f"{self.config.source}: none of its records can be used.{first}")
        for name in parsed(self.config.map):
            if not tally.columns[name]:
                raise SteerError(f"--map {name}: no record has anything at '{parsed(self.config.map)[name]}'.")
        for name in score_ranges(self.config.range):
            if name not in self.scales.found:
                raise SteerError(f"--range: no row has a score '{name}'; {did_you_mean(name, self.scales.found)}")
        if "trl-preference" in self.config.export:
            self.order()
        if self.config.weight:
            weights = dict(zip(names, map(_weight, self.config.weight)))
            self.mixed = mixture(self.sizes, weights, self.config.seed)

    def order(self) -> tuple[str, bool]:
        """(What orders the candidates of a prompt, whether its lowest is the best).

        --by NAME (the highest is the best) or --by -NAME, else preference, reward, or the only score from its better
        end.
        """
        names = list(self.scales.found)
        lower, by = self.config.by.startswith("-"), self.config.by.removeprefix("-")
        by = by or next((n for n in ("preference", "reward") if n in names or n in self.columns), "")
        if not by and len(names) == 1 and (end := directions.of_name(names[0])[0]):
            lower, by = end < 0, names[0]
        if not by or (by not in names and by not in self.columns):
            raise SteerError(f"--export trl-preference: order candidates with --by NAME; {did_you_mean(by, names)}")
        return by, lower

    def ordered(self) -> Iterator[str]:
        """How the candidates of a prompt are ordered, and a warning where the name of the score says otherwise."""
        by, lower = self.order()
        yield f"chosen is the {'lowest' if lower else 'highest'} {by}, rejected the {'highest' if lower else 'lowest'}."
        end, origin = directions.of_name(by)
        if origin == "known" and end == (1 if lower else -1):
            remedy = f"--by {'' if lower else '-'}{by}"
            yield f"warning: of '{by}' {directions.BETTER[end]} is better, so chosen is the worse one: {remedy}."

    def value(self) -> Callable[[Row], float | None]:
        """The number of a row that orders it among the candidates of its prompt: the higher, the better."""
        by, lower = self.order()

        def value(row: Row) -> float | None:
            found = row["scores"].get(by, row.get(by))
            return None if not isinstance(found, int | float) else -found if lower else found

        return value

    def known_scales(self, tally: Tally) -> tuple[dict[str, tuple[float, float]], list[str]]:
        """The scales of attributes that --range gives or the layouts are known for, and what is said of all scales."""
        told = score_ranges(self.config.range)
        known = {**scales.known(tally.records, self.scales.found), **told}
        outside = {}
        for name, (low, high) in list(known.items()):
            _, first, last = self.scales.span(name)
            if first < low or last > high:
                outside[name] = f"{first:g} to {last:g} and not the {low:g} to {high:g} of the layout"
                del known[name]
        if self.config.source == "world":
            return {}, []
        lines = []
        if known:
            shown = (f"{name} {low:g} to {high:g}" for name, (low, high) in known.items())
            lines.append(f"scale: {', '.join(shown)} (known of the layout, or --range).")
        if guessed := [n for n in self.scales.found if n not in known and n != "preference"]:
            shown = (
                f"{n} {outside.get(n, f'{self.scales.span(n)[1]:g} to {self.scales.span(n)[2]:g}')}" for n in guessed
            )
            lines.append(f"scale, *guessed* from what occurs: {', '.join(shown)}. --range NAME=LOW:HIGH sets it.")
        return known, lines

    def directions(self) -> Iterator[str]:
        """Which end of each attribute the next stages will take for the better one; the world says so itself."""
        if self.config.source != "world":
            found = [directions.Named(name, *directions.of_name(name)) for name in self.scales.found]
            yield from directions.told(found, ' in "steer fit" and "steer label"')

    def report(self, skipped: Sequence[str], tally: Tally, counts: Mapping[str, int]) -> Iterator[str]:
        """What was recognised, the scores, what was left out and why, and warnings."""
        for name, records in tally.records.items():
            yield f"recognised: {name} ({records} records, {tally.rows[name]} rows)"
        yield from votes.told(tally.votes)
        yield from self.scales.table()
        yield from not_scores(tally.not_scores)
        yield from corrected(tally.corrected)
        yield from self.known_scales(tally)[1]
        yield from self.directions()
        yield from reasons(skipped, "skipped")
        yield from reasons(tally.dropped, "left out")
        if counts["merged"]:
            yield f"merged: {counts['merged']} rows into others with the same prompt and response, as further raters"
        for name, what in (
            ("mixture", "rows beyond their source's weight"),
            ("repeated", "rows that repeat another's prompt, response and scores"),
            ("duplicates", "training rows whose prompt is that of a test row"),
            ("alike", f"training rows whose prompt is like that of a test row ({self.config.similarity:g} or more)"),
        ):
            if counts[name]:
                yield f"left out: {counts[name]} {what}"
        if skipped or tally.dropped or any(counts[name] for name in ("mixture", "repeated", "duplicates", "alike")):
            yield "left_out.jsonl names every one of them."
        if self.thoughts:
            yield f"note: {self.thoughts} responses have reasoning, kept in 'reasoning_content': not trained on yet."
        if self.named:
            column, value = self.named
            yield f"note: '{column}' stays a column: a word such as '{value}' names a system and is no system prompt."
        leaks = sum(len(sides) > 1 for sides in self.sides.values())
        if leaks and self.config.duplicates == "keep":
            yield f"warning: {leaks} prompts are in training and held out: --duplicates exact or near, or --resplit."
        if not counts["train"]:
            yield "warning: no row is for training. --resplit splits anew, whatever the column 'split' says."
        yield from (f"warning: {warning}" for warning in self.scales.warnings())


def bare(row: Row, prompt: str) -> bool:
    """Whether the row has the prompt that was given to all rows without one."""
    return bool(prompt) and [turn["content"] for turn in row["prompt"]] == [prompt]


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise SteerError(f"--weight {text}: wanted a number above 0.")
    return weight


def mixture(sizes: Mapping[str, Counter[str]], weights: Mapping[str, float], seed: int) -> dict[str, set[str]]:
    """Prompts of each source, so that rows stand in the proportion of the weights and as many as possible are used.

    Prompts are taken whole, in the order of a hash: the choice does not depend on the order of the rows.
    """
    unit = min(sum(prompts.values()) / weights[name] for name, prompts in sizes.items())
    held: dict[str, set[str]] = {}
    for name, prompts in sizes.items():
        room = round(unit * weights[name])
        held[name] = set()
        for prompt in sorted(prompts, key=lambda p: hashlib.blake2b(f"{seed}:{p}".encode()).digest()):
            if prompts[prompt] > room:
                break
            room -= prompts[prompt]
            held[name].add(prompt)
    return held
