"""Records as they lie on disk, streamed, each with its place."""

from __future__ import annotations

import csv
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

Record = dict[str, Any]

CELLS = {".csv": ",", ".tsv": "\t"}
PACKED = (".gz", ".zst")
KNOWN = (
    ".jsonl, .ndjson, .json, .csv, .tsv (each also with .gz or .zst), .parquet, "
    "a saved datasets folder, a folder with rows.jsonl, - for JSON lines on stdin"
)
STDIN = "-"
GAP = re.compile(r"[ \t\r\n]*")


class DataError(ValueError):
    """A sentence that names the place, what is wrong with the data there, and the remedy."""


def records(path: str | Path) -> Iterator[tuple[str, Record]]:
    """Every record of `path` with its place: "path:line", or "path: row N" for Parquet and datasets (both from 1).

    Reads what KNOWN lists, one record at a time; only a JSON array is held in memory, as text. A CSV cell stays a
    string. Anything that cannot be read, and a source without a record, is a DataError, after the records before it.
    """
    place = _place(path)
    empty = True
    for item in _records(path, place):
        empty = False
        yield item
    if empty:
        raise DataError(f"{place}: holds no rows. Check the command that wrote it.")


def lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Every non-blank line of a text file, stripped, with its place "path:line"; .gz and .zst are unpacked."""
    place = _place(path)
    for number, line in _lines(path, place):
        if line.strip():
            yield f"{place}:{number}", line.strip()


def form(path: str | Path) -> tuple[str, str]:
    """Suffix of the format and of the packing: data.jsonl.gz is (".jsonl", ".gz"), data.parquet (".parquet", "")."""
    name = Path(path).name.lower()
    packing = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    return Path(name.removesuffix(packing)).suffix, packing


def kind(value: Any) -> str:
    """What a JSON value is, in words: "a text", "a list", ..."""
    words = {str: "a text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


def _place(path: str | Path) -> str:
    if str(path) == STDIN:
        return "stdin"
    if not Path(path).exists():
        raise DataError(f"{path}: no such file or folder. Check the path.")
    return str(path)


def _records(path: str | Path, place: str) -> Iterator[tuple[str, Record]]:
    if place == "stdin":
        return _json_lines(place, _lines(path, place))
    if Path(path).is_dir():
        return _folder(Path(path))
    suffix, packing = form(path)
    if suffix == ".parquet" and not packing:
        return _parquet(Path(path))
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(place, _lines(path, place))
    if suffix == ".json":
        return _json(place, _lines(path, place))
    if suffix in CELLS:
        return _cells(place, _lines(path, place), CELLS[suffix])
    hint = " Plain text can only be prompts, one a line; give rows a prompt and a response." if suffix == ".txt" else ""
    raise DataError(f"{path}: unknown suffix '{suffix + packing}'; known: {KNOWN}.{hint}")


def _folder(folder: Path) -> Iterator[tuple[str, Record]]:
    if (folder / "rows.jsonl").is_file():
        rows = folder / "rows.jsonl"
        return _json_lines(str(rows), _lines(rows, str(rows)))
    if any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return _dataset(folder)
    raise DataError(f"{folder}: is neither a saved datasets folder nor one with rows.jsonl. Name one file in it.")


def _lines(path: str | Path, place: str) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and decoded lines without their newline; a byte order mark is removed."""
    number, parts = 0, [b""]  # parts of the line that has not ended yet
    try:
        for block in chain(_blocks(path), [b"\n"]):
            for i, part in enumerate(block.split(b"\n")):
                if i:
                    number += 1
                    yield number, _decoded(b"".join(parts), place, number)
                    parts = []
                parts.append(part)
    except EOFError as error:
        raise DataError(f"{place}:{number + 1}: cannot be unpacked ({error}). Copy or download it again.") from None
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}). Check its permissions.") from None


