"""Rows -> groups of candidates: which responses a loss sees together. Some take a method's settings, and need none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from steer.errors import SteerError
from steer.rows import PREFERENCE, Row, conversation_of, prompt_key
from steer.rows.identity import response_key
from steer.settings import did_you_mean


class Group(NamedTuple):
    """Candidates of one prompt, better first, and their weights in the loss; or the turns of one conversation."""

    rows: tuple[Row, ...]
    weights: tuple[float, ...]


def singles(rows: Sequence[Row], settings: Any = None) -> list[Group]:
    """Put every row in a group of its own, with weight 1."""
    return [Group((row,), (1.0,)) for row in rows]


def conversations(groups: Sequence[Group]) -> list[Group]:
    """Join the rows of one `conversation`, for losses that see every row by itself: they share what stands before them.

    Groups of several rows stay as they are.
    """
    if any(len(group.rows) > 1 for group in groups):
        return list(groups)
    parts: dict[str | int, list[Group]] = {}
    for number, group in enumerate(groups):
        parts.setdefault(conversation_of(group.rows[0]) or number, []).append(group)
    return [Group(tuple(g.rows[0] for g in p), tuple(g.weights[0] for g in p)) for p in parts.values()]


def prompts(rows: Sequence[Row], settings: Any = None) -> list[Group]:
    """Take the first row of every prompt, for methods that draw their own responses."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(prompt_key(row), row)
    return singles(list(first.values()))


def levelled(rows: Sequence[Row]) -> list[Row]:
    """Keep the rows that have levels; SteerError if none has."""
    labelled = [row for row in rows if row.get("levels")]
    if not labelled:
        raise SteerError(f'none of the {len(rows)} rows has levels. Run "steer label" first.')
    return labelled


def rewarded(rows: Sequence[Row], *, differ: bool = True) -> list[Row]:
    """Keep the rows whose reward is known; SteerError if none is, or (`differ`) all are equal."""
    scored = [row for row in rows if row.get("reward") is not None]
    for row in scored:
        value = row["reward"]
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise SteerError(f"the reward of row '{row['id']}' is {value!r}, wanted a number or null.")
    if not scored:
        said = any(score is not None for row in rows for score in (row.get("scores") or {}).values())
        if said and not any(row.get("levels") for row in rows):
            remedy = 'Run "steer label ROWS --output LABELS" first: what people said in them needs no scorer.'
        else:
            remedy = (
                'Run "steer label ROWS --scorer SCORER --output LABELS" first, with a scorer of what has a better end, '
                'or with "--higher NAME".'
            )
        raise SteerError(f"none of the {len(rows)} rows has a reward. {remedy}")
    if differ and len({row["reward"] for row in scored}) == 1:
        raise SteerError(
            f"all {len(scored)} rewards are equal, so none is better than another. Score the responses with "
            '"steer label ROWS --scorer SCORER", or take mle, which needs no reward.'
        )
    return scored


def standardised(rewards: Sequence[float]) -> list[float]:
    """Scale rewards to mean 0 and standard deviation 1."""
    mean = math.fsum(rewards) / len(rewards)
    sd = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / len(rewards))
    return [(r - mean) / sd for r in rewards]


def exponential(scores: Sequence[float], beta: float, clip: float) -> list[float]:
    """Weights with mean 1, then clipped: min(clip, exp(s / beta) / mean(exp(s / beta)))."""
    logs = [s / beta for s in scores]
    high = max(logs)  # subtracting it keeps exp finite and cancels in the ratio
    raw = [math.exp(x - high) for x in logs]
    scale = len(raw) / math.fsum(raw)
    return [min(clip, w * scale) for w in raw]


def top(rows: Sequence[Row], keep: float) -> list[Group]:
    """Take the share `keep` of the rows with the highest reward, as singles; ties keep the order of the rows."""
    scored = rewarded(rows)
    count = max(1, int(keep * len(scored) + 1e-9))  # .29 of 100 rows are 29, whatever floats say
    order = sorted(range(len(scored)), key=lambda i: -scored[i]["reward"])[:count]
    return singles([scored[i] for i in sorted(order)])


def compared(rows: Sequence[Row], *, differ: bool = True) -> list[list[Row]]:
    """Rows with a known reward that may be compared, better first; ties keep the order of the rows.

    They share a prompt, and a `group` too if the column `comparable` of `steer label` says so. `differ`: as in
    `rewarded`.
    """
    prompts: dict[tuple[str, str], list[Row]] = {}
    for row in rewarded(rows, differ=differ):
        inside = (row.get("comparable") or _comparable(row)) == "group"
        prompts.setdefault((prompt_key(row), str(row.get("group") or "") if inside else ""), []).append(row)
    return [sorted(candidates, key=lambda row: -row["reward"]) for candidates in prompts.values()]


