"""A look at all rows before any is written: counts, scales, prompts on both sides, and which rows are kept."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from data_recipes import duplicates, scales
from data_recipes.answers import asked_with, called_with, content_id
from data_recipes.scales import Scales
from steer.errors import SteerError
from steer.progress import note
from steer.rows import directions
from steer.rows.contract import PREFERENCE, Row
from steer.rows.identity import prompt_key, split_key
from steer.rows.numbers import Numbers
from steer.rows.pieces import Piece
from steer.rows.reading import InOrderError, Tally
from steer.rows.settings import EXPORTS, DataSettings
from steer.rows.sources import Finish, Sources, columns_of, has_shared_prompt, score_ranges
from steer.rows.spool import Spool
from steer.settings import did_you_mean

BESIDE = "\0"  # between the text of a prompt and what it holds beside it
DROPPED = {  # why a good row is not written
    "mixture": "rows beyond their source's weight",
    "repeated": "rows that repeat another's prompt, response and scores",
    "duplicates": "training rows whose prompt is that of a test row",
    "alike": "training rows whose prompt is like that of a test row ({:g} or more)",
}

OTHER = {"train": "test", "test": "train"}


def surveyed(sources: Sources, settings: DataSettings, output: str | Path) -> Survey:
    """Read all rows once, keep them for `kept`, and decide what follows from them; refuse what cannot be done."""
    try:
        return _surveyed(sources, settings, output, settings.num_proc)
    except InOrderError as error:
        note(f"--num-proc: the rows were read by one process, for {error}.")
        return _surveyed(sources, settings, output, 1)


def _surveyed(sources: Sources, settings: DataSettings, output: str | Path, processes: int) -> Survey:
    survey = Survey(sources.names, settings, Spool(output))
    for source, piece in sources.pieces(lambda finish: Look(finish, settings), processes):
        survey.add(source, piece)
    survey.close(sources.skipped, sources.tally)
    return survey


@dataclass
class Found:
    """What is to be known of the rows of a piece."""

    scales: Scales = field(default_factory=Scales)
    columns: set[str] = field(default_factory=set)
    thoughts: int = 0  # rows whose response has reasoning of its own
    system_name: str = ""  # a single word in a column `system`
    train: array[int] = field(default_factory=lambda: array("b"))  # whether each row is for training
    prompts: array[int] = field(default_factory=lambda: array("q"))  # of each row the hash of what it is compared by
    texts: dict[int, str] = field(default_factory=dict)  # the text of a hash, of test rows with --duplicates near
    split_by: list[str] = field(default_factory=list)  # of each row its `split_key`, with --weight
    rated: list[tuple[str, Row]] = field(default_factory=list)  # of each row its content and scores, to merge raters


@dataclass(frozen=True)
class Look:
    """Finish the rows of a piece and find what is to be known of them, in whatever process."""

    finish: Finish
    settings: DataSettings

    def __call__(self, rows: list[Row]) -> tuple[list[Row], Found]:
        """Return the rows as they are written, and what was found in them."""
        s, found, finished = self.settings, Found(), []
        for row in map(self.finish, rows):  # the key of its prompt is looked up at once, not when all are finished
            finished.append(row)
            found.train.append(row["split"] == "train")
            found.scales.add(row, self.finish.source)
            found.columns.update(row)
            found.thoughts += bool(row.get("reasoning_content"))
            if isinstance(row.get("system"), str):
                found.system_name = found.system_name or row["system"]
            if s.weight:
                found.split_by.append(split_key(row))
            if s.merge_raters:
                found.rated.append((content_id(row), {**row["scores"], **row.get("raters", {})}))
            text = comparable(row, s)
            found.prompts.append(_number(text))
            if s.duplicates == "near" and row["split"] == "test":
                found.texts[found.prompts[-1]] = text.partition(BESIDE)[0]
        return finished, found


def comparable(row: Row, settings: DataSettings) -> str:
    """Return what must not be on both sides: the prompt, or the response if all rows share one prompt."""
    if has_shared_prompt(row, settings.default_prompt):
        return duplicates.normal({"prompt": [{"content": row["response"]}]})
    if settings.duplicates == "keep":
        return prompt_key(row)
    beside = asked_with(row)
    return f"{duplicates.normal(row)}{BESIDE}{beside}" if beside else duplicates.normal(row)


@dataclass
class Survey:
    """Findings of one pass over all rows, and the decisions that follow."""

    names: Sequence[str]  # of the sources
    settings: DataSettings
    rows: Spool
    origins: array[int] = field(default_factory=lambda: array("H"))  # of each row its source, a number in `names`
    train: array[int] = field(default_factory=lambda: array("b"))  # whether each row is for training
    total: int = 0
    scales: Scales = field(default_factory=Scales)
    sizes: dict[str, Counter[str]] = field(default_factory=dict)  # source -> prompt -> rows
    prompts: dict[str, Numbers] = field(default_factory=lambda: {side: Numbers() for side in OTHER})  # hashes, by side
    leaks: int = 0  # prompts that are on both sides of the split
    columns: set[str] = field(default_factory=set)
    thoughts: int = 0  # rows whose response has reasoning of its own
    system_name: str = ""  # a single word in a column `system`
    near: duplicates.Near | None = None
    ratings: dict[str, list[Row]] = field(default_factory=dict)  # content -> scores of each row, to merge raters
    mixture: dict[str, set[str]] | None = None  # source -> prompts that the weights keep
    counts: Counter[str] = field(default_factory=Counter)  # rows of `kept` by side, others by why they are dropped
    dropped: list[Row] = field(default_factory=list)  # {id, why} of the rows that `kept` drops

    def __post_init__(self) -> None:
        s = self.settings
        if s.weight and len(s.weight) != len(self.names):
            raise SteerError(f"--weight: wanted {len(self.names)}, one for each source in their order.")
        if s.weight and len(set(self.names)) < len(self.names):
            raise SteerError("--weight: a source is named twice. Name it once, with the sum of its weights.")
        for name in s.export:
            if name not in EXPORTS:
                raise SteerError(f"--export: unknown '{name}'; {did_you_mean(name, EXPORTS)}")
        self.near = duplicates.Near(s.similarity) if s.duplicates == "near" else None

    def add(self, source: str, piece: Piece) -> None:
        """Keep the rows of a piece and what was found in them."""
        found: Found = piece.found
        self.total += len(piece.rows)
        self.rows.add_lines(row.line for row in piece.rows)
        self.origins.extend([self.names.index(source)] * len(piece.rows))
        self.train.extend(found.train)
        self.scales.merge(found.scales)
        self.columns |= found.columns
        self.thoughts += found.thoughts
        self.system_name = self.system_name or found.system_name
        if self.settings.weight:
            self.sizes.setdefault(source, Counter()).update(found.split_by)
        for content, scores in found.rated:
            self.ratings.setdefault(content, []).append(scores)
        sides = (self.prompts["test"], self.prompts["train"])
        for train, key in zip(found.train, found.prompts):
            if key not in (prompts := sides[train]):
                prompts.add(key)
                self.leaks += key in sides[not train]
                if self.near and not train:
                    self.near.add(found.texts[key])

    def close(self, skipped: Sequence[str], tally: Tally) -> None:
        """Refuse what cannot be done, and choose the prompts of a mixture."""
        s = self.settings
        if not self.total:
            first = f" The first: {next(chain(skipped, tally.dropped))}" if skipped or tally.dropped else ""
            raise SteerError(f"{self.names[0]}: none of its records can be used.{first}")
        for name, path in columns_of(s.map).items():
            if not tally.columns[name]:
                raise SteerError(f"--map {name}: no record has anything at '{path}'.")
        for name in score_ranges(s.range):
            if name not in self.scales.attributes:
                raise SteerError(f"--range: no row has a score '{name}'; {did_you_mean(name, self.scales.attributes)}")
        if "trl-preference" in s.export:
            self.order()
        if s.weight:
            self.mixture = mixture(self.sizes, dict(zip(self.names, map(_weight, s.weight))), s.seed)

    def kept(self) -> Iterator[Row | bytes]:
        """Yield the rows to write, counted by side; the others go to `dropped` with the reason."""
        s = self.settings
        if not s.merge_raters and not s.weight and s.duplicates == "keep":
            for train, line in zip(self.train, self.rows.lines()):  # as they are
                self.counts["train" if train else "test"] += 1
                yield line
            return
        seen, alike = Numbers(), dict[int, str]()
        for origin, unmerged in zip(self.origins, self.rows):
            source, row = self.names[origin], self._merged(unmerged)
            if row is None:
                self.counts["merged"] += 1
                continue
            kind, reason = "", ""
            if self.mixture is not None and split_key(row) not in self.mixture[source]:
                kind, reason = "mixture", "beyond the weight of its source"
            elif self.settings.duplicates != "keep":
                kind, reason = self._duplicate(row, seen, alike)
            self.counts[kind or row["split"]] += 1
            if kind:
                self.dropped.append({"id": row["id"], "why": reason})
            else:
                yield row

    def _merged(self, row: Row) -> Row | None:
        """Return the row with the scores of all raters of its response; None if an earlier row has them already."""
        if not self.settings.merge_raters:
            return row
        each = self.ratings[content_id(row)]
        if not each:
            return None
        self.ratings[content_id(row)] = []
        if len(each) == 1:
            return row
        scores, raters = dict(row["scores"]), dict(row.get("raters", {}))
        for name in dict.fromkeys(name for one in each for name in one):
            values = [v for one in each for v in (one[name] if isinstance(one.get(name), list) else [one.get(name)])]
            numbers = [v for v in values if v is not None]
            if numbers:
                raters[name], scores[name] = values, sum(numbers) / len(numbers)
        return {**row, "scores": scores, "raters": raters}

    def _duplicate(self, row: Row, seen: Numbers, alike: dict[int, str]) -> tuple[str, str]:
        """Return (kind, reason) if the row is a duplicate, else ("", ""); `seen` and `alike` remember earlier rows."""
        text = comparable(row, self.settings)
        said = [row["response"], calls] if (calls := called_with(row)) else row["response"]
        content = json.dumps([text, said, row["scores"], row["split"], row.get("group")], sort_keys=True)
        if (same := _number(content)) in seen:
            return "repeated", "prompt, response and scores are those of an earlier row"
        seen.add(same)
        if row["split"] == "test":
            return "", ""
        if (key := _number(text)) in self.prompts["test"]:
            return "duplicates", "its prompt is also that of a test row"
        if self.near:
            if key not in alike:
                like = self.near.like(text.partition(BESIDE)[0])
                alike[key] = f"its prompt is like one of the test rows ({like[0]:.2f}): {like[1][:80]}" if like else ""
            if alike[key]:
                return "alike", alike[key]
        return "", ""

    def order(self) -> tuple[str, bool]:
        """Return what orders the candidates of a prompt, and whether its lowest is the best.

        --by NAME (the highest is the best) or --by -NAME, else preference, reward, or the only score from its better
        end.
        """
        names = list(self.scales.attributes)
        lower, by = self.settings.by.startswith("-"), self.settings.by.removeprefix("-")
        by = by or next((n for n in (PREFERENCE, "reward") if n in names or n in self.columns), "")
        if not by and len(names) == 1 and (end := directions.of_name(names[0])[0]):
            lower, by = end < 0, names[0]
        if not by or (by not in names and by not in self.columns):
            raise SteerError(f"--export trl-preference: order candidates with --by NAME; {did_you_mean(by, names)}")
        return by, lower

    def value(self) -> Callable[[Row], float | None]:
        """Return the number of a row that orders it among the candidates of its prompt: the higher, the better."""
        by, lower = self.order()

        def value(row: Row) -> float | None:
            number = row["scores"].get(by, row.get(by))
            return None if not isinstance(number, int | float) else -number if lower else number

        return value

    def known_scales(self, layouts: Mapping[str, int]) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
        """Return the scales of attributes that --range gives or the layouts are known for, and the spans of others.

        An attribute with scores outside of its known scale is among the others.
        """
        names = [name for name in self.scales.attributes if name != PREFERENCE]
        known = {**scales.known(layouts, self.scales.attributes), **score_ranges(self.settings.range)}
        others = {}
        for name in self.scales.attributes:
            _, first, last = self.scales.span(name)
            if name not in known:
                others[name] = f"{first:g} to {last:g}"
            elif first < known[name][0] or last > known[name][1]:
                low, high = known.pop(name)
                others[name] = f"{first:g} to {last:g} and not the {low:g} to {high:g} of the layout"
        return known, {name: span for name, span in others.items() if name in names}


def _number(text: str) -> int:
    return int.from_bytes(duplicates.key(text), signed=True)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise SteerError(f"--weight {text}: wanted a number above 0.")
    return weight


def mixture(sizes: Mapping[str, Counter[str]], weights: Mapping[str, float], seed: int) -> dict[str, set[str]]:
    """Choose prompts of each source so that rows stand in the proportion of the weights, as many as possible.

    Prompts are taken whole, in the order of a hash: the choice does not depend on the order of the rows.
    """
    unit = min(sum(prompts.values()) / weights[name] for name, prompts in sizes.items())
    chosen: dict[str, set[str]] = {}
    for name, prompts in sizes.items():
        room = round(unit * weights[name])
        chosen[name] = set()
        for prompt in sorted(prompts, key=lambda p: hashlib.blake2b(f"{seed}:{p}".encode()).digest()):
            if prompts[prompt] > room:
                break
            room -= prompts[prompt]
            chosen[name].add(prompt)
    return chosen
