"""The row contract: read, check, write. Every stage reads and writes its rows through here."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

from data_recipes import files, layouts
from data_recipes.files import DataError, kind
from steer.errors import SteerError

Row = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
NAMES = ("id", "group", "source", "split")
HELD_OUT = ("test", "val", "dev", "eval", "held")  # how the name of a split begins that is not for training


def read(path: str | Path, *, unique: bool = True, skipped: list[str] | None = None) -> Iterator[Row]:
    """Rows of any file that data_recipes.files and .layouts know, checked, one at a time.

    An id that occurs twice is refused, unless it was made from the content: then the repetition gets -2, -3, ...
    `unique=False` leaves ids as they are and needs no memory for them. A row that cannot be used raises SteerError;
    with a list as `skipped` its message is appended there instead, for the caller to count and report.
    """
    rows = _checked(path, True, skipped)
    return (row for _, row in (_unique(rows, path) if unique else rows))


def read_all(path: str | Path, *, unique: bool = True, skipped: list[str] | None = None) -> list[Row]:
    """As `read`, all rows at once."""
    return list(read(path, unique=unique, skipped=skipped))


def prompts(path: str | Path, *, skipped: list[str] | None = None) -> Iterator[Row]:
    """Rows to generate from: as `read`, but a response may be absent; a .txt file gives one prompt a line.

    A conversation that goes on after its last assistant turn is all prompt. Responses that are there stay in the row.
    """
    return (row for _, row in _unique(_checked(path, False, skipped), path, answered=False))


def _checked(path: str | Path, answered: bool, skipped: list[str] | None) -> Iterator[tuple[str, Row]]:
    """Rows with their places; a record of several rows is used whole or not at all."""
    seen: dict[str, tuple[str, str]] = {}
    for where, record in _records(path, answered):
        try:
            made = [row if answered else _asked(row) for row in layouts.rows(record)]
            for row in made:
                check(row, where, answered=answered)
                if "scores" not in record:
                    _same_kind(row, where, seen)
        except (DataError, SteerError) as error:
            message = str(error) if isinstance(error, SteerError) else f"{where}: {error}"
            if skipped is None:
                raise SteerError(message) from None
            skipped.append(message)
        else:
            yield from ((where, row) for row in made)


def _records(path: str | Path, answered: bool) -> Iterator[tuple[str, Row]]:
    try:
        if not answered and files.form(path)[0] == ".txt":
            yield from ((where, {"prompt": line}) for where, line in files.lines(path))
        else:
            yield from files.records(path)
    except DataError as error:
        raise SteerError(str(error)) from None


def _asked(row: Row) -> Row:
    """The whole conversation as prompt, where it goes on after the response."""
    if not isinstance(row.get("after_response"), list) or "response" not in row:
        return row
    said = {"role": "assistant", "content": row["response"]}
    asked = {name: value for name, value in row.items() if name not in ("response", "after_response")}
    asked["prompt"] = [*row["prompt"], said, *row["after_response"]]
    return {**asked, "id": layouts.content_id(asked)} if row["id"] == layouts.content_id(row) else asked


def _same_kind(row: Row, where: str, seen: dict[str, tuple[str, str]]) -> None:
    """A column that became a score in one row must not hold words in another: that row's score would be lost."""
    words = dict.fromkeys((name for name, value in row.items() if isinstance(value, str)), "words")
    for name, holds in {**words, **dict.fromkeys(row.get("scores", {}), "a number")}.items():
        first, place = seen.setdefault(name, (holds, where))
        if first != holds:
            found = repr(row[name][:40]) if holds == "words" else row["scores"][name]
            remedy = "Empty the unknown cells; remove the column if it is no score"
            raise SteerError(f"{where}: column '{name}': holds {found}, but {first} at {place}. {remedy}.")


def _unique(rows: Iterable[tuple[str, Row]], path: str | Path, answered: bool = True) -> Iterator[tuple[str, Row]]:
    seen: set[int] = set()
    times: dict[str, int] = {}
    for where, row in rows:
        name = row["id"]
        if hash(name) in seen:
            if name != layouts.content_id(row):
                # Places are not kept: the file is read again, which only an error costs.
                again: Iterable[tuple[str, Row]] = () if str(path) == files.STDIN else _checked(path, answered, [])
                first = next((place for place, other in again if other["id"] == name), "an earlier row")
                raise SteerError(f"{where}: column 'id': '{name}' is also the id of {first}. Rename one of them.")
            while hash(row["id"]) in seen:
                times[name] = times.get(name, 1) + 1
                row = {**row, "id": f"{name}-{times[name]}"}
        seen.add(hash(row["id"]))
        yield where, row


def check(row: Row, where: str, *, answered: bool = True) -> None:
    """Refuse a row that breaks the contract, with a SteerError: "where: column 'x': what is wrong. What to do."

    Scores are finite numbers or null; true and false are refused here, because `read` has made them 1 and 0. A response
    may be absent when it is not `answered`. Columns that the contract does not name are not looked at.
    """
    faults = chain(_name_faults(row), _prompt_faults(row), _response_faults(row, answered), _value_faults(row))
    for column, what in faults:
        raise SteerError(f"{where}: column '{column}': {what}.")


def _name_faults(row: Row) -> Iterator[tuple[str, str]]:
    """Faults as (column, what is wrong). The first is right; later ones may rest on what it found wrong."""
    for column in NAMES:
        value = row.get(column)
        if not isinstance(value, str) and (column == "id" or value is not None):
            yield column, f"holds {kind(value)}, wanted a text. Write it in quotes"
    split = row.get("split")
    if split and not split.lower().startswith(("train", *HELD_OUT)):
        yield "split", f"'{split}' is neither train nor test. Rename the split"