def _comparable(row: Row) -> str:
    """Scope of comparison for rows that name none: the group if only people gave the preference, else the prompt."""
    rated, predicted = ((row.get(column) or {}).get(PREFERENCE) for column in ("scores", "predicted"))
    return "group" if rated is not None and predicted is None else "prompt"


def distinct(candidates: Sequence[Row]) -> list[Row]:
    """Keep the first of equal responses, their calls of tools (but not ids) included: none is better than itself."""
    first: dict[str, Row] = {}
    for row in candidates:
        first.setdefault(response_key({**row, "response": row.get("response", row["id"])}), row)
    return list(first.values())


# What to do where no response stands beside another; nobody has rated what is drawn, so it needs a scorer.
DRAW_MORE = (
    'Draw more with "steer generate POLICY --input ROWS --target none --n 4 --sampling own --output MORE" and score '
    'them with "steer label MORE --scorer SCORER --output LABELS"; or take kto or bco, which train on single responses.'
)


def ranked(rows: Sequence[Row], settings: Any = None, *, repeated: bool = False) -> list[Group]:
    """Candidates that may be compared, better first, of every prompt that has two with different rewards.

    `repeated`: equal responses stay, for losses that read from their number how likely one is.
    """
    prompts = [candidates if repeated else distinct(candidates) for candidates in compared(rows)]
    groups = [Group(tuple(c), (1.0,) * len(c)) for c in prompts if c[0]["reward"] > c[-1]["reward"]]
    if not groups:
        alone = sum(len(c) == 1 for c in prompts)
        raise SteerError(
            f"no prompt has two responses with different rewards ({alone} of {len(prompts)} have one "
            f"response, {len(prompts) - alone} have ties only). {DRAW_MORE}"
        )
    return groups


def one_gap(groups: Sequence[Group]) -> str:
    """Say that rewards of one group are equal or one gap apart, to methods that read how large gaps are; else empty."""
    ordered = [[row["reward"] for row in group.rows] for group in groups]
    gaps = {better - worse for c in ordered for i, better in enumerate(c) for worse in c[i:] if better > worse}
    return f"every gap of rewards is {gaps.pop():g}, so no pair is clearer than another" if len(gaps) == 1 else ""


PAIRINGS = ("best-worst", "best-random", "all")


def pairs(rows: Sequence[Row], pairing: str) -> list[Group]:
    """Pair chosen and rejected, never tied. `best-random`: the best and a random worse one (Zephyr, 2310.16944)."""
    if pairing not in PAIRINGS:
        raise SteerError(f"unknown pairing '{pairing}'; {did_you_mean(pairing, PAIRINGS)}")
    result = []
    for group in ranked(rows):
        c = group.rows
        if pairing == "all":
            at = [(i, j) for i in range(len(c)) for j in range(i + 1, len(c)) if c[i]["reward"] > c[j]["reward"]]
        elif pairing == "best-worst":
            at = [(0, len(c) - 1)]
        else:
            worse = [j for j in range(len(c)) if c[j]["reward"] < c[0]["reward"]]
            at = [(0, worse[random_of(c[0]).integers(len(worse))])]
        result += [Group((c[i], c[j]), (1.0, 1.0)) for i, j in at]
    return result


# Columns of a draw and their values where the policy itself drew, from all tokens.
PLAIN = {"temperature": 1, "top_p": 1, "repetition_penalty": 1, "guidance": 1, "best_of": 1, "top_k": 0, "min_p": 0}


def check_untouched(row: Row) -> None:
    """Refuse a row whose columns say that it was not drawn from the policy's own distribution."""
    drawing = {name: row[name] for name in PLAIN if isinstance(row.get(name), int | float)}
    if other := [f"{name} {value:g}" for name, value in drawing.items() if value != PLAIN[name]]:
        raise SteerError(
            f"row '{row['id']}': was drawn at {', '.join(other)}, so how often such a response is drawn is not how "
            "likely the policy makes it. Draw the responses with --sampling own, and without --guidance and --best-of."
        )


def random_of(row: Row) -> np.random.Generator:
    """Random generator seeded by a row's prompt, so that groups are a pure function of the rows."""
    return np.random.default_rng(int(prompt_key(row), 16))
