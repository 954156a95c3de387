"""The row contract: read, check, write. Every stage reads and writes its rows through here."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from data_recipes import files, layouts, votes
from data_recipes.asked import system_columns
from data_recipes.joined import joined
from data_recipes.mapped import mapped
from data_recipes.streams import DataError
from data_recipes.turns import LEFT_OUT, NOTED, WORDS, attribute, content_id, written
from steer.errors import SteerError
from steer.progress import note
from steer.rows.contract import SIDE, Row, check, check_json
from steer.rows.ratings import Ratings, unrated
from steer.rows.write import read_back, write, write_rows

__all__ = [
    "Found",
    "Reading",
    "Row",
    "Source",
    "check",
    "content_hash",
    "noted",
    "prompt_key",
    "prompts",
    "read",
    "read_all",
    "read_back",
    "read_rows",
    "reasons",
    "split_of",
    "write",
    "write_rows",
]

Source = str | Path | Iterable[Mapping[str, Any]]  # a path of any known layout, dicts, or a datasets.Dataset


REASONS = 5  # kinds of messages that a summary tells one by one


@dataclass(frozen=True)
class Reading:
    """How a source becomes rows where its columns do not say it all."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> dotted path in the record
    prompt: str = ""  # of rows that have a response and no prompt
    requests: str = ""  # file of the requests that the source's batch results answer
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # attribute -> (lowest, highest)
    wanted: tuple[str, ...] = ()  # numeric columns that are scores, whatever they look like
    blank: bool = False  # an empty response is one too: where answers are judged, not learnt from


@dataclass
class Found:
    """What reading counts: records and rows of each layout, and how often each mapped column held something.

    `left` holds a sentence for every row that is left out though nothing is wrong with its record, with its place.
    """

    records: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    votes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (what votes mean, side that is better)
    noted: Counter[str] = field(default_factory=Counter)  # scores that were set to unknown, with the reason
    unrated: dict[str, str] = field(default_factory=dict)  # numeric column that is no score -> why


PLAIN = Reading()


