"""A row as a line of JSON: the same bytes for the same row."""

from __future__ import annotations

import json
from pathlib import Path

from steer.errors import SteerError
from steer.rows.contract import Row

ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def line_of(row: Row, path: str | Path) -> bytes:
    """Return a row as a line; a lone surrogate in an extra column becomes its JSON escape, which reads back."""
    try:
        return ENCODER.encode(dict(row)).encode("utf-8", "backslashreplace") + b"\n"
    except (TypeError, ValueError) as error:
        remedy = "Write null for unknown numbers, and no objects of Python"
        raise SteerError(f"{path}: row '{row.get('id')}' cannot be written as JSON ({error}). {remedy}.") from None
