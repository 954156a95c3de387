"""Rename columns of any name by a map such as {"response": "answer.0.text"}."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from data_recipes import votes
from data_recipes.streams import DataError, Record


def parsed(pairs: Iterable[str]) -> dict[str, str]:
    """Parse NAME=PATH, as the command line gives them; white space separates several in one text."""
    paths: dict[str, str] = {}
    for pair in (part for text in pairs for part in text.split()):
        name, sign, path = pair.partition("=")
        if not (name and sign and path):
            raise DataError(
                f"--map {pair}: wanted NAME=COLUMN or NAME=PATH.WITH.DOTS, for example response=answer.text."
            )
        if name in paths:
            raise DataError(f"--map {pair}: '{name}' is named twice. Keep one of them.")
        paths[name] = path
    return paths


def mapped(record: Record, columns: dict[str, str]) -> tuple[Record, Record]:
    """Return the record under its new names, and the columns that are not mapped whole.

    A path goes down objects by name and lists by place (from 0, or from the end with -1); a text that holds JSON, as
    in a CSV cell, is read on the way. What is not there is null.
    """
    named = {name: at(record, path) for name, path in columns.items()}
    if "preference" in named:  # it may say what the votes mean: COLUMN:1=a,2=b
        column, meaning = votes.split(columns["preference"])
        columns = {**columns, "preference": column}
        named["preference"] = at(record, column)
        if meaning:
            named["preference"] = votes.meant(named["preference"], meaning)
    used = {*columns.values(), *columns}
    return named, {column: value for column, value in record.items() if column not in used}


def at(value: Any, path: str) -> Any:
    """Return the value at a dotted path, or None."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, dict) and path in value:
        return value[path]
    name, _, rest = path.partition(".")
    if isinstance(value, dict):
        inner = value.get(name)
    elif isinstance(value, list) and name.lstrip("-").isdecimal() and -len(value) <= int(name) < len(value):
        inner = value[int(name)]
    else:
        return None
    return at(inner, rest) if rest else inner
