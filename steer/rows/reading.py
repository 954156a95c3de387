"""Read rows: the records of any known layout become checked rows, one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from data_recipes import files, layouts, thoughts, votes
from data_recipes.answers import content_id
from data_recipes.asked import system_columns
from data_recipes.cells import EMPTY, form, one_way
from data_recipes.joined import joined
from data_recipes.mapped import mapped
from data_recipes.marks import LEFT_OUT, NO_ANSWER, NOTED, OWN_SCORES, UNASKED, UNWRITTEN
from data_recipes.scores import attribute, thumb
from data_recipes.streams import DataError
from steer.addresses import fetched, is_address
from steer.errors import SteerError
from steer.hub import at_commit
from steer.progress import note, progress
from steer.rows import notices
from steer.rows.contract import ROLES, TOO_DEEP, Row, check, check_json
from steer.rows.directions import named_score
from steer.rows.numbers import Numbers
from steer.rows.ratings import ASKED, UNREAD, Ratings
from steer.run_folder import is_run, row_files
from steer.settings import WHICH_TURNS, did_you_mean

Source = str | Path | Iterable[Mapping[str, Any]]  # a path of any known layout, dicts, or a datasets.Dataset

OURS = "prompt, response, scores"  # the layout of the rows that steer writes
UNSCORED = ("id", "response", "group", "source", "split", "conversation", "reasoning_content")  # texts, if anything
ANSWERED = {"response", "completion", "choices"}  # columns of an answer that may stand without what it answers
TWO_WAYS = "column '{}' is written in two ways"
UNANSWERED = ("response", "after_response", "finished")  # columns of an answer that becomes part of the prompt


@dataclass(frozen=True)
class Reading:
    """Settings that say how a source becomes rows where its columns do not."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> dotted path in the record
    prompt: str = ""  # of rows that have a response and no prompt
    requests: str = ""  # file of the requests that the source's batch results answer
    scores: str = ""  # file of the scores of the source's observations (Langfuse)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # attribute -> (lowest, highest)
    wanted: tuple[str, ...] = ()  # numeric columns that are scores, whatever they look like
    turns: str = "last"  # assistant turns of a whole conversation that become rows: "last", or "all"
    blank: bool = False  # accept empty responses: where answers are judged and not trained on


@dataclass
class Tally:
    """Counts of one reading: records and rows of each layout, and what was dropped, corrected or noted."""

    records: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)  # mapped column -> records that hold something there
    dropped: Counter[str] = field(default_factory=Counter)  # "place: reason" of rows whose record is not at fault
    votes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (meaning of the votes, side that is better)
    votes_at: Counter[str] = field(default_factory=Counter)  # where comparisons without a known vote hold some
    notes: Counter[str] = field(default_factory=Counter)  # "what was done: with what" -> rows
    turns: Counter[str] = field(default_factory=Counter)  # where every assistant turn is a row: what became of them
    not_scores: dict[str, str] = field(default_factory=dict)  # numeric column without scores -> reason
    numbers: Counter[str] = field(default_factory=Counter)  # score -> rows in which it is known
    words: Counter[str] = field(default_factory=Counter)  # column -> rows in which it holds a text
    example: dict[str, str] = field(default_factory=dict)  # column -> the first text in it

    def add(self, later: Tally) -> None:
        """Count what was read after this, as if it had been counted here."""
        for name, counts in vars(self).items():
            if isinstance(counts, Counter):
                counts.update(getattr(later, name))
        for column, reason in later.not_scores.items():
            if not (reason.startswith(UNREAD) and column in self.not_scores):
                self.not_scores[column] = reason
        for column, text in later.example.items():
            self.example.setdefault(column, text)


class InOrderError(Exception):
    """Records can only be read by a process that has read those before them; the message says why."""


