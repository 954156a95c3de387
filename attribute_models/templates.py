"""Render chat templates, which are untrusted programs, within limits of time and memory.

Every loop, call and text of a template is paid from the allowance of its rendering: one that loops for ever, or writes
far more than its input, is refused. Within the limits the text is the same as that of transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import cache, lru_cache, wraps
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

ALLOWANCE = 2**25  # cost of one rendering: a character 1, a turn of a loop or a call STEP
PER_CHARACTER = 64  # added to the allowance for each character of the messages
STEP = 256
MEMBER = 64  # cost of a list member that a filter goes through
MOST_BITS = 2**16  # of an integer
# Filters and methods whose result is as long as an integer argument, at most once for each member of their input.
PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "round")
TEXT = ("string", "pprint", "tojson", "urlencode", "xmlattr")  # they write everything inside their input
SIZED = (str, bytes, list, tuple, dict, set, frozenset, range)

THOUGHT = "reasoning_content"  # of a turn: what was thought before its text
# Arguments of `apply_chat_template` that are not the template's, and the variable of a condition.
RESERVED = frozenset({
    "conversation", "messages", "chat_template", "tools", "add_generation_prompt", "continue_final_message", "tokenize",
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs", "processor_kwargs", "add_special_tokens", "sanitize_control_tokens", "attributes",
})  # fmt: skip

IDS = re.compile(r"""tool_call_id|\.id\b|["']id["']""")  # how a template reads the id of a call
SWITCH = re.compile(r"(?<![<\w])/(?:no_)?think\b|detailed thinking o(?:n|ff)\b")  # words by which a turn says so
NINE = re.compile("[A-Za-z0-9]{9}")
Turn = Mapping[str, Any]
NONE: Mapping[str, Any] = MappingProxyType({})

_left: ContextVar[list[int] | None] = ContextVar("left", default=None)


def rendered(tokenizer: Any, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """Render turns by the tokenizer's chat template; TemplateError if it fails or breaks its limits."""
    if wants_parts(tokenizer, str(tokenizer.chat_template)):
        turns = [{**turn, "content": in_parts(turn.get("content"))} for turn in turns]
    return _rendered(tokenizer, turns, options)


def in_parts(content: Any) -> Any:
    """Write a text as the list of one part, as multimodal models have it; other contents as they are."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


@lru_cache(maxsize=100)
def wants_parts(tokenizer: Any, template: str) -> bool:
    """Whether the template, of a multimodal model, prints a content that is a list of parts and none that is a text."""

    def printed(content: Any) -> bool:
        turn = {"role": "user", "content": content}
        try:
            return "mark0of" in _rendered(tokenizer, [turn], {"add_generation_prompt": True})
        except TemplateError:
            return False

    return "content" in template and not printed("mark0of") and printed(in_parts("mark0of"))


def _rendered(tokenizer: Any, turns: Sequence[Turn], options: Mapping[str, Any]) -> str:
    _limit_transformers()
    size = sum(len(str(turn)) for turn in turns) + len(str(options))
    allowance = _left.set([ALLOWANCE + PER_CHARACTER * size])
    try:
        text: str = tokenizer.apply_chat_template(list(turns), tokenize=False, **options)
    except (RecursionError, MemoryError) as error:
        raise TemplateError(f"it calls itself too often, or writes too much: {type(error).__name__}") from error
    except TemplateError:
        raise
    except Exception as error:  # a program of strangers may raise anything
        raise TemplateError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        _left.reset(allowance)
    return text


def fitted(prompt: Sequence[Turn], tokenizer: Any) -> list[dict[str, Any]]:
    """Convert turns to what the template expects: roles, the name of a thought, the form of arguments, ids of calls."""
    turns, thought = in_roles(prompt, tokenizer), thought_key(tokenizer)
    for turn in turns:
        if turn.get("tool_calls"):
            as_text = wants_text(tokenizer, str(tokenizer.chat_template))
            turn["tool_calls"] = [(with_text if as_text else _with_object)(call) for call in turn["tool_calls"]]
        if thought != THOUGHT and turn.get(THOUGHT):
            turn[thought] = turn.pop(THOUGHT)
    if any(turn.get("tool_calls") for turn in turns) and IDS.search(str(tokenizer.chat_template)):
        _identify(turns, _demands_nine(tokenizer, str(tokenizer.chat_template)))
    return turns


def _identify(turns: Sequence[dict[str, Any]], nine: bool) -> None:
    """Give calls the ids that they lack, by their number in the conversation, and results those of their calls.

    `nine`: the template takes ids of nine letters and digits only, so others are replaced. A result without an id
    belongs to the first call that has none yet.
    """
    known = {str(call.get("id")) for turn in turns for call in turn.get("tool_calls") or ()}
    fresh = (name for number in count() if (name := f"{number:09d}") not in known)
    renamed: dict[str, str] = {}
    waiting: list[str] = []
    for turn in turns:
        if turn.get("tool_calls"):
            named = []
            for call in turn["tool_calls"]:
                own = str(call.get("id") or "")
                renamed[own] = own if own and (not nine or NINE.fullmatch(own)) else next(fresh)
                named.append({**call, "id": renamed[own]})
                waiting.append(renamed[own])
            turn["tool_calls"] = named
        elif turn["role"] == "tool":
            own = str(turn.get("tool_call_id") or "")
            if found := renamed.get(own) if own else next(iter(waiting), None):
                turn["tool_call_id"] = found
                waiting = [other for other in waiting if other != found]


@lru_cache(maxsize=100)
def _demands_nine(tokenizer: Any, template: str) -> bool:
    """Whether the template refuses ids of calls unless they have nine letters and digits, as Mistral's do."""

    def refused(name: str) -> bool:
        answered = {"role": "tool", "content": "x", "tool_call_id": name, "name": "f"}
        return _tried(tokenizer, [*_calling({}, name), answered]) is None

    return refused("call_0") and not refused("000000000")


def _calling(arguments: Any, name: str = "000000000") -> list[Turn]:
    """Return turns that end in a call with these arguments and this id, to try a template with."""
    call = {"id": name, "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]


def _tried(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> str | None:
    """Render turns that try what a template does; None if it refuses them."""
    try:
        return rendered(tokenizer, turns, **options)
    except TemplateError:
        return None


def thought_key(tokenizer: Any) -> str:
    """Return the name by which the template reads what was thought before an answer."""
    return _thought_key(str(tokenizer.chat_template))


@lru_cache(maxsize=100)
def _thought_key(template: str) -> str:
    names = (THOUGHT, "thinking", "reasoning", "thought")
    return next((name for name in names if re.search(rf"""\.{name}\b|["']{name}["']""", template)), THOUGHT)


def options_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row gives the chat template besides its turns: `tools`, and its `chat_template_kwargs`.

    What other parts of a program decide (`add_generation_prompt`) stays theirs. ValueError if the latter is no object.
    """
    options, tools = kwargs_of(row), declared(row.get("tools"))
    return {**options, "tools": tools} if tools else options


def kwargs_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `chat_template_kwargs` of a row without what is reserved; ValueError if they are no object."""
    kwargs = _parsed(row.get("chat_template_kwargs") or {})
    if not isinstance(kwargs, Mapping):
        raise ValueError("column 'chat_template_kwargs': wanted an object such as {\"enable_thinking\": false}")
    return {name: value for name, value in kwargs.items() if name not in RESERVED}


def declared(tools: Any) -> list[dict[str, Any]]:
    """Return declarations of functions as templates read them; empty if there are none that can be read."""
    tools = _parsed(tools)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return []
    tools = [tool if isinstance(tool.get("function"), dict) else _declaration(tool) for tool in tools]
    return tools if all(tool["function"].get("name") for tool in tools) else []


def _declaration(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Wrap the declaration of a function, as OpenAI's Responses API and Anthropic write it."""
    function = {"parameters" if key == "input_schema" else key: x for key, x in tool.items() if key != "type"}
    return {"type": "function", "function": function}


def _parsed(value: Any) -> Any:
    """Return what a text holds as JSON; other values, and other texts, as they are."""
    if isinstance(value, str):
        with suppress(ValueError):
            return json.loads(value)
    return value


def in_roles(prompt: Sequence[Turn], tokenizer: Any) -> list[dict[str, Any]]:
    """Turn the developer into the system if the template has no developer, after the text of a system turn before."""
    developer = _knows_developer(tokenizer, str(tokenizer.chat_template))
    turns: list[dict[str, Any]] = []
    for turn in prompt:
        each = {key: value for key, value in turn.items() if key != "weight"}
        if each["role"] == "developer" and not developer:
            each["role"] = "system"
            if turns and turns[-1]["role"] == "system":
                turns[-1]["content"] += f"\n\n{each['content']}"
                continue
        turns.append(each)
    return turns


@lru_cache(maxsize=100)
def _knows_developer(tokenizer: Any, template: str) -> bool:
    """Whether the template names the role and prints its turns; some only write the word, and drop or refuse these."""
    turns = [{"role": "developer", "content": "mark0of"}, {"role": "user", "content": "x"}]
    return "developer" in template and "mark0of" in (_tried(tokenizer, turns, add_generation_prompt=True) or "")


def _with_object(call: Any) -> Any:
    """Parse the arguments of a call, which OpenAI writes as text and templates would encode a second time."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def with_text(call: Any) -> Any:
    """Write the arguments of a call as JSON, for a template that puts them between other texts."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or isinstance(function.get("arguments"), str):
        return call
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def openai_turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a turn as OpenAI has it: arguments of calls as text, and no weight of training."""
    sent = {name: value for name, value in turn.items() if name != "weight"}
    return {**sent, "tool_calls": [*map(with_text, sent["tool_calls"])]} if sent.get("tool_calls") else sent


@lru_cache(maxsize=100)
def wants_text(tokenizer: Any, template: str) -> bool:
    """Whether the template fails at a call whose arguments are an object, and prints one whose arguments are a text."""

    def accepted(arguments: Any) -> bool:
        return _tried(tokenizer, _calling(arguments)) is not None

    return "tool_calls" in template and not accepted({}) and accepted("{}")


@lru_cache(maxsize=100)
def _switches(template: str) -> frozenset[str]:
    """Words that a template reads in the text of a turn to turn thinking on or off."""
    return frozenset(SWITCH.findall(template))


class Shape(NamedTuple):
    """The parts of a turn, without its texts."""

    role: str
    text: bool
    thought: bool
    calls: int
    answers: bool  # it answers a call, by its id
    switches: tuple[str, ...] = ()  # words in its text by which the template turns thinking on or off


class Shapes(NamedTuple):
    """A conversation without its texts, and what else the template is given; it can be a key of a cache."""

    turns: tuple[Shape, ...]
    tools: bool
    options: str  # JSON

    @staticmethod
    def of(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any]) -> Shapes:
        """Return the shapes of turns that are `fitted`."""
        thought, known = thought_key(tokenizer), _switches(str(tokenizer.chat_template))
        shapes = (
            Shape(
                turn["role"],
                bool(turn["content"].strip()),
                bool(turn.get(thought)),
                len(turn.get("tool_calls") or ()),
                "tool_call_id" in turn,
                tuple(known.intersection(SWITCH.findall(turn["content"]))) if known else (),
            )
            for turn in turns
        )
        others = {name: value for name, value in options.items() if name != "tools"}
        return Shapes(tuple(shapes), bool(options.get("tools")), json.dumps(others, sort_keys=True, default=str))

    def marked(self, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, Any], list[tuple[int, str, str]]]:
        """Return turns and options with marks in place of texts, and each mark as (index of a turn, part, mark)."""
        marks: list[tuple[int, str, str]] = []
        thought = thought_key(tokenizer)

        def mark(i: int, part: str) -> str:
            marks.append((i, part, f"mark{len(marks)}of"))
            return marks[-1][2]

        options = json.loads(self.options)
        if self.tools:
            function = {
                "name": mark(-1, "tools"),
                "description": "",
                "parameters": {"type": "object", "properties": {}},
            }
            options["tools"] = [{"type": "function", "function": function}]
        turns: list[dict[str, Any]] = []
        for i, shape in enumerate(self.turns):
            text = mark(i, "text") if shape.text else ""
            turn: dict[str, Any] = {"role": shape.role, "content": " ".join([text, *shape.switches])}
            if shape.thought:
                turn[thought] = mark(i, "reasoning")
            if shape.calls:
                empty = "{}" if wants_text(tokenizer, str(tokenizer.chat_template)) else {}
                calls = [{"name": mark(i, "calls"), "arguments": empty} for _ in range(shape.calls)]
                turn["tool_calls"] = [{"id": "000000000", "type": "function", "function": call} for call in calls]
            if shape.answers:
                turn["tool_call_id"] = "000000000"
            turns.append(turn)
        return turns, options, marks


def lost(turns: Sequence[Turn], tokenizer: Any, options: Mapping[str, Any] = NONE) -> tuple[tuple[int, str], ...]:
    """Parts that the chat template would not print, as (index of a turn, "text", "reasoning", "calls" or "tools").

    It renders marks in place of the texts, once for every sequence of roles: a mark that is not in the result is a text
    that would be lost, whatever the template does to the texts that it prints.
    """
    return _lost_of(tokenizer, str(tokenizer.chat_template), Shapes.of(turns, tokenizer, options))


@lru_cache(maxsize=10_000)
def _lost_of(tokenizer: Any, template: str, shapes: Shapes) -> tuple[tuple[int, str], ...]:
    """Compute `lost` for the shapes of turns; `template` is part of the cache key."""
    turns, options, marks = shapes.marked(tokenizer)
    try:
        text = rendered(tokenizer, turns, add_generation_prompt=True, **options)
    except TemplateError:  # a template that refuses the marks refuses the texts, where the error is reported
        return ()
    return tuple((i, part) for i, part, name in marks if name not in text)


@cache
def _limit_transformers() -> None:
    """Limit every template that transformers compiles from now on, while it renders for `rendered`."""
    from transformers.utils import chat_template_utils

    original = chat_template_utils._compile_jinja_template
    fresh = getattr(original, "__wrapped__", original)  # without its cache

    @lru_cache
    def limited(chat_template: str) -> Template:
        environment = fresh("").environment  # with the filters and globals of transformers
        environment.__class__ = _Limited
        environment.filters = {name: _paid_for(name, filter) for name, filter in environment.filters.items()}
        environment.globals.pop("lipsum", None)
        return environment.from_string(chat_template)  # type: ignore[no-any-return]

    chat_template_utils._compile_jinja_template = limited


def _pay(cost: int) -> None:
    left = _left.get()
    if left is not None:
        left[0] -= cost
        if left[0] < 0:
            raise SecurityError("it loops too often, or writes too much")


class _Limited(ImmutableSandboxedEnvironment):
    """The environment of transformers, in which everything that takes time or memory is paid for."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Add payments to the syntax tree: in every loop and macro, and for texts written, joined or searched."""
        tree = super()._parse(source, name, filename)
        written: list[Any] = [*tree.find_all(nodes.Output), *tree.find_all(nodes.Concat)]
        for part in written:
            part.nodes = [n if isinstance(n, nodes.TemplateData) else _call("shown", n) for n in part.nodes]
        for operand in list(tree.find_all(nodes.Operand)):
            if operand.op in ("in", "notin"):
                operand.expr = _call("searched", operand.expr)
        blocks: list[Any] = [*tree.find_all(nodes.For), *tree.find_all(nodes.Macro), *tree.find_all(nodes.CallBlock)]
        for block in blocks:
            literal = sum(len(text.data) for text in block.find_all(nodes.TemplateData))
            block.body.insert(0, nodes.Output([_call("paid", nodes.Const(STEP + literal))]))
            if isinstance(block, nodes.For) and block.test is not None:  # skipped members take time too
                block.test = nodes.Or(_call("paid", nodes.Const(STEP)), block.test)
        return tree.set_environment(self)  # type: ignore[return-value]  # it returns the tree

    @staticmethod
    def paid(cost: int) -> str:
        """Pay for a turn of a loop or for a macro, and write nothing."""
        _pay(cost)
        return ""

    @staticmethod
    def shown(value: Any) -> Any:
        """Pay for a value with everything in it."""
        _pay(_size(value, deep=True))
        return value

    @staticmethod
    def searched(value: Any) -> Any:
        """Pay for a value by its length."""
        _pay(_size(value))
        return value

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, macro or method of a template."""
        if function in (self.paid, self.shown, self.searched):
            return function(*args)
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        inputs = (owner, *args) if isinstance(owner, SIZED) else args
        _pay(STEP + _growth(getattr(function, "__name__", ""), inputs, kwargs))
        result = super().call(context, function, *args, **kwargs)
        _pay(_size(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute left operator right."""
        numbers = isinstance(left, int) and isinstance(right, int)
        if numbers and operator in ("*", "**"):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MOST_BITS:
                raise SecurityError("it computes with huge numbers")
        elif operator == "*":
            times, many = (left, right) if isinstance(left, int) else (right, left)
            _pay(_size(many) * times if isinstance(times, int) and times > 0 else 0)
        elif operator == "%" and isinstance(left, str):
            _pay(_growth("format", (left, right), {}))
        result = super().call_binop(context, operator, left, right)
        _pay(_size(result))
        return result


def _call(name: str, argument: nodes.Expr) -> nodes.Expr:
    return nodes.Call(nodes.EnvironmentAttribute(name), [argument], [], None, None)


def _paid_for(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that its input and its result are paid for."""
    hidden = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context, which Jinja puts before the value

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _pay(
            STEP
            + sum(_size(a) * (1 if isinstance(a, str) else MEMBER) for a in args[hidden:])
            + _growth(name, args[hidden:], kwargs)
        )
        result = function(*args, **kwargs)
        _pay(_size(result))
        return result

    return limited


def _size(value: Any, deep: bool = False) -> int:
    """Characters of a text, digits of an integer, members of a collection; `deep`: with everything in them."""
    if isinstance(value, int):
        return value.bit_length() // 3
    if not isinstance(value, SIZED):
        return 0
    if not deep or isinstance(value, str | bytes):
        return len(value)
    _pay(STEP)  # a list may hold itself many times over
    return 2 * len(value) + sum(_size(member, True) for member in (value.items() if isinstance(value, dict) else value))


def _growth(name: str, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Lower bound for how much longer the result of a filter or method is than its input."""
    if not inputs:
        return 0
    value, *more = inputs
    rest = [*more, *kwargs.values()]
    lengths = sum(abs(n) for n in rest if isinstance(n, int))
    if name == "replace" and isinstance(value, str) and len(more) > 1 and isinstance(more[0], str):
        return value.count(more[0]) * _size(more[1])
    if name == "join":
        parts, between = (more[0], value) if isinstance(value, str) and more else (value, "".join(map(str, more[:1])))
        return _size(parts, deep=True) + _size(parts) * _size(between)
    if name == "format" and isinstance(value, str):
        widths = sum(int(digits[:9]) for digits in re.findall(r"\d+", value))
        sizes = lengths + sum(abs(n) for part in rest if isinstance(part, tuple) for n in part if isinstance(n, int))
        return widths + _size(rest, deep=True) + (sizes if re.search(r"\*|\{[^{}]*\{", value) else 0)
    if name in TEXT:
        return max(1, lengths) * _size(value, deep=True)
    if name in PADDING:
        return lengths * (1 + (_size(value, deep=True) if name in ("indent", "expandtabs") else 0))
    return 0
