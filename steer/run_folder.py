"""Run folders: config.json first, outputs, `done.json` last; every write is atomic.

A stage that has `done.json` is skipped; one that lacks it resumes where it stopped. What a stage reads is known by its
content, never by what its folder says of itself, nor by when or how fast it was made.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

from safetensors import SafetensorError

import attribute_models
from steer.errors import SteerError
from steer.settings import check

C = TypeVar("C")
R = TypeVar("R")

# Where and how fast a stage works, not what it makes.
HOW = ("output", "overwrite", "num_proc", "shard", "workers", "dry_run")
# What training may lower when it runs out of memory and go on: results stay the same but for rounding.
FREE = ("micro_batch_tokens", "gradient_checkpointing", "plain_layout", "save_steps")
# What a run writes about itself; no stage reads any of it as input.
NOTES = ("config.json", "done.json", "metrics.jsonl", "report.txt", "README.md")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with folder_errors(path.parent):
        attribute_models.write(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are errors."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def slug(text: str) -> str:
    """The name of a file or folder that is called as something is; targets with `<` and `>` stay apart."""
    apart = text.replace("<", "lt").replace(">", "gt")
    return "".join(c if c.isalnum() or c in "=-._" else "-" for c in apart)


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file becomes one clear sentence. NaN and infinity are no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise SteerError(f"{path}: no such file.") from None
    except OSError as error:
        raise SteerError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise SteerError(
            f"{path}: not valid JSON ({error}). Restore it or run the stage that wrote it again."
        ) from None


def read_done(folder: Path) -> dict[str, Any]:
    """What the stage of a run folder wrote when it was done; empty where the folder has no done.json."""
    path = folder / "done.json"
    done = read_json(path) if path.is_file() else {}
    if not isinstance(done, dict) or not isinstance(done.get("summary", ""), str):
        raise SteerError(f"{path}: not what a stage of steer writes. Restore it, or remove it and run the stage again.")
    return done


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a sentence that names the remedy."""
    try:
        yield
    except OSError as error:
        remedy = "Make room and run the same command again" if error.errno in FULL_DISK else "Choose another --output"
        raise SteerError(f"{folder}: cannot be written ({error.strerror}). {remedy}.") from None
    except Exception as error:
        if not _from_rust(error):
            raise
        raise SteerError(f"{folder}: cannot be written ({error}). Make room and run the same command again.") from None


def _from_rust(error: Exception) -> bool:
    """Whether safetensors or tokenizers report what the file system says; the latter have no class of their own."""
    return type(error) in (SafetensorError, Exception) and "(os error" in str(error)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Turn a full disk into a sentence, wherever in a stage it is noticed; other errors pass."""
    try:
        yield
    except Exception as error:
        if not _from_rust(error) and not (isinstance(error, OSError) and error.errno in FULL_DISK):
            raise
        raise SteerError(f"{folder}: cannot be written ({error}). Make room and run the same command again.") from None


def stage(work: Callable[[C], R]) -> Callable[[C], R]:
    """Decorate the work of a command: its config is checked, a full disk is one sentence, its folder is given back."""

    @wraps(work)
    def run(config: C) -> R:
        check(config)
        before = set(_LOCKS)
        try:
            with _room(Path(getattr(config, "output", "") or ".")):
                return work(config)
        finally:
            for folder in set(_LOCKS) - before:
                os.close(_LOCKS.pop(folder))

    return run


_LOCKS: dict[Path, int] = {}  # folders that this process writes to, with the descriptors that hold their locks


def lock(folder: Path, *, shared: bool = False) -> None:
    """Keep other processes out of a folder until its stage ends, or this process does, however it ends."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        return
    if (key := folder.resolve()) in _LOCKS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SteerError(f"{folder}: another process writes to it. Wait for it, or choose another --output.") from None
    except OSError:  # a file system that knows no locks
        os.close(descriptor)
        return
    _LOCKS[key] = descriptor


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder during a library call; a lock that a stage holds already stays."""
    key = folder.resolve()
    held = key in _LOCKS
    lock(folder)
    try:
        yield
    finally:
        if not held and key in _LOCKS:
            os.close(_LOCKS.pop(key))


def fingerprint(path: str | Path) -> str:
    """Short hash of the content of a file, or of what a stage reads of a folder."""
    if str(path) == "-":
        raise SteerError('stdin can be read only once. Save it first: "steer data - --output FOLDER".')
    if str(path).startswith("hf:"):
        return str(path)  # a hub set is known by its name and @REVISION
    path = Path(path)
    digest = hashlib.blake2b(digest_size=8)
    try:
        if not path.exists():
            raise SteerError(f"{path}: no such file or folder. Check the path.")
        for file in [path] if path.is_file() else read_of(path):
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise SteerError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None
    if (path / "rows.jsonl").is_file() and (path / "done.json").is_file():
        done = read_done(path)
        digest.update(json.dumps([done.get("scorer"), done.get("spec")]).encode())  # who scored the rows
    return digest.hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """The fingerprint of each file that a stage reads of a folder, by its path there."""
    return {str(file.relative_to(folder)): fingerprint(file) for file in read_of(folder)}


def rows_fingerprint(path: str) -> str:
    """`fingerprint` of rows with the schema beside them, which is read with them."""
    schema = Path(path).parent / "schema.json"
    beside = Path(path).is_file() and schema.is_file()
    return fingerprint(path) + (f" {fingerprint(schema)}" if beside else "")


def read_of(folder: Path) -> list[Path]:
    """The files that a stage reads of a run folder: rows with their schema, a policy or a scorer. All of any other."""
    if not is_run(folder):
        return files_in(folder)
    if (folder / "rows.jsonl").is_file():
        return [file for name in ("rows.jsonl", "schema.json") if (file := folder / name).is_file()]
    notes = {folder / name for name in NOTES}
    files = [file for file in files_in(folder) if file not in notes]
    if (folder / "steer.json").is_file():  # resume points and the files of trackers may lie beside a policy
        files = [file for file in files if file.parent == folder or folder / "model" in file.parents]
    return files


def is_run(folder: Path) -> bool:
    """Whether a folder is one of ours: `inputs` tells its config.json from those of models."""
    path = folder / "config.json"
    held = read_json(path) if path.is_file() else None
    return isinstance(held, dict) and "inputs" in held


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, without what a killed process left half-written."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".tmp")


def identity(model: str) -> str:
    """Fingerprint of a local model; empty for a hub name."""
    return fingerprint(model) if Path(model).exists() else ""


def _recorded(settings: Any, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The content of config.json: settings that can change the result, and the fingerprints of the inputs."""
    fields = {k: v for k, v in dataclasses.asdict(settings).items() if k not in HOW}
    recorded: dict[str, Any] = json.loads(json.dumps({**fields, "inputs": dict(inputs)}))
    return recorded


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ and make a run another run."""
    return sorted(k for k in {*before, *now} - {*FREE, *HOW} if before.get(k) != now.get(k))


def _held(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder; SteerError if it holds something else."""
    if not is_run(folder):
        raise SteerError(f"{folder}: holds files that are no run of steer. Choose another --output.")
    held: dict[str, Any] = read_json(folder / "config.json")
    return held


