"""Read logs of chat completions as OpenAI, Anthropic, Google, vLLM and gateways write them.

The columns in FEEDBACK are scores, and the numbers of an object `feedback`, `scores` or `attributes`; other numbers of
a log (latency, tokens) are not: they stay extra columns, and `--map quality=COLUMN` makes one a score.
"""

from __future__ import annotations

from typing import Any

from data_recipes import ai_sdk, tools
from data_recipes.asked import before
from data_recipes.endings import ended
from data_recipes.parts import BUILT_IN, NEXT, SERVED, as_object, call, gathered, hide, objects, parsed, text
from data_recipes.streams import DataError, kind
from data_recipes.turns import (
    LEFT_OUT,
    NOTED,
    THOUGHT,
    Row,
    Turn,
    candidates,
    conversation,
    cut,
    fields,
    figures,
    inside,
    scored,
    turns,
)

FEEDBACK = ("rating", "thumbs", "score", "quality", "feedback")
SAID = ("choices", "candidates", "content", "output", "message")  # where a response says what was answered
ASKED = ("messages", "prompt", "input", "contents")  # where a request says what is asked


def exchange(record: Row) -> list[Row]:
    """Read {request: {messages}, response: {choices}}: one row per choice."""
    request, response = _sent(record["request"]), _sent(record["response"])
    request = request.get("body", request) if isinstance(request, dict) else request
    return _rows(record, {"request", "response", "error"}, request, response)


def _sent(value: Any) -> Any:
    """Return what was sent, an object that a table holds as JSON, as an object; other texts stay."""
    inner = parsed(value)
    return inner if isinstance(inner, dict) and {*ASKED, *SAID, "body"} & {*inner} else value


def completion(record: Row) -> list[Row]:
    """Read {messages or prompt, choices}: a completion logged together with its request."""
    column = "messages" if record.get("messages") is not None else "prompt"
    return _rows(record, {column, "choices"}, {column: record.get(column)}, {"choices": record["choices"]})


def answer(record: Row, column: str) -> list[Row]:
    """Read {messages or prompt, response}: what was asked, and the whole response of a server."""
    ask = "messages" if record.get("messages") is not None else "prompt"
    return _rows(record, {ask, column}, {ask: record.get(ask)}, record[column])


def asked(record: Row) -> list[Row]:
    """Read a request of a batch without a result, to generate from."""
    return [{"id": str(record["custom_id"]), "prompt": _prompt(record["request"]), "scores": {}}]


def _rows(record: Row, used: set[str], request: Any, response: Any) -> list[Row]:
    prompt = _prompt(request)
    if error := record.get("error"):
        why = error.get("message", error.get("code")) if isinstance(error, dict) else error
        raise DataError(f"column 'error': the request failed ({why}). Send it again, or leave it out.")
    steps, response = ai_sdk.generated(response)
    prompt = [*prompt, *conversation(steps, "response.steps")]
    responses = _answers(response)
    scores = scored({c: record[c] for c in FEEDBACK if c in record and not isinstance(record[c], list)})[0]
    found, record = inside(record)
    scores |= found
    notes = []
    for column in ("scores", "attributes"):
        value = record.get(column)
        numbers = figures(value)
        if numbers or isinstance(value, dict):
            scores, used = scores | numbers, {*used, column}
            notes += [f"left out: what '{column}' holds beside numbers"] if value and len(numbers) < len(value) else []
    of_request = tools.named(_settings(request))
    shown = {c: of_request[c] for c in ("model", "tools", NOTED) if c not in record and of_request.get(c)}
    shown |= {NOTED: [*shown.get(NOTED, []), *notes]} if notes else {}
    name = record.get("id") or record.get("custom_id") or record.get("request_id")
    body = response.get("body", response) if isinstance(response, dict) else {}
    sides = [of_request, body if isinstance(body, dict) else {}]
    if before_it := next((each for side in sides if (each := side.get("previous_response_id"))), ""):
        shown[LEFT_OUT] = f"it continues '{before_it}', whose turns it does not hold"  # of OpenAI's Responses
    shared = {**shown, **record, "id": name, "group": str(record.get("group") or name or "")}
    answers = {str(i): {**part, "scores": scores} for i, part in enumerate(responses)}
    rows = candidates(shared, {*used, *(c for c in scores if c in FEEDBACK)}, prompt, answers)
    return [{**row, "id": str(name)} if len(rows) == 1 and name else row for row in rows]


def _settings(request: Any) -> Row:
    """Return a request with Amazon's and Google's settings of tools under OpenAI's names."""
    request = request if isinstance(request, dict) else {}
    config = next((v for c in ("toolConfig", "tool_config") if isinstance(v := request.get(c), dict)), {})
    mode = fields(config.get("functionCallingConfig") or {}, "request.toolConfig").get("mode")
    chosen = {"tool_choice": mode.lower()} if isinstance(mode, str) else {}
    return {**({"tools": config["tools"]} if config.get("tools") else {}), **chosen, **request}


def _prompt(request: Any) -> list[Turn]:
    """Return what was asked: messages or a text, after the system prompt that some servers take separately."""
    if isinstance(request, str):
        return turns(request, "request")
    column = next((c for c in ASKED if isinstance(request, dict) and isinstance(request.get(c), (str, list))), "")
    if not column:
        raise DataError("column 'request': holds no messages and no prompt. Name them with --map prompt=PATH.")
    instruction = next((v for c in SYSTEM if (v := request.get(c))), None)
    instruction = instruction.get("parts") if isinstance(instruction, dict) else instruction
    system = [{"role": "system", "content": content}] if (content := text(instruction, "request.system")) else []
    return before(system, _items(request[column], f"request.{column}"))


