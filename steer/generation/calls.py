"""Read calls of tools from what was drawn, by how the model's chat template writes them.

The template is rendered with marks as names and arguments; what it writes between the marks is looked for in a text.
"""

from __future__ import annotations

import json
import math
import re
from ast import literal_eval
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from attribute_models.arrays import common
from attribute_models.templates import fitted
from steer.conditioning.finished import called
from steer.models.tokenization import plain_ids

Call = dict[str, Any]
NAME, KEY, VALUE, ARGUMENTS, ID = "steername", "steerkey", "steervalue", "steerobject", "steerid00"
NUMBER, COUNT = 90417, "steercount"  # a value that is no text, and the number of a call
ODD = "x\\'\"\n"  # a text that would be escaped
MARKS = re.compile("|".join((NAME, KEY, VALUE, ARGUMENTS)))
ASK = [{"role": "user", "content": "Hello."}]


def _finite(text: str) -> float:
    """Read a number; ValueError for one that is too large, or none."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number of JSON")
    return number


JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
UNREADABLE = (ValueError, RecursionError)  # what it raises for texts; the latter where lists are too deep


class Syntax(NamedTuple):
    """What a chat template writes around the parts of calls.

    `first`: before the first name; `then`: from a name to its arguments; `end`: after the last call; `next`: from the
    arguments of a call to the name of the next, None if only one can be written. Arguments are a JSON object, or each
    is written by itself: then `value` stands between its name and its value, `more` between a value and the next name,
    and `none` after the name of a call without arguments. `text` and `other` stand around values that are texts and
    those that are not, if the template tells them apart.
    """

    first: str
    then: str
    end: str
    next: str | None
    value: str = ""
    more: str = ""
    none: str = ""
    text: tuple[str, str] = ("", "")
    other: tuple[str, str] = ("", "")

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> list[Call] | None:
        """Return the calls that a text is, from the first to its end; None if it can be read otherwise, or not at all.

        Only declared tools can be called; where a template writes values without their types, only by arguments that
        are declared too.
        """
        functions = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
        calls: list[Call] = []
        before = self.first.lstrip()
        while start := _pattern(before).match(text):
            name = self._name(text[start.end() :], functions)
            if not name:
                return None
            declared = functions[name].get("properties") or {}
            text = text[start.end() + len(name) :]
            then = _pattern(self.then).match(text)
            whole = _object(text[then.end() :]) if then and not self.value else None
            found = self._arguments(text, declared) if self.value else whole
            if found is None:
                return None
            arguments, text = found
            calls.append({"type": "function", "function": {"name": name, "arguments": arguments}})
            end = _pattern(self.none if self.value and not arguments else self.end).fullmatch(text)
            link = end or (_pattern(self.next).match(text) if self.next else None)
            own = next((m["id"] for m in (then, link) if m and m.groupdict().get("id")), None)
            calls[-1] = {"id": own, **calls[-1]} if own else calls[-1]
            if end:
                return calls
            before = self.next or "\0"
        return None

    def _name(self, text: str, functions: Mapping[str, Any]) -> str:
        """Return the name of the declared function that a text begins with, and its call goes on after; else ""."""
        names = sorted((name for name in functions if text.startswith(name)), key=len, reverse=True)
        follows = [_pattern(each) for each in (self.then, self.none) if each]
        return next((name for name in names if any(each.match(text, len(name)) for each in follows)), "")

    def _arguments(self, text: str, declared: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
        """Read arguments that are written one by one; return them and the text from after the last value on."""
        if _pattern(self.none).fullmatch(text):
            return {}, text
        names = "|".join(map(re.escape, sorted(declared, key=len, reverse=True))) or r"(?!)"
        stops = [f"{re.escape(self.more)}(?:{names}){re.escape(self.value)}", rf"{re.escape(self.end.rstrip())}\s*\Z"]
        stops += [re.escape(self.next)] if self.next else []
        kinds = [f"{re.escape(before)}(.*?){re.escape(after)}" for before, after in (self.text, self.other)]
        part = re.compile(f"({names}){re.escape(self.value)}(?:{'|'.join(kinds)})(?={'|'.join(stops)})", re.DOTALL)
        arguments: dict[str, Any] = {}
        before = self.then
        while text.startswith(before) and (found := part.match(text, len(before))):
            if self.text == self.other:
                value = _typed(found[2], declared[found[1]])
            else:
                value = found[2] if found[3] is None else _literal(found[3])
            if found[1] in arguments or value is None:
                return None
            arguments[found[1]] = value
            text, before = text[found.end() :], self.more
        return (arguments, text) if arguments else None


def _object(text: str) -> tuple[dict[str, Any], str] | None:
    """Read arguments that are a JSON object; return them and the text that follows."""
    try:
        value, end = JSON.raw_decode(text)
    except UNREADABLE:
        return None
    return (value, text[end:]) if isinstance(value, dict) else None


def _typed(text: str, declared: Any) -> Any:
    """Return a value that was written without its type; None if it does not say which of several it is."""
    kind = declared.get("type") if isinstance(declared, dict) else None
    if kind == "string":
        return text
    try:
        value = JSON.decode(text)
    except UNREADABLE:
        return text if kind is None else None
    return None if kind is None else value


def _literal(text: str) -> Any:
    """Return a value that is marked as no text, in JSON or as Python writes it; None if it is neither."""
    with suppress(*UNREADABLE):
        return JSON.decode(text)
    with suppress(*UNREADABLE, SyntaxError, MemoryError, TypeError):
        value = literal_eval(text.strip())
        return value if JSON.decode(json.dumps(value)) == value else None  # Python has more than JSON
    return None


@lru_cache(maxsize=1000)
def _pattern(literal: str) -> re.Pattern[str]:
    """Compile a text between parts, perhaps with the id or number of a call; white space at its end may be missing."""
    tail = len(literal) - len(literal.rstrip())
    whole = re.escape(literal.rstrip()).replace(ID, r"(?P<id>[\w.:-]+)", 1).replace(COUNT, r"\d+")
    return re.compile(whole + (r"\s*" if tail else ""))


def syntax_of(tokenizer: Any, options: Mapping[str, Any], stops: Sequence[str] = ()) -> Syntax | None:
    """Return how the tokenizer's chat template writes calls, as they are decoded; None if they cannot be told apart.

    `stops`: the tokens that end a reply.
    """
    others = {name: value for name, value in options.items() if name != "tools"}
    template, key = str(tokenizer.chat_template), json.dumps(others, sort_keys=True, default=str)
    return _syntax(tokenizer, template, key, tuple(stops))


@lru_cache(maxsize=100)
def _syntax(tokenizer: Any, template: str, others: str, stops: tuple[str, ...]) -> Syntax | None:
    """Compute `syntax_of`; `template` is part of the cache key."""
    parameters = {"type": "object", "properties": {}}
    declared = {"type": "function", "function": {"name": NAME, "description": "", "parameters": parameters}}
    options = {**json.loads(others), "tools": [declared]}

    def parts(*arguments: Mapping[str, Any]) -> list[str]:
        """Write calls with these arguments; return the texts between the marks, and the marks."""
        calls = [{"id": ID, "type": "function", "function": {"name": NAME, "arguments": a}} for a in arguments]
        answer = {"role": "assistant", "content": "", "tool_calls": calls}
        try:
            call = called(ASK, tokenizer, options, fitted([answer], tokenizer)[0], stops)
        except TemplateError:
            return [""]
        text = call.text if call else ""
        text = _with_objects(tokenizer.decode(plain_ids([text], tokenizer)[0]) if text else "")
        return re.split(f"({MARKS.pattern})", text)

    one, two = parts({KEY: VALUE}), parts({KEY: VALUE}, {KEY: VALUE})
    if not one[0].strip():
        return None
    last = len(one) - 1
    counted = [_counted(a, b) for a, b in zip(one[1:], two[last + 1 :])]
    several = len(two) == 2 * last + 1 and two[:last] == one[:last] and None not in counted
    link = two[last] if several else None
    if one[1::2] == [NAME, ARGUMENTS]:
        return Syntax(one[0], (several and counted[1]) or one[2], one[4], link)
    more, none = parts({KEY: VALUE, f"{KEY}2": VALUE}), parts({})
    if one[1::2] != [NAME, KEY, VALUE] or more[1::2] != [NAME, KEY, VALUE, KEY, VALUE] or none[1::2] != [NAME]:
        return None
    if ODD not in "".join(parts({KEY: ODD})):  # it escapes texts in its own way
        return None
    number = "".join(parts({KEY: NUMBER})).removeprefix("".join(one[:4])).split(str(NUMBER))
    if len(number) != 2:
        return None
    value, end = _shared([one[4], number[0]]), _shared([one[6][::-1], number[1][::-1]])[::-1]
    (text, other) = ((a.removeprefix(value), b.removesuffix(end)) for a, b in ((one[4], one[6]), number))
    after = [x.removeprefix(text[1]) if x and x.startswith(text[1]) else None for x in (more[6], link)]
    if not value or not end or after[0] is None:
        return None
    return Syntax(one[0], one[2], end, after[1], value, after[0], none[2], text, other)


def _shared(texts: Sequence[str]) -> str:
    return texts[0][: common(texts)]


def _counted(first: str, second: str) -> str | None:
    """Put a mark in place of a number that counts calls from 0; None if two calls are written differently otherwise."""
    pairs = list(zip(re.split(r"(\d+)", first), re.split(r"(\d+)", second)))
    text = "".join(COUNT if pair == ("0", "1") else pair[0] for pair in pairs)
    return text if text.replace(COUNT, "1") == second or first == second else None


def _with_objects(text: str) -> str:
    """Put a mark in place of every JSON object that is the marked arguments."""
    while (at := text.find(f'"{KEY}"')) >= 0 and (start := text.rfind("{", 0, at)) >= 0:
        try:
            value, end = JSON.raw_decode(text, start)
        except ValueError:
            return text
        if value != {KEY: VALUE}:
            return text
        text = text[:start] + ARGUMENTS + text[end:]
    return text
