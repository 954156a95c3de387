"""Find where an answer stands: after what the chat template writes before it in a finished conversation.

A generation prompt may stop earlier, inside of a thinking block that a finished turn closes, or before the name of a
channel. So the finished turn is rendered with a mark in place of its answer, and what stands before the mark is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from attribute_models.arrays import common
from attribute_models.templates import Shapes, rendered, thought_key
from steer.progress import note_once
from steer.settings import THINKS

Turn = Mapping[str, Any]
ANSWER, THOUGHT = "steeranswer", "steerthought"  # stand for them while a template is rendered
OPENING, CLOSING = "<think>", "\n</think>\n\n"  # of a thinking block that only the generation prompt opens
EMPTY = re.compile(rf"{OPENING}\s*(?=</think>\s*$)")  # opens a block that a finished turn writes without a thought
PLAIN_ANSWER = (("content", ANSWER),)
INSIDE = (("content", f"{OPENING}\n{THOUGHT}{CLOSING}{ANSWER}"),)  # for templates that know no thoughts


class Place(NamedTuple):
    """Place of answers in a rendered conversation: at the mark in a finished turn, or after the generation prompt.

    `answer`: the items of that turn, with a mark for the answer and perhaps one for the thought before it; None: after
    the generation prompt. `closes`: close a thinking block that the generation prompt has opened.
    """

    answer: tuple[tuple[str, Any], ...] | None
    closes: bool


def place_of(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], thinking: str) -> Place:
    """Find where generation begins after turns like these, for a policy that was trained with `--thinking`.

    With "drop" it is where the template has an answer without a thought; with "empty" after an empty thinking block;
    else the policy thinks first, from the generation prompt on.
    """
    if thinking in THINKS:
        return Place(None, closes=False)
    return _place(tokenizer, str(tokenizer.chat_template), Shapes.of(turns, tokenizer, options), thinking == "empty")


def divided_at_thought(
    turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], place: Place
) -> tuple[str, str]:
    """Render turns up to the place of their answer, before and after that of a thought; the latter may be empty."""
    if place.answer:
        before, mark, _ = _marked(turns, tokenizer, options, place.answer).rpartition(ANSWER)
        if mark:
            before = before.rstrip(" ")  # a space before an answer belongs to its first token
            text, thought, closing = before.partition(THOUGHT)
            if not thought and (block := EMPTY.search(before)):
                text, closing = before[: block.end()], before[block.end() :]
            return text, closing
    begun = generation_prompt(turns, tokenizer, options)
    return begun, CLOSING if place.closes and begun.rstrip().endswith(OPENING) else ""


class Block(NamedTuple):
    """What a model writes before and after its thought; `plain`: before an answer without even an empty one."""

    opening: str
    closing: str
    plain: str


def block_of(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any]) -> Block | None:
    """Return what stands around a thought that is drawn after turns like these; None if the template asks for none."""
    return _block(tokenizer, str(tokenizer.chat_template), Shapes.of(turns, tokenizer, options))


def called(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], answer: Turn) -> str:
    """Return an answer that calls tools as the template writes it in place of a text; empty if it writes it elsewhere.

    What the template writes before and after every answer is not part of it.
    """
    before, _, end = _marked(turns, tokenizer, options, PLAIN_ANSWER).rpartition(ANSWER)
    before = before.rstrip(" ")  # a space before an answer belongs to its first token
    text = rendered(tokenizer, [*turns, answer], **options)
    if not before or not text.startswith(before) or not text.endswith(end):
        return ""
    return text[len(before) : len(text) - len(end)]


def generation_prompt(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any]) -> str:
    """Render turns up to where a model begins to write, perhaps inside of a thinking block."""
    return rendered(tokenizer, turns, add_generation_prompt=True, **options)


@lru_cache(maxsize=10_000)
def _place(tokenizer: Any, template: str, shapes: Shapes, thought: bool) -> Place:
    """Compute `place_of` for the shapes of turns; `template` is part of the cache key."""
    turns, options, marks = shapes.marked(tokenizer)
    after_prompt = Place(None, closes=True)
    try:
        begun = generation_prompt(turns, tokenizer, options)
    except TemplateError:  # it refuses the marks or the turns; the latter is reported where they are rendered
        begun = ""
    before, mark, _ = _marked(turns, tokenizer, options, PLAIN_ANSWER).partition(ANSWER)
    if thought:
        for answer in ((*PLAIN_ANSWER, (thought_key(tokenizer), THOUGHT)), INSIDE):
            if answer is INSIDE and EMPTY.search(before):  # it would stand after the template's own block
                return Place(PLAIN_ANSWER, closes=False)
            text = _marked(turns, tokenizer, options, answer)
            if -1 < text.find(THOUGHT) < text.find(ANSWER):
                return Place(answer, closes=False)
        if begun.rstrip().endswith(OPENING):
            return after_prompt
    if any(part != "reasoning" and name in begun and name not in before for _, part, name in marks):
        return after_prompt  # it writes the system's text into the last turn only
    return Place(PLAIN_ANSWER, closes=False) if mark and _goes_on(before, begun) else after_prompt


@lru_cache(maxsize=10_000)
def _block(tokenizer: Any, template: str, shapes: Shapes) -> Block | None:
    """Compute `block_of` for the shapes of turns; `template` is part of the cache key."""
    turns, options, _ = shapes.marked(tokenizer)
    try:
        begun = generation_prompt(turns, tokenizer, options)
    except TemplateError:
        return None
    opened, closing = divided_at_thought(turns, tokenizer, options, _place(tokenizer, template, shapes, thought=True))
    plain = "".join(divided_at_thought(turns, tokenizer, options, _place(tokenizer, template, shapes, thought=False)))
    if not closing.strip() or not opened.startswith(begun):  # such as a block that the generation prompt has closed
        return None
    opening, plain = opened.removeprefix(begun), plain.removeprefix(begun) if plain.startswith(begun) else ""
    return Block(opening, closing, "" if plain.startswith(opening) else plain)


def _goes_on(before: str, begun: str) -> bool:
    """Whether a finished answer stands elsewhere than where the generation prompt ends.

    A space between them belongs to the answer's first token, and a generation prompt that goes further than the
    finished turn (it opens a thinking block that is not kept) is the model's own. If it ends in words, these announce a
    thought, and nobody knows how it would be closed.
    """
    if before.removeprefix(begun).strip(" ") == "":
        return False
    if begun.startswith(before) and begun.removeprefix(before).rstrip()[-1:] in ("", ">", "]"):
        return False
    if not before.startswith(begun):
        same = common([before, begun])
        note_once(
            f"the chat template begins an answer with {begun[same:][:40]!r} and writes finished ones after "
            f"{before[same:][:40]!r}: answers are trained and drawn where finished ones stand."
        )
    return True


def _marked(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], answer: Any) -> str:
    """Render turns with an answer that holds marks, each of them once; empty if the template does not do that."""
    try:
        text = rendered(tokenizer, [*turns, {"role": "assistant", **dict(answer)}], **options)
    except TemplateError:  # it refuses the mark: the turns by themselves are rendered instead
        return ""
    return text if text.count(ANSWER) == 1 and text.count(THOUGHT) <= 1 else ""
