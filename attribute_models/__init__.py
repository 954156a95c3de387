"""Rows in, scores out: models that read attributes off (prompt, response) rows.

A leaf: it does not import `steer`. A row is a mapping with `prompt`, a list of `{"role", "content"}`, and `response`,
a string. Scores are float arrays [n, A] in the attributes' own units, NaN = unknown. A saved model is a folder with
`model.json`, whose key "model" names it, and perhaps weights beside it. Errors are ValueErrors that name the remedy.
Importing this package imports nothing heavy; `model_class` and `load` import what a model needs.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from attribute_models.arrays import Array, Mask

Row = Mapping[str, Any]

# name -> "module:Class". A new model is one line here and one file beside this one.
MODELS = {
    "countable": "attribute_models.countable:Countable",
    "linear": "attribute_models.linear:Linear",
    "judge": "attribute_models.judge:Judge",
    "simulated": "attribute_models.simulated:Simulated",
    "embeddings": "attribute_models.embeddings:Embeddings",
    "regression": "attribute_models.regression:Regression",
    "bradley-terry": "attribute_models.bradley_terry:BradleyTerry",
    "labeller": "attribute_models.labeller:Labeller",
    "ensemble": "attribute_models.ensemble:Ensemble",
    "calibrated": "attribute_models.calibrated:Calibrated",
}

# The models that learn from scores; each has a frozen dataclass `Settings`.
FITTED = ("linear", "embeddings", "regression", "bradley-terry", "labeller", "ensemble")


class AttributeModel(Protocol):
    """Interface of every attribute model once it is fitted."""

    attributes: tuple[str, ...]

    def score(self, rows: Sequence[Row]) -> Array:
        """Score rows: [n, A], in their order and in the attributes' own units; NaN = unknown."""

    def save(self, folder: str | Path) -> None:
        """Write `model.json` (and weights) into the folder; makes it."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote; its scores are the same to the bit."""


class Scored(NamedTuple):
    """Scores of rows, and which of the rows were too long for the model to read whole."""

    scores: Array  # [n, A]
    truncated: Mask | None  # [n]; None where the model reads everything


def scored(model: Any, rows: Sequence[Row]) -> Scored:
    """Score rows by any model; flags are known where it has `score_and_flag`."""
    if hasattr(model, "score_and_flag"):
        flagged: Scored = model.score_and_flag(rows)
        return flagged
    import numpy as np

    values = model.score(rows)
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`score` gives no table of numbers ({error}). Give a number for each score.") from None
    if scores.shape != (wanted := (len(rows), len(model.attributes))):
        raise ValueError(f"`score` gives {list(scores.shape)} for {list(wanted)} rows and attributes. Give them all.")
    return Scored(scores, None)


def model_class(name: str) -> type[AttributeModel]:
    """Import the class of a model by its name in MODELS."""
    if name not in MODELS:
        raise ValueError(unknown("attribute model", name, MODELS))
    module, _, attribute = MODELS[name].partition(":")
    kind: type[AttributeModel] = getattr(importlib.import_module(module), attribute)
    return kind


def load(folder: str | Path) -> AttributeModel:
    """Load the attribute model, any of MODELS, that was saved in the folder."""
    kind = model_class(str(settings(folder)["model"]))
    try:
        return kind.load(folder)
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{folder}: was saved by another version ({error!r}). Fit it again.") from error


def name_of(folder: str | Path) -> str:
    """Name in MODELS of the model in the folder; of the inner one if the model is calibrated."""
    name = str(settings(folder)["model"])
    return name_of(Path(folder) / "model") if name == "calibrated" else name


def settings(folder: str | Path) -> dict[str, Any]:
    """Read `model.json` in the folder; ValueError if it is missing or not an attribute model's."""
    path = Path(folder) / "model.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no model.json, so it is no scorer. Give the folder of a fitted one.")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}). Save the model again.") from error
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path}: no key 'model'. Give the folder of a fitted scorer.")
    return state


def tupled(state: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the lists that JSON made of a dataclass's tuples back into tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in state.items()}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that appears whole or not at all: a temporary one, synced and renamed; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Ids of processes would do on one machine only, and not in containers, whose first process is 1 in each.
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; makes the folder."""
    with replacing(path) as file:
        file.write(data)


def write_settings(folder: str | Path, state: Mapping[str, Any]) -> None:
    """Write `model.json` into the folder, which `settings` reads."""
    write(Path(folder) / "model.json", json.dumps(state, indent=1).encode())


def hashed(content: Any, size: int = 8) -> str:
    """Hash of JSON content in 2 x size hex digits."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=size).hexdigest()


def texts(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Pair the last turn of the prompt ("" if it is empty) with the response, for each row.

    A row without the two columns as turns and string raises ValueError; rows are counted from 0.
    """
    pairs = []
    for i, row in enumerate(rows):
        turns, response = row.get("prompt"), row.get("response")
        if turns is None or isinstance(turns, str):
            raise ValueError(
                f'row {i}: "prompt" must be a list of {{"role", "content"}}. Wrap a plain string in one turn.'
            )
        question = turns[-1].get("content") if len(turns) else ""
        if not isinstance(question, str) or not isinstance(response, str):
            raise ValueError(f'row {i}: "content" and "response" must be strings. Drop rows without text.')
        pairs.append((question, response))
    return pairs


def unknown(noun: str, name: str, known: Iterable[str]) -> str:
    """Message for an unknown name: the known one that was likely meant, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Unknown {noun} {name!r}.{f' Did you mean {close[0]!r}?' if close else ''} Known: {', '.join(names)}."
