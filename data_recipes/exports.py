"""Convert rows to records that other trainers read: TRL prompt-completion and preference, SteerLM conversations.

`layouts.rows` makes the same rows of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from data_recipes.answers import asked_with
from data_recipes.marks import Row
from data_recipes.streams import DataError, Record

NEMO_COLUMNS = ("system", "mask", "conversations")
IN_TURN = ("reasoning_content", "tool_calls")  # columns that belong to the turn of the response
NEMO_ROLES = {"user": "User", "assistant": "Assistant"}


def prompt_completion(row: Row) -> Record:
    """Convert a row for TRL: prompt and completion as messages, with scores and other columns."""
    completion = [_answer(row)]
    rest = {column: value for column, value in row.items() if column not in ("prompt", "response", *IN_TURN)}
    return {"prompt": row["prompt"], "completion": completion, **rest}


def _answer(row: Row) -> Record:
    """Return the turn of a response, with what was thought before it and the tools that it calls."""
    return {"role": "assistant", "content": row["response"]} | {c: row[c] for c in IN_TURN if row.get(c)}


def steerlm(row: Row) -> Record:
    """Convert a row for NeMo's SteerLM: a conversation whose answer has the label name:score,...

    A column of the row that is called like one of NeMo's gets an underscore at its end.
    """
    if row.get("tool_calls"):
        raise DataError("a call of a tool has no place in SteerLM's conversations")
    first, *others = row["prompt"]
    system = first["content"] if first["role"] == "system" else ""
    prompt = others if first["role"] == "system" else row["prompt"]
    turns = []
    for turn in (*prompt, {"role": "assistant", "content": row["response"]}, *row.get("after_response", ())):
        if turn["role"] not in NEMO_ROLES:
            raise DataError(f"a turn of the role '{turn['role']}' has no place in SteerLM's conversations")
        turns.append({"from": NEMO_ROLES[turn["role"]], "value": turn["content"], "label": None})
    scores = {name: score for name, score in row["scores"].items() if score is not None}
    if scores:
        turns[len(prompt)]["label"] = ",".join(f"{name}:{_figure(score)}" for name, score in scores.items())
    kept = {c: v for c, v in row.items() if c not in ("prompt", "response", "scores", "after_response")}
    kept = {f"{c}_" if c.rstrip("_") in NEMO_COLUMNS else c: v for c, v in kept.items()}
    return {"system": system, "mask": "User", "conversations": turns, **kept}


def _figure(score: float) -> str:
    """Write 4.0 as 4, and every other number so that it reads back unchanged."""
    return str(int(score)) if float(score).is_integer() and abs(score) < 1e15 else repr(float(score))


def preferences(rows: Iterable[Row], value: Callable[[Row], float | None], ids: set[str]) -> Iterator[Record]:
    """Convert rows for TRL: the best and the worst candidate of every group as messages, with their scores by side.

    Groups in the order of their first row. The ids of the rows that make no pair (no value, no other, a tie, or in
    the middle of their group) are left in `ids`.
    """
    groups: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row in rows:
        ids.add(row["id"])
        number = value(row)
        if number is None:
            continue
        prompt = repr([(turn["role"], turn["content"]) for turn in row["prompt"]]) + asked_with(row)
        ranked = sorted(
            [*groups.get((str(row.get("group") or ""), prompt), []), (number, row)], key=lambda pair: -pair[0]
        )
        groups[str(row.get("group") or ""), prompt] = [ranked[0], ranked[-1]] if len(ranked) > 1 else ranked
    for group in groups.values():
        if len(group) == 2 and group[0][0] > group[1][0]:
            chosen, rejected = group[0][1], group[1][1]
            ids -= {chosen["id"], rejected["id"]}
            yield _pair(chosen, rejected)


def _pair(chosen: Row, rejected: Row) -> Record:
    sides = {"chosen": chosen, "rejected": rejected}
    answers = {side: [_answer(row)] for side, row in sides.items()}
    apart = ("id", "prompt", "response", "scores", *IN_TURN)
    shared = {c: v for c, v in chosen.items() if c not in apart and rejected.get(c) == v}
    own = {
        f"{column}_{side}": value
        for side, row in sides.items()
        for column, value in {**row, **row["scores"]}.items()
        if column not in (*apart, "preference", *shared)
    }
    name = chosen["id"].removesuffix(":chosen")
    return {"prompt": chosen["prompt"], **answers, "id": name, **shared, **own}
