"""Read text from disk: unpack, decode and cut it into lines with their places."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

Record = dict[str, Any]

PART = re.compile(r"rows(?:-(\d{5})-of-(\d{5}))?\.(jsonl|parquet)")  # a file that holds the rows of a folder, or some
PACKED = (".gz", ".zst", ".xz")
STDIN = "-"
MAX_LINE = 256 * 2**20  # bytes; a longer line is a file that is not what its suffix says, or a runaway log
MAX_ARRAY = 2**32  # bytes of a .json file on one line: it is an array, which is held in memory as text


class DataError(ValueError):
    """Data that cannot be used: the message names the place, what is wrong there, and the remedy."""


def refuse(error: DataError, bad: list[str] | None) -> None:
    """Raise the error, or append its message to the list of a caller that skips bad records."""
    if bad is None:
        raise error
    bad.append(str(error))


def lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield every non-blank line of a text file, stripped, with its place "path:line"; .gz, .zst, .xz are unpacked."""
    place = place_of(path)
    for number, line in numbered_lines(path, place):
        if line.strip():
            yield f"{place}:{number}", line.strip()


def form(path: str | Path) -> tuple[str, str]:
    """Return the suffixes of format and packing: data.jsonl.gz is (".jsonl", ".gz"), data.parquet (".parquet", "")."""
    name = Path(path).name.lower()
    packing = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    return Path(name.removesuffix(packing)).suffix, packing


def part_names(count: int, form: str = "jsonl") -> list[str]:
    """Return the names of the files that hold rows in so many parts, "jsonl" or "parquet"; one part is `rows.jsonl`."""
    return [f"rows.{form}"] if count == 1 else [f"rows-{i:05d}-of-{count:05d}.{form}" for i in range(count)]


def rows_files(folder: Path) -> list[Path]:
    """Return the files that hold the rows of a folder, in order, none if it has none; DataError if one is missing."""
    matches = filter(None, (PART.fullmatch(path.name) for path in folder.glob("rows*")))
    kinds = {(match[3], int(match[2] or 1)) for match in matches}  # of one part and of several: the former counts
    if len({form for form, _ in kinds}) > 1:
        raise DataError(f"{folder}: holds rows both as JSONL and as Parquet. Remove the old ones.")
    kinds = {kind for kind in kinds if kind[1] == 1} or kinds
    if len(kinds) > 1:
        raise DataError(
            f"{folder}: holds rows in {' and in '.join(str(n) for _, n in sorted(kinds))} parts. Remove the old ones."
        )
    parts = [folder / name for form, count in kinds for name in part_names(count, form)]
    if missing := [path.name for path in parts if not path.is_file()]:
        raise DataError(f"{folder}: has no {missing[0]}. Run what wrote it again, or copy the file.")
    return parts


def kind(value: Any) -> str:
    """Return what a JSON value is, in words: "a text", "a list", ..."""
    words = {str: "a text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


def place_of(path: str | Path) -> str:
    """Return how messages name the source; DataError if it does not exist."""
    if str(path) == STDIN:
        return "stdin"
    if not Path(path).exists():
        raise DataError(f"{path}: no such file or folder. Check the path.")
    return str(path)


def numbered_lines(
    path: str | Path, place: str, bad: list[str] | None = None, limit: int | None = None
) -> Iterator[tuple[int, str]]:
    """Yield line numbers from 1 and decoded lines without their newline; a byte order mark is removed.

    A line that is not UTF-8 or longer than `limit` bytes (MAX_LINE by default) is refused; packed data that is damaged
    or cut short is refused where it breaks, after the whole lines before it.
    """
    limit = MAX_LINE if limit is None else limit
    number, size, parts = 0, 0, [b""]  # parts of the line that has not ended yet
    try:
        for block in chain(_blocks(path), [b"\n"]):
            for i, part in enumerate(block.split(b"\n")):
                if i:
                    number += 1
                    if size <= limit:
                        yield from _decoded(b"".join(parts), place, number, bad)
                    parts, size = [], 0
                if size <= limit < size + len(part):  # said once; such a line is passed over, not kept
                    parts = []
                    refuse(_too_long(place, number + 1, limit), bad)
                size += len(part)
                if size <= limit:
                    parts.append(part)
    except EOFError as error:
        problem = f"{place}:{number + 1}: cannot be unpacked ({error}). Copy or download it again."
        refuse(DataError(problem), bad)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}). Check its permissions.") from None


def _too_long(place: str, number: int, limit: int) -> DataError:
    remedy = "Write one row a line; a file that is one JSON array wants the suffix .json"
    return DataError(f"{place}:{number}: the line is longer than {limit / 2**20:g} MiB. {remedy}.")


def _decoded(line: bytes, place: str, number: int, bad: list[str] | None) -> Iterator[tuple[int, str]]:
    try:
        yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        old = "utf-16" if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        remedy = f"Convert the file, for example with iconv -f {old} -t utf-8"
        refuse(DataError(f"{place}:{number}:{error.start + 1}: {problem}. {remedy}."), bad)


def _blocks(path: str | Path) -> Iterator[bytes]:
    """Yield unpacked bytes; EOFError if the packed stream is damaged or cut short."""
    with nullcontext(sys.stdin.buffer) if str(path) == STDIN else Path(path).open("rb") as file:
        blocks = iter(lambda: file.read(1 << 18), b"")
        packing = form(path)[1]
        if packing == ".gz":
            yield from _unpacked(blocks, lambda: zlib.decompressobj(wbits=31), zlib.error)
        elif packing == ".zst":
            import zstandard

            yield from _unpacked(blocks, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError)
        elif packing == ".xz":
            import lzma

            yield from _unpacked(blocks, lzma.LZMADecompressor, lzma.LZMAError)
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
