"""A class or function of the user as attribute model, found by `module:name`, in the working folder too.

A class has `attributes` and `score(rows) -> [n, A]`. A function of a row returns a number, the score on an attribute of
the function's name, or a mapping with the names in `function.attributes`; None and missing names are unknown.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attribute_models import Row
from attribute_models.arrays import Array


class Function:
    """A function of a row as attribute model."""

    def __init__(self, function: Callable[[Row], Any], name: str) -> None:
        self.function = function
        self.named = hasattr(function, "attributes")
        self.attributes: tuple[str, ...] = tuple(getattr(function, "attributes", (name,)))

    def score(self, rows: Sequence[Row]) -> Array:
        """Scores [n, A]; ValueError if the function returns something else."""
        values = [self._values(self.function(row)) for row in rows]
        try:
            return np.asarray(values, dtype=np.float64).reshape(len(values), len(self.attributes))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the function gives what is no number ({error}). Give a number or None.") from None

    def _values(self, result: Any) -> list[Any]:
        if self.named:
            return [result.get(name) for name in self.attributes]
        if isinstance(result, Mapping):
            name = self.attributes[0]
            raise ValueError(f"{name} gives several scores. Name them: {name}.attributes = {tuple(result)}.")
        return [result]


def load(spec: str) -> Any:
    """Import the model `module:name`; ValueError, without the name in front, if there is none."""
    module, colon, name = spec.partition(":")
    if not colon:
        raise ValueError("wanted module:name of a class or function.")
    if os.getcwd() not in sys.path:  # a command is started from its own folder
        sys.path.append(os.getcwd())
    try:
        value = getattr(importlib.import_module(module), name)
        value = value() if isinstance(value, type) else value
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"{error}. Check the name, and that the module can be imported.") from None
    return model_of(value, name)


def model_of(value: Any, name: str) -> Any:
    """An object with `score` as it is; a function of a row as a model; ValueError for anything else."""
    if hasattr(value, "score"):
        return value
    if not callable(value):
        raise ValueError("is no class with `score` and no function of a row. Name one.")
    return Function(value, name)
