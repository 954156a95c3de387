"""Run folders: config.json first, outputs, `done.json` last; every write is atomic.

A stage that has `done.json` is skipped; one that lacks it resumes where it stopped. What a stage reads is identified by
its content, not by what its folder records about itself.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

from safetensors import SafetensorError

import attribute_models
from data_recipes import streams
from data_recipes.hub import HUB, SPEC
from steer import addresses, hub
from steer.errors import SteerError
from steer.progress import note, progress
from steer.settings import check

C = TypeVar("C")
R = TypeVar("R")

# Settings of where and how fast a stage works: they do not change its result.
HOW = (
    *("output", "overwrite", "dry_run", "push_to_hub", "private", "evaluation"),
    *("launch", "num_proc", "shard", "workers"),
)
SENDING = ("data", "label", "generate", "fit", "train")  # the commands that write to stores
ANY_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")
SERVERS = ("engine", "server")  # settings that can be the address of a server
# Settings that may change when a training resumes, say for want of memory: its result is the same but for rounding.
FREE = ("micro_batch_tokens", "gradient_checkpointing", "plain_layout", "save_steps")
# What a run writes about itself; no stage reads any of it as input.
NOTES = ("config.json", "done.json", "metrics.jsonl", "report.txt", "README.md")
ALIKE = (
    5  # settings that runs of one command, of two versions, may have in one of them only; two commands differ in more
)
LOCK = "lock.tmp"  # held by whoever writes to a folder, and no part of what is in it
POINT = "checkpoint-"  # what the names of resume points begin with; a step follows
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with folder_errors(path.parent):
        attribute_models.write(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are errors."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def slug(text: str) -> str:
    """Make a file name of a text; targets with `<` and `>`, and numbers with `+` and `-`, get different ones."""
    words = text.replace("<", "lt").replace(">", "gt").replace("+", "plus")
    return "".join(c if c.isalnum() or c in "=-._" else "-" for c in words)


def slugs(texts: Iterable[str], longest: int = 255) -> dict[str, str]:
    """Make a file name of the end of each text; a number parts those that would be alike."""
    names: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        plain = name = slug(text)[-longest:]
        for number in count(2):
            if name not in names.values():
                break
            name = f"{plain}-{number}"
        names[text] = name
    return names


def read_json(path: Path) -> Any:
    """Read JSON; SteerError for a missing or broken file. NaN and infinity are not JSON."""
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
    """Read done.json, the facts of a finished stage; empty if the folder has none."""
    path = folder / "done.json"
    done = read_json(path) if path.is_file() else {}
    if not isinstance(done, dict) or not isinstance(done.get("summary", ""), str):
        raise SteerError(f"{path}: not what a stage of steer writes. Restore it, or remove it and run the stage again.")
    return done


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


@contextmanager
def folder_errors(
    folder: Path, otherwise: str = "Choose another --output", *, full_disk_only: bool = False
) -> Iterator[None]:
    """Turn errors of the file system into a sentence that names the remedy; `full_disk_only`: let others pass."""
    in_a_folder(folder)
    try:
        yield
    except Exception as error:
        # safetensors and tokenizers pass on what the file system reports; the latter have no error class of their own.
        full = type(error) in (SafetensorError, Exception) and "(os error" in str(error)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError):
            full = error.errno in FULL_DISK
        if not full and (full_disk_only or not isinstance(error, OSError)):
            raise
        remedy = "Make room and run the same command again" if full else otherwise
        raise SteerError(f"{folder}: cannot be written ({reason}). {remedy}.") from None


def stage(work: Callable[[C], R]) -> Callable[[C], R]:
    """Decorate a command: check its config, report a full disk in one sentence, unlock its folder at the end.

    What it reads at addresses is copied here, and its messages name the addresses.
    """

    @wraps(work)
    def run(config: C) -> R:
        check(config)
        if addresses.is_address(address := getattr(config, "output", "")):
            return _elsewhere(run, config, address)
        with _released_at_end(), folder_errors(Path(getattr(config, "output", "") or "."), full_disk_only=True):
            try:
                result = work(addresses.local(config))
            except SteerError as error:
                error.args = tuple(addresses.named(str(text)) for text in error.args)
                raise
        return addresses.named(result) if isinstance(result, str) else result  # type: ignore[return-value]

    return run


def in_a_folder(output: str | Path) -> None:
    """Refuse the address of a store, which as a path has one slash less, where only folders are written."""
    if match := ANY_ADDRESS.match(str(output)):
        address = f"{match[0]}/{str(output).removeprefix(match[0]).lstrip('/')}"
        most, last = ", ".join(SENDING[:-1]), SENDING[-1]
        raise SteerError(f"{address}: only the commands {most} and {last} write to a store. Name a folder.")


def _elsewhere(run: Callable[[Any], R], config: Any, address: str) -> R:
    """Work in a folder of the cache, and copy what became of it to an address: done.json last."""
    if run.__name__.removesuffix("_command") not in SENDING:
        in_a_folder(address)
    folder, overwrite = addresses.workplace_of(address), getattr(config, "overwrite", False)
    recalled = addresses.recall(folder, address, overwrite=overwrite)
    if getattr(config, "shard", ""):
        note(f"--shard: the shards meet in {folder}, so all machines must share this cache (STEER_CACHE).")
    done = folder / "done.json"
    try:
        result = run(dataclasses.replace(config, output=str(folder)))
        whole = done.is_file() and done.read_bytes() != recalled  # the shards of others may still be to come
        if whole and not getattr(config, "dry_run", False) and not (run.__name__ == "train_command" and follows()):
            addresses.send(folder, address, overwrite=overwrite)
    finally:
        if recalled and done.is_file() and done.read_bytes() == recalled:
            done.unlink()  # what it speaks of is at the address, and not here
    return result


def follows() -> bool:
    """Whether this is a process of a distributed training, but not its main one. Other stages know no ranks."""
    return os.environ.get("RANK", "0") != "0"


_LOCKS: dict[Path, int] = {}  # folders that this process writes to, with the descriptors that hold their locks


@contextmanager
def _released_at_end() -> Iterator[None]:
    """Unlock at the end what was locked inside, and let go of commits that were held."""
    before = set(_LOCKS)
    try:
        with hub.released():
            yield
    finally:
        for folder in set(_LOCKS) - before:
            _unlock(folder)


def lock(folder: Path, *, shared: bool = False) -> None:
    """Keep other processes out of a folder until its stage or this process ends."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        return
    if (key := folder.resolve()) in _LOCKS:
        return
    path = folder / LOCK  # NFS keeps no lock of a folder from other machines, but that of a file
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            problem = f"{folder}: another process writes to it"
            raise SteerError(f"{problem}. Wait for it, or choose another --output.") from None
        except OSError:  # a file system that knows no locks
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)  # whoever had it removed it meanwhile
    _LOCKS[key] = descriptor


