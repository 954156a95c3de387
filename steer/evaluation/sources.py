"""Systems to evaluate: policies and responses, from paths or from memory, each with its name and seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer.models.card import Card
from steer.models.policy import Policy
from steer.rows import Reading, Row, Source, content_hash, read
from steer.run_folder import origin_of, read_json

Entrant = Policy | Source  # a policy or model, its path, or responses in any known layout


@dataclass(frozen=True)
class Contestant:
    """One policy or one set of responses under one seed; exactly one of `policy`, `path` of a policy, `rows` is set."""

    name: str
    seed: int  # of several with one name
    rows: list[Row] | None = None
    policy: Policy | None = None
    path: str = ""

    @property
    def card(self) -> Card | None:
        """Card of a policy; None for responses and plain models."""
        if self.policy:
            return self.policy.card
        return Card.find(self.path) if self.rows is None else None

    @property
    def identity(self) -> str:
        """Fingerprint of the policy or responses; the name and commit of a model on the hub."""
        if self.path:
            return origin_of(self.path) or self.path
        return content_hash(self.rows) if self.rows is not None else self.policy.identity if self.policy else ""


def named(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Split each NAME=PATH; a path without a name has an empty one."""
    for text in texts:
        name, sign, path = text.partition("=")
        yield ("", text) if not sign or Path(text).exists() else (name, path)


def contestants(systems: Entrant | Mapping[str, Entrant] | Iterable[tuple[str, Entrant]]) -> list[Contestant]:
    """Number systems of one name as seeds; without a name, take that of the file, the policy or the `generator`.

    Rows of several generators are as many systems.
    """
    count = Counter[str]()
    numbered = []
    for name, system in _pairs(systems):
        for part in _parts(name, system):
            numbered.append(Contestant(seed=count[part["name"]], **part))
            count[part["name"]] += 1
    return numbered


def _pairs(systems: Any) -> Iterable[tuple[str, Entrant]]:
    """Pairs of a name and a system."""
    if isinstance(systems, Mapping) and "prompt" not in systems:
        return list(systems.items())
    if isinstance(systems, list) and systems and isinstance(systems[0], tuple):
        return systems
    return [("", systems)]


def _parts(name: str, system: Any) -> Iterator[dict[str, Any]]:
    """Fields of the contestants that a system consists of; responses of several generators are several."""
    if isinstance(system, Policy):
        yield {"name": name or Path(system.name).name or "policy", "policy": system}
        return
    path = str(system) if isinstance(system, str | Path) else ""
    stem = Path(path).name.split(".")[0] if path else "responses"
    if path and _is_policy(path):
        yield {"name": name or stem, "path": path}
        return
    rows = list(read(system, reading=Reading(blank=True)))
    by_generator: dict[str, list[Row]] = {}
    for row in rows:
        by_generator.setdefault(str(row.get("generator") or ""), []).append(row)
    if len(by_generator) < 2:
        yield {"name": name or next(iter(by_generator), "") or stem, "rows": rows, "path": path}
        return
    for generator, part in by_generator.items():
        yield {"name": f"{name} {generator}".strip() or stem, "rows": part, "path": path}


def _is_policy(path: str) -> bool:
    """Whether a path is a folder of `steer train` or Hugging Face, or else a name on the hub."""
    folder = Path(path)
    if folder.is_dir():
        config = folder / "config.json"
        return bool(Card.place(folder)) or (config.is_file() and "model_type" in read_json(config))
    return not folder.exists() and not folder.suffix and not path.startswith("hf:")