CALLS = ("function_call", "custom_tool_call", "tool_call")  # others, such as web_search_call, are built into the server
OUTPUTS = ("function_call_output", "custom_tool_call_output")
SYSTEM = ("system", "instructions", "systemInstruction", "system_instruction")  # Anthropic, OpenAI, Google


def _items(value: Any, column: str) -> list[Turn]:
    """Return turns in the forms of OpenAI's Responses, of Google's contents, or the usual one.

    In Responses what a model thought, said and called at once is several items, which become one turn.
    """
    if not isinstance(value, list):
        return turns(value, column)
    result: list[Turn] = []
    thought: Row = {}  # waits for the turn that it precedes
    served: Row = {}  # what is left out, waits likewise
    for item in value:
        name = item.get("type") if isinstance(item, dict) else None
        if name == "reasoning":
            [turn] = conversation([{"role": "assistant", "content": [item]}], column)
            thought = gathered(thought, turn)
            continue
        if SERVED.fullmatch(str(name)):
            hide(served, BUILT_IN)
            continue
        if name in CALLS and not thought and result and result[-1]["role"] == "assistant":
            result[-1].setdefault("tool_calls", []).append(call(item))
            continue
        read = _item(item, name, column)
        if read and read[0]["role"] == "assistant":
            read[0], thought, served = read[0] | gathered(thought, read[0], served), {}, {}
            if name in ("message", *CALLS) and result and result[-1]["role"] == "assistant":
                read[0] = _one(result.pop(), read[0])
        result += read
    if result and served:
        result[-1] |= gathered(result[-1], served)
    return result


def _one(first: Turn, second: Turn) -> Turn:
    """Return two items of one answer, between which it thought or a server's own tool worked, as one turn."""
    content = "\n".join(filter(None, [first["content"], second["content"]]))
    made = [*first.get("tool_calls", ()), *second.get("tool_calls", ())]
    return {**second, **first, **gathered(first, second), "content": content, **({"tool_calls": made} if made else {})}


def _item(item: Any, name: Any, column: str) -> list[Turn]:
    """Return the turns of one item of a request; `name`: its type, if it has one."""
    if name in CALLS:
        return [{"role": "assistant", "content": "", "tool_calls": [call(item)]}]
    if name in OUTPUTS:
        output = text(item.get("output"), column) or ""
        return [{"role": "tool", "content": output, "tool_call_id": item.get("call_id")}]
    if isinstance(item, dict) and isinstance(item.get("parts"), list):  # Google's first turn may have no role
        item = {"role": "user", **item}
    return conversation([item], column)


def _answers(response: Any) -> list[Row]:
    """Return the answers of a response, each with its other values; DataError if the request failed."""
    if isinstance(response, str):
        return [{"response": response}]
    if not isinstance(response, dict):
        raise DataError(f"column 'response': holds {kind(response)}, wanted an object with choices. Correct it.")
    status = response.get("status_code")
    if isinstance(status, int) and status != 200:
        raise DataError(f"column 'response': the request failed (status {status}). Send it again, or leave it out.")
    body = fields(response.get("body", response), "response.body")
    if isinstance(body.get("error"), dict):
        why = body["error"].get("message", body["error"].get("type"))
        raise DataError(f"column 'response': the request failed ({why}). Send it again, or leave it out.")
    choices = body.get("choices") or body.get("candidates")
    if isinstance(choices, list) and choices:
        return [_answer(fields(choice, "choices"), {}) for choice in choices]
    output = body.get("output")
    if isinstance(output, list):  # OpenAI's Responses: what it thought, called and said, one after the other
        return [_spoken(output, body)]
    if isinstance(output, dict):  # Amazon's Converse
        body = {**output, **{c: v for c, v in body.items() if c != "output"}}
    if {"content", "message", "text", "response", "completion"} & body.keys():
        return [_answer(body, {})]
    raise DataError("column 'response': holds no choices. Name the text with --map response=PATH.")


def _spoken(output: list[Any], body: Row) -> Row:
    content: list[Row] = []
    for item in objects(output):
        name = item.get("type", "message")
        if name == "message":
            said = item.get("content") or []
            content += [NEXT, *(said if isinstance(said, list) else [{"type": "text", "text": said}])]
        elif name == "reasoning" or SERVED.fullmatch(str(name)):
            content.append(item)
    calls = [call(item) for item in objects(output) if item.get("type") in CALLS]
    message = {"role": "assistant", "content": content}
    return _answer({"message": message, "tool_calls": calls}, body)


def _answer(choice: Row, body: Row) -> Row:
    """Return the text of a choice with its reasoning, its tool calls, and whether it was cut off."""
    message = choice.get("message", choice)
    message = {"content": message} if isinstance(message, str) else fields(message, "response.message")
    content = message.get("content")
    content = content.get("parts") if isinstance(content, dict) else content
    for column in ("parts", "text", "response", "completion", "refusal"):
        content = message.get(column) if content is None else content
    kept = {c: message[c] for c in (*THOUGHT, "tool_calls", "function_call") if message.get(c)}
    calls = choice.get("tool_calls") or choice.get("toolCalls")
    turn = {**kept, **({"tool_calls": calls} if calls else {}), "role": "assistant", "content": content}
    _, response, after = cut(conversation([turn], "response"))
    if content is None and not after.get("tool_calls"):
        raise DataError("column 'response': a choice holds no text (a tool call?). Leave it out.")
    grounding = as_object(choice.get("groundingMetadata") or choice.get("grounding_metadata"))
    if any(grounding.values()):  # what Google's search found
        hide(after, BUILT_IN)
    cut_off = any(ended(part) is False for part in (choice, message, body))
    return {"response": response, **after, **({"finished": False} if cut_off else {})}
