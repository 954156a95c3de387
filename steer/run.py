"""Run folders: config.json first, outputs, `done.json` last; every write is atomic.

A stage that has `done.json` is skipped; one that lacks it resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steer.errors import SteerError


def write_text(path: Path, text: str) -> None:
    """Write atomically: temporary file in the same folder, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with folder_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are errors."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file becomes one clear sentence."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SteerError(f"{path}: no such file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SteerError(
            f"{path}: not valid JSON ({error}). Restore it or run the stage that wrote it again."
        ) from None


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a sentence that names the remedy."""
    try:
        yield
    except OSError as error:
        raise SteerError(f"{folder}: cannot write here ({error.strerror}). Choose another --output.") from None


def fingerprint(path: str | Path) -> str:
    """Short hash of what a file or folder holds; a finished run is known by its config and its done.json."""
    path = Path(path)
    digest = hashlib.blake2b(digest_size=8)
    if path.is_file():
        files = [path]
    elif (path / "done.json").is_file():
        files = [path / "config.json", path / "done.json"]
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class Run:
    """One stage in one folder."""

    def __init__(self, folder: str | Path, config: Any, inputs: Mapping[str, str] | None = None) -> None:
        """Open or resume `folder`; refuse one that holds a run with another config or other inputs.

        `inputs` maps what the stage reads to its fingerprint. Fields named output and overwrite do not make a run
        another run.
        """
        self.folder = Path(folder)
        fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("output", "overwrite")}
        wanted = json.loads(json.dumps({**fields, "inputs": dict(inputs or {})}))
        path = self.folder / "config.json"
        if self.folder.is_dir() and any(self.folder.iterdir()) and not path.is_file():
            raise SteerError(f"{folder}: holds files that are no run of steer. Choose another --output.")
        if self.folder.is_file():
            raise SteerError(f"{folder}: is a file. Choose another --output.")
        if config.overwrite and self.folder.is_dir():
            shutil.rmtree(self.folder)
        if path.is_file():
            held = read_json(path)
            changed = sorted(k for k in {*held, *wanted} if held.get(k) != wanted.get(k))
            if changed:
                raise SteerError(
                    f"{folder}: holds a run with other settings ({', '.join(changed)}). "
                    "Choose another --output, or --overwrite to start anew."
                )
        self.config = wanted

    def start(self) -> None:
        """Write config.json: called once the inputs are known to be good, so that bad ones leave nothing behind."""
        write_json(self.folder / "config.json", self.config)

    @property
    def done(self) -> dict[str, Any] | None:
        """What done.json says, or None while the stage is not finished."""
        path = self.folder / "done.json"
        return read_json(path) if path.is_file() else None

    def finish(self, summary: str, **facts: Any) -> str:
        """Write done.json (the last file of the stage) and return the summary line."""
        write_json(self.folder / "done.json", {"summary": summary, **facts})
        return summary
