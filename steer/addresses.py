"""Addresses of object stores (s3://, gs://, az://, hf://, memory://, file://): what they hold is copied here and back.

Everything else works on local files. The package of a store is found by fsspec: s3:// needs s3fs, gs:// gcsfs, az://
adlfs, hf:// huggingface_hub.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import attribute_models
from steer.cache import alone, cache_folder, remove_unused
from steer.errors import SteerError
from steer.progress import note, quiet

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://.+")
# Settings that name what a stage reads, from a store too.
INPUTS = ("source", "mix", "rows", "input", "requests", "scores", "schema", "policy", "policies", "init", "systems")
FOLDERS = ("model", "base", "reference", "train", "converter", "evaluation")  # and those that name what lies here
CONFIG, DONE = "config.json", "done.json"
BESIDE = ("schema.json", CONFIG, DONE)  # what belongs to a file of rows
WHOLE = {DONE, "steer.json", "dataset_dict.json"}  # a folder with one of these is copied with the folders below it
HERE = re.compile(r"/(parts|checkpoint-\d+)/")  # what only the machine that works needs: resume points
MARK = re.compile(r"/(\.gitattributes)?$")  # a folder kept as a file of no bytes, and what a repository begins with
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss")  # whose only folders are buckets, made by people
COMMIT = 100  # files in one commit of the hub, which takes 128 commits an hour and a minute for each
ABSENT = re.compile(r"\((repository|revision) not found\).*|The specified bucket.*|No such container.*")
COPIES = "STEER_COPIES"  # the variable that holds folders of this machine with the addresses they stand for; passed on


def is_address(text: object) -> TypeGuard[str]:
    """Whether a setting is the address of something in a store, and no path."""
    return isinstance(text, str) and bool(ADDRESS.fullmatch(text))


def local(config: Any) -> Any:
    """Return the settings of a stage with the paths of copies in place of addresses that it reads from."""
    for name in FOLDERS:
        value = getattr(config, name, "")
        for text in value if isinstance(value, tuple) else (value,):
            if is_address(text):
                raise SteerError(f"--{name} {text}: is not read from a store. Copy it to this machine first.")
    changed: dict[str, Any] = {}
    for name in INPUTS:
        value = getattr(config, name, "")
        here = tuple(map(_local, value)) if isinstance(value, tuple) else _local(value)
        changed |= {} if here == value else {name: here}
    return dataclasses.replace(config, **changed) if changed else config


def _local(text: Any) -> Any:
    """Return the path of the copy of an address, also of one that is given a name, as NAME=ADDRESS."""
    if is_address(text):
        return fetched(text)
    name, _, address = text.partition("=") if isinstance(text, str) else ("", "", "")
    return f"{name}={fetched(address)}" if is_address(address) else text


def named(text: str) -> str:
    """Return a text with addresses in place of the folders of this machine that stand for them."""
    for folder, address in _copies().items():
        text = text.replace(folder, address)
    return text


def _copies() -> dict[str, str]:
    copies: dict[str, str] = json.loads(os.environ.get(COPIES, "{}"))
    return copies


def _stands_for(folder: Path, address: str) -> None:
    """Keep that a folder stands for an address, for this process and those that it starts."""
    os.environ[COPIES] = json.dumps({**_copies(), str(folder): address})


def recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON holds them, with addresses in place of the folders of this machine."""
    values: dict[str, Any] = json.loads(named(json.dumps(settings, ensure_ascii=False)))
    return values


