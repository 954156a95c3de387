"""Records of Label Studio: `data`, and what annotators said of it, as columns and ratings of several raters."""

from __future__ import annotations

from typing import Any

from data_recipes.marks import Row

SIDES = {"left": "a", "right": "b"}


def is_record(record: Row) -> bool:
    """Whether a record is a task with its annotations."""
    return isinstance(record.get("data"), dict) and isinstance(record.get("annotations"), list)


def plain(record: Row) -> Row:
    """Return the columns of `data`, ratings and numbers in `attributes`, and what was said in words beside them.

    A control's name is the attribute. A choice between two texts is the `preference`; annotators who differ make a tie.
    Cancelled annotations and predictions of models are not read.
    """
    said: dict[str, list[Any]] = {}
    for annotation in record["annotations"]:
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            for result in annotation.get("result") or ():
                if isinstance(result, dict) and isinstance(value := result.get("value"), dict):
                    _add(said, str(result.get("from_name")), str(result.get("type")), value)
    votes = said.pop("preference", [])
    numbers = {name: each for name, each in said.items() if all(isinstance(v, int | float) for v in each)}
    words = {name: each[0] if len(each) == 1 else each for name, each in said.items() if name not in numbers}
    vote = {"preference": votes[0] if len({*votes}) == 1 else "tie"} if votes else {}
    name = {"id": str(record["id"])} if record.get("id") is not None and "id" not in record["data"] else {}
    return {**name, **words, **record["data"], **vote, **({"attributes": numbers} if numbers or not vote else {})}


def _add(said: dict[str, list[Any]], name: str, kind: str, value: Row) -> None:
    """Add one answer of an annotator: a rating, a number, a choice, a text, or a side."""
    if kind == "pairwise":
        said.setdefault("preference", []).append(SIDES.get(str(value.get("selected")), "tie"))
        return
    given = value.get(kind, value.get("text"))
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    if given is not None and not isinstance(given, bool):
        said.setdefault(name, []).append(given)
