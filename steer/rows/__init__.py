"""Rows: the contract they keep, reading them from any known layout, and writing them.

The names load on first use: `steer.rows.settings` and the command line's help import none of the readers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steer.rows.contract import PREFERENCE, Row, check
    from steer.rows.identity import content_hash, conversation_of, named_side, prompt_key, split_key, split_of
    from steer.rows.reading import Reading, Source, Tally, prompts, read, read_rows
    from steer.rows.writing import read_back, write_rows

_MODULES = {
    "contract": ("PREFERENCE", "Row", "check"),
    "identity": ("content_hash", "conversation_of", "named_side", "prompt_key", "split_key", "split_of"),
    "reading": ("Reading", "Source", "Tally", "prompts", "read", "read_rows"),
    "writing": ("read_back", "write_rows"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022  # by module, as above
    "PREFERENCE",
    "Row",
    "check",
    "content_hash",
    "conversation_of",
    "named_side",
    "prompt_key",
    "split_key",
    "split_of",
    "Reading",
    "Source",
    "Tally",
    "prompts",
    "read",
    "read_rows",
    "read_back",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steer.rows' has no attribute '{name}'")
    return getattr(import_module(f"steer.rows.{_HOME[name]}"), name)
