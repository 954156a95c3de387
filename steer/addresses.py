"""Addresses of object stores (s3://, gs://, hf://, memory://, file://): what they hold is copied here and back.

Everything else works on local files. The packages of a store are found by fsspec: s3:// needs s3fs, gs:// gcsfs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attribute_models
from steer.cache import cache_folder, remove_unused
from steer.errors import SteerError
from steer.progress import note

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://.+")
INPUTS = ("source", "mix", "rows", "input", "requests", "schema")  # settings that name what a stage reads
BESIDE = ("schema.json", "config.json", "done.json")  # what belongs to a file of rows


def is_address(text: object) -> bool:
    """Whether a setting is the address of something in a store, and no path."""
    return isinstance(text, str) and bool(ADDRESS.fullmatch(text))


def local(config: Any) -> Any:
    """Return the settings of a stage with the paths of copies in place of addresses that it reads from."""
    changed: dict[str, Any] = {}
    for name in INPUTS:
        value = getattr(config, name, "")
        if is_address(value):
            changed[name] = fetched(value)
        elif isinstance(value, tuple) and any(map(is_address, value)):
            changed[name] = tuple(fetched(each) if is_address(each) else each for each in value)
    return dataclasses.replace(config, **changed) if changed else config


def fetched(address: str) -> str:
    """Copy a file, or the files directly in a folder, into the cache; return the path of the copy.

    What is there already is not copied again, unless it is another by the store's account (size, time, ETag).
    """
    store, path = _store(address)
    with _said(address, "read"):
        if store.isdir(path):
            names, own = [each["name"] for each in store.ls(path, detail=True) if each["type"] == "file"], ""
        else:
            parent, own = path.rsplit("/", 1)
            names = [path, *(name for name in (f"{parent}/{beside}" for beside in BESIDE) if store.exists(name))]
        if not names:
            raise SteerError(f"{address}: holds no files. Check the address.")
        known = [[name, store.ukey(name)] for name in sorted(names)]
        key = hashlib.blake2b(json.dumps([address, known]).encode(), digest_size=16).hexdigest()
        folder = cache_folder() / "fetched" / key
        folder.mkdir(parents=True, exist_ok=True)
        remove_unused(folder)
        for name in names:
            if not (copy := folder / name.rsplit("/", 1)[-1]).is_file():
                note(f"fetch {name}")
                with store.open(name, "rb") as source, attribute_models.replacing(copy) as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    return str(folder / own)


def workplace_of(address: str) -> Path:
    """Return the folder of this machine in which a stage works whose output is an address."""
    name = hashlib.blake2b(address.rstrip("/").encode(), digest_size=16).hexdigest()
    return cache_folder() / "outputs" / name


def send(folder: Path, files: Sequence[Path], address: str) -> None:
    """Copy files of a folder to an address, in this order; those that are no longer in the folder are not removed."""
    store, path = _store(address)
    with _said(address, "written"):
        for file in files:
            name = f"{path.rstrip('/')}/{file.relative_to(folder)}"
            store.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
            with file.open("rb") as source, store.open(name, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _store(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise SteerError(f"{address}: cannot be opened ({error}). Install the package of this store.") from None
    store.invalidate_cache()
    return store, path


@contextmanager
def _said(address: str, done: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SteerError(f"{address}: no such file or folder. Check the address.") from None
    except OSError as error:
        reason = error.strerror or error
        raise SteerError(f"{address}: cannot be {done} ({reason}). Check the address and its permissions.") from None
