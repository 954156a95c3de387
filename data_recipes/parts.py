"""Read the content of a turn: texts, and the thoughts, calls and results that APIs write among its parts."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

from data_recipes.media import UnreadError, of_part
from data_recipes.streams import DataError, kind

Part = dict[str, Any]

HIDDEN = "_hidden"  # list of what a turn held and is left out of it, to be counted and said
ENCRYPTED = "thoughts that are encrypted"
BUILT_IN = "what tools that a server has itself (a web search, code, ...) did and found"
UNSAID = "thoughts of answers that were stopped"
NO_FUNCTIONS = "calls of tools that are no functions (a shell, a patch, a computer), and their results"
RUN = re.compile(r"(local_shell|shell|apply_patch|computer)_call(_output)?")  # of OpenAI, which a client mostly runs
SERVED = re.compile(
    r"(server|mcp)_tool_use|\w+_tool_result|(?!(function|custom_tool|tool)_call)\w+_call(_output)?|mcp_\w+|"
    r"tool_search_output"
)
DENIED = "Tool execution denied."  # what the AI SDK tells a model whose call a user did not allow
NEXT = {"type": "step-start"}  # between two texts that are not one
SEALED = ("encrypted_content", "signature", "reasoningEncryptedContent", "redactedData")  # a thought that is not shown
NAMES = ("call_id", "toolUseId", "toolCallId", "id")  # of a call; OpenAI's Responses name the item beside it: `id`
THOUGHTS = ("thinking", "text", "content", "summary", "reasoningText")  # keys of a thought in an object
TEXTS = ("text", "input_text", "output_text")  # types of a part that is a text
KINDS = {  # what a part is, by its type: Anthropic, OpenAI's Responses, OpenTelemetry, the AI SDK
    "thinking": "thought",
    "reasoning": "thought",
    "redacted_thinking": "encrypted",
    "tool_use": "call",
    "tool_call": "call",
    "tool-call": "call",
    "tool_result": "result",
    "tool-result": "result",
    "tool_call_response": "result",
    **dict.fromkeys(("source", "source-url", "source-document", "step-start"), "nothing"),
    **dict.fromkeys(("tool-approval-request", "tool-approval-response"), "nothing"),
    **dict.fromkeys(("token_budget", "flag"), "nothing"),  # of Claude's application
}
KEYS = {  # the same by its only key: Google, Amazon
    "functionCall": "call",
    "function_call": "call",
    "toolUse": "call",
    "functionResponse": "result",
    "function_response": "result",
    "toolResult": "result",
    "reasoningContent": "thought",
    "executableCode": "served",
    "executable_code": "served",
    "codeExecutionResult": "served",
    "code_execution_result": "served",
    "cachePoint": "nothing",
}


def text(value: Any, column: str, between: str = "\n") -> str | None:
    """Return a text, or the text parts of a list of parts with `between` in between."""
    if isinstance(value, list):
        texts = []
        for part in value:
            if isinstance(part, str):
                raise DataError(f"column '{column}': holds a list of texts, wanted one text. Give each its own row.")
            given = _text_of(part) if isinstance(part, dict) else None
            if given is None:
                label = part.get("type", "an object") if isinstance(part, dict) else kind(part)
                if medium := of_part(part):
                    raise UnreadError(f"it holds {medium}, and only text can be used")
                raise DataError(f"column '{column}': holds a part that is no text ({label}). Only text can be used.")
            texts.append(given)
        return between.join(texts)
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"column '{column}': holds {kind(value)}, wanted a text.")


def as_object(value: Any) -> Part:
    """Return an object, of anything else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[Part]:
    """Return the objects of a list, of anything else none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text_of(part: Part) -> str | None:
    """Return the text of a part, or None if it has none."""
    named = ("refusal", "text", *(("content",) if part.get("type") in TEXTS else ()))
    return next((part[name] for name in named if isinstance(part.get(name), str)), None)


def call(value: Any) -> Any:
    """Return a call as an entry of `tool_calls`: {id, type, function: {name, arguments}}, in whatever form it is.

    Functions are named directly ({name, arguments}, LangChain's and Google's {name, args}, Anthropic's {name, input},
    the AI SDK's {toolName, input}), or in an object `function`; a text is read as JSON.
    """
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, dict):
        value = {"name": "", "arguments": value}
    if isinstance(value.get("function"), dict):
        return value
    value = {**value, **_custom(value)}
    arguments: Any = next((value[name] for name in ("arguments", "args", "input") if value.get(name) is not None), {})
    name = next((each for key in NAMES if (each := value.get(key))), None)
    function = {"name": value.get("name", value.get("toolName", "")), "arguments": arguments}
    return {**({"id": name} if name else {}), "type": "function", "function": function}


def calls(value: Any) -> Any:
    """Return what is called, given as a list, one call or JSON of these, as `tool_calls`; other values unchanged."""
    value = parsed(value)
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list):
        return value
    return [call(each) if {"name", "toolName"} & {*as_object(each), *_custom(each)} else each for each in value]


def _custom(value: Any) -> Part:
    """Return what OpenAI writes of a call of a tool that is given a text; of other calls nothing."""
    return as_object(as_object(value).get("custom"))


def unfolded(turn: Part, content: Any, column: str) -> list[Part]:
    """Return a turn with its text; thoughts, tool calls and results among its parts get their own places.

    Results come first, as turns of the role tool: a user may go on after them. Parts of an answer go on where the one
    before ends, as its server shows them, unless something else stands between.
    """
    between = "" if turn["role"] == "assistant" else "\n"
    parts = content if isinstance(content, list) else []
    kinds = [_kind(part) for part in parts]
    if not any(kinds):
        return [{"role": turn["role"], "content": text(content, column, between) or "", **turn}]
    plain: list[list[Any]] = [[]]
    results = []
    if turn["role"] == "assistant" and "result" in kinds:  # a tool answered within the answer: it was the server's own
        own = {_answers(part) for name, part in zip(kinds, parts) if name == "result"}
        kinds = [
            "served" if k == "result" or (k == "call" and _answers(part) in own) else k for k, part in zip(kinds, parts)
        ]
    for name, part in zip(kinds, parts):
        inner = next((part[key] for key in KEYS if isinstance(part.get(key), dict)), part)
        if name == "thought":
            if thought := _thought(inner, column):
                turn["reasoning_content"] = "\n".join(filter(None, [turn.get("reasoning_content"), thought]))
            elif any(each.get(key) for each in (inner, *_of_providers(inner)) for key in SEALED):
                hide(turn, ENCRYPTED)
        elif name == "call":
            turn.setdefault("tool_calls", []).append(call(inner))
        elif name == "result":
            results.append(_result(inner, column))
        elif name == "encrypted":
            hide(turn, ENCRYPTED)
        elif name == "served":
            hide(turn, served(part.get("type")))
        elif not name:
            plain[-1].append(part)
        if name and plain[-1]:
            plain.append([])
    said = "\n".join(text(each, column, between) or "" for each in plain if each)
    kept = any(plain) or turn.get("tool_calls") or not (results or turn["role"] == "tool")
    return [*results, *([{**turn, "content": said}] if kept else [])]


def _of_providers(part: Part) -> list[Part]:
    """Return what each provider says of a part of the AI SDK."""
    return objects([*as_object(part.get("providerMetadata") or part.get("providerOptions")).values()])


def hide(turn: Part, what: str) -> None:
    """Note what is left out of a turn."""
    turn[HIDDEN] = [*turn.get(HIDDEN, ()), what]


def served(kind: Any) -> str:
    """Return what is left out with a part or an item of this type."""
    return NO_FUNCTIONS if RUN.fullmatch(str(kind)) else BUILT_IN


def gathered(*turns: Part) -> Part:
    """Return the thoughts of several turns, and what was left out of them, as one turn has them."""
    thoughts = [turn["reasoning_content"] for turn in turns if turn.get("reasoning_content")]
    hidden = [what for turn in turns for what in turn.get(HIDDEN, ())]
    thought = {"reasoning_content": "\n".join(thoughts)} if thoughts else {}
    return {**thought, **({HIDDEN: hidden} if hidden else {})}


def _kind(part: Any) -> str:
    """Return what a part is if it is no text: thought, call, result, served, encrypted or nothing."""
    if not isinstance(part, dict):
        return ""
    if part.get("thought") is True:  # of Google
        return "thought"
    if part.get("providerExecuted") is True:  # of the AI SDK
        return "served"
    if {*part} in ({"thoughtSignature"}, {"thought_signature"}):
        return "nothing"
    kind = KINDS.get(str(part.get("type")), "") or next((KEYS[key] for key in KEYS if part.get(key)), "")
    return kind or ("served" if SERVED.fullmatch(str(part.get("type"))) else "")


def _thought(part: Part, column: str) -> str:
    part = part["reasoningText"] if isinstance(part.get("reasoningText"), dict) else part
    given = next((part[key] for key in ("thinking", "text", "content", "summary") if part.get(key)), None)
    return text(given, column) or ""


def thought_of(value: Any) -> str:
    """Return a thought that is a text, a list of texts or of parts, or an object around one of these; else ""."""
    if isinstance(value, list):
        return "\n".join(filter(None, map(thought_of, value)))
    if isinstance(value, dict):
        return next((text for key in THOUGHTS if (text := thought_of(value.get(key)))), "")
    return value if isinstance(value, str) else ""


def _result(part: Part, column: str) -> Part:
    """Return the turn of a tool: its text, what it answers and its name, where the part has them."""
    places = ("content", "response", "result", "output", "error")
    content = next((part[key] for key in places if part.get(key) is not None), "")
    if isinstance(content, dict) and [*content] in (["result"], ["output"]):  # of Google: an object around one value
        content = next(iter(content.values()))
    if isinstance(content, dict) and {*content} - {"providerOptions"} == {"type", "value"}:  # of the AI SDK
        content = content["value"]
    elif isinstance(content, dict) and content.get("type") == "execution-denied":
        content = content.get("reason") or DENIED
    said = text(content, column) if isinstance(content, str) or _texts(content) else as_json(content)
    turn = {"role": "tool", "content": said or ""}
    turn |= {"tool_call_id": name} if (name := _answers(part)) else {}
    tool = part.get("name") or part.get("toolName")
    return {**turn, "name": tool} if tool else turn


def _answers(part: Part) -> Any:
    """Return which call a result answers."""
    return next((each for key in ("tool_use_id", *NAMES) if (each := part.get(key))), None)


def _texts(content: Any) -> bool:
    """Whether a result is a list of parts, of texts or of pictures that `text` refuses, and no data."""
    return isinstance(content, list) and all(isinstance(p, dict) and {"type", "text"} & {*p} for p in content)


def parsed(value: Any) -> Any:
    """Return what a text holds as a JSON object or list; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(value)
    return value


def as_json(value: Any) -> str:
    """Return a value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)
