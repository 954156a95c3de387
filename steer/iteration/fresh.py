"""Filters of the fresh responses of a round, with counts of the dropped ones by reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from steer.conditioning.condition import leaks
from steer.evaluation.diversity import repeated
from steer.generation.generate import answers
from steer.labelling.scorer import readable
from steer.methods.base import Array
from steer.rows import Row, prompt_key

LOOPS = 0.5  # share of trigrams that occurred before, above which a response repeats itself
LONG = 20  # words, below which repetition means nothing
# What chat templates and transcripts write between turns, and what decoders write for broken bytes.
MARKERS = re.compile(
    r"<\|\w+\|>|\[/?INST\]|<</?SYS>>|</s>|<(?:start|end)_of_turn>|(?m:^\W*(?:user|human|assistant|system)\s*:)", re.I
)
BROKEN = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def anomaly(row: Row, names: Sequence[str]) -> str:
    """Describe a defect in the form of a response by a policy conditioned on `names`; empty if there is none."""
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
    """Rows that are not blank, finished and without anomaly; and how many others there are for each reason."""
    kept, dropped = [], Counter[str]()
    for row in rows:
        reason = "blank" if not answers(row) else "" if row.get("finished", True) else "cut off"
        if reason := reason or ("" if any_form else anomaly(row, names)):
            dropped[reason] += 1
        else:
            kept.append(row)
    return kept, dropped


def distinct(rows: Iterable[Row], earlier: Iterable[Row] = ()) -> list[Row]:
    """Rows whose response the prompt has neither in `earlier` nor in a row before; case and white space are ignored."""
    seen = {_key(row) for row in earlier}
    kept = []
    for row in rows:
        if (key := _key(row)) not in seen:
            seen.add(key)
            kept.append(row)
    return kept


def _key(row: Row) -> tuple[str, str]:
    return prompt_key(row), " ".join(readable(row)["response"].casefold().split())


def above(scores: Array, logs: Array, directions: Sequence[int], share: float) -> Array:
    """Whether each response [n, A] has a score better than this quantile of the logs (RiC, 2402.10207): [n]."""
    signs = np.array(directions)
    edges = np.nanquantile(logs * signs, share, axis=0)
    return np.asarray((((scores * signs) > edges) & (signs != 0)).any(1))
