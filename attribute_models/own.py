"""A class or function of the user as attribute model, found by `MODULE:NAME`, in the working folder too.

A class has `attributes` and `score(rows) -> [n, A]`. A function of a row returns a number, the score on an attribute of
the function's name, or a mapping with the names in `function.attributes`; None and missing names are unknown.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from attribute_models import Row, hashed
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
    """Import the model `MODULE:NAME`; ValueError, without the name in front, if there is none."""
    module, colon, name = spec.partition(":")
    if not colon:
        raise ValueError("wanted MODULE:NAME of a class or function.")
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


def code_of(value: Any) -> str:
    """Hash the code of a function or an object, and the plain values that it holds: what tells it from another.

    What it uses of its own module counts too, and what it imports does not. An object that changes while it scores can
    have an `identity`, a text that counts instead.
    """
    if isinstance(identity := getattr(value, "identity", None), str):
        return identity
    value = value.function if isinstance(value, Function) else value
    inner = value.func if isinstance(value, partial) else value
    home = inner if isinstance(inner, FunctionType | MethodType | type) else type(inner)
    return hashed(_described(value, home.__module__, {}))


def _described(value: Any, home: str, seen: dict[int, Any]) -> Any:
    """Describe a value as JSON; of another module than `home` by the name of a function or class, else as it prints."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)

    def each(*values: Any) -> list[Any]:
        return [_described(one, home, seen) for one in values]

    if isinstance(value, tuple):
        return each(*value)
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, value.tobytes().hex()]
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, re.Pattern):
        return [value.pattern, value.flags]
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_names, *each(value.co_consts)]
    if id(value) in seen:  # what follows can hold itself
        return "seen"
    seen[id(value)] = value  # kept, so that nothing else gets its id
    if isinstance(value, Mapping):
        return {str(name): _described(one, home, seen) for name, one in value.items()}
    if isinstance(value, list):
        return each(*value)
    if isinstance(value, partial):
        return each(value.func, value.args, value.keywords)
    if isinstance(value, MethodType | staticmethod | classmethod):
        return each(value.__func__, getattr(value, "__self__", None))
    if isinstance(value, property):
        return each(value.fget)
    kind = value if isinstance(value, FunctionType | type) else type(value)
    if kind.__module__ != home:
        printed = "" if kind is value or " at 0x" in (text := repr(value)) else text
        return f"{kind.__module__}.{kind.__qualname__} {printed}"
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        used = {
            name: one for name in sorted(_names(value.__code__)) if (one := value.__globals__.get(name)) is not None
        }
        return each(value.__code__, value.__defaults__, value.__kwdefaults__, vars(value), held, used)
    if isinstance(value, type):
        own = {name: one for name, one in vars(value).items() if isinstance(one, FunctionType) or name[:2] != "__"}
        return each(value.__qualname__, value.__bases__, own)
    return each(type(value), getattr(value, "__dict__", {}))


def _names(code: CodeType) -> set[str]:
    """Names that code looks up, also in what it defines."""
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return {*code.co_names}.union(*map(_names, inner))
