"""Read files of settings that people write: YAML, or JSON if the name ends in .json."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from attribute_models import unknown

T = TypeVar("T")
MOST_BYTES = 1_000_000
KINDS: dict[type, Any] = {bool: bool, int: int, float: (int, float), str: str}
IN_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def read(file: str | Path) -> Any:
    """Read the content of a file; ValueError if it cannot be read, is huge or deep, or gives one name twice."""
    try:
        if Path(file).stat().st_size > MOST_BYTES:
            raise UnfitError(f"has more than {MOST_BYTES} bytes, which no settings need. Check the path.")
        text = Path(file).read_text(encoding="utf-8-sig")
        if str(file).endswith(".json"):
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, _Loader)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}). Check the path.") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{file}{line}: is not YAML ({error.problem}). Write 'name: value' lines.") from None
    except RecursionError:
        raise ValueError(f"{file}: is too deep: a list in a list, hundreds of times. Flatten it.") from None
    except UnfitError as error:
        raise ValueError(f"{file}: {error}") from None
    except (ValueError, OverflowError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: is not JSON or YAML text ({str(error).splitlines()[0]}). Correct it.") from None


class UnfitError(ValueError):
    """A file that can be read but not be meant as settings."""


def checked(kind: type[T], values: Any, where: str, owner: str) -> T:
    """Build a dataclass of settings from a mapping; ValueError for unknown names and wrong types.

    Lists and mappings are not checked. `where` begins the message; `owner`: whose settings they are.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: wanted settings of {owner}, 'name: value' lines.")
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    for name, value in values.items():
        if name not in defaults:
            raise ValueError(f"{where}: {unknown('setting', str(name), defaults)}")
        wanted = KINDS.get(type(defaults[name]))
        if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)):
            raise ValueError(f"{where}: '{name}' is {value!r}; wanted {IN_WORDS[type(defaults[name])]}.")
    return kind(**values)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:  # parsers would silently take the last one
            raise UnfitError(f"gives '{name[:80]}' twice. Keep one of them.")
        values[name] = value
    return values


class _Loader(yaml.SafeLoader):
    """Refuses a mapping in which one name stands twice."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping as it is written, before others are merged into it."""
        node = super().compose_mapping_node(anchor)
        _once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return node


# YAML 1.1 would read 1e-4 as a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
