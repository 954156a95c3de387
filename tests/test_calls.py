"""Replies as they were drawn: calls of tools are read as JSON has them, and no part of an answer is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from steer.conditioning.finished import Block
from steer.generation.calls import Syntax
from steer.generation.reply import Form, parted

PARAMETERS = {"type": "object", "properties": {"x": {"type": "number"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
OBJECT = Syntax('<call>{"name": "', '", "arguments": ', "}</call>", None)
UNTYPED = Syntax("<call>", ": ", "</call>", None, value="=", none="</call>")
TYPED = UNTYPED._replace(text=("'", "'"))


def read(syntax: Syntax, value: str) -> Any:
    """What x is in a call with this value; None if the call cannot be read."""
    text = f'<call>{{"name": "f", "arguments": {{"x": {value}}}}}</call>'
    calls = syntax.read(text if syntax is OBJECT else f"<call>f: x={value}</call>", TOOLS)
    return calls[0]["function"]["arguments"]["x"] if calls else None


@pytest.mark.parametrize("syntax", [OBJECT, UNTYPED, TYPED], ids=["object", "untyped", "typed"])
def test_numbers_are_read_and_what_json_has_not_stays_text(syntax: Syntax) -> None:
    assert [read(syntax, value) for value in ("5", "-0.5", "[1, 2]")] == [5, -0.5, [1, 2]]
    for value in ("NaN", "-Infinity", "1e999", "[NaN]", "[" * 5000 + "]" * 5000, "9" * 5000):
        assert read(syntax, value) is None


def test_values_as_python_writes_them_are_those_of_json() -> None:
    assert [read(TYPED, value) for value in ("True", "{'a': [None]}", "0x10")] == [True, {"a": [None]}, 16]
    for value in ("...", "b'x'", "1j", "{1, 2}", "(1, 2)", "{1: 2}", "nan", "-" * 5000 + "1"):
        assert read(TYPED, value) is None


class Pieces:
    """A tokenizer whose tokens are texts."""

    def decode(self, ids: Sequence[Any], **_: Any) -> str:
        return "".join(ids)


@pytest.mark.parametrize("pieces", [["</think>", '"Yes"'], ["</think", '>"', 'Yes"'], ["</", 'think>"Yes"']])
def test_an_answer_that_shares_a_token_with_the_end_of_a_thought_is_whole(pieces: list[str]) -> None:
    block = Block("<think>", "</think>", "")
    said = parted(Pieces(), Form(block), ["<think>", "so", *pieces, " he", " said."], whole=True)  # type: ignore[list-item]
    assert (said.thought, said.text) == ("so", '"Yes" he said.')
