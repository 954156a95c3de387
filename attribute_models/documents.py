"""Files of settings that people write: YAML, or JSON where the name ends in .json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_BYTES = 1_000_000


def read(file: str | Path) -> Any:
    """What the file holds; ValueError where it cannot be read, is huge or deep, or gives one name twice."""
    import yaml

    try:
        if Path(file).stat().st_size > MOST_BYTES:
            raise UnfitError(f"has more than {MOST_BYTES} bytes, which no settings need. Check the path.")
        text = Path(file).read_text(encoding="utf-8-sig")
        if str(file).endswith(".json"):
            return json.loads(text, object_pairs_hook=_once)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _refuse_twice(node)
        return None if node is None else loader.construct_document(node)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}). Check the path.") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{file}{line}: is not YAML ({error.problem}). Write 'name: value' lines.") from None
    except RecursionError:
        raise ValueError(f"{file}: is too deep: a list in a list, hundreds of times. Mend it.") from None
    except UnfitError as error:
        raise ValueError(f"{file}: {error}") from None
    except (ValueError, OverflowError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: is not JSON or YAML text ({str(error).splitlines()[0]}). Mend it.") from None


class UnfitError(ValueError):
    """What no file of settings should be."""


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:  # readers would take the last one without a word
            raise UnfitError(f"gives '{name[:80]}' twice. Keep one of them.")
        found[name] = value
    return found


def _refuse_twice(root: Any) -> None:
    """Refuse nodes of YAML in which one name stands twice; aliases may make them a graph with cycles."""
    import yaml

    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        waiting += [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