def read_rows(
    source: Source,
    *,
    limit: int = 0,
    columns: Mapping[str, str] | None = None,
    prompt: str = "",
    ranges: Mapping[str, tuple[float, float]] | None = None,
    wanted: Sequence[str] = (),
    turns: str = "last",
) -> list[Row]:
    """Read and check rows in any known layout: a path, an address, dicts, a datasets.Dataset or `hf:OWNER/NAME`.

    `limit`: the first rows only (0: all). `columns`: our name -> name or dotted path in the records. `prompt`: of rows
    that have a response and no prompt. `ranges`: attribute -> (lowest, highest) score; others raise SteerError, as
    does every row that breaks the contract, with its place. `wanted`: numeric columns that are scores, whatever their
    names. `turns`: "all" makes a row of every assistant turn of a conversation, not of the last one only.
    """
    if turns not in WHICH_TURNS:
        raise SteerError(f"turns: unknown '{turns}'; {did_you_mean(turns, WHICH_TURNS)}")
    source = fetched(source) if is_address(source) else source
    reading = Reading(columns or {}, prompt, ranges=ranges or {}, wanted=tuple(wanted), turns=turns)
    where = source if isinstance(source, str | Path) else "rows"
    return list(progress(islice(read(source, reading=reading), limit or None), what=f"read {where}"))


def read(
    source: Source,
    *,
    unique: bool = True,
    skipped: list[str] | None = None,
    reading: Reading | None = None,
    tally: Tally | None = None,
) -> Iterator[Row]:
    """Yield the checked rows of a source, one at a time.

    An id that occurs twice is refused, unless it was made from the content: then the repetition gets -2, -3, ...
    `unique=False` leaves ids as they are and needs no memory for them. A record that cannot be used raises SteerError;
    with a list as `skipped` its message is appended there instead, for the caller to count and report. `tally` is
    counted up; without one, what is dropped is noted on stderr.
    """
    return Reader(source, skipped, reading, tally).read(unique)


def prompts(source: Source) -> Iterator[Row]:
    """Yield rows to generate from: as `read`, but a response may be absent; a .txt file gives one prompt a line.

    A conversation that goes on after its last assistant turn is all prompt. Other responses stay in the row.
    """
    return Reader(source, answered=False).read()