def _unlock(folder: Path) -> None:
    """Unlock a folder, and remove the file of its lock unless other shards have it too."""
    import fcntl

    descriptor = _LOCKS.pop(folder)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / LOCK).unlink(missing_ok=True)
    os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder during a library call; a lock that a stage already has stays."""
    with _released_at_end():
        lock(folder)
        yield


def fingerprint(path: str | Path) -> str:
    """Hash the content of a file, or of what a stage reads from a folder."""
    if str(path) == "-":
        raise SteerError('stdin can be read only once. Save it first: "steer data - --output FOLDER".')
    if spec := SPEC.fullmatch(str(path)):
        if Path(spec["name"]).is_dir():
            return f"{fingerprint(spec['name'])} {str(path).removeprefix(HUB + spec['name'])}".rstrip()
        return hub.origin(str(path)) or str(path)
    path = Path(path)
    digest = hashlib.blake2b(digest_size=8)
    try:
        if not path.exists():
            raise SteerError(f"{path}: no such file or folder. Check the path.")
        files = [path] if path.is_file() else read_of(path)
        with progress(total=sum(f.stat().st_size for f in files) >> 20, what=f"hash {path}", unit="MiB") as bar:
            size = 0
            for file in files:
                digest.update(file.name.encode())
                with file.open("rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
                        size += len(block)
                        bar.reach(size >> 20)
    except OSError as error:
        raise SteerError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None
    if path.is_dir() and row_files(path) and (path / "done.json").is_file():
        done = read_done(path)
        digest.update(json.dumps([done.get("scorer"), done.get("spec")]).encode())  # who scored the rows
    return digest.hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Fingerprint each file that a stage reads from a folder; by its path in it."""
    return {str(file.relative_to(folder)): fingerprint(file) for file in read_of(folder)}


