"""Records as users have them -> rows, recognised by their columns.

To add a layout: one function `record -> rows` and one entry in LAYOUTS. Which columns become scores:

- a dict column `scores` or `attributes` names them all; otherwise every top-level column that holds a number, true or
  false, or text that reads as a number (CSV has nothing else) is one, except OURS, NO_SCORE and names that end in _id;
- true and false count as 1 and 0; null and blank cells are unknown and left out;
- whatever else the record holds, such as an attribute in words, stays in the row as an extra column.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

from data_recipes.files import DataError, kind

Row = dict[str, Any]
Turn = dict[str, Any]

ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
TURN = ("name", "tool_calls", "tool_call_id")  # what a turn keeps beside role and content
OURS = ("id", "group", "source", "split", "levels", "target", "predicted", "after_response")
NO_SCORE = ("idx", "index", "Unnamed: 0", "model", "annotator", "seed", "turn", "weight", "timestamp", "created_at")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
LABEL = re.compile(rf"([^:,]+):({NUMBER.pattern})")
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")  # Anthropic HH-RLHF: a conversation as one text
STEERLM_TURN = re.compile(r"\n<extra_id_1>(User|Assistant)\n")  # NeMo: earlier turns inside the first value


def rows(record: Row) -> list[Row]:
    """The rows of one record: prompt (turns), response (where it has one), scores (floats), id and extra columns.

    A pair gives two, the chosen one first. A record that fits no layout, or whose columns hold something else than
    the layout wants, is a DataError that names the column and not the place.
    """
    made = LAYOUTS[recognise(record)][1](record)
    return [{**row, "id": content_id(row) if row.get("id") in (None, "") else str(row["id"])} for row in made]


def recognise(record: Row) -> str:
    """Name of the first of LAYOUTS whose columns the record has; columns that hold null count only if nothing fits."""
    filled = {column for column, value in record.items() if value is not None}
    for columns in (filled, set(record)):
        for name, (required, _) in LAYOUTS.items():
            if required <= columns:
                return name
    known = "; ".join(LAYOUTS)
    raise DataError(f"columns {', '.join(record) or '(none)'} fit no known layout. Rename them to one of: {known}.")


def content_id(row: Row) -> str:
    """16 hex digits from prompt and response: the same content has the same id in every file."""
    content = json.dumps([row.get("prompt"), row.get("response")], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _own(record: Row) -> list[Row]:
    """Our own columns, from a stage or a user: all of them pass through."""
    scores = record.get("scores") or {}
    if isinstance(scores, dict):
        scores = {name: _number(score) if isinstance(score, int) else score for name, score in scores.items()}
    response = _text(record["response"], "response")
    return [{**record, "prompt": _turns(record["prompt"], "prompt"), "response": response, "scores": scores}]


def _response(record: Row) -> list[Row]:
    prompt = _turns(record["prompt"], "prompt")
    return [_row(record, {"prompt", "response"}, *_answered(prompt, record["response"], "response"))]


def _completion(record: Row) -> list[Row]:
    prompt = _turns(record["prompt"], "prompt")
    return [_row(record, {"prompt", "completion"}, *_answered(prompt, record["completion"], "completion"))]


def _prompt(record: Row) -> list[Row]:
    """No response: something to generate from."""
    return [{**record, "prompt": _turns(record["prompt"], "prompt")}]


def _messages(record: Row) -> list[Row]:
    return [_row(record, {"messages"}, *_cut(_conversation(record["messages"], "messages")))]


def _conversations(record: Row) -> list[Row]:
    """ShareGPT, and SteerLM's: the last assistant turn with a label, or the last one where none has a label."""
    turns = _system(record)
    labels: dict[int, str] = {}
    for turn in _conversation(record["conversations"], "conversations", ("label",)):
        label = turn.pop("label", None)
        first, *more = STEERLM_TURN.split(turn["content"])
        turns.append({**turn, "content": first})
        turns.extend({"role": role.lower(), "content": text} for role, text in zip(more[::2], more[1::2]))
        if label and turns[-1]["role"] == "assistant":
            labels[len(turns) - 1] = label
    last = max(labels, default=None)
    row = _row(record, {"conversations", "system", "mask"}, *_cut(turns, last))
    return [row if last is None else {**row, "scores": {**row["scores"], **_label(labels[last])}}]


