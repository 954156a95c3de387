"""Keys of rows that belong together, and folds of a cross-validation that never split them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from attribute_models import Row
from attribute_models.arrays import Array, Indices, Mask

Keys = NDArray[np.str_]

FEWEST = 10  # known rows of an attribute


def prompt_key(row: Row) -> str:
    """Digest of the prompt's turns, or of the response if the prompt has no text; rows of one prompt share it.

    Calls of tools, `tools` and `chat_template_kwargs` are part of a prompt.
    """
    turns: list[Any] = [str(turn["content"]) for turn in row["prompt"]]
    made = [turn.get("tool_calls") or () for turn in row["prompt"]]
    calls = [[_plain(call.get("function", call)) for call in each] for each in made if each]  # ids say nothing
    beside = [calls, *(_plain(row.get(name)) for name in ("tools", "chat_template_kwargs"))]
    asked = [*turns, beside] if any(beside) else turns
    key = json.dumps(asked if "".join(turns).strip() else str(row["response"]), default=str)
    return hashlib.sha256(key.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value without nulls and the order of names; a text in it that is JSON counts as what it holds."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return _plain(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in sorted(value.items()) if inner is not None}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def prompt_keys(rows: Sequence[Row]) -> Keys:
    """Keys [n] that rows of one prompt share, and rows of one `group`, if they have one.

    So the turns of one conversation stay together if they share a group. If all rows have the same prompt, such as
    "Write a sentence", there is no prompt to hold out, and rows with the same response share a key instead.
    """
    keys = [prompt_key(row) for row in rows]
    if len(set(keys)) == 1:
        keys = [prompt_key({"prompt": [], "response": row["response"]}) for row in rows]
    groups = [str(row.get("group") or "") for row in rows]
    if not any(groups):
        return np.asarray(keys, dtype=np.str_)
    prompts, place = np.unique(np.asarray(keys, dtype=np.str_), return_inverse=True)
    named = {name: len(prompts) + i for i, name in enumerate(sorted(set(groups) - {""}))}
    pairs = [(a, named[group]) for a, group in zip(place, groups) if group]
    size = len(prompts) + len(named)
    edges = coo_matrix((np.ones(len(pairs)), tuple(zip(*pairs))), shape=(size, size))
    _, part = connected_components(edges, directed=False)
    first = np.full(part.max() + 1, len(prompts))  # the least digest stands for its component, whatever the order
    np.minimum.at(first, part[: len(prompts)], np.arange(len(prompts)))
    joined: Keys = prompts[first[part[place]]]
    return joined


def folds_by_prompt(prompts: Keys, folds: int) -> Indices:
    """Folds [n] from the prompts' keys: a prompt is in one fold, sizes are even, the order of rows does not matter."""
    keys, place, count = np.unique(prompts, return_inverse=True, return_counts=True)
    size, fold = np.zeros(min(folds, len(keys)), dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
    for i in np.argsort(-count, kind="stable"):
        fold[i] = size.argmin()
        size[fold[i]] += count[i]
    return fold[place]


def check_penalties(folds: int, alphas: Sequence[float]) -> None:
    """Raise ValueError for settings by which no penalty can be chosen."""
    if folds < 2 or min(alphas) <= 0:
        raise ValueError(f"folds is {folds}, alphas {list(alphas)}. Give 2 folds or more, alphas above 0.")


def known_alike(known: Mask) -> list[list[int]]:
    """Group attributes with scores known in the same rows, from known [n, A]; a group shares folds and features."""
    groups: dict[bytes, list[int]] = {}
    for a, column in enumerate(known.T):
        groups.setdefault(column.tobytes(), []).append(a)
    return list(groups.values())


class KnownScores(NamedTuple):
    """The m rows with any known score."""

    at: Indices  # [m], their places among the rows
    rows: list[Row]
    scores: Array  # [m, A], NaN where unknown
    prompts: Keys  # [m]


def known_scores(rows: Sequence[Row], scores: ArrayLike, attributes: Sequence[str]) -> KnownScores:
    """Select the rows with any known score from scores [n, A], NaN = unknown.

    An attribute with fewer than FEWEST known rows, 2 distinct prompts or 2 values raises ValueError.
    """
    truth = np.asarray(scores, dtype=np.float64)
    if truth.shape != (len(rows), len(attributes)) or np.isinf(truth).any():
        expected = f"[{len(rows)} rows, {len(attributes)} attributes]"
        raise ValueError(f"scores have shape {list(truth.shape)}. Give {expected}, finite or NaN for unknown.")
    at = np.flatnonzero(~np.isnan(truth).all(1))
    rated = [rows[i] for i in at.tolist()]
    y, prompts = truth[at], prompt_keys(rated)
    problems = [_problem(column, prompts) for column in y.T]
    for name, problem in zip(attributes, problems):
        if problem:
            others = " ".join(f"--attribute {other}" for other, bad in zip(attributes, problems) if not bad)
            instead = f", or fit the others: {others}" if others else ""
            raise ValueError(f"Attribute {name!r} {problem}. Rate more rows{instead}.")
    return KnownScores(at, rated, y, prompts)


def _problem(scores: Array, prompts: Keys) -> str:
    """Say why an attribute cannot be learned from its scores [m]; empty if it can."""
    known = ~np.isnan(scores)
    count = int(known.sum())
    if count < FEWEST:
        return f"has {count} rows with a known score and needs {FEWEST}"
    if len(set(prompts[known])) < 2:
        return f"has {count} rows with a known score, all of one prompt, and needs 2 prompts to hold one out"
    if np.ptp(scores[known]) == 0:
        return f"has the same score on all {count} known rows, so nothing can be learned"
    return ""
