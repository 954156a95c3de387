"""Find what a model thought before it answered: in a column beside the response, or in one text with it."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from data_recipes.endings import plain
from data_recipes.marks import ENDLESS, LEFT_OUT, NOTED, THOUGHT_ALONE, Row, Turn
from data_recipes.parts import thought_of

THOUGHT = "reasoning_content"
THINKS = "reasonings?|think|thinking|thoughts?|cot|scratchpad|monologue"
NAME = re.compile(  # of a thought, without separators; reasoning_effort and thinking_budget are settings
    rf"(model|assistant|internal|inner|hidden|private|raw|complex|long|full|chainof|{THINKS})*({THINKS})"
    r"(contents?|texts?|traces?|chains?|process(es)?|trajector(y|ies)|steps?|blocks?|parts?)*"
)
LIKE = re.compile("reasoning|think|thought|scratchpad|monologue")  # in other names it may be one

# Families write <think>, <thinking>, <thought>, <reasoning>, <seed:think>, [THINK] or (Kimi) ◁think▷.
BLOCK = re.compile(
    r"\s*(?:<(think|thinking|thought|reasoning|seed:think)>(.*?)</\1>|\[THINK\](.*?)\[/THINK\]|"
    r"◁think▷(.*?)◁/think▷)(.*)",
    re.DOTALL,
)
OPEN = re.compile(r"\s*(?:<(think|thinking|thought|reasoning|seed:think)>|\[THINK\]|◁think▷)")
CLOSED = re.compile("</think>|◁/think▷")  # by a model whose prompt has opened the block
HINTS = ("think", "thought", "reasoning", "THINK")  # no other text can hold a block


def columns(record: Row) -> list[str]:
    """Return the columns that hold a thought: a text of several words. One word ("high") is a setting."""
    return [c for c in _named(tuple(record))[0] if _text(record[c])]


@lru_cache(maxsize=1000)
def _named(columns: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """Return the columns with the name of a thought, a rationale among them, and those whose name may mean one."""
    names = [c for c in columns if isinstance(c, str)]
    thoughts = [c for c in names if is_thought(c) or plain(c) == "rationale"]
    return thoughts, [c for c in names if c not in thoughts and LIKE.search(plain(c))]


@cache
def is_thought(name: str) -> bool:
    """Whether a name is that of a thought.

    >>> is_thought("model_reasoning"), is_thought("thoughtProcess"), is_thought("reasoning_effort")
    (True, True, False)
    """
    return bool(NAME.fullmatch(plain(name)))


def _text(value: Any) -> str:
    """Return the text of a thought in whatever form; "" for one word, and for what is none."""
    said = thought_of(value).strip()
    return said if len(said.split(None, 1)) > 1 else ""


def taken(record: Row, rows: list[Row]) -> list[Row]:
    """Make a column of thoughts the thought of its response; note what was done, but for `reasoning_content`.

    A column of a record of several responses is nobody's thought, unless it is named as one side's, and a rationale
    beside scores explains these: they stay columns.
    """
    return [_taken(record, row, several=len(rows) > 1) for row in rows]


def _taken(record: Row, row: Row, *, several: bool) -> Row:
    if "response" not in row:
        return row
    for name in columns(row):
        own = row[THOUGHT] if name != THOUGHT and isinstance(row.get(THOUGHT), str) else ""
        scored = bool({*row.get("scores", {})} - {"preference"})
        shared = several and record.get(name) == row[name]
        if shared or (own and own.strip() != _text(row[name])) or (scored and plain(name) == "rationale"):
            why = "of several responses" if shared else "beside another thought" if own else "beside scores"
            row = {("reasoning" if c == THOUGHT and shared else c): v for c, v in row.items()}
            note = f"kept as a column and no thought: '{name}' {why}"
        else:
            beside = " beside scores (rename it if it explains them)" if scored else ""
            note = "" if name == THOUGHT else f"taken for what the model thought: column '{name}'{beside}"
            row = {**{c: v for c, v in row.items() if c != name}, THOUGHT: _text(row[name])}
        row = {**row, NOTED: [*row.get(NOTED, ()), note]} if note else row
    if like := [c for c in _named(tuple(row))[1] if _text(row[c])]:
        note = f"kept as a column and no thought: {', '.join(map(repr, like))} (rename it to {THOUGHT} if it is one)"
        row = {**row, NOTED: [*row.get(NOTED, ()), note]}
    return row


def parted(row: Row) -> Row:
    """Move thinking blocks at the beginning of answers, in the prompt and in the response, into `reasoning_content`.

    A row whose block does not end, or is all that there is, has no answer: LEFT_OUT says so.
    """
    if any(_thinks(turn) for turn in row["prompt"]):
        prompt = [_parted(turn, "content") if _thinks(turn) else turn for turn in row["prompt"]]
        row = {**row, "prompt": prompt}
    response = row.get("response")
    if not isinstance(response, str):
        return row
    thinks = bool(row.get(THOUGHT))
    if _hints(response):
        changed = _parted(row, "response")
        if changed is row and OPEN.match(response):
            return {**row, LEFT_OUT: ENDLESS}
        row, thinks = changed, thinks or changed is not row
    if thinks and not row["response"].strip() and not row.get("tool_calls"):
        row = {**row, LEFT_OUT: THOUGHT_ALONE}
    return row


def _thinks(turn: Turn) -> bool:
    return turn["role"] == "assistant" and _hints(turn["content"])


def _hints(text: str) -> bool:
    return any(map(text.__contains__, HINTS))


def _parted(holder: Turn | Row, column: str) -> dict[str, Any]:
    """Move the block at the beginning of a text into `reasoning_content`; return the same object if there is none."""
    text = holder[column]
    block = BLOCK.fullmatch(text)
    late = None if block or "<think>" in text or "◁think▷" in text else _late(text)
    if not block and not late:
        return holder
    thought, answer = late or ("", text)
    if block:
        thought, answer = block[2] or block[3] or block[4] or "", block[5]
    thoughts = [part.strip() for part in (holder.get(THOUGHT), thought) if part and part.strip()]
    thought = "\n".join(dict.fromkeys(thoughts))  # the same one often stands in both places
    return {**holder, column: answer.lstrip()} | ({THOUGHT: thought} if thought else {})


def _late(text: str) -> tuple[str, str] | None:
    """Part a text whose block the prompt of a server has opened; None if it only speaks of the tag, within a line."""
    for tag in CLOSED.finditer(text):
        before, after = text[: tag.start()], text[tag.end() :]
        begins = not before.strip() or before.rstrip(" \t").endswith("\n")
        if begins or after.strip(" \t")[:1] in ("", "\n", "\r"):
            return before, after
    return None