class Reader:
    """One pass over a source, and further ones over its records if their columns alone say too little.

    `apart`: it is given records of which others have read the first, and raises InOrderError where those matter.
    """

    def __init__(
        self,
        source: Source,
        skipped: list[str] | None = None,
        reading: Reading | None = None,
        tally: Tally | None = None,
        answered: bool = True,
        apart: bool = False,
    ) -> None:
        self.path = source if isinstance(source, str | Path) else None
        if not isinstance(source, str | Path | Sequence | Mapping) and not hasattr(source, "with_format"):
            source = list(source)  # an iterator can be read only once
        self.source, self.answered, self.skipped, self.apart = source, answered, skipped, apart
        self.reading = reading or Reading()
        self.quiet = tally is not None
        self.tally = Tally() if tally is None else tally
        self.table = self.path is not None and files.form(self.path)[0] in files.CELLS
        self.piped = self.path is not None and str(self.path) == files.STDIN
        self.kept: list[tuple[str, Row]] = []  # of stdin, which can be read only once
        self.ours = self.path is not None and not self.reading.columns and is_ours(Path(self.path))
        self.coding: votes.Coding | DataError | None = None
        self.forms: dict[str, dict[str, str]] = {}  # score -> how its column writes numbers -> place of the first
        self.seen, self.times = Numbers(), dict[str, int]()  # hashes of ids, and how often one was made from content
        self.ratings = Ratings((*self.reading.columns, *self.reading.wanted), self.again, self.tally.not_scores)

    def read(self, unique: bool = True) -> Iterator[Row]:
        """Yield the rows; what was dropped is noted at the end, if nobody counts it."""
        yield from (row for _, row in (self.unique(self.rows()) if unique else self.rows()))

    def count_anew(self) -> None:
        """Forget what was counted and how columns write numbers."""
        self.tally, self.forms = Tally(), {}
        self.ratings.unrated = self.tally.not_scores

    def records(self, skipped: list[str] | None) -> Iterator[tuple[str, Row]]:
        """Yield the records with their places."""
        try:
            if not self.answered and self.path is not None and files.form(self.path)[0] == ".txt":
                yield from ((place, {"prompt": line}) for place, line in files.lines(self.path))
            else:
                requests = files.records(self.reading.requests, skipped) if self.reading.requests else ()
                scores = files.records(self.reading.scores, skipped) if self.reading.scores else ()
                records = chain(requests, files.records(at_commit(self.source), skipped))
                yield from joined(records, skipped, alone=bool(self.reading.prompt), scores=scores)
        except DataError as error:
            raise SteerError(str(error)) from None

    def again(self) -> Iterator[Row]:
        """Yield all records once more, under the names that they are read by, without broken ones."""
        for _, record in self.kept if self.piped else self.records([]):
            with suppress(DataError):
                yield layouts.spelled_out(_renamed(record, self.reading)[0])

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield rows with their places; a record of several rows is used whole or not at all."""
        records: Iterable[tuple[str, Row]] = self.records(self.skipped)
        if self.piped:
            records = self.kept = list(records)
        for place, record in records:
            yield from ((place, row) for row in self.usable(record, place))
        if not self.quiet:
            self.note()

    def usable(self, record: Row, place: str) -> list[Row]:
        """Return the rows of a record, none if it cannot be used and the caller skips such records."""
        try:
            return self.rows_of(record, place)
        except (RecursionError, DataError) as error:
            self.refuse(f"{place}: {TOO_DEEP if isinstance(error, RecursionError) else error}")
        except SteerError as error:
            self.refuse(str(error))
        return []

    def refuse(self, message: str) -> None:
        """Raise the message, or collect it where the caller skips bad records."""
        if self.skipped is None:
            raise SteerError(message) from None
        self.skipped.append(message)

    def note(self) -> None:
        """Note on stderr what was dropped, corrected or taken for no score."""
        name, tally = "rows" if self.path is None else self.path, self.tally
        for line in (
            *notices.reasons(tally.dropped, "left out"),
            *votes.summary(tally.votes, tally.votes_at),
            *notices.noted(tally),
        ):
            _note_once(f"{name}: {line}")

    def rows_of(self, record: Row, place: str) -> list[Row]:
        """Return the checked rows of a record, and count them."""
        if self.ours and _is_row(record):  # steer wrote it: read it back as it is, never recognise it again
            layout, rows = OURS, [record]
        else:
            record, layout, rows = self.recognised(record, place)
        if not self.answered:
            rows = [_all_prompt(row) for row in rows]
        for i, row in enumerate(rows):
            column = layouts.answer_column(layout, i, len(rows))
            check(row, place, answered=self.answered, blank=self.reading.blank, response=column)
            check_json(row, place)
            _check_range(row, place, self.reading.ranges)
            if "scores" not in record:
                self.check_forms(record, row, place)
        self.count(layout, record, rows)
        return rows

    def recognised(self, record: Row, place: str) -> tuple[Row, str, list[Row]]:
        """Return a record under the names of its layout, the layout, and the rows that are not dropped."""
        record, rest = _renamed(record, self.reading, self.tally)
        record = layouts.spelled_out(record)
        if self.answered and votes.figures(record):
            record = self.vote_coding().read(record)
        layout = layouts.recognise(record)
        rows = layouts.rows(record, every=self.reading.turns == "all", spelled=True)
        rows = [_accompanied(row, rest, alone=len(rows) == 1) for row in rows]
        if self.answered:
            self.ratings.note_unmapped(rest, alone=len(rows) == 1)
        rows = [self.answerless(_filled(row) if self.table else row) for row in rows]
        for row in rows:
            if LEFT_OUT in row:
                self.tally.turns["left out"] += OWN_SCORES in row
                self.tally.dropped[f"{place}: {row[LEFT_OUT]}"] += 1
        rows = [row for row in rows if LEFT_OUT not in row]
        return record, layout, [self.ratings.sift(layout, record, row) for row in rows] if self.answered else rows

    def answerless(self, row: Row) -> Row:
        """Return a row without an answer as one that is used, where prompts are wanted or blank answers are judged."""
        if row.get(LEFT_OUT) not in NO_ANSWER or (self.answered and not self.reading.blank):
            return row
        return {**{name: value for name, value in row.items() if name != LEFT_OUT}, "response": ""}

    def vote_coding(self) -> votes.Coding:
        """Return what the numbers mean that are votes in this source; DataError if they may mean several things."""
        if self.coding is None:
            if self.apart:
                raise InOrderError("its votes are numbers")
            try:
                self.coding = votes.coding(self.again())
            except DataError as error:
                self.coding = error  # raised for every record, found out once
        if isinstance(self.coding, DataError):
            raise self.coding
        return self.coding

    def count(self, layout: str, record: Row, rows: list[Row]) -> None:
        """Count the rows of a record, and which side its vote prefers."""
        tally = self.tally
        for row in rows:
            for line in row.pop(NOTED, ()):
                tally.notes[line] += 1
            tally.numbers.update(name for name, score in row.get("scores", {}).items() if score is not None)
            for column, value in row.items() if layout != OURS else ():
                if isinstance(value, str) and column not in UNSCORED:
                    tally.words[column] += 1
                    tally.example.setdefault(column, value[:40])
        tally.records[layout] += 1
        tally.rows[layout] += len(rows)
        if self.reading.turns == "all":
            self.count_turns(rows)
        if rows and (layout in votes.MEANINGS or votes.compares(record)):
            coded = self.coding.meaning if isinstance(self.coding, votes.Coding) else ""
            side = votes.side(rows[0]["scores"].get("preference"))
            tally.votes[votes.MEANINGS.get(layout) or coded, side] += 1
            if side == "unknown" and (place := votes.hidden(record)):
                tally.votes_at[place] += 1

    def count_turns(self, rows: list[Row]) -> None:
        """Count what became of the assistant turns of a record, and which rows have scores of their conversation."""
        tally = self.tally
        tally.turns["conversations"] += any(OWN_SCORES in row for row in rows)
        for row in rows:
            if OWN_SCORES in row:
                tally.turns["rows"] += 1
                tally.turns["scored as a whole"] += not row["scores"].keys() <= {*row.pop(OWN_SCORES)}
            elif "conversation" not in row:
                tally.turns["asked"] += any(turn["role"] == "assistant" for turn in row["prompt"])

    def check_forms(self, record: Row, row: Row, place: str) -> None:
        """Refuse scores whose column is written in two ways, such as 50% and 5: which scale is meant cannot be guessed.

        Words in a column of scores are unknown scores, and are counted.
        """
        cells = {attribute(c): v for c, v in record.items() if isinstance(v, str | bool)}
        for name, score in row.get("scores", {}).items():
            if not (written_so := form(cells.get(name, score))):
                continue
            forms = self.forms.setdefault(name, {})
            if first := next((other for other in forms if not one_way((other, written_so))), ""):
                if self.apart:
                    raise InOrderError(TWO_WAYS.format(name))
                value = repr(cells[name])[:40] if name in cells else f"{score:g}"
                remedy = "Write it in one way, or empty the cells that are unknown"
                raise SteerError(f"{place}: column '{name}': holds {value}, but {first} at {forms[first]}. {remedy}.")
            forms.setdefault(written_so, place)

    def unique(self, rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
        """Yield the rows with ids that occur once."""
        for place, row in rows:
            if hash(row["id"]) in self.seen:
                if (name := self.other_id(row, place)) is None:
                    continue
                row = {**row, "id": name}
            self.seen.add(hash(row["id"]))
            yield place, row

    def other_id(self, row: Row, place: str) -> str | None:
        """Return an id for a row whose own was seen, if it was made from the content; else refuse the row."""
        name = other = row["id"]
        if name != content_id(row):
            message = f"{place}: column 'id': '{name}' is also the id of {self.first_place(name)}."
            self.refuse(f"{message} Rename one of them.")
            return None
        while hash(other) in self.seen:
            self.times[name] = self.times.get(name, 1) + 1
            other = f"{name}-{self.times[name]}"
        return str(other)

    def first_place(self, name: str) -> str:
        """Return where an id occurs first: places are not kept, the source is read again, which only an error costs."""
        once = self.piped or self.skipped is not None
        rows = () if once else Reader(self.source, [], self.reading, Tally(), self.answered).rows()
        return next((place for place, row in rows if row["id"] == name), "an earlier row")


def is_ours(path: Path) -> bool:
    """Whether steer wrote the rows: those of a folder, with a config.json of ours or a done.json beside them."""
    folder = path if path.is_dir() else path.parent
    rows = row_files(folder) if folder.is_dir() else []
    named = bool(rows) and (path.is_dir() or path in rows)
    return named and (is_run(folder) or (folder / "done.json").is_file())


def _is_row(record: Row) -> bool:
    """Whether the columns of the contract hold what steer writes there; an edited row may not."""
    prompt, scores = record.get("prompt"), record.get("scores")
    return (
        isinstance(record.get("id"), str)
        and isinstance(record.get("response"), str)
        and isinstance(prompt, list)
        and all(
            isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)
            for turn in prompt
        )
        and isinstance(scores, dict)
        and all(score is None or isinstance(score, float) for score in scores.values())
    )


def _renamed(record: Row, reading: Reading, tally: Tally | None = None) -> tuple[Row, Row]:
    """Return the record under the names and with the prompt of `reading`, and the columns that only accompany it."""
    rest: Row = {}
    if reading.columns:
        record, rest = mapped(record, dict(reading.columns))
        if tally is not None:
            tally.columns.update(name for name, value in record.items() if value is not None)
        if not layouts.answers(record) and layouts.answers({**rest, **record}):
            record, rest = {**rest, **record}, {}  # the map names the question, and other columns the answers
        record = votes.aspects(record, reading.columns) | _praised(record, reading.columns)
        for find in (system_columns, thoughts.columns):
            for column in find(rest) if not find(record) else ():
                record[column] = rest.pop(column)
    unasked = not record.get("prompt") or (isinstance(record["prompt"], str) and not record["prompt"].strip())
    if reading.prompt and unasked and (ANSWERED & record.keys() or record.get("object") == "response"):
        record = {**record, "prompt": reading.prompt}
    return record, rest


def _filled(row: Row) -> Row:
    """Say in a row of a table why it is left out, where its prompt or response is a word for an empty cell."""
    if LEFT_OUT in row:
        return row
    asked = [turn["content"] for turn in row["prompt"] if turn["role"] not in ("system", "developer")]
    if len(asked) == 1 and asked[0].strip() in EMPTY:
        return {**row, LEFT_OUT: UNASKED}
    return {**row, LEFT_OUT: UNWRITTEN} if str(row.get("response")).strip() in EMPTY and "response" in row else row


def _praised(record: Row, columns: Mapping[str, str]) -> Row:
    """Return the scores that --map names by where a thumb is, such as helpful=feedback.type, as true or false."""
    praised: Row = {}
    for name, path in columns.items():
        places = ["thumbs"] if named_score(name) else [name, *path.split(".")]
        words = [word for place in places if (word := thumb(place, record.get(name))) is not None]
        praised |= {name: words[0]} if words and name not in (*ASKED, "preference") else {}
    return praised


def _accompanied(row: Row, rest: Row, *, alone: bool) -> Row:
    """Return a row with the columns beside those that --map names; their `scores` are those of the only response."""
    if not alone or not isinstance(rest.get("scores"), dict):
        return {**rest, **row}
    own, _ = layouts.own_scores(rest)
    return {**rest, **row, **{name: {**own[name], **row.get(name, {})} for name in own}}


def _check_range(row: Row, place: str, ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        score = row.get("scores", {}).get(name)
        if score is not None and not low <= score <= high:
            remedy = "Correct it, write null, or change --range"
            raise SteerError(f"{place}: column 'scores': '{name}' is {score:g}, outside {low:g} to {high:g}. {remedy}.")


def _all_prompt(row: Row) -> Row:
    """Return the row with its whole conversation as prompt, if that goes on after the response."""
    if not isinstance(row.get("after_response"), list) or "response" not in row:
        return row
    kept = {name: row[name] for name in ("reasoning_content", "tool_calls") if row.get(name)}
    answer = {"role": "assistant", "content": row["response"], **kept}
    asked = {name: value for name, value in row.items() if name not in (*UNANSWERED, *kept)}
    asked["prompt"] = [*row["prompt"], answer, *row["after_response"]]
    return {**asked, "id": content_id(asked)} if row["id"] == content_id(row) else asked


@cache
def _note_once(line: str) -> None:
    """Note a line once, however often a source is read."""
    note(line)