def _prompt_faults(row: Row) -> Iterator[tuple[str, str]]:
    prompt = row.get("prompt")
    if not isinstance(prompt, list):
        found = f"is missing (there are: {', '.join(row)})" if prompt is None else f"holds {kind(prompt)}"
        yield "prompt", f"{found}, wanted a list of turns {{role, content}}"
        return
    for i, turn in enumerate(prompt, start=1):
        if not isinstance(turn, dict):
            yield "prompt", f"turn {i} is {kind(turn)}, wanted {{role, content}}"
        elif turn.get("role") not in ROLES:
            yield "prompt", f"turn {i} has the role '{turn.get('role')}'. Use one of {', '.join(ROLES)}"
        else:
            yield from _text_faults(turn.get("content"), "prompt", f"turn {i} ")
    if not any(turn["content"].strip() for turn in prompt):
        yield "prompt", "is empty. Write what was asked, such as 'Write a sentence' in every row of bare sentences"
    elif prompt[-1]["role"] != "user":
        yield "prompt", f"ends with a turn of the {prompt[-1]['role']}. End it with the user's, or remove the row"


def _response_faults(row: Row, answered: bool) -> Iterator[tuple[str, str]]:
    response: Any = row.get("response")
    if not answered and response in (None, ""):
        return
    if response is None:
        yield "response", f"is missing (there are: {', '.join(row)}). Add it, or use the file for prompts only"
    yield from _text_faults(response, "response")
    if not response.strip():
        yield "response", "is blank. Write what was answered, or remove the row"


def _text_faults(text: Any, column: str, part: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(text, str):
        yield column, f"{part}holds {kind(text)}, wanted a text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        yield column, f"{part}has half a surrogate pair (a cut emoji) as character {error.start + 1}. Remove it"


def _value_faults(row: Row) -> Iterator[tuple[str, str]]:
    for column, wanted in (("scores", "a number or null"), ("levels", "an integer"), ("target", "an integer")):
        values = row.get(column)
        if not isinstance(values, dict | None):
            yield column, f"holds {kind(values)}, wanted an object {{attribute: {wanted}}}. Rename the column"
            return
        for name, value in (values or {}).items():
            if not ATTRIBUTE.fullmatch(name):
                yield column, f"'{name}' cannot name an attribute. Use a letter, then letters, digits, _ or -"
            number = isinstance(value, int if wanted == "an integer" else (int, float)) and not isinstance(value, bool)
            if not number and (value is not None or column != "scores"):
                yield column, f"attribute '{name}' holds {value!r:.40}, wanted {wanted}"
            if isinstance(value, float) and not math.isfinite(value):
                yield column, f"attribute '{name}' is {value}. Write null where a score is unknown"


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
        return "train" if split.startswith("train") else "test"
    drawn = hashlib.blake2b(f"{seed}:{prompt_key(row)}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(drawn) < held_out * 2**64 else "train"


def content_hash(rows: str | Path | Iterable[Row]) -> str:
    """16 hex digits of rows, or of what `read` gives, in their order; file format, column order, nulls don't count."""
    digest = hashlib.blake2b(digest_size=8)
    for row in read(rows) if isinstance(rows, (str, Path)) else rows:
        digest.update(json.dumps(_known(row), sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _known(inner) for name, inner in value.items() if inner is not None}
    return [_known(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def write(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows as .jsonl (also .gz, .zst; streamed) or .parquet (from memory) and return how many.

    Atomic: the file appears when it is complete, or not at all. The same rows give the same bytes.
    """
    suffix, packing = files.form(path := Path(path))
    if suffix not in (".jsonl", ".ndjson") and (suffix, packing) != (".parquet", ""):
        raise SteerError(f"{path}: rows are written as .jsonl, .jsonl.gz, .jsonl.zst or .parquet. Change the suffix.")
    with _replacing(path) as file:
        if suffix == ".parquet":
            return _write_parquet(file, path, list(rows))
        count = 0
        with _packed(file, packing) as out:
            for row in rows:
                out.write(_line(row, path))
                count += 1
        return count


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise SteerError(f"{path}: cannot be written ({error.strerror}). Choose another folder.") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _packed(file: BinaryIO, packing: str) -> AbstractContextManager[Any]:
    if packing == ".gz":
        return gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0)
    if packing == ".zst":
        import zstandard

        return zstandard.ZstdCompressor().stream_writer(file, closefd=False)
    return nullcontext(file)


def _line(row: Row, path: Path) -> bytes:
    """A lone surrogate in an extra column becomes its JSON escape, which reads back as it was."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
    except (TypeError, ValueError) as error:
        remedy = "Write null for unknown numbers, and no objects of Python"
        raise SteerError(f"{path}: row '{row.get('id')}' cannot be written as JSON ({error}). {remedy}.") from None


def _write_parquet(file: BinaryIO, path: Path, rows: list[Row]) -> int:
    import pyarrow.parquet

    for row in rows:
        _line(row, path)  # the same rows are refused in either format
    try:
        table = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            if {} in values and not any(values):  # Parquet has no empty object, only one whose keys are all null
                values = [None if value is None else {"_": None} for value in values]
            table[name] = pyarrow.array(values)
        pyarrow.parquet.write_table(pyarrow.table(table), file)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise SteerError(f"{path}: column '{name}' fits no Parquet type ({error}). Write .jsonl.") from None
    return len(rows)