@contextmanager
def workplace(folder: str | Path | None, settings: Any, inputs: Mapping[str, str]) -> Iterator[Path]:
    """A folder for the resume points and the result of a library call; a temporary one if `folder` is None.

    Its config.json records settings and inputs, as that of a command: SteerError if the folder holds other work.
    """
    if folder is None:
        with TemporaryDirectory(prefix="steer-") as temporary, workplace(temporary, settings, inputs) as place:
            yield place
        return
    place, now = Path(folder), _recorded(settings, inputs)
    with folder_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        used = any(p.suffix != ".tmp" for p in place.iterdir())
    if used and (changed := _changed(_held(place), now)):
        raise SteerError(f"{folder}: holds a run with other settings ({', '.join(changed)}). Choose another folder.")
    with locked(place):
        write_json(place / "config.json", now)
        yield place


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
        self.shared = bool(getattr(config, "shard", ""))  # shards of one run write to one folder
        self.config = _recorded(config, inputs or {})
        with folder_errors(self.folder):
            if self.folder.is_file():
                raise SteerError(f"{folder}: is a file. Choose another --output.")
            # A process that was killed while it wrote its config.json leaves a temporary file and nothing else.
            used = self.folder.is_dir() and any(p.suffix != ".tmp" for p in self.folder.iterdir())
            held = _held(self.folder) if used else self.config
        changed = _changed(held, self.config)
        self.renewed = bool(changed)
        if self.overwrite:
            self._spare_inputs()
            return
        if other := [name for name in changed if name not in free]:
            raise SteerError(
                f"{folder}: holds a run with other settings ({', '.join(other)}). "
                "Choose another --output, or --overwrite to start anew."
            )

    def _spare_inputs(self) -> None:
        paths = {name: Path(value) for name, value in self.config.items() if isinstance(value, str) and value}
        for name, path in paths.items():
            if path.exists() and path.resolve().is_relative_to(self.folder.resolve()):
                raise SteerError(f"{self.folder}: --overwrite would remove its own {name}. Choose another --output.")

    def start(self) -> None:
        """Write config.json: called once the inputs are known to be good, so that bad ones leave nothing behind."""
        if os.environ.get("RANK", "0") != "0":
            return  # under torchrun one process does it for all
        with folder_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock(self.folder, shared=self.shared)
            stale = self.folder.rglob("*.tmp") if not self.shared else ()  # what killed processes left half-written
            for path in list(self.folder.iterdir() if self.overwrite else stale):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            (self.folder / "done.json").unlink(missing_ok=True)  # of other settings: what is done is not started again
        write_json(self.folder / "config.json", self.config)

    @property
    def done(self) -> dict[str, Any] | None:
        """What done.json says, or None while the stage is not finished, or about to be overwritten or renewed."""
        return None if self.overwrite or self.renewed else read_done(self.folder) or None

    def finish(self, summary: str, **facts: Any) -> str:
        """Write done.json (the last file of the stage) and return the summary line."""
        write_json(self.folder / "done.json", {"summary": summary, **facts})
        return summary