def rows_fingerprint(path: str) -> str:
    """Fingerprint rows and the schema beside them, which is read with them."""
    schema = Path(path).parent / "schema.json"
    beside = Path(path).is_file() and schema.is_file()
    return fingerprint(path) + (f" {fingerprint(schema)}" if beside else "")


def read_of(folder: Path) -> list[Path]:
    """List what a stage reads from a run folder: rows and schema, a policy or a scorer; all files of another folder."""
    if not is_run(folder):
        return files_in(folder)
    if rows := row_files(folder):
        return [*rows, *(file for file in (folder / "schema.json",) if file.is_file())]
    notes = {folder / name for name in NOTES}
    files = [file for file in files_in(folder) if file not in notes]
    if (folder / "steer.json").is_file():  # resume points and the files of trackers may lie beside a policy
        files = [file for file in files if file.parent == folder or folder / "model" in file.parents]
    elif point := resume_point(folder):
        files = [file for file in files if file.parent == point and file.name != "optimizer.safetensors"]
    return files


def row_files(folder: Path) -> list[Path]:
    """List the files that hold the rows of a folder: one, or its parts; SteerError if a part is missing."""
    try:
        return streams.rows_files(folder)
    except streams.DataError as error:
        raise SteerError(str(error)) from None


def resume_point(folder: Path) -> Path | None:
    """Find the last resume point of a training in its folder; None if there is none."""
    points = {int(p.name.removeprefix(POINT)): p for p in folder.glob(f"{POINT}*") if p.name[len(POINT) :].isdecimal()}
    return points[max(points)] if points else None


def is_run(folder: Path) -> bool:
    """Whether a stage of steer wrote the folder: its config.json has `inputs`, that of a model has not."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    return isinstance(config, dict) and "inputs" in config


def files_in(folder: Path) -> list[Path]:
    """List all files below a folder, except those that a killed process left half-written."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".tmp")


def identity(model: str) -> str:
    """Fingerprint a local model; empty for a hub name."""
    return fingerprint(model) if model and Path(model).exists() else ""


def origin_of(model: str) -> str:
    """Fingerprint a local model, or name one of the hub with its commit; empty if neither is known."""
    return identity(model) or hub.origin(model)


@contextmanager
def workplace(
    folder: str | Path | None, settings: Any, inputs: Mapping[str, str], *, main: bool = True
) -> Iterator[Path]:
    """Yield a folder for the resume points and the result of a library call; a temporary one if `folder` is None.

    Only the `main` process of a distributed training writes there.

    Its config.json records settings and inputs, as that of a command: SteerError if the folder holds other work.
    """
    if folder is None:
        with (
            TemporaryDirectory(prefix="steer-") as temporary,
            workplace(temporary, settings, inputs, main=main) as place,
        ):
            yield place
        return
    with _released_at_end():
        run = Run(folder, settings, inputs)
        if main and not run.done:
            run.start()
        yield run.folder


def _is_server(name: str, value: Any) -> bool:
    """Whether a setting is the address of a server, which may be another when a stage goes on."""
    return name in SERVERS and "://" in str(value)


