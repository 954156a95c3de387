"""Run folders: config.json first, outputs, `done.json` last; every write is atomic.

A stage that has `done.json` is skipped; one that lacks it resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from steer.errors import SteerError

# Where and how fast a stage works, not what it makes.
HOW = ("output", "overwrite", "num_proc", "shard", "workers", "dry_run")
# What training may lower when it runs out of memory and go on: results stay the same but for rounding.
FREE = ("micro_batch_tokens", "gradient_checkpointing", "plain_layout", "save_steps")


def write_text(path: Path, text: str) -> None:
    """Write atomically: temporary file in the same folder, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with folder_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are errors."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def slug(text: str) -> str:
    """The name of a file or folder that is called as something is; targets with `<` and `>` stay apart."""
    apart = text.replace("<", "lt").replace(">", "gt")
    return "".join(c if c.isalnum() or c in "=-._" else "-" for c in apart)


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
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "Make room and run the same command again" if full else "Choose another --output"
        raise SteerError(f"{folder}: cannot be written ({error.strerror}). {remedy}.") from None
    except SafetensorError as error:  # how it reports what the file system says
        raise SteerError(f"{folder}: cannot be written ({error}). Make room and run the same command again.") from None
    except Exception as error:  # how the library of tokenizers does
        if type(error) is not Exception or "(os error" not in str(error):
            raise
        raise SteerError(f"{folder}: cannot be written ({error}). Make room and run the same command again.") from None


def fingerprint(path: str | Path) -> str:
    """Short hash of what a file or folder holds; a finished run is known by its config and its done.json."""
    if str(path) == "-":
        raise SteerError('stdin can be read only once. Save it first: "steer data - --output FOLDER".')
    if str(path).startswith("hf:"):
        return str(path)  # a hub set is known by its name and @REVISION
    path = Path(path)
    digest = hashlib.blake2b(digest_size=8)
    try:
        if not path.exists():
            raise SteerError(f"{path}: no such file or folder. Check the path.")
        if path.is_file():
            files = [path]
        elif (path / "done.json").is_file():
            files = [path / "config.json", path / "done.json"]
        else:
            files = files_in(path)
        for file in files:
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise SteerError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None
    return digest.hexdigest()


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, without what a killed process left half-written."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".tmp")


def identity(model: str) -> str:
    """Fingerprint of a local model; empty for a hub name."""
    return fingerprint(model) if Path(model).exists() else ""


class Run:
    """One stage in one folder."""

    def __init__(
        self, folder: str | Path, config: Any, inputs: Mapping[str, str] | None = None, free: Sequence[str] = ()
    ) -> None:
        """Open or resume `folder`; refuse one that holds a run with another config or other inputs.

        `inputs` maps what the stage reads to its fingerprint. Fields in HOW and FREE do not make a run another run, the
        latter are in its config.json; those in `free` may change, and then the run is not done but keeps what it has.
        Nothing is written, and with `overwrite` nothing removed, before `start`.
        """
        self.folder = Path(folder)
        self.overwrite = config.overwrite
        fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in HOW}
        self.config = json.loads(json.dumps({**fields, "inputs": dict(inputs or {})}))
        with folder_errors(self.folder):
            if self.folder.is_file():
                raise SteerError(f"{folder}: is a file. Choose another --output.")
            # A process that was killed while it wrote its config.json leaves a temporary file and nothing else.
            used = self.folder.is_dir() and any(p.suffix != ".tmp" for p in self.folder.iterdir())
            held = self._held() if used else self.config
        changed = sorted(k for k in {*held, *self.config} - {*FREE, *HOW} if held.get(k) != self.config.get(k))
        self.renewed = bool(changed)
        if self.overwrite:
            self._spare_inputs(fields)
            return
        if other := [name for name in changed if name not in free]:
            raise SteerError(
                f"{folder}: holds a run with other settings ({', '.join(other)}). "
                "Choose another --output, or --overwrite to start anew."
            )

    def _held(self) -> dict[str, Any]:
        """The settings of the run in the folder; `inputs` tells its config.json from those of models and others."""
        path = self.folder / "config.json"
        held = read_json(path) if path.is_file() else None
        if not isinstance(held, dict) or "inputs" not in held:
            raise SteerError(f"{self.folder}: holds files that are no run of steer. Choose another --output.")
        return held

    def _spare_inputs(self, fields: Mapping[str, Any]) -> None:
        paths = {name: Path(value) for name, value in fields.items() if isinstance(value, str) and value}
        for name, path in paths.items():
            if path.exists() and path.resolve().is_relative_to(self.folder.resolve()):
                raise SteerError(f"{self.folder}: --overwrite would remove its own {name}. Choose another --output.")

    def start(self) -> None:
        """Write config.json: called once the inputs are known to be good, so that bad ones leave nothing behind."""
        if os.environ.get("RANK", "0") != "0":
            return  # under torchrun one process does it for all
        if self.overwrite and self.folder.is_dir():
            with folder_errors(self.folder):
                shutil.rmtree(self.folder)
        with folder_errors(self.folder):  # of other settings, for what is done is not started again
            (self.folder / "done.json").unlink(missing_ok=True)
        write_json(self.folder / "config.json", self.config)

    @property
    def done(self) -> dict[str, Any] | None:
        """What done.json says, or None while the stage is not finished, or about to be overwritten or renewed."""
        path = self.folder / "done.json"
        return read_json(path) if path.is_file() and not (self.overwrite or self.renewed) else None

    def finish(self, summary: str, **facts: Any) -> str:
        """Write done.json (the last file of the stage) and return the summary line."""
        write_json(self.folder / "done.json", {"summary": summary, **facts})
        return summary
