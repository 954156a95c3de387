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
from attribute_models.templates import Shapes, rendered, thought_key, wants_text
from steer.progress import note_once
from steer.settings import THINKS

Turn = Mapping[str, Any]
ANSWER, THOUGHT = "steeranswer", "steerthought"  # stand for them while a template is rendered
OPENING, CLOSING = "<think>", "\n</think>\n\n"  # of a thinking block that only the generation prompt opens
CLOSED = re.compile(r"</think>\s*$")  # ends what a finished turn has before its answer
EMPTY = re.compile(rf"{OPENING}\s*(?=</think>\s*$)")  # opens a block that a finished turn writes without a thought
PLAIN_ANSWER = (("content", ANSWER),)
IN_PARTS = (  # for templates that read thoughts in the content: a list of parts, or an object of blocks
    (("content", [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]),),
    (("content", {"blocks": [{"type": "thoughts", "text": THOUGHT}, {"type": "response", "text": ANSWER}]}),),
)
AS_DATA = re.compile(r"""["'](text|type)["']""")  # a content that is written as it is, and not read
MARK_AFTER = re.compile(r"\s*(<[^<>]+>|\[[^\[\]]+\])\s*")  # ends a thought
INSIDE = (("content", f"{OPENING}\n{THOUGHT}{CLOSING}{ANSWER}"),)  # for templates that know no thoughts


class Place(NamedTuple):
    """Place of answers in a rendered conversation: at the mark in a finished turn, or after the generation prompt.

    `answer`: the items of that turn, with a mark for the answer and perhaps one for the thought before it; None: after
    the generation prompt. `closing`: closes a thinking block that the generation prompt has opened, or `opening` opens.
    `apart`: answers with tools begin after the generation prompt instead, see `calls_apart`.
    """

    answer: tuple[tuple[str, Any], ...] | None
    closing: str = ""
    apart: bool = False
    opening: str = ""


def place_of(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], thinking: str) -> Place:
    """Find where generation begins after turns like these, for a policy that was trained with `--thinking`.

    With "drop" it is where the template has an answer without a thought; with "empty" after an empty thinking block;
    else the policy thinks first, from the generation prompt on. So it is where the policy may call a tool instead.
    """
    if thinking in THINKS or (thinking == "drop" and calls_apart(turns, tokenizer, options)):
        return Place(None)
    return answered_at(turns, tokenizer, options, thinking)


def answered_at(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], thinking: str) -> Place:
    """Find the place of an answer's text with "drop" or "empty", though what is drawn may begin before it."""
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
    if place.opening:
        return begun + place.opening, place.closing
    return begun, place.closing if begun.rstrip().endswith(OPENING) else ""


class Block(NamedTuple):
    """What a model writes before and after its thought; `plain`: before an answer without even an empty one."""

    opening: str
    closing: str
    plain: str


def block_of(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any]) -> Block | None:
    """Return what stands around a thought that is drawn after turns like these; None if the template asks for none."""
    return _block(tokenizer, str(tokenizer.chat_template), Shapes.of(turns, tokenizer, options))


def lead_of(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any]) -> str:
    """Return what is drawn before an answer's text, and not before a call: the rest of what the template has there."""
    if not calls_apart(turns, tokenizer, options):
        return ""
    place = answered_at(turns, tokenizer, options, "drop")
    before = "".join(divided_at_thought(turns, tokenizer, options, place))
    return before.removeprefix(generation_prompt(turns, tokenizer, options))


class Called(NamedTuple):
    """An answer that calls tools, as the template writes it.

    `before`: the text that it follows; `text`: what stands there in place of an answer's; `end`: the token after it, ""
    if it is the one after every answer.
    """

    before: str
    text: str
    end: str


def called(
    turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], answer: Turn, stops: Sequence[str] = ()
) -> Called | None:
    """Write an answer that calls tools as the template does; None if it has no place there.

    That is where answers stand, or where they are drawn from, see `calls_apart`. `stops`: tokens that end an answer.
    """
    before, _, end = _marked(turns, tokenizer, options, PLAIN_ANSWER).rpartition(ANSWER)
    before = before.rstrip(" ")  # a space before an answer belongs to its first token
    text = rendered(tokenizer, [*turns, answer], **options)
    if calls_apart(turns, tokenizer, options):
        before = generation_prompt(turns, tokenizer, options)
    if not before or not text.startswith(before):
        return None
    own = ending([*turns, answer], tokenizer, options, stops)
    if own and text.endswith(own.tail):
        return Called(before, text[len(before) : len(text) - len(own.tail)], own.end)
    return Called(before, text[len(before) : len(text) - len(end)], "") if text.endswith(end) else None


def calls_apart(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any]) -> bool:
    """Whether tools are declared whose calls the template does not write where an answer's text stands.

    Some write the channel of an answer after the generation prompt, and that of a call in its place.
    """
    if not options.get("tools"):
        return False
    return _calls_apart(tokenizer, str(tokenizer.chat_template), Shapes.of(turns, tokenizer, options))


class Ending(NamedTuple):
    """What the template writes after an answer.

    `closing`: up to the token that ends it; `end`: that token, perhaps the first of the next turn; `tail`: from it on.
    """

    closing: str
    end: str
    tail: str


