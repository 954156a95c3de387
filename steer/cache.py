"""Files that several processes share: named after their content, written once, read by mapping them into memory."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attribute_models
from steer.progress import note

MONTH = 30 * 24 * 3600.0  # seconds after which what nobody used is removed
BATCHES = "batches.arrow"
LOCK = ".lock.tmp"  # named as what is half-written, which is no part of a folder's content


def cache_folder() -> Path:
    """Folder of the cache: STEER_CACHE, else `steer` in the user's cache folder."""
    if folder := os.environ.get("STEER_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steer"


def shared(kind: str, key: str, batches: Callable[[], Iterable[Any]]) -> list[Any]:
    """Return the Arrow batches that `key` names, mapped into memory; the first process that wants them writes them.

    The others wait for it. What raises leaves nothing behind. Where the cache cannot be written they are held in
    memory, which is noted.
    """
    folder = cache_folder() / kind / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            if not (folder / BATCHES).is_file():
                remove_unused(folder)
                _write(folder / BATCHES, batches())
            os.utime(folder)
    except OSError as error:
        note(f"{kind} are held in memory: {folder} ({error.strerror}).")
        return list(batches())
    return mapped(folder / BATCHES)


def mapped(path: Path) -> list[Any]:
    """Map the Arrow batches of a file into memory: what is not read takes none, and processes share what is."""
    import pyarrow

    reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _write(path: Path, batches: Iterable[Any]) -> None:
    import pyarrow

    with attribute_models.replacing(path) as file:
        writer = None
        for batch in batches:
            writer = writer or pyarrow.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
        assert writer is not None, "no batches"
        writer.close()


def hash_of(files: Iterable[Path]) -> str:
    """Hash files of code, for keys of what it makes: other code may make other content."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in the folder, and keep others out; without locks two may write the same."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    descriptors: list[int] = []
    try:
        # A file, for NFS keeps no lock of a folder from other machines; some file systems know no locks at all.
        with suppress(OSError):
            descriptors.append(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666))
            fcntl.flock(descriptors[-1], fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def remove_unused(new: Path) -> None:
    """Remove what lies beside a new folder and nobody used for a month; processes that have mapped a file keep it."""
    for folder in new.parent.iterdir():
        if folder != new and folder.stat().st_mtime < time.time() - MONTH:
            shutil.rmtree(folder, ignore_errors=True)
