"""Rows in a file that is mapped into memory: a process holds their places, and the rows that it used last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast, overload

from steer.cache import hash_of, shared
from steer.progress import progress
from steer.rows.contract import Row
from steer.rows.lines import ENCODER
from steer.rows.reading import Source, is_ours, prompts, read, read_rows
from steer.run_folder import row_files

TEXTS = frozenset(
    ("prompt", "response", "after_response", "reasoning_content", "tool_calls", "tools", "chat_template_kwargs")
)  # columns that are decoded by themselves: most of a row's bytes, and seldom read
AT_ONCE = 1000  # rows in a batch of the file
WINDOW = 1024  # rows that stay decoded
LARGE = 32 << 20  # bytes of files whose rows are not held
EMPTY: Mapping[str, Any] = {}


class LazyRow(Mapping[str, Any]):
    """A row that is decoded when it is read. It cannot be changed: `row | {...}` is another one."""

    __slots__ = ("changed", "place", "store")

    def __init__(self, store: LazyRows, place: int, changed: Mapping[str, Any] = EMPTY) -> None:
        self.store, self.place, self.changed = store, place, changed

    def __getitem__(self, name: str) -> Any:
        return self.changed[name] if name in self.changed else self.store.part(self.place, name in TEXTS)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.store.part(self.place, False), *self.changed)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[Row]]:
        """Pickle as a dict: another process has not mapped the file."""
        return dict, (dict(self),)

    def __or__(self, other: Mapping[str, Any]) -> LazyRow:
        return LazyRow(self.store, self.place, {**self.changed, **other})


class LazyRows(Sequence[Row]):
    """Rows of the Arrow batches that `batches_of` makes; they read as dicts do."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.columns = [[batch.column(name) for name in ("rest", "texts")] for batch in batches]
        self.size: int = sum(batch.num_rows for batch in batches)
        self.part = lru_cache(2 * WINDOW)(self._part)

    def _part(self, place: int, texts: bool) -> Row:
        batch, at = divmod(place, AT_ONCE)
        row: Row = json.loads(self.columns[batch][texts][at].as_py())
        return row

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self.size))]
        return cast(Row, LazyRow(self, range(self.size)[at]))


def batches_of(rows: Iterable[Row]) -> Iterator[Any]:
    """Yield rows as Arrow batches of AT_ONCE rows: their texts, and what else they hold, as JSON.

    The latter has null in the place of every text, so that a row's columns keep their order, and a line its bytes.
    """
    import pyarrow

    reader = iter(rows)
    while part := list(islice(reader, AT_ONCE)):
        rest = [_encoded({n: None if n in TEXTS else v for n, v in row.items()}) for row in part]
        texts = [_encoded({n: v for n, v in row.items() if n in TEXTS}) for row in part]
        columns = [pyarrow.array(column, pyarrow.large_binary()) for column in (rest, texts)]
        yield pyarrow.record_batch(columns, names=["rest", "texts"])


def _encoded(row: Row) -> bytes:
    return ENCODER.encode(row).encode("utf-8", "backslashreplace")


def prompts_on_disk(source: Source, fingerprint: str) -> Iterable[Row]:
    """Read rows to generate from; as `rows_on_disk` does, many are not held."""
    return _stored(source, f"prompts {fingerprint}", prompts) or prompts(source)


def rows_on_disk(source: Source, fingerprint: str) -> Sequence[Row]:
    """Read the rows of a folder that a stage wrote; if they are many they are not held, but in a file of the cache.

    Rows of any other source are read into memory. What a round or a comparison trains on is a stage's too: it has a
    schema beside it, and no done.json.
    """
    return _stored(source, fingerprint, read) or read_rows(source)


def _stored(source: Source, fingerprint: str, reader: Callable[[Path], Iterable[Row]]) -> LazyRows | None:
    """Return what is read of a stage's folder from a file of the cache; None for other sources, and where it is small.

    Others are no part of it: what is noted while they are read would be noted the first time only.
    """
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if not is_ours(path) and not ((path if path.is_dir() else path.parent) / "schema.json").is_file():
        return None
    files = row_files(path) if path.is_dir() else [path]
    if sum(file.stat().st_size for file in files) < LARGE:
        return None
    key = hashlib.blake2b(f"{fingerprint} {_code()}".encode(), digest_size=16).hexdigest()
    return LazyRows(shared("rows", key, lambda: batches_of(progress(reader(path), what=f"read {path}"))))


@cache
def _code() -> str:
    """Hash the code that reads rows: other code may read others."""
    import data_recipes

    folders = (Path(__file__).parent, Path(data_recipes.__file__).parent)
    return hash_of(file for folder in folders for file in sorted(folder.glob("*.py")))