def _label(label: str) -> dict[str, float]:
    """SteerLM's label: "quality:4,toxicity:0"."""
    parts = [LABEL.fullmatch(part.strip()) for part in str(label).split(",")]
    if not all(parts):
        raise DataError(f"column 'conversations': label '{label}' does not read name:number,name:number. Correct it.")
    return {part[1].strip(): float(part[2]) for part in parts if part}


def _alpaca(record: Row) -> list[Row]:
    texts = [_text(record.get(column), column) for column in ("instruction", "input")]
    past = record.get("history") or []
    if not isinstance(past, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in past):
        raise DataError("column 'history': wanted pairs [[user, assistant], ...]. Correct it or remove the column.")
    said = [(role, text) for pair in past for role, text in zip(("user", "assistant"), pair)]
    said.append(("user", "\n\n".join(text for text in texts if text)))
    prompt = [*_system(record), *({"role": role, "content": text} for role, text in said)]
    used = {"instruction", "input", "output", "history", "system"}
    return [_row(record, used, prompt, _text(record.get("output"), "output"))]


def _pair(record: Row) -> list[Row]:
    """Chosen, then rejected; columns such as score_chosen or rejected_model go to the row that they are about."""
    shared = _turns(record.get("prompt"), "prompt")
    sides = {side: _answered(shared, record[side], side) for side in ("chosen", "rejected")}
    if sides["chosen"][0] != sides["rejected"][0]:
        raise DataError("columns 'chosen', 'rejected': differ before their last turn. Give both the same prompt.")
    name = "" if record.get("id") is None else str(record["id"])
    group = str(record.get("group") or name or content_id({"prompt": shared, "response": list(sides.values())}))
    made = []
    for side, (prompt, response, after) in sides.items():
        about = {c: re.sub(f"^{side}_|_{side}$", "", c) for c in record}  # score_chosen -> score
        own = {c: about[c] for c in record if about[c] != c}
        scores = {n: score for c, n in own.items() if _may_score(n) and (score := _number(record[c])) is not None}
        others = {c: v for c, v in record.items() if not re.search(r"^(chosen|rejected)(_|$)|_(chosen|rejected)$", c)}
        row = {**others, **{n: record[c] for c, n in own.items() if n not in scores}, "group": group, **after}
        row |= {"prompt": prompt, "response": response, "scores": {**scores, "preference": float(side == "chosen")}}
        made.append({**row, "id": f"{name}:{side}" if name else ""})
    return made


def _row(record: Row, used: set[str], prompt: list[Turn], response: str | None, after: Row | None = None) -> Row:
    """A row whose scores come from the columns that are not used; the others stay as extra columns."""
    rest = {column: value for column, value in record.items() if column not in used and value not in (None, "")}
    named = next((column for column in ("scores", "attributes") if isinstance(rest.get(column), dict)), None)
    offered = rest.pop(named) if named else {column: rest.pop(column) for column in list(rest) if _may_score(column)}
    scores = {name: score for name, value in offered.items() if (score := _number(value)) is not None}
    words = {name: value for name, value in offered.items() if name not in scores and value not in (None, "")}
    rest |= {column: str(rest[column]) for column in ("group", "source", "split") if column in rest}
    row: Row = {**words, **rest, **(after or {}), "prompt": prompt, "scores": scores}
    return row if response is None else {**row, "response": response}


def _may_score(column: str) -> bool:
    return column not in (*OURS, *NO_SCORE) and not column.endswith("_id")