def _decoded(line: bytes, place: str, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        remedy = "Convert the file, for example with iconv -f latin1 -t utf-8"
        raise DataError(f"{place}:{number}:{error.start + 1}: {found}. {remedy}.") from None


def _blocks(path: str | Path) -> Iterator[bytes]:
    """Unpacked bytes; EOFError where the packed stream is damaged or cut short."""
    with nullcontext(sys.stdin.buffer) if str(path) == STDIN else Path(path).open("rb") as file:
        blocks = iter(lambda: file.read(1 << 18), b"")
        packing = form(path)[1]
        if packing == ".gz":
            yield from _unpacked(blocks, lambda: zlib.decompressobj(wbits=31), zlib.error)
        elif packing == ".zst":
            import zstandard

            yield from _unpacked(blocks, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError)
        else:
            yield from blocks


def _unpacked(blocks: Iterable[bytes], start: Callable[[], Any], damage: type[Exception]) -> Iterator[bytes]:
    stream = start()
    for block in blocks:
        while block:
            stream = start() if stream.eof else stream  # packed files may follow each other: cat a.gz b.gz
            try:
                yield stream.decompress(block)
            except damage as error:
                raise EOFError(str(error)) from None
            block = stream.unused_data
    if not stream.eof:
        raise EOFError("the packed data ends too early")


def _json_lines(place: str, numbered: Iterable[tuple[int, str]]) -> Iterator[tuple[str, Record]]:
    for number, line in numbered:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _broken(place, number, error) from None
        yield f"{place}:{number}", _object(value, f"{place}:{number}")


def _json(place: str, numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[str, Record]]:
    """JSON lines when the first line looks like a whole object; otherwise an array, or objects over several lines."""
    first = next(((number, line) for number, line in numbered if line.strip()), None)
    if first is None:
        return iter(())
    numbered = chain([first], numbered)
    if first[1].lstrip().startswith("{") and first[1].rstrip().endswith("}"):
        return _json_lines(place, numbered)
    return _json_values(place, "\n" * (first[0] - 1) + "\n".join(line for _, line in numbered))


def _json_values(place: str, text: str) -> Iterator[tuple[str, Record]]:
    decoder = json.JSONDecoder()
    at = _gap(text, 0)
    array = text[at] == "["
    at = _gap(text, at + array)
    line, counted = 1, 0
    while text[at : at + 1] not in ("", "]"):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _broken(place, line, error) from None
        yield f"{place}:{line}", _object(value, f"{place}:{line}")
        at = _gap(text, at)
        if array and text[at : at + 1] == ",":
            at = _gap(text, at + 1)
        elif array:
            break
    if text[at:].rstrip() != ("]" if array else ""):
        what = "expected ',' or a last ']'" if array else "a ']' without its '['"
        raise _broken(place, line, json.JSONDecodeError(what, text, at))


def _gap(text: str, at: int) -> int:
    return match.end() if (match := GAP.match(text, at)) else at


def _broken(place: str, line: int, error: Exception) -> DataError:
    what, column = str(error), 1
    if isinstance(error, json.JSONDecodeError):  # counts its lines from the start of the text that it was given
        what, column, line = error.msg, error.colno, max(line, error.lineno)
    return DataError(f"{place}:{line}:{column}: broken JSON ({what}). Repair or delete this line.")


def _object(value: Any, where: str) -> Record:
    if isinstance(value, dict):
        return value
    remedy = (
        "A file that is one JSON array wants the suffix .json" if isinstance(value, list) else "Write one row a line"
    )
    raise DataError(f"{where}: holds {kind(value)}, not an object {{...}}. {remedy}.")


def _cells(place: str, numbered: Iterable[tuple[int, str]], delimiter: str) -> Iterator[tuple[str, Record]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB refuses long responses
    reader = csv.reader((line + "\n" for _, line in numbered), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        where = f"{place}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{where}: broken row ({error}). Put cells that hold quotes or commas in quotes.") from None
        if cells is None:
            return
        if not "".join(cells).strip():
            continue
        if not names:
            names = _header(cells, where)
        elif len(cells) != len(names):
            remedy = "Put cells that hold the separator or a newline in quotes"
            raise DataError(f"{where}: has {len(cells)} cells where the header names {len(names)}. {remedy}.")
        else:
            yield where, {name: cell for name, cell in zip(names, cells) if name}


def _header(cells: list[str], where: str) -> list[str]:
    """Column names; only the first may be blank, as pandas leaves it over its row numbers, and is left out."""
    names = [cell.strip() for cell in cells]
    remedy = "The first line names the columns, for example prompt,response,quality"
    if len(names) == 1 and any(other in names[0] for other in ";\t|"):
        raise DataError(f"{where}: the header is a single cell. Save with commas (.csv) or tabs (.tsv) between cells.")
    for i, name in enumerate(names):
        if re.fullmatch(r"[-+.\d]+" if i == 0 else r"[-+.\d]*", name):
            raise DataError(f"{where}: no header: cell {i + 1} is '{name}'. {remedy}.")
        if name in names[:i]:
            raise DataError(f"{where}: the header names the column '{name}' twice. Rename one of them.")
    return names


def _parquet(path: Path) -> Iterator[tuple[str, Record]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", {name: _plain(value) for name, value in record.items()}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: row {number + 1}: not Parquet ({error}). Copy or write it again.") from None


def _dataset(folder: Path) -> Iterator[tuple[str, Record]]:
    """Rows of a saved Dataset, or of every split of a DatasetDict with the column `split` added."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
        splits = loaded.items() if isinstance(loaded, datasets.DatasetDict) else [("", loaded)]
        for split, part in splits:
            place = f"{folder}/{split}" if split else str(folder)
            for number, record in enumerate(part.with_format(None), start=1):
                row = {name: _plain(value) for name, value in record.items()}
                yield f"{place}: row {number}", {"split": split, **row} if split else row
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a whole saved dataset ({error}). Save it again.") from None


def _plain(value: Any) -> Any:
    """JSON types, without the nulls that Arrow puts where a nested object lacks a key."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return float(value) if type(value).__name__ == "Decimal" else value