def fetched(address: str) -> str:
    """Copy a file, or what a stage reads from a folder, into the cache; return the path of the copy.

    What is there already is not copied again, unless it is another by the store's account (size, time, ETag).
    """
    address = address.rstrip("/")
    store, path = _store(address)
    with _said(address, "read"):
        parent, names, own = _listed(store, path, address)
        known = [[name, store.ukey(name)] for name in sorted(names)]
    key = hashlib.blake2b(json.dumps([address, known]).encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "fetched" / key
    place = folder if own else folder / path.rsplit("/", 1)[-1]  # its name stands in messages
    with _cached(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        remove_unused(folder)
        with alone(folder):
            copies = {name: place / name[len(parent) :].lstrip("/") for name in names}
            if missing := [name for name, copy in copies.items() if not copy.is_file()]:
                note(f"fetch {address}" + (f": {len(missing)} files" if len(missing) > 1 else ""))
            for name in missing:
                with attribute_models.replacing(copies[name]) as file:
                    for block in _blocks(store, name, address):
                        file.write(block)
    _stands_for(place, address.rpartition("/")[0] if own else address)
    return str(place / own)


def _listed(store: Any, path: str, address: str) -> tuple[str, list[str], str]:
    """List what a stage reads of an address: the folder that it is in, files, and the name of a single file there."""
    if not store.isdir(path):
        parent, _, own = path.rpartition("/")
        beside = (f"{parent}/{name}" for name in BESIDE) if parent else ()
        return parent, [path, *(name for name in beside if store.exists(name))], own
    names = [each["name"] for each in store.ls(path, detail=True) if each["type"] == "file"]
    tops = {name.rsplit("/", 1)[-1] for name in names}
    if CONFIG in tops and DONE not in tops and _is_run(store.cat_file(f"{path}/{CONFIG}")):
        raise SteerError(f"{address}: is not finished (no {DONE}). Run the command that writes it again.")
    if tops & WHOLE:
        names = [name for name in store.find(path) if not HERE.search(name[len(path) :])]
    names = [name for name in names if not MARK.search(name)]
    if not names:
        raise SteerError(f"{address}: holds no files. Check the address.")
    return path, names, ""


def _blocks(store: Any, name: str, address: str) -> Iterator[bytes]:
    with _said(address, "read"), store.open(name, "rb") as source:
        while block := source.read(1 << 20):
            yield block


def workplace_of(address: str) -> Path:
    """Return the folder of this machine in which a stage works whose output is an address."""
    address = address.rstrip("/")
    name = hashlib.blake2b(address.encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "outputs" / name / address.rsplit("/", 1)[-1]  # ids of what is drawn begin with its name
    _stands_for(folder, address)
    return folder


def recall(folder: Path, address: str, *, overwrite: bool) -> bytes | None:
    """Put the settings of the run at an address into the folder in which it goes on, and that it is done if it is.

    Return the done.json that was put there, whose files are at the address only; None if there was none to put.
    SteerError for an address that holds something else; `overwrite`: another run may be there.
    """
    store, path = _store(address)
    with _said(address, "read"):
        there = _below(store, path, address)
        texts = {name: store.cat_file(f"{path}/{name}") for name in (CONFIG, DONE) if name in there}
    if there and not _is_run(texts.get(CONFIG, b"null")):
        raise SteerError(f"{address}: holds files that are no run of steer. Choose another --output.")
    if overwrite:
        return None
    own = folder / CONFIG
    if own.is_file() and DONE in texts and own.read_bytes() != texts[CONFIG]:
        raise SteerError(
            f"{address}: holds a run with other settings than the one that this machine began for it. Choose another "
            "--output, or --overwrite to start again."
        )
    with _cached(folder):
        missing = {name: text for name, text in texts.items() if not (folder / name).is_file()}
        for name, text in missing.items():
            attribute_models.write(folder / name, text)
    return missing.get(DONE)


def send(folder: Path, address: str, *, overwrite: bool) -> None:
    """Copy a finished run to an address, `done.json` last; what was there of another run is removed before.

    Of one that is finished there, only files that are missing are copied. Resume points stay here.
    """
    store, path = _store(address)
    files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    files = {name: file for name, file in files.items() if file.suffix != ".tmp" and not HERE.search(f"/{name}")}
    with _said(address, "written"):
        there = _below(store, path, address)
        if overwrite or (CONFIG in there and store.cat_file(f"{path}/{CONFIG}") != files[CONFIG].read_bytes()):
            _change(store, path, dict.fromkeys(sorted(there, key=lambda name: name != DONE)))
        elif DONE in there:
            if store.cat_file(f"{path}/{DONE}") != files[DONE].read_bytes():
                return  # another machine did the same
            files = {name: file for name, file in files.items() if there.get(name) != file.stat().st_size}
        order = sorted(files, key=lambda name: (name == DONE, name != CONFIG))
        _change(store, path, {name: files[name] for name in order})


def _change(store: Any, path: str, files: Mapping[str, Path | None]) -> None:
    """Copy files to their names below a path, and remove those that are None, in this order."""
    place = store.resolve_path(path) if store.protocol == "hf" else None
    if hasattr(place, "repo_id"):  # there each file by itself would be a commit
        return _commit(store, place, files)
    for name, file in files.items():
        if not file:
            store.rm_file(f"{path}/{name}")
            continue
        if not set(BUCKETS) & {store.protocol, *store.protocol}:
            store.makedirs(f"{path}/{name}".rsplit("/", 1)[0], exist_ok=True)
        store.put_file(str(file), f"{path}/{name}")


def _commit(store: Any, place: Any, files: Mapping[str, Path | None]) -> None:
    """Change files of a repository of the hub in as few commits as it takes."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    hub, names = HfApi(endpoint=store.endpoint, token=store.token), list(files)
    for start in range(0, len(names), COMMIT):
        some = [(f"{place.path}/{name}".lstrip("/"), files[name]) for name in names[start : start + COMMIT]]
        operations = [CommitOperationAdd(name, file) if file else CommitOperationDelete(name) for name, file in some]
        with quiet():
            hub.create_commit(
                place.repo_id, operations, commit_message="steer", repo_type=place.repo_type, revision=place.revision
            )


def _below(store: Any, path: str, address: str) -> dict[str, int]:
    """Return the sizes of all files below a path by their names there; empty if nothing is there."""
    found = store.find(path, detail=True)
    if path in found:
        raise SteerError(f"{address}: is a file. Choose another --output.")
    return {name[len(path) + 1 :]: each["size"] for name, each in found.items() if not MARK.search(name)}


def _is_run(config: bytes) -> bool:
    """Whether a config.json is that of a stage of steer."""
    try:
        settings = json.loads(config)
    except ValueError:
        return False
    return isinstance(settings, dict) and "inputs" in settings


def _store(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    import fsspec

    try:
        with _said(address, "opened"):
            store, path = fsspec.core.url_to_fs(address)
            store.invalidate_cache()
            path = store.resolve_path(path).unresolve() if store.protocol == "hf" else path  # as it lists it
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or "fsspec"
        raise SteerError(f'{address}: cannot be opened ({error}). Run "pip install {package}".') from None
    return store, path.rstrip("/")


@contextmanager
def _said(address: str, done: str) -> Iterator[None]:
    """Say in one sentence what a store reports; its package, and what that uses, have errors of no common kind."""
    try:
        yield
    except Exception as error:
        if isinstance(error, SteerError | ImportError):
            raise
        reason = " ".join(str(getattr(error, "strerror", "") or error).split()) or type(error).__name__
        kept = " What was made is kept on this machine, and the same command sends it." if done == "written" else ""
        if isinstance(error, FileNotFoundError):
            why = ABSENT.search(reason)
            more = f" ({why[0].replace(').', '.').strip('(.)')})" if why else ""
            raise SteerError(f"{address}: no such file or folder{more}. Check the address.{kept}") from None
        raise SteerError(
            f"{address}: cannot be {done} ({reason[:300]}). Check the address, the credentials "
            f"and the permissions.{kept}"
        ) from None


@contextmanager
def _cached(folder: Path) -> Iterator[None]:
    """Say in one sentence that the cache of this machine cannot be written."""
    try:
        yield
    except OSError as error:
        raise SteerError(
            f"{folder}: cannot be written ({error.strerror}). Make room there, or name another folder by STEER_CACHE."
        ) from None
