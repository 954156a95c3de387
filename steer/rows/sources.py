"""The sources that `steer data` reads: one or several, each row with its split, in one order however often read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

from data_recipes import world
from data_recipes.mapped import parsed
from data_recipes.scores import NUMBER
from data_recipes.streams import STDIN, DataError
from steer.errors import SteerError
from steer.rows.contract import Row
from steer.rows.identity import content_hash, conversation_of, split_of
from steer.rows.numbers import Numbers
from steer.rows.pieces import Look, Made, Piece, of_rows, read_pieces
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


@dataclass(frozen=True)
class Finish:
    """Give a row of a source its split, and the name of its source if it is one of `several`."""

    source: str
    several: bool
    settings: DataSettings

    def __call__(self, row: Row) -> Row:
        """Return the row; one that is finished stays as it is."""
        if self.several:
            row = {"source": self.source, **row}
        if self.settings.resplit:
            row = {column: value for column, value in row.items() if column != "split"}
        return {**row, "split": self._side(row)}

    @cached_property
    def _by_conversation(self) -> bool:
        return "conversation" in columns_of(self.settings.map)

    def _side(self, row: Row) -> str:
        """Return the split of a row: by conversation where --map names it, by response if all share a prompt."""
        if self._by_conversation and (name := conversation_of(row)):
            row = {**row, "prompt": [{"role": "user", "content": name}]}
        if has_shared_prompt(row, self.settings.default_prompt):
            row = {**row, "prompt": [*row["prompt"], {"role": "assistant", "content": row["response"]}]}
        return split_of(row, self.settings.held_out, self.settings.seed)


class Sources:
    """Sources by name. Each pass of `pieces` fills `tally` and `skipped`, the messages of records that were skipped."""

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
        piped = partial(read, skipped=self._skipped, reading=self.reading, tally=self.tally)
        self.piped = list(piped(STDIN)) if STDIN in names else []  # can be read only once
        self.piped_skipped, self.piped_tally = self.skipped, self.tally

    @property
    def _skipped(self) -> list[str] | None:
        return self.skipped if self.settings.bad == "skip" else None

    def fingerprints(self) -> dict[str, str]:
        """Return the content of what is read, by its role; of the world and of hub sets their names."""
        beside = {"requests": self.settings.requests, "scores": self.settings.scores}
        inputs = {role: fingerprint(path) for role, path in beside.items() if path}
        for i, name in enumerate(self.names):
            content = content_hash(self.piped) if name == STDIN else name if name == WORLD else fingerprint(name)
            inputs[f"mix {i}" if i else "source"] = content
        return inputs

    def pieces(self, look: Callable[[Finish], Look], processes: int = 1) -> Iterator[tuple[str, Piece]]:
        """Yield (name of the source, a piece of its rows); ids that occur in an earlier source end in @2, @3, ..."""
        self.skipped, self.tally = list(self.piped_skipped), Tally()
        self.tally.add(self.piped_tally)
        seen = Numbers()  # the ids of many rows would not fit in memory
        for number, name in enumerate(self.names, start=1):
            finish = Finish(name, len(self.names) > 1, self.settings)
            for piece in self._source(name, look(finish), processes):
                if len(self.names) > 1:
                    piece.rows = [_once(row, seen, number) for row in piece.rows]
                yield name, piece

    def _source(self, name: str, look: Look, processes: int) -> Iterator[Piece]:
        if name == WORLD:
            s = self.settings
            logs = world.World(s.size, s.seed, s.spread, s.rated, s.noise, per_prompt=s.per_prompt, primer=s.primer)
            return of_rows(islice(world.rows(logs), s.limit or None), look)
        if name == STDIN:
            return of_rows(islice(self.piped, self.settings.limit or None), look)
        return self._file(name, look, processes)

    def _file(self, name: str, look: Look, processes: int) -> Iterator[Piece]:
        skipped = self._skipped
        try:
            yield from read_pieces(
                name,
                look,
                reading=self.reading,
                tally=self.tally,
                skipped=skipped,
                limit=self.settings.limit,
                processes=processes,
            )
        except SteerError as error:
            # it is not about one record
            if skipped is not None or not re.match(re.escape(name) + r":( row )?\d", str(error)):
                raise
            raise SteerError(f"{error} Or skip what cannot be used: --bad skip.") from None


def _once(row: Made, seen: Numbers, number: int) -> Made:
    """Return a row with an id that no row before it has, and remember it."""
    name = row.id
    while hash(name) in seen:
        name = f"{name}@{number}"
    seen.add(hash(name))
    return row if name == row.id else row.renamed(name)