def ending(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], stops: Sequence[str]) -> Ending | None:
    """Find what ends the last of these turns, an answer: a token that decoding stops at, or None.

    Some templates write none until the next turn, whose first token it is.
    """
    shapes = Shapes.of(turns, tokenizer, options)
    return _ending(tokenizer, str(tokenizer.chat_template), shapes, tuple(stops))


def generation_prompt(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any]) -> str:
    """Render turns up to where a model begins to write, perhaps inside of a thinking block."""
    return rendered(tokenizer, turns, add_generation_prompt=True, **options)


@lru_cache(maxsize=10_000)
def _place(tokenizer: Any, template: str, shapes: Shapes, thought: bool) -> Place:
    """Compute `place_of` for the shapes of turns; `template` is part of the cache key."""
    turns, options, marks = shapes.marked(tokenizer)
    try:
        begun = generation_prompt(turns, tokenizer, options)
    except TemplateError:  # it refuses the marks or the turns; the latter is reported where they are rendered
        begun = ""
    before, mark, _ = _marked(turns, tokenizer, options, PLAIN_ANSWER).partition(ANSWER)
    own = CLOSED.search(before)
    after_prompt = Place(None, begun[len(begun.rstrip()) :] + own[0] if own else CLOSING)
    if before.rstrip().endswith(OPENING):
        return after_prompt  # a finished turn that leaves the block open
    if thought:
        answers = ((*PLAIN_ANSWER, (thought_key(tokenizer), THOUGHT)), *IN_PARTS, INSIDE)
        for answer in answers:
            if answer is INSIDE and EMPTY.search(before):  # it would stand after the template's own block
                return Place(PLAIN_ANSWER)
            if answer is INSIDE and (block := _block_of_calls(turns, tokenizer, options, begun)):
                rest = before[len(begun) :] if before.startswith(begun) else ""
                return Place(None, block[1] + rest, opening=block[0])
            text = _marked(turns, tokenizer, options, answer)
            if -1 < text.find(THOUGHT) < text.find(ANSWER) and not AS_DATA.search(text.partition(THOUGHT)[2]):
                return Place(answer)
        if begun.rstrip().endswith(OPENING):
            return after_prompt
    if any(part != "reasoning" and name in begun and name not in before for _, part, name in marks):
        return after_prompt  # it writes the system's text into the last turn only
    return Place(PLAIN_ANSWER) if mark and _goes_on(before, begun) else after_prompt


def _block_of_calls(
    turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], begun: str
) -> tuple[str, str] | None:
    """Return what stands around a thought before a call, of a template that writes thoughts there only."""
    empty = "{}" if wants_text(tokenizer, str(tokenizer.chat_template)) else {}
    call = {"id": "000000000", "type": "function", "function": {"name": "f", "arguments": empty}}
    thinker = {"role": "assistant", "content": "", thought_key(tokenizer): THOUGHT, "tool_calls": [call]}
    try:
        before, mark, rest = rendered(tokenizer, [*turns, thinker], **options).rpartition(THOUGHT)
    except TemplateError:
        return None
    opening, closing = before.removeprefix(begun), MARK_AFTER.match(rest)
    return (opening, closing[0]) if mark and closing and opening and opening != before else None


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


@lru_cache(maxsize=10_000)
def _calls_apart(tokenizer: Any, template: str, shapes: Shapes) -> bool:
    """Compute `calls_apart` for the shapes of turns; `template` is part of the cache key."""
    turns, options, _ = shapes.marked(tokenizer)
    empty = "{}" if wants_text(tokenizer, template) else {}
    call = {"id": "000000000", "type": "function", "function": {"name": ANSWER, "arguments": empty}}
    try:
        text = rendered(tokenizer, [*turns, {"role": "assistant", "content": "", "tool_calls": [call]}], **options)
        begun = generation_prompt(turns, tokenizer, options)
    except TemplateError:
        return False
    before = _marked(turns, tokenizer, options, PLAIN_ANSWER).partition(ANSWER)[0].rstrip(" ")
    return not text.startswith(before) and text.startswith(begun) and before.startswith(begun) and ANSWER in text


@lru_cache(maxsize=10_000)
def _ending(tokenizer: Any, template: str, shapes: Shapes, stops: tuple[str, ...]) -> Ending | None:
    """Compute `ending` for the shapes of turns; `template` is part of the cache key."""
    turns, options, marks = shapes.marked(tokenizer)
    result = {"role": "tool", "content": "x", "tool_call_id": "000000000", "name": "f"}
    following = result if turns[-1].get("tool_calls") else {"role": "user", "content": "x"}
    try:
        text = rendered(tokenizer, turns, **options)
        last = max(text.rindex(name) + len(name) for i, _, name in marks if i == len(turns) - 1)
        after = text[last:]
        if found := _first(after, stops):
            at, end = found
            return Ending(after[:at], end, after[at:])
        more = rendered(tokenizer, [*turns, following], **options)
    except (TemplateError, ValueError):  # the latter: it does not print the marks
        return None
    after = more.removeprefix(text).lstrip()
    end = next((stop for stop in stops if after.startswith(stop)), "")
    return Ending("", end, "") if end and more.startswith(text) else None


def _first(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Return where the first of some tokens stands in a text, and which it is."""
    return min(((text.index(stop), stop) for stop in stops if stop in text), default=None)


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
