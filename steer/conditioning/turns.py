"""Print turns through a chat template: a dropped text is refused, other dropped parts are counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attribute_models.literal import MARK as LITERAL
from attribute_models.templates import NONE, options_of
from steer.conditioning.chat import PLAIN, fitted, lost
from steer.conditioning.finished import divided_at_thought, place_of
from steer.errors import SteerError
from steer.progress import note

Turn = Mapping[str, Any]
SENTENCE = "Answer in a few sentences, about 40 words."  # such as a condition in words
READABLE = 2.5  # tokens a word at most, in a language that the tokenizer was made for; letter by letter it takes 5
MARK = "steercondition"  # stands for the condition while a template is rendered


class UnprintedError(SteerError):
    """A turn whose text does not come out of the chat template."""


def preceded(turns: Sequence[Turn], before: Sequence[Turn]) -> list[Turn]:
    """Put other turns in front, but after the system's."""
    first = int(bool(turns) and turns[0]["role"] == "system")
    return [*turns[:first], *before, *turns[first:]]


def printed(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any] = NONE, thinking: str = "drop") -> str:
    """Return the turns as the template prints them, up to where an answer begins; UnprintedError if it drops a text.

    `options`: what else the template is given. `thinking`: what training did with thoughts, see `place_of`.
    """
    text = begun(turns, tokenizer, options, thinking)
    check_printed(turns, tokenizer, options, text)
    return text


def begun(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], thinking: str) -> str:
    """Render turns up to where generation begins, see `place_of`."""
    place = place_of(turns, tokenizer, options, thinking)
    return "".join(divided_at_thought(turns, tokenizer, options, place))


def check_printed(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any], text: str) -> None:
    """Raise UnprintedError if `text`, which the template made of the turns, lacks that of one of them."""
    for i, part in lost(turns, tokenizer, options):
        if part == "text" and turns[i]["content"].strip() not in text:
            turn = {**turns[i], "content": turns[i]["content"].replace(LITERAL, "")}
            raise UnprintedError(
                f"the model's chat template drops turn {i + 1}, which is of the {turn['role']} "
                f"({turn['content'].strip()[:40]!r}). Put its text into a turn that the template prints"
            )


def asking(turns: Sequence[Turn]) -> list[Turn]:
    """Put a mark at the end of the turn that is answered, where a condition in words stands.

    Results of tools are no such turn: they are data, which some templates write as JSON. White space there is dropped.
    """
    at = next((i for i in range(len(turns) - 1, -1, -1) if turns[i]["role"] not in ("assistant", "tool")), -1)
    at %= len(turns)
    return [*turns[:at], {**turns[at], "content": turns[at]["content"].rstrip() + MARK}, *turns[at + 1 :]]


def at_mark(text: str) -> tuple[str, str]:
    """Divide what a template made of `asking` at the mark; UnprintedError if it does not print the mark once."""
    parts = text.split(MARK)
    if len(parts) != 2:
        raise UnprintedError(
            "the model's chat template does not print the last turn once and as it is, so a condition in words has no "
            "place in it. Train with --template tags"
        )
    return parts[0], parts[1]


def divided(
    turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any] = NONE, thinking: str = "drop"
) -> tuple[str, str]:
    """Print turns in two parts between which a condition in words stands, at the end of the turn that is answered.

    White space there is dropped. UnprintedError if the template does not print that text once.
    """
    text = begun(asking(turns), tokenizer, options, thinking)
    check_printed(turns, tokenizer, options, text.replace(MARK, ""))
    return at_mark(text)


def unreadable(tokenizer: Any) -> str:
    """Return why a model would make nothing of a condition in words, judged by its tokenizer; empty if it may."""
    if tokenizer.chat_template == PLAIN:
        return "the base has no chat template"
    if len(tokenizer(SENTENCE, add_special_tokens=False)["input_ids"]) > READABLE * len(SENTENCE.split()):
        return "the base's tokenizer spells words in pieces"
    try:
        divided([{"role": "user", "content": "x"}], tokenizer)
    except UnprintedError:
        return "the base's chat template does not print the last turn as it is"
    return ""


def unprinted(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> list[str]:
    """Return a line for each kind of part that prompts hold and the template does not print, with their number."""
    counts = dict.fromkeys(("reasoning of earlier turns", "calls of tools", "declarations of tools"), 0)
    kinds = dict(zip(("reasoning", "calls", "tools"), counts))
    for row in rows:
        options = options_of(row)
        dropped = {part for _, part in lost(fitted(row["prompt"], tokenizer), tokenizer, options)}
        dropped |= {"tools"} if row.get("tools") and "tools" not in options else set()
        for part in dropped & kinds.keys():
            counts[kinds[part]] += 1
    return [f"{number} prompts hold {kind} that the model does not see." for kind, number in counts.items() if number]


def say_unprinted(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> None:
    """Note on stderr which parts of prompts the template drops."""
    for line in unprinted(rows, tokenizer):
        note(line)
