"""Know which commit of a model or data set on the Hugging Face hub a run reads, also when it goes on later."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from data_recipes.hub import HUB, SPEC

T = TypeVar("T")
HELD = "STEER_COMMITS"  # variable of the environment, which processes that are started inherit: JSON {origin: commit}
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
MINUTE = 60.0  # seconds
_ASKED: dict[str, tuple[float, bool]] = {}  # address of a hub -> when it was asked, and whether it answered
RECORDED = re.compile(r"((?:model|rows) \S+) at commit ([0-9a-f]{40})")  # an origin among the inputs of a run


def online() -> bool:
    """Whether the hub answers, or did a minute ago. Ask first: its own client would retry for as long."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    when, answers = _ASKED.get(constants.ENDPOINT, (-MINUTE, False))
    if time.monotonic() - when >= MINUTE:
        try:
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
            answers = True
        except OSError as error:
            answers = isinstance(error, HTTPError)
        _ASKED[constants.ENDPOINT] = time.monotonic(), answers
    return answers


def origin(name: str) -> str:
    """Name a model, or rows as hf:..., with its commit: the one that a run holds, else the newest; "" if unknown."""
    rows = SPEC.fullmatch(name) if name.startswith(HUB) else None
    of = f"rows {name}" if rows else f"model {name}"
    place = rows["name"] if rows else name
    if rows or name.endswith(".gguf"):  # a folder or a file of a repository
        place = "/".join(place.split("/")[:2])
    commit = held(of)
    if not commit and REPOSITORY.fullmatch(place):
        commit = _newest(place, "dataset" if rows else "model", (rows and rows["revision"]) or "main")
    return f"{of} at commit {commit}" if commit else ""


def _newest(name: str, kind: str, revision: str) -> str:
    """Return the commit that a revision is of on the hub, or was when it was last downloaded; "" if unknown."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    if online():
        with suppress(Exception):  # whoever loads it says what is wrong
            return HfApi().repo_info(name, repo_type=kind, revision=revision).sha or ""
    with suppress(OSError):
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
        return (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    return ""


def _all_held() -> dict[str, str]:
    return dict(json.loads(os.environ.get(HELD) or "{}"))


def held(of: str) -> str:
    """Return the commit of "model NAME" or "rows hf:..." that a run of this process holds; "" for none."""
    return _all_held().get(of, "")


def hold(recorded: str) -> None:
    """Read an origin at the commit that a run recorded, until the run ends."""
    if match := RECORDED.fullmatch(recorded):
        os.environ[HELD] = json.dumps({**_all_held(), match[1]: match[2]})


@contextmanager
def released() -> Iterator[None]:
    """Let go at the end what was held inside."""
    before = os.environ.get(HELD)
    try:
        yield
    finally:
        os.environ.pop(HELD, None)
        os.environ.update({HELD: before} if before else {})


def at_commit(source: T) -> T | str:
    """Return hf:... with the commit that a run holds; any other source as it is."""
    if not isinstance(source, str):
        return source
    commit, spec = held(f"rows {source}"), SPEC.fullmatch(source)
    if not commit or not spec:
        return source
    config, splits = (f"{sign}{spec[part]}" if spec[part] else "" for sign, part in ((":", "config"), ("#", "splits")))
    return f"{HUB}{spec['name']}{config}@{commit}{splits}"
