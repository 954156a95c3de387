"""The fresh responses of a round: which of them are kept, and what is counted of the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from steer.conditioning.condition import leaks
from steer.evaluation.diversity import repeated
from steer.methods.base import Array
from steer.rows import Row, prompt_key

LOOPS = 0.5  # a response in which this share of the trigrams stood before runs in circles
LONG = 20  # words, below which repetition tells nothing
# What chat templates and transcripts write between turns, and what decoders write for broken bytes.
MARKERS = re.compile(
    r"<\|\w+\|>|\[/?INST\]|<</?SYS>>|</s>|<(?:start|end)_of_turn>|(?m:^\W*(?:user|human|assistant|system)\s*:)", re.I
)
BROKEN = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def anomaly(row: Row, names: Sequence[str]) -> str:
    """What is wrong with the form of a response to a policy conditioned on `names`; empty: nothing."""
    text = row["response"]
    if any(leaks(names, template).search(text) for template in ("tags", "steerlm")):
        return "with condition text"
    if MARKERS.search(text):
        return "with chat markers"
    if BROKEN.search(text):
        return "with broken characters"
    words = text.split()
    return "running in circles" if len(words) >= LONG and repeated(words) > LOOPS else ""


def usable(rows: Iterable[Row], names: Sequence[str], *, any_form: bool = False) -> tuple[list[Row], Counter[str]]:
    """The rows that say something, come to an end and have no anomaly; of the others, how many for which reason."""
    kept, lost = [], Counter[str]()
    for row in rows:
        what = "blank" if not row["response"].strip() else "" if row.get("finished", True) else "cut off"
        if what := what or ("" if any_form else anomaly(row, names)):
            lost[what] += 1
        else:
            kept.append(row)
    return kept, lost


def distinct(rows: Iterable[Row], earlier: Iterable[Row] = ()) -> list[Row]:
    """The first of equal responses to a prompt, none of which is among `earlier`; case and white space do not count."""
    seen = {_key(row) for row in earlier}
    kept = []
    for row in rows:
        if (key := _key(row)) not in seen:
            seen.add(key)
            kept.append(row)
    return kept


def _key(row: Row) -> tuple[str, str]:
    return prompt_key(row), " ".join(row["response"].casefold().split())


def above(scores: Array, logs: Array, directions: Sequence[int], share: float) -> Array:
    """Which responses [n, A] have any score, on its good side, above that quantile of the logs (RiC, 2402.10207)."""
    signs = np.array(directions)
    edges = np.nanquantile(logs * signs, share, axis=0)
    found: Array = (((scores * signs) > edges) & (signs != 0)).any(1)
    return found