def _answered(prompt: list[Turn], value: Any, column: str) -> tuple[list[Turn], str | None, Row]:
    """As _cut, for a response that is a text, or turns that may repeat the prompt."""
    spoken = isinstance(value, str) and HH_TURN.match(value)
    if not spoken and not (isinstance(value, list) and any(isinstance(v, dict) and "type" not in v for v in value)):
        return prompt, _text(value, column), {}
    turns = _turns(value, column)
    return _cut(turns if turns[: len(prompt)] == prompt else prompt + turns)


def _cut(turns: list[Turn], last: int | None = None) -> tuple[list[Turn], str | None, Row]:
    """Turns before the response, the response (by default the last assistant turn) and the turns that follow it.

    Without an assistant turn all is prompt. Turns that follow go into the extra column `after_response`.
    """
    if last is None:
        last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
    if last == len(turns):
        return turns, None, {}
    return turns[:last], turns[last]["content"], {"after_response": turns[last + 1 :]} if turns[last + 1 :] else {}


def _turns(value: Any, column: str) -> list[Turn]:
    """A text is one user turn, unless it is a whole conversation as HH-RLHF writes it; null is no turn."""
    if value is None:
        return []
    if isinstance(value, str) and HH_TURN.match(value):
        parts = HH_TURN.split(value)[1:]
        turns = [(ROLES.get(role.lower(), "assistant"), text) for role, text in zip(parts[::2], parts[1::2])]
        if column == "prompt" and not turns[-1][1].strip():  # ends with the marker "Assistant:"
            turns.pop()
        return [{"role": role, "content": text} for role, text in turns]
    return [{"role": "user", "content": value}] if isinstance(value, str) else _conversation(value, column)


def _conversation(value: Any, column: str, keep: tuple[str, ...] = ()) -> list[Turn]:
    """Turns as role and content, from role/content or from/value."""
    if not isinstance(value, list):
        raise DataError(f"column '{column}': holds {kind(value)}, wanted a list of turns {{role, content}}.")
    turns = []
    for i, raw in enumerate(value, start=1):
        role = raw.get("role", raw.get("from")) if isinstance(raw, dict) else None
        if not isinstance(role, str):
            raise DataError(
                f"column '{column}': turn {i} has no role. Write it as {{role, content}} or {{from, value}}."
            )
        text = _text(raw.get("content", raw.get("value")), f"{column}', turn {i} 'content")
        kept = {key: raw[key] for key in (*TURN, *keep) if raw.get(key) is not None}
        turns.append({"role": ROLES.get(role.lower(), role.lower()), "content": text or "", **kept})
    return turns


def _system(record: Row) -> list[Turn]:
    text = _text(record.get("system"), "system") or ""
    return [{"role": "system", "content": text}] if text.strip() else []


def _text(value: Any, column: str) -> str | None:
    """A text as it is; the text parts of a list of parts, a newline between them."""
    if isinstance(value, list):
        for part in value:
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                found = part.get("type", "an object") if isinstance(part, dict) else kind(part)
                raise DataError(f"column '{column}': holds a part that is no text ({found}). Only text can be used.")
        return "\n".join(part["text"] for part in value)
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"column '{column}': holds {kind(value)}, wanted a text.")


def _number(value: Any) -> float | None:
    """The score that a value is; None when it is no number."""
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value.strip()) else None
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


LAYOUTS: dict[str, tuple[set[str], Callable[[Row], list[Row]]]] = {
    "prompt, response, scores": ({"prompt", "response", "scores"}, _own),
    "prompt, response, levels": ({"prompt", "response", "levels"}, _own),
    "prompt, response, target": ({"prompt", "response", "target"}, _own),
    "prompt, chosen, rejected": ({"prompt", "chosen", "rejected"}, _pair),
    "chosen, rejected": ({"chosen", "rejected"}, _pair),
    "prompt, response": ({"prompt", "response"}, _response),
    "prompt, completion": ({"prompt", "completion"}, _completion),
    "messages": ({"messages"}, _messages),
    "conversations": ({"conversations"}, _conversations),
    "instruction, output": ({"instruction", "output"}, _alpaca),
    "instruction": ({"instruction"}, _alpaca),
    "prompt": ({"prompt"}, _prompt),
}