def read_rows(
    source: Source,
    *,
    limit: int = 0,
    columns: Mapping[str, str] | None = None,
    prompt: str = "",
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> list[Row]:
    """Read rows in any known layout from a path, dicts, a datasets.Dataset or `hf:OWNER/NAME`; every row is checked.

    `limit`: the first rows only (0: all). `columns`: our name -> name or dotted path in the records. `prompt`: of rows
    that have a response and no prompt. `ranges`: attribute -> (lowest, highest) score; others raise SteerError, as
    does every row that breaks the contract, with its place.
    """
    if not isinstance(source, str | Path | Sequence | Mapping) and not hasattr(source, "with_format"):
        source = list(source)  # an iterator; columns that look like scores are looked at twice
    return list(islice(read(source, reading=Reading(columns or {}, prompt, ranges=ranges or {})), limit or None))


def read(
    path: Source,
    *,
    unique: bool = True,
    skipped: list[str] | None = None,
    reading: Reading = PLAIN,
    found: Found | None = None,
) -> Iterator[Row]:
    """Rows of any file that data_recipes.files and .layouts know, checked, one at a time.

    An id that occurs twice is refused, unless it was made from the content: then the repetition gets -2, -3, ...
    `unique=False` leaves ids as they are and needs no memory for them. What cannot be used raises SteerError; with a
    list as `skipped` its message is appended there instead, for the caller to count and report. `found` is counted up;
    without one, what is left out is said on stderr.
    """
    rows = _checked(path, True, skipped, reading, found)
    return (row for _, row in (_unique(rows, path, skipped, reading) if unique else rows))


def read_all(path: str | Path, *, unique: bool = True, skipped: list[str] | None = None) -> list[Row]:
    """As `read`, all rows at once."""
    return list(read(path, unique=unique, skipped=skipped))


def prompts(path: str | Path, *, skipped: list[str] | None = None) -> Iterator[Row]:
    """Rows to generate from: as `read`, but a response may be absent; a .txt file gives one prompt a line.

    A conversation that goes on after its last assistant turn is all prompt. Responses that are there stay in the row.
    """
    return (row for _, row in _unique(_checked(path, False, skipped), path, skipped, answered=False))


def _checked(
    path: Source,
    answered: bool,
    skipped: list[str] | None,
    reading: Reading = PLAIN,
    found: Found | None = None,
) -> Iterator[tuple[str, Row]]:
    """Rows with their places; a record of several rows is used whole or not at all."""
    seen: dict[str, tuple[str, str]] = {}
    count = Found() if found is None else found
    left, coding = count.left, None
    placed: Iterable[tuple[str, Row]] = _records(path, answered, skipped, reading)
    placed = list(placed) if _is_stdin(path) else placed  # it can be read only once

    def again() -> Iterator[Row]:
        """All records once more, under the names that they are read by; broken ones are left out."""
        for _, record in placed if isinstance(placed, list) else _records(path, answered, [], reading):
            with suppress(DataError):
                yield layouts.spelled_out(_renamed(record, reading)[0])

    rated = Ratings((*reading.columns, *reading.wanted), again, count.unrated)
    for where, record in placed:
        try:
            record, rest = _renamed(record, reading, count)
            record = layouts.spelled_out(record)
            if answered and votes.figure(record) is not None:
                coding = coding or _coding(again())
                if isinstance(coding, DataError):
                    raise coding
                record = coding.read(record)
            layout, made = layouts.recognise(record), [{**rest, **row} for row in layouts.rows(record)]
            left.update(f"{where}: {row[LEFT_OUT]}" for row in made if LEFT_OUT in row)
            made = [row if answered else _asked(row) for row in made if LEFT_OUT not in row]
            made = [rated.sift(layout, record, row) for row in made] if answered else made
            for row in made:
                check(row, where, answered=answered, blank=reading.blank)
                check_json(row, where)
                _in_range(row, where, reading.ranges)
                if "scores" not in record:
                    _same_kind(record, row, where, seen)
        except (DataError, SteerError, RecursionError) as error:
            message = str(error) if isinstance(error, SteerError) else f"{where}: {error}"
            if isinstance(error, RecursionError):
                message = f"{where}: is too deep: a list in a list, hundreds of times. Remove the row."
            if skipped is None:
                raise SteerError(message) from None
            skipped.append(message)
        else:
            count.noted.update(note for row in made if (note := row.pop(NOTED, None)))
            count.records[layout] += 1
            count.rows[layout] += len(made)
            if made and (layout in votes.MEANINGS or votes.compares(record)):
                meaning = votes.MEANINGS.get(layout) or (coding.meaning if isinstance(coding, votes.Coding) else "")
                count.votes[meaning, votes.side(made[0]["scores"].get("preference"))] += 1
            yield from ((where, row) for row in made)
    if found is None:
        for line in [
            *reasons(left, "left out"),
            *votes.told(count.votes),
            *unrated(count.unrated),
            *noted(count.noted),
        ]:
            _say(f"{path if isinstance(path, str | Path) else 'rows'}: {line}")


def _is_stdin(path: Source) -> bool:
    return isinstance(path, str | Path) and str(path) == files.STDIN


def noted(notes: Mapping[str, int]) -> Iterator[str]:
    """One line for each kind of score that was set to unknown."""
    yield from (f"set to unknown: {number} x {note}." for note, number in notes.items())


@cache
def _say(line: str) -> None:
    """Once, however often a source is read."""
    note(line)


def reasons(messages: Iterable[str], what: str) -> Iterator[str]:
    """The most frequent reasons among messages "place: reason", each with how many and the first of its kind."""
    kinds: dict[str, list[str]] = {}
    for message in messages:
        kinds.setdefault(re.sub(r"\d+|'[^']*'", "..", message.split(": ", 1)[-1]), []).append(message)
    often = sorted(kinds.values(), key=len, reverse=True)
    for alike in often[:REASONS]:
        yield f"{what}: {len(alike)} like {alike[0]}"
    if len(often) > REASONS:
        yield f"{what}: {sum(map(len, often[REASONS:]))} for {len(often) - REASONS} other reasons"


def _records(path: Source, answered: bool, skipped: list[str] | None, reading: Reading) -> Iterator[tuple[str, Row]]:
    try:
        if not answered and isinstance(path, str | Path) and files.form(path)[0] == ".txt":
            yield from ((where, {"prompt": line}) for where, line in files.lines(path))
        else:
            asked = files.records(reading.requests, skipped) if reading.requests else ()
            yield from joined(chain(asked, files.records(path, skipped)), skipped)
    except DataError as error:
        raise SteerError(str(error)) from None


def _coding(records: Iterable[Row]) -> votes.Coding | DataError:
    """What the numbers mean that are votes in a file, or why nobody can know."""
    try:
        return votes.coding(records)
    except DataError as error:
        return error


def _renamed(record: Row, reading: Reading, found: Found | None = None) -> tuple[Row, Row]:
    """(The record under the names and with the prompt that `reading` gives, the columns that only accompany it)."""
    rest: Row = {}
    if reading.columns:
        record, rest = mapped(record, dict(reading.columns))
        if found is not None:
            found.columns.update(name for name, value in record.items() if value is not None)
        if not layouts.answers(record) and layouts.answers({**rest, **record}):
            record, rest = {**rest, **record}, {}  # the map names the question, and other columns the answers
        for column in system_columns(rest) if not system_columns(record) else ():
            record[column] = rest.pop(column)
    unasked = not record.get("prompt") or (isinstance(record["prompt"], str) and not record["prompt"].strip())
    if reading.prompt and unasked and ("response" in record or "completion" in record):
        record = {**record, "prompt": reading.prompt}
    return record, rest


def _in_range(row: Row, where: str, ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        score = row.get("scores", {}).get(name)
        if score is not None and not low <= score <= high:
            remedy = "Correct it, write null, or mend --range"
            raise SteerError(f"{where}: column 'scores': '{name}' is {score:g}, outside {low:g} to {high:g}. {remedy}.")


def _asked(row: Row) -> Row:
    """The whole conversation as prompt, where it goes on after the response."""
    if not isinstance(row.get("after_response"), list) or "response" not in row:
        return row
    kept = {name: row[name] for name in ("reasoning_content", "tool_calls") if row.get(name)}
    said = {"role": "assistant", "content": row["response"], **kept}
    gone = ("response", "after_response", "finished", *kept)
    asked = {name: value for name, value in row.items() if name not in gone}
    asked["prompt"] = [*row["prompt"], said, *row["after_response"]]
    return {**asked, "id": content_id(asked)} if row["id"] == content_id(row) else asked


def _same_kind(record: Row, row: Row, where: str, seen: dict[str, tuple[str, str]]) -> None:
    """A column that became a score in one row must be a score in all, and written in one way: else scores were lost.

    Only words that are a score by chance, such as "yes" among others, go back to being words.
    """
    words = dict.fromkeys((name for name, value in row.items() if isinstance(value, str)), "words")
    cells = {attribute(c): (c, v) for c, v in record.items() if isinstance(v, str)}
    forms = {name: written(cells[name][1]) if name in cells else "" for name in row.get("scores", {})}
    for name, holds in {**words, **{name: form or "a number" for name, form in forms.items()}}.items():
        first, place = seen.setdefault(name, (holds, where))
        if first == holds or (_EITHER in (first, holds) and {first, holds} <= _FIGURES):
            seen[name] = (holds, where) if first == _EITHER else (first, place)
        elif first == "words" and holds in WORDS:
            del row["scores"][name]
            row[cells[name][0]] = cells[name][1]
        else:
            cell = cells[name][1] if name in cells else row.get(name, row.get("scores", {}).get(name))
            found = row["scores"][name] if first == "words" else repr(cell[:40] if isinstance(cell, str) else cell)
            first = "a number" if first in (_EITHER, "a decimal point") else first
            remedy = "Empty the unknown cells; remove the column if it is no score"
            raise SteerError(f"{where}: column '{name}': holds {found}, but {first} at {place}. {remedy}.")


_EITHER = "a whole number"
_FIGURES = {_EITHER, "a decimal point", "a decimal comma", "a number"}


def _unique(
    rows: Iterable[tuple[str, Row]],
    path: Source,
    skipped: list[str] | None,
    reading: Reading = PLAIN,
    answered: bool = True,
) -> Iterator[tuple[str, Row]]:
    seen: set[int] = set()
    times: dict[str, int] = {}
    for where, row in rows:
        name = row["id"]
        if hash(name) in seen:
            if name != content_id(row):
                # Places are not kept: the file is read again, which only an error costs.
                once = _is_stdin(path) or skipped is not None
                again: Iterable[tuple[str, Row]] = () if once else _checked(path, answered, [], reading)
                first = next((place for place, other in again if other["id"] == name), "an earlier row")
                message = f"{where}: column 'id': '{name}' is also the id of {first}. Rename one of them."
                if skipped is None:
                    raise SteerError(message)
                skipped.append(message)
                continue
            while hash(row["id"]) in seen:
                times[name] = times.get(name, 1) + 1
                row = {**row, "id": f"{name}-{times[name]}"}
        seen.add(hash(row["id"]))
        yield where, row


def prompt_key(row: Row) -> str:
    """16 hex digits that all candidates of one prompt share."""
    turns = [[turn["role"], turn["content"]] for turn in row["prompt"]]
    return hashlib.blake2b(json.dumps(turns).encode(), digest_size=8).hexdigest()


def split_of(row: Row, held_out: float, seed: int) -> Literal["train", "test"]:
    """The side of a row: what its column `split` says, else by hash, so that all rows of a prompt are on one side.

    `held_out` is the share of prompts, 0 to 1, that become "test". A split named as in HELD_OUT is "test" too.
    """
    split = (row.get("split") or "").lower()
    if split:
        side = SIDE.search(split)
        return "train" if side and side[1] == "train" else "test"
    drawn = hashlib.blake2b(f"{seed}:{prompt_key(row)}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(drawn) < held_out * 2**64 else "train"


def content_hash(rows: Source) -> str:
    """16 hex digits of rows, or of what `read` gives, in their order; file format, column order, nulls don't count."""
    digest = hashlib.blake2b(digest_size=8)
    for row in read(rows) if isinstance(rows, (str, Path)) else rows:
        digest.update(json.dumps(_known(row), sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _known(inner) for name, inner in value.items() if inner is not None}
    return [_known(inner) for inner in value] if isinstance(value, (list, tuple)) else value