def _defaults(config: Any) -> dict[str, Any]:
    """Return the settings that have a default, at it; not one that may be a server, which a run does not keep."""
    fields = (f for f in dataclasses.fields(config) if f.name not in HOW)
    fields = (f for f in fields if f.name not in SERVERS or f.metadata.get("choices"))
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ."""
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


class Run:
    """One stage in one folder."""

    def __init__(
        self, folder: str | Path, config: Any, inputs: Mapping[str, str] | None = None, free: Sequence[str] = ()
    ) -> None:
        """Open or resume `folder`; refuse one that holds a run with another config or other inputs.

        `inputs` maps what the stage reads to its fingerprint. Fields in HOW and FREE may differ; the latter are kept in
        config.json. Those in `free`, and inputs (`inputs.NAME`), may differ too, but then the run is not done and
        continues with what it has.
        Nothing is written, and with `overwrite` nothing removed, before `start`.
        """
        self.folder = Path(folder)
        self.overwrite = getattr(config, "overwrite", False)
        self.shared = bool(getattr(config, "shard", ""))  # shards of one run write to one folder
        fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in HOW and not _is_server(k, v)}
        self.config = addresses.recorded({**fields, "inputs": dict(inputs or {})})
        before = self._config_before()
        self._hold_commits(before.get("inputs") or {})
        before = {**json.loads(json.dumps(_defaults(config))), **before}  # settings that there were not yet
        changed = {*_changed(before, self.config)} - {*FREE, *HOW}
        if "inputs" in changed:
            apart = _changed(before.get("inputs") or {}, self.config["inputs"])
            changed = changed - {"inputs"} | {f"inputs.{name}" for name in apart}
        self.renewed = bool(changed)
        if self.overwrite:
            self._spare_inputs()
        elif other := sorted(changed.difference(free)):
            command = hasattr(config, "overwrite")
            remedy = "Choose another --output, or --overwrite to start again." if command else "Choose another folder."
            if len(before.keys() ^ self.config.keys()) > ALIKE:
                raise SteerError(f"{folder}: holds what another command wrote. {remedy}")
            same = not any(name.startswith("inputs.") for name in other)
            if command and same and not addresses.is_address(addresses.named(str(folder))):
                remedy += f" To go on with the settings that it began with, give --config {folder}/config.json instead."
            raise SteerError(f"{folder}: holds a run with other settings ({', '.join(other)}). {remedy}")

    def _hold_commits(self, before: Mapping[str, str]) -> None:
        """Go on with the commits of the hub that the run began with, whatever is the newest now."""
        inputs = self.config["inputs"]
        for name, value in inputs.items():
            now, then = (hub.RECORDED.fullmatch(str(text)) for text in (value, before.get(name, "")))
            if now and then and now[1] == then[1] and now[2] != then[2] and not self.overwrite:
                place, old, new = now[1].partition(" ")[2], then[2][:7], now[2][:7]
                note(f"{place}: this run goes on with commit {old}, which it began with; the hub has {new}.")
                inputs[name] = then[0]
            hub.hold(inputs[name])

    def _config_before(self) -> dict[str, Any]:
        """Read the config of the run in the folder, or return its own if the folder is new or empty."""
        with folder_errors(self.folder):
            if self.folder.is_file():
                raise SteerError(f"{self.folder}: is a file. Choose another --output.")
            # A process that was killed while it wrote its config.json leaves a temporary file and nothing else.
            if not self.folder.is_dir() or all(p.suffix == ".tmp" for p in self.folder.iterdir()):
                return self.config
            if not is_run(self.folder):
                raise SteerError(f"{self.folder}: holds files that are no run of steer. Choose another --output.")
            return dict(read_json(self.folder / "config.json"))

    def _spare_inputs(self) -> None:
        own = addresses.named(str(self.folder))  # the address, if it stands for one
        for name, value in self.config.items():
            if not isinstance(value, str) or not value:
                continue
            path = Path(value)
            inside = path.exists() and path.resolve().is_relative_to(self.folder.resolve())
            if inside or (addresses.is_address(own) and f"{value}/".startswith(f"{own}/")):
                raise SteerError(f"{self.folder}: --overwrite would remove its own {name}. Choose another --output.")

    def start(self) -> None:
        """Write config.json. Call it once the inputs are known to be good, so that bad ones leave nothing behind."""
        with folder_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock(self.folder, shared=self.shared)
            stale = self.folder.rglob("*.tmp") if not self.shared else ()  # half-written by killed processes
            for path in list(self.folder.iterdir() if self.overwrite else stale):
                if path == self.folder / LOCK:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            (self.folder / "done.json").unlink(missing_ok=True)  # that of other settings
        write_json(self.folder / "config.json", self.config)

    @property
    def done(self) -> dict[str, Any] | None:
        """Content of done.json, or None if the stage is not finished, or will be overwritten or renewed."""
        return None if self.overwrite or self.renewed else read_done(self.folder) or None

    def finish(self, summary: str, **facts: Any) -> str:
        """Write done.json (the last file of the stage) and return the summary line."""
        summary = addresses.named(summary)
        write_json(self.folder / "done.json", {"summary": summary, **facts})
        return summary
