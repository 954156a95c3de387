"""Read records from disk or memory as a stream, each with its place."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from data_recipes import hub, parquet, streams
from data_recipes.streams import (
    STDIN,
    DataError,
    Record,
    form,
    kind,
    lines,
    numbered_lines,
    place_of,
    refuse,
    rows_files,
)

__all__ = ["KNOWN", "STDIN", "DataError", "Record", "form", "kind", "lines", "records"]

CELLS = {".csv": ",", ".tsv": "\t"}
KNOWN = (
    ".jsonl, .ndjson, .json, .csv, .tsv (each also with .gz, .zst or .xz), .parquet, a folder with rows.jsonl, "
    "rows.parquet or their parts, a saved datasets folder, a folder of data files, hf:OWNER/NAME, - for JSON lines on "
    "stdin"
)
GAP = re.compile(r"[ \t\r\n]*")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; ValueError if a name occurs twice, because one of its values would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError(f"the name '{_repeated([name for name, _ in pairs])}' stands twice in one object")
    return value


def _repeated(names: list[str]) -> str:
    return next((name for i, name in enumerate(names) if name in names[:i]), "")


JSON = json.JSONDecoder(object_pairs_hook=_once)


def records(
    path: str | Path | Iterable[Mapping[str, Any]], bad: list[str] | None = None
) -> Iterator[tuple[str, Record]]:
    """Yield every record of `path` with its place: "path:line", or "path: row N" for Parquet and datasets (from 1).

    `path` may also be rows in memory: dicts or a datasets.Dataset, "rows: row N".

    Reads what KNOWN lists, one record at a time; only a JSON array is held in memory, as text. A CSV cell stays a
    string. Anything that cannot be read, and a source without a record, is a DataError, after the records before it.
    With a list as `bad` the message is appended there and reading goes on, as far as the format allows.
    """
    if not isinstance(path, str | Path):
        place, placed = "rows", hub.memory_records(path)
    elif str(path).startswith(hub.HUB):
        place, placed = str(path), hub.records(str(path))
    else:
        place = place_of(path)
        placed = _records(path, place, bad)
    empty = True
    for item in placed:
        empty = False
        yield item
    if empty and not bad:
        raise DataError(f"{place}: holds no rows. Check the command that wrote it.")


def _records(path: str | Path, place: str, bad: list[str] | None) -> Iterator[tuple[str, Record]]:
    if place == "stdin":
        return _json_lines(place, numbered_lines(path, place, bad), bad)
    if Path(path).is_dir():
        return _folder(Path(path), bad)
    suffix, packing = form(path)
    if suffix == ".parquet" and not packing:
        return parquet.records(Path(path), bad)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(place, numbered_lines(path, place, bad), bad)
    if suffix == ".json":
        return _json(place, numbered_lines(path, place, bad, streams.MAX_ARRAY), bad)
    if suffix in CELLS:
        return _cells(place, numbered_lines(path, place, bad), CELLS[suffix], bad)
    hint = " Plain text can only be prompts, one a line; give rows a prompt and a response." if suffix == ".txt" else ""
    raise DataError(f"{path}: unknown suffix '{suffix + packing}'; known: {KNOWN}.{hint}")


def _folder(folder: Path, bad: list[str] | None) -> Iterator[tuple[str, Record]]:
    if parts := rows_files(folder):
        return chain.from_iterable(_records(part, str(part), bad) for part in parts)
    return hub.folder_records(folder)


def _json_lines(place: str, numbered: Iterable[tuple[int, str]], bad: list[str] | None) -> Iterator[tuple[str, Record]]:
    for number, line in numbered:
        if not line.strip():
            continue
        try:
            value = JSON.decode(line.strip())
        except (ValueError, RecursionError) as error:
            refuse(_broken(place, number, error), bad)
        else:
            yield from _object(value, f"{place}:{number}", bad)


def _json(place: str, numbered: Iterator[tuple[int, str]], bad: list[str] | None) -> Iterator[tuple[str, Record]]:
    """Read JSON lines if the first line looks like a whole object, else an array, or objects over several lines."""
    first = next(((number, line) for number, line in numbered if line.strip()), None)
    if first is None:
        return iter(())
    numbered = chain([first], numbered)
    if first[1].lstrip().startswith("{") and first[1].rstrip().endswith("}"):
        return _json_lines(place, numbered, bad)
    return _json_values(place, "\n" * (first[0] - 1) + "\n".join(line for _, line in numbered), bad)


def _json_values(place: str, text: str, bad: list[str] | None) -> Iterator[tuple[str, Record]]:
    at = _gap(text, 0)
    array = text[at] == "["
    at = _gap(text, at + array)
    line, counted = 1, 0
    while text[at : at + 1] not in ("", "]"):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = JSON.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            refuse(_broken(place, line, error), bad)
            return
        yield from _object(value, f"{place}:{line}", bad)
        at = _gap(text, at)
        if array and text[at : at + 1] == ",":
            at = _gap(text, at + 1)
        elif array:
            break
    if text[at:].rstrip() != ("]" if array else ""):
        problem = "expected ',' or a last ']'" if array else "a ']' without its '['"
        refuse(_broken(place, line, json.JSONDecodeError(problem, text, at)), bad)


def _gap(text: str, at: int) -> int:
    return match.end() if (match := GAP.match(text, at)) else at


def _broken(place: str, line: int, error: Exception) -> DataError:
    problem, column = str(error), 1
    if isinstance(error, json.JSONDecodeError):  # counts its lines from the start of the text that it was given
        problem, column, line = error.msg, error.colno, max(line, error.lineno)
    return DataError(f"{place}:{line}:{column}: broken JSON ({problem}). Repair or delete this line.")


def _object(value: Any, place: str, bad: list[str] | None) -> Iterator[tuple[str, Record]]:
    if isinstance(value, dict):
        yield place, value
        return
    remedy = (
        "A file that is one JSON array wants the suffix .json" if isinstance(value, list) else "Write one row a line"
    )
    refuse(DataError(f"{place}: holds {kind(value)}, not an object {{...}}. {remedy}."), bad)


def _cells(
    place: str, numbered: Iterable[tuple[int, str]], delimiter: str, bad: list[str] | None
) -> Iterator[tuple[str, Record]]:
    csv.field_size_limit(streams.MAX_LINE)  # the default of 128 KiB refuses long responses
    numbered, delimiter = _separated(iter(numbered), delimiter)
    reader = csv.reader((line + "\n" for _, line in numbered), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        location = f"{place}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            remedy = "Put cells that hold quotes or commas in quotes"
            refuse(DataError(f"{location}: broken row ({error}). {remedy}."), bad)
            continue
        if cells is None:
            return
        if not "".join(cells).strip():
            continue
        if not names:
            names = _header(cells, location)
        elif len(cells) != len(names):
            remedy = "Put cells that hold the separator or a newline in quotes"
            refuse(DataError(f"{location}: has {len(cells)} cells where the header names {len(names)}. {remedy}."), bad)
        elif stray := next((cell for name, cell in list(zip(names, cells))[1:] if not name and cell.strip()), ""):
            remedy = "Name the column in the header, or empty the cell"
            refuse(DataError(f"{location}: holds '{stray:.40}' in a column without a name. {remedy}."), bad)
        else:
            yield location, {name: cell for name, cell in zip(names, cells) if name}


def _separated(numbered: Iterator[tuple[int, str]], delimiter: str) -> tuple[Iterator[tuple[int, str]], str]:
    """Return the lines and the separator of cells: if the header has no comma, its semicolon or tab."""
    head = next(numbered, None)
    if head is None:
        return numbered, delimiter
    if match := re.fullmatch(r"sep=([,;|\t])\s*", head[1]):  # what Excel writes and reads; an empty line keeps places
        return chain([(head[0], "")], numbered), match[1]
    if delimiter not in head[1]:
        delimiter = next((other for other in ",;\t" if other in head[1]), delimiter)
    return chain([head], numbered), delimiter


def _header(cells: list[str], place: str) -> list[str]:
    """Return the column names; the first may be blank, as pandas writes it over row numbers, and the last, as in Excel.

    What is blank is left out.
    """
    names = [cell.strip() for cell in cells]
    last = len("\n".join(names).rstrip().split("\n")) if any(names) else 0  # columns before the blank ones at the end
    remedy = "The first line names the columns, for example prompt,response,quality"
    if len(names) == 1 and any(other in names[0] for other in ";\t|"):
        raise DataError(f"{place}: the header is a single cell. Save with commas (.csv) or tabs (.tsv) between cells.")
    for i, name in enumerate(names[:last]):
        if re.fullmatch(r"[-+.\d]+" if i == 0 else r"[-+.\d]*", name):
            raise DataError(f"{place}: no header: cell {i + 1} is '{name}'. {remedy}.")
        if name in names[:i]:
            raise DataError(f"{place}: the header names the column '{name}' twice. Rename one of them.")
    return names
