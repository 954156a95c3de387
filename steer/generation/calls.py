"""Read calls of tools from what was drawn, by how the model's chat template writes them.

The template is rendered with marks as names and arguments; what it writes between the marks is looked for in a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from attribute_models.templates import fitted
from steer.conditioning.finished import called
from steer.models.tokenization import plain_ids

Call = dict[str, Any]
NAME, KEY, VALUE, ARGUMENTS, ID = "steername", "steerkey", "steervalue", "steerobject", "steerid00"
MARKS = re.compile("|".join((NAME, KEY, VALUE, ARGUMENTS)))
WORD = re.compile(r"[\w.:-]+")
ASK = [{"role": "user", "content": "Hello."}]
JSON = json.JSONDecoder()


class Syntax(NamedTuple):
    """What a chat template writes around the parts of calls.

    `first`: before the first name; `then`: from a name to its arguments; `end`: after the last call; `next`: from the
    arguments of a call to the name of the next, None if only one can be written. Arguments are a JSON object, or each
    is written by itself: then `value` stands between its name and its value, `more` between a value and the next name,
    and `none` after the name of a call without arguments.
    """

    first: str
    then: str
    end: str
    next: str | None
    value: str = ""
    more: str = ""
    none: str = ""

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> list[Call] | None:
        """Return the calls that a text is, from the first to its end; None if it can be read otherwise, or not at all.

        Only declared tools can be called; where a template writes values without their types, only by arguments that
        are declared too.
        """
        functions = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
        calls: list[Call] = []
        before = self.first.lstrip()
        while start := _pattern(before).match(text):
            word = WORD.match(text, start.end())
            if not word or word[0] not in functions:
                return None
            declared = functions[word[0]].get("properties") or {}
            then = _pattern(self.then).match(text, word.end())
            if self.value:
                found = self._arguments(text[word.end() :], declared)
            else:
                found = _object(text[then.end() :]) if then else None
            if found is None:
                return None
            arguments, text = found
            calls.append({"type": "function", "function": {"name": word[0], "arguments": arguments}})
            end = _pattern(self.none if self.value and not arguments else self.end).fullmatch(text)
            link = end or (_pattern(self.next).match(text) if self.next else None)
            own = next((m["id"] for m in (then, link) if m and m.groupdict().get("id")), None)
            calls[-1] = {"id": own, **calls[-1]} if own else calls[-1]
            if end:
                return calls
            before = self.next or "\0"
        return None

    def _arguments(self, text: str, declared: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
        """Read arguments that are written one by one; return them and the text from after the last value on."""
        if _pattern(self.none).fullmatch(text):
            return {}, text
        names = "|".join(map(re.escape, sorted(declared, key=len, reverse=True))) or r"(?!)"
        stops = [f"{re.escape(self.more)}(?:{names}){re.escape(self.value)}", rf"{re.escape(self.end.rstrip())}\s*\Z"]
        stops += [re.escape(self.next)] if self.next else []
        part = re.compile(f"({names}){re.escape(self.value)}(.*?)(?={'|'.join(stops)})", re.DOTALL)
        arguments: dict[str, Any] = {}
        before = self.then
        while text.startswith(before) and (found := part.match(text, len(before))):
            value = _typed(found[2], declared[found[1]])
            if found[1] in arguments or value is None:
                return None
            arguments[found[1]] = value
            text, before = text[found.end() :], self.more
        return (arguments, text) if arguments else None


def _object(text: str) -> tuple[dict[str, Any], str] | None:
    """Read arguments that are a JSON object; return them and the text that follows."""
    try:
        value, end = JSON.raw_decode(text)
    except ValueError:
        return None
    return (value, text[end:]) if isinstance(value, dict) else None


def _typed(text: str, declared: Any) -> Any:
    """Return a value that was written without its type; None if it does not say which of several it is."""
    kind = declared.get("type") if isinstance(declared, dict) else None
    if kind == "string":
        return text
    try:
        value = JSON.decode(text)
    except ValueError:
        return text if kind is None else None
    return None if kind is None else value


@lru_cache(maxsize=1000)
def _pattern(literal: str) -> re.Pattern[str]:
    """Compile a text between parts, which may hold the id of a call; white space at its end may be missing."""
    tail = len(literal) - len(literal.rstrip())
    whole = re.escape(literal.rstrip()).replace(ID, r"(?P<id>[\w.:-]+)", 1)
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
    declared = {"type": "function", "function": {"name": NAME, "description": "", "parameters": {"type": "object"}}}
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
    last = len(one) - 1
    link = two[last] if len(two) == 2 * last + 1 and two == [*one[:last], two[last], *one[1:]] else None
    if not one[0].strip():
        return None
    if one[1::2] == [NAME, ARGUMENTS]:
        return Syntax(one[0], one[2], one[4], link)
    more, none = parts({KEY: VALUE, f"{KEY}2": VALUE}), parts({})
    if one[1::2] != [NAME, KEY, VALUE] or more[1::2] != [NAME, KEY, VALUE, KEY, VALUE] or none[1::2] != [NAME]:
        return None
    if "".join(parts({KEY: 7})) != "".join([*one[:5], "7", one[6]]):  # it marks the types of values in its own way
        return None
    return Syntax(one[0], one[2], one[6], link, one[4], more[6], none[2]) if one[4] else None


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
