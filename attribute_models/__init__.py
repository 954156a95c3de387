"""Rows in, scores out: models that read attributes off (prompt, response) rows.

A leaf: it knows nothing of `steer`. A row is a mapping with `prompt`, a list of `{"role", "content"}`, and `response`,
a string. Scores are float arrays [n, A] in the attributes' own units, NaN = unknown. A saved model is a folder with
`model.json`, whose key "model" names it, and perhaps weights beside it. Errors are ValueErrors that name the remedy.
Importing this package imports nothing heavy; a model's own needs come with `model_class` or `load`.
"""

from __future__ import annotations

import difflib
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

# Of them, those that learn from scores; each has a frozen dataclass `Settings`.
FITTED = ("linear", "embeddings", "regression", "bradley-terry", "labeller", "ensemble")


class AttributeModel(Protocol):
    """What every attribute model can do once it is fitted."""

    attributes: tuple[str, ...]

    def score(self, rows: Sequence[Row]) -> Array:
        """Scores [n, A] of the rows, in their order and in the attributes' own units; NaN = unknown."""

    def save(self, folder: str | Path) -> None:
        """Write `model.json` (and weights) into the folder, which is made where it is missing."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model that `save` wrote; its scores are the same to the bit."""


class Scored(NamedTuple):
    """Scores of rows, and which of the rows were too long for the model to read whole."""

    scores: Array  # [n, A]
    truncated: Mask | None  # [n]; None where the model reads everything


def scored(model: Any, rows: Sequence[Row]) -> Scored:
    """Scores with the flags of a model that has `score_and_flag`, and without flags those of any other."""
    if hasattr(model, "score_and_flag"):
        found: Scored = model.score_and_flag(rows)
        return found
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
    """The class of a model by its name in MODELS; imports what that model needs and no more."""
    if name not in MODELS:
        raise ValueError(unknown("attribute model", name, MODELS))
    module, _, attribute = MODELS[name].partition(":")
    found: type[AttributeModel] = getattr(importlib.import_module(module), attribute)
    return found


def load(folder: str | Path) -> AttributeModel:
    """The attribute model that was saved in the folder, whichever of MODELS it is."""
    kind = model_class(str(settings(folder)["model"]))
    try:
        return kind.load(folder)
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{folder}: was saved by another version ({error!r}). Fit it again.") from error


def name_of(folder: str | Path) -> str:
    """The name in MODELS of the model in the folder; of the one inside where it is a calibrated one."""
    name = str(settings(folder)["model"])
    return name_of(Path(folder) / "model") if name == "calibrated" else name


def settings(folder: str | Path) -> dict[str, Any]:
    """What `model.json` in the folder says; ValueError where it is missing or not an attribute model's."""
    path = Path(folder) / "model.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no model.json. Give a folder that an attribute model was saved in.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}). Save the model again.") from error
    if not isinstance(found, dict) or "model" not in found:
        raise ValueError(f"{path}: no key 'model'. Give a folder that an attribute model was saved in.")
    return found


def tupled(state: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON made of a dataclass's fields, with tuples where it has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in state.items()}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that appears whole or not at all: a temporary one, synced and renamed; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
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


def texts(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """(last turn of the prompt, response) of each row; an empty prompt gives "".

    Raises ValueError that counts rows from 0 where one does not have the two columns as strings and turns.
    """
    found = []
    for i, row in enumerate(rows):
        turns, response = row.get("prompt"), row.get("response")
        if turns is None or isinstance(turns, str):
            raise ValueError(
                f'row {i}: "prompt" must be a list of {{"role", "content"}}. Wrap a plain string in one turn.'
            )
        asked = turns[-1].get("content") if len(turns) else ""
        if not isinstance(asked, str) or not isinstance(response, str):
            raise ValueError(f'row {i}: "content" and "response" must be strings. Drop rows without text.')
        found.append((asked, response))
    return found


def unknown(noun: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known: the one that was likely meant, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Unknown {noun} {name!r}.{f' Did you mean {close[0]!r}?' if close else ''} Known: {', '.join(names)}."
