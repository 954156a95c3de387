"""Token ids of rows, tokenised once: in memory, or for many rows in a file of the cache that processes share."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from steer.cache import hash_of
from steer.rows import Row
from steer.rows.lazy import AT_ONCE

V = TypeVar("V")

MANY = 20_000  # rows from which ids are in a file
SHARED = ("arrays.py", "literal.py", "templates.py")  # of attribute_models: what token ids follow from
READ = ("id", "prompt", "response", "tool_calls", "reasoning_content", "tools", "chat_template_kwargs", "finished")


class Tokenised(NamedTuple):
    """Token ids of a row before and in its response, and the text between them, after the condition."""

    prompt: array[int]
    tail: str
    response: array[int]
    untold: bool  # its thought has no place in the chat template


class Places:
    """Where rows stand in batches, by id: of several with the same id, the last. Takes 12 bytes a row."""

    def __init__(self, batches: Sequence[Any]) -> None:
        keys = np.concatenate([np.zeros(0, np.uint64), *(batch.column("key").to_numpy() for batch in batches)])
        self.order = np.argsort(keys, kind="stable").astype(np.int32)
        self.keys = keys[self.order]

    def of(self, row: str) -> tuple[int, int]:
        """Return the batch of a row, and its place there."""
        place = int(np.searchsorted(self.keys, key := key_of(row), side="right")) - 1
        if place < 0 or self.keys[place] != key:
            raise KeyError(row)
        return divmod(int(self.order[place]), AT_ONCE)


class Column(Generic[V]):
    """Values of rows by id, read from batches; one that is set is held beside them."""

    def __init__(self, batches: Sequence[Any], places: Places, name: str, value: Callable[[Any, int], V]) -> None:
        self.parts, self.places, self.value = [batch.column(name) for batch in batches], places, value
        self.changed: dict[str, V] = {}

    def __getitem__(self, row: str) -> V:
        if row in self.changed:
            return self.changed[row]
        batch, at = self.places.of(row)
        return self.value(self.parts[batch], at)

    def __setitem__(self, row: str, value: V) -> None:
        self.changed[row] = value


def columns_of(batches: Sequence[Any]) -> tuple[Column[array[int]], Column[str], Column[array[int]]]:
    """Return prompts, tails and responses."""
    places = Places(batches)
    return (
        Column(batches, places, "prompt", _ids),
        Column(batches, places, "tail", lambda tails, at: str(tails[at])),
        Column(batches, places, "response", _ids),
    )


def _ids(lists: Any, at: int) -> array[int]:
    """Copy the ids at a place, 4 bytes each."""
    return array("i", lists[at].values.to_numpy().tobytes())


def key_of(row: str) -> np.uint64:
    """Return a number for a row's id: of ten million, two are alike in 3 of a million cases."""
    return np.uint64(int.from_bytes(hashlib.blake2b(row.encode("utf-8", "surrogatepass"), digest_size=8).digest()))


def batch_of(names: Iterable[str], tokenised: Sequence[Tokenised]) -> Any:
    """Make an Arrow batch of AT_ONCE rows, or of the last ones."""
    import pyarrow

    columns = {
        "key": pyarrow.array(np.array([key_of(name) for name in names], np.uint64)),
        "prompt": _lists([each.prompt for each in tokenised]),
        "tail": pyarrow.array([each.tail for each in tokenised], pyarrow.string()),
        "response": _lists([each.response for each in tokenised]),
        "untold": pyarrow.array([each.untold for each in tokenised], pyarrow.bool_()),
    }
    return pyarrow.record_batch(columns)


def _lists(values: Sequence[array[int]]) -> Any:
    import pyarrow

    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    flat = np.frombuffer(b"".join(each.tobytes() for each in values), np.int32)
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(flat))


def content_key(rows: Iterable[Row], tokenizer: Any, *how: Any) -> str:
    """Hash all that token ids follow from: what is read of rows, the tokenizer, `how`, and the code; "" if unknown."""
    if (known := identity(tokenizer)) is None:
        return ""
    digest = hashlib.blake2b(json.dumps([known, how, _code()]).encode(), digest_size=16)
    for row in rows:
        digest.update(json.dumps([row.get(name) for name in READ]).encode())
    return digest.hexdigest()


def identity(tokenizer: Any) -> Mapping[str, Any] | None:
    """Return what a tokenizer is: its state and its chat template; None for one of Python, which does not tell."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    named = {str(name): str(value) for name, value in tokenizer.special_tokens_map.items()}
    rows = getattr(tokenizer, "embedded", None)
    return {"state": backend.to_str(), "template": tokenizer.chat_template, "named": named, "rows": rows}


@cache
def _code() -> str:
    """Hash the code that makes token ids of rows: other code may make others."""
    import attribute_models
    import steer.conditioning

    folder = Path(steer.conditioning.__file__).parent
    files = [*sorted(folder.glob("*.py")), *sorted(Path(__file__).parent.glob("token*.py"))]
    files += [Path(attribute_models.__file__).parent / name for name in SHARED]
    libraries = [version(name) for name in ("transformers", "tokenizers", "jinja2")]
    return f"{hash_of(files)} {' '.join(libraries)}"
