"""The sources that `steer data` reads: one or several, each row with its split, in one order however often read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from data_recipes import world
from data_recipes.mapped import parsed
from data_recipes.streams import STDIN, DataError
from data_recipes.turns import NUMBER
from steer.errors import SteerError
from steer.rows.contract import Row
from steer.rows.identity import content_hash, conversation_of, split_of
from steer.rows.numbers import Numbers
from steer.rows.reading import Reading, Tally, read
from steer.rows.settings import DataSettings
from steer.run_folder import fingerprint

WORLD = "world"  # the source that is simulated


def score_ranges(texts: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Parse NAME=LOW:HIGH: attribute -> (lowest, highest) score."""
    ranges = {}
    for text in texts:
        match = re.fullmatch(rf"([^=]+)=({NUMBER.pattern}):({NUMBER.pattern})", text)
        if not match or float(match[2]) >= float(match[3]):
            raise SteerError(f"--range {text}: wanted NAME=LOW:HIGH, for example quality=1:5.")
        ranges[match[1]] = (float(match[2]), float(match[3]))
    return ranges


def columns_of(texts: Iterable[str]) -> dict[str, str]:
    """Parse NAME=PATH: our name -> dotted path in the records."""
    try:
        return parsed(texts)
    except DataError as error:
        raise SteerError(str(error)) from None


def has_shared_prompt(row: Row, prompt: str) -> bool:
    """Whether the row has the prompt that all rows without one were given."""
    return bool(prompt) and [turn["content"] for turn in row["prompt"]] == [prompt]


class Sources:
    """Sources by name. Each pass of `rows` fills `tally` and `skipped`, the messages of records that were skipped."""

    def __init__(self, names: Sequence[str], settings: DataSettings) -> None:
        self.names, self.settings = names, settings
        self.reading = Reading(
            columns_of(settings.map),
            settings.default_prompt,
            settings.requests,
            settings.scores,
            score_ranges(settings.range),
            turns=settings.turns,
        )
        self.skipped: list[str] = []
        self.tally = Tally()
        self.piped = list(self._file(STDIN)) if STDIN in names else []  # can be read only once
        self.piped_skipped, self.piped_tally = self.skipped, self.tally

    def fingerprints(self) -> dict[str, str]:
        """Return the content of what is read, by its role; of the world and of hub sets their names."""
        beside = {"requests": self.settings.requests, "scores": self.settings.scores}
        inputs = {role: fingerprint(path) for role, path in beside.items() if path}
        for i, name in enumerate(self.names):
            content = content_hash(self.piped) if name == STDIN else name if name == WORLD else fingerprint(name)
            inputs[f"mix {i}" if i else "source"] = content
        return inputs

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield (name of the source, row with its split); ids that occur in an earlier source end in @2, @3, ..."""
        self.skipped, self.tally = list(self.piped_skipped), Tally()
        for counts, piped in zip(vars(self.tally).values(), vars(self.piped_tally).values()):
            counts.update(piped)
        seen = Numbers()  # the ids of many rows would not fit in memory
        for number, name in enumerate(self.names, start=1):
            for row in islice(self._source(name), self.settings.limit or None):
                if len(self.names) > 1:
                    row = {"source": name, **row}
                    while hash(row["id"]) in seen:
                        row["id"] = f"{row['id']}@{number}"
                    seen.add(hash(row["id"]))
                if self.settings.resplit:
                    row = {column: value for column, value in row.items() if column != "split"}
                yield name, {**row, "split": self._side(row)}

    def _side(self, row: Row) -> str:
        """Return the split of a row: by conversation where --map names it, by response if all share a prompt."""
        if "conversation" in self.reading.columns and (name := conversation_of(row)):
            row = {**row, "prompt": [{"role": "user", "content": name}]}
        if has_shared_prompt(row, self.settings.default_prompt):
            row = {**row, "prompt": [*row["prompt"], {"role": "assistant", "content": row["response"]}]}
        return split_of(row, self.settings.held_out, self.settings.seed)

    def _source(self, name: str) -> Iterable[Row]:
        if name == WORLD:
            s = self.settings
            logs = world.World(s.size, s.seed, s.spread, s.rated, s.noise, per_prompt=s.per_prompt, primer=s.primer)
            return world.rows(logs)
        return self.piped if name == STDIN else self._file(name)

    def _file(self, name: str) -> Iterator[Row]:
        if self.settings.bad == "skip":
            yield from read(name, skipped=self.skipped, reading=self.reading, tally=self.tally)
            return
        try:
            yield from read(name, reading=self.reading, tally=self.tally)
        except SteerError as error:
            if not re.match(re.escape(name) + r":( row )?\d", str(error)):  # it is not about one record
                raise
            raise SteerError(f"{error} Or skip what cannot be used: --bad skip.") from None
