"""Read logs of chat completions as OpenAI, Anthropic, Google, vLLM and gateways write them.

The columns in FEEDBACK are scores, and the numbers of an object `feedback`, `scores` or `attributes`; other numbers of
a log (latency, tokens) are not: they stay extra columns, and `--map quality=COLUMN` makes one a score.
"""

from __future__ import annotations

import re
from typing import Any

from data_recipes import ai_sdk, tools
from data_recipes.answers import candidates
from data_recipes.asked import before
from data_recipes.cells import number
from data_recipes.endings import called, ended
from data_recipes.marks import LEFT_OUT, NOTED, Row, Turn
from data_recipes.metadata import words
from data_recipes.parts import BUILT_IN, NEXT, SERVED, as_object, call, gathered, hide, objects, parsed, served, text
from data_recipes.scores import figures, inside, scored, thumbs
from data_recipes.streams import DataError, kind
from data_recipes.thoughts import THOUGHT, is_thought
from data_recipes.turns import conversation, cut, fields, turns

FEEDBACK = ("rating", "thumbs", "score", "quality", "feedback")
SCORES = ("scores", "attributes")  # objects that hold nothing but scores
SAID = ("choices", "candidates", "content", "output", "message")  # where a response says what was answered
ASKED = ("messages", "prompt", "input", "contents")  # where a request says what is asked
STATUS = words("status statuscode responsestatus responsestatuscode responsecode httpstatus httpstatuscode")
FAULT = re.compile(r".*(error|exception|fault).*", re.IGNORECASE)  # a type, or an object
FAILED = {*words("error error_code code status status_code type message detail object param request_id")}
FINE = words("ok success succeeded 0")  # codes beside a message that is an answer
EVENTS = re.compile(r"\s*(event: *[\w.]+\s+)?data: *\{\s*\"")  # a stream as its server sends it
AGAIN = "Send it again, or leave it out."


def exchange(record: Row) -> list[Row]:
    """Read {request: {messages}, response: {choices}}: one row per choice."""
    request, response = _sent(record["request"]), _sent(record["response"])
    request = request.get("body", request) if isinstance(request, dict) else request
    return _rows(record, {"request", "response", "error"}, request, response)


def _sent(value: Any) -> Any:
    """Return what was sent, an object that a table holds as JSON, as an object; other texts stay."""
    inner = parsed(value)
    known = isinstance(inner, dict) and ({*ASKED, *SAID, "body"} & {*inner} or ({*inner} <= FAILED and _fault(inner)))
    return inner if known else value


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


def check(record: Row, response: Any) -> None:
    """Raise DataError if a record says by a status that its request failed, or its response is a stream of events."""
    for column in called(tuple(record), STATUS):
        if 300 <= (number(record[column]) or 0) < 600:
            raise DataError(f"column '{column}': the request failed (status {record[column]}). {AGAIN}")
    if isinstance(response, str) and EVENTS.match(response):
        raise DataError("column 'response': holds a stream of events (data: {...}). Join their texts to one first.")


def _fault(body: Row) -> Any:
    """Return what a server says of its failure instead of an answer, or None."""
    error = body.get("error")
    if isinstance(error, dict):
        return error.get("message", error.get("type")) or "error"
    if isinstance(error, str) and error.strip() and not {*SAID, "text", "response", "completion"} & {*body}:
        return error
    if not isinstance(body.get("message"), str):
        return body["detail"] if {*body} == {"detail"} else None
    code, status = body.get("error_code", body.get("code")), number(body.get("code"))
    wrong = status >= 300 if status is not None else code and str(code).lower() not in FINE
    wrong = wrong or any(FAULT.fullmatch(str(body.get(column))) for column in ("type", "object"))
    return (body["message"] or code) if wrong else None


def _rows(record: Row, used: set[str], request: Any, response: Any) -> list[Row]:
    prompt = _prompt(request)
    if error := record.get("error"):
        why = error.get("message", error.get("code")) if isinstance(error, dict) else error
        raise DataError(f"column 'error': the request failed ({why}). {AGAIN}")
    check(record, response)
    steps, response = ai_sdk.generated(response)
    prompt = [*prompt, *conversation(steps, "response.steps")]
    responses = _answers(response)
    found, record = inside(record)
    own = {c: v for c in FEEDBACK if isinstance(v := record.get(c), list) and len(responses) > 1}  # a value for each
    offered = {c: record[c] for c in FEEDBACK if c in record and c not in own}
    scores, raters = scored({**offered, **found})
    own = {c: v for c, v in own.items() if len(v) == len(responses) and any(feedback({c: each})[0] for each in v)}
    notes = []
    for column in SCORES:
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
    if before_it := next((each for side in (of_request, as_object(body)) if (each := _continued(side))), ""):
        shown[LEFT_OUT] = f"it continues '{before_it}', whose turns it does not hold"
    shared = {**shown, **record, "id": name, "group": str(record.get("group") or name or "")}
    answers = {}
    for i, part in enumerate(responses):
        mine = feedback({c: v[i] for c, v in own.items()})[0] if own else {}
        answers[str(i)] = {**raters, **part, "scores": {**scores, **mine, **part.get("scores", {})}}
    used |= {*own, *(c for c in offered if c in scores and c not in found)}
    rows = candidates(shared, used, prompt, answers)
    return [{**row, "id": str(name)} if len(rows) == 1 and name else row for row in rows]


def _continued(side: Row) -> Any:
    """Return the response or the conversation that a request or a response of OpenAI's Responses goes on from."""
    talk = side.get("conversation") if {"input", "output"} & {*side} else None
    return side.get("previous_response_id") or as_object(talk).get("id", talk if isinstance(talk, str) else None)


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
    aside: Row = {}  # what is left out, waits likewise
    for item in value:
        name = item.get("type") if isinstance(item, dict) else None
        if name == "reasoning" or as_object(item).get("channel") == "analysis":
            item = {"role": "assistant", "content": [item]} if name == "reasoning" else item
            [turn] = conversation([item], column)
            thought = gathered(thought, turn)
            continue
        if SERVED.fullmatch(str(name)):
            hide(aside, served(name))
            continue
        if name in CALLS and not thought and result and result[-1]["role"] == "assistant":
            result[-1].setdefault("tool_calls", []).append(call(item))
            continue
        read = _item(item, name, column)
        if read and read[0]["role"] == "assistant":
            read[0], thought, aside = read[0] | gathered(thought, read[0], aside), {}, {}
            if name in ("message", *CALLS) and result and result[-1]["role"] == "assistant":
                read[0] = _one(result.pop(), read[0])
        result += read
    if result and aside:
        result[-1] |= gathered(result[-1], aside)
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
        raise DataError(f"column 'response': the request failed (status {status}). {AGAIN}")
    body = fields(response.get("body", response), "response.body")
    if why := _fault(body):
        raise DataError(f"column 'response': the request failed ({why}). {AGAIN}")
    output = body.get("output")
    drawn = output if isinstance(output, list) and all("message" in as_object(each) for each in output) else None
    choices = body.get("choices") or body.get("candidates") or drawn  # the last of Braintrust
    if isinstance(choices, list) and choices:
        return [{**_answer(fields(choice, "choices"), {}), **_rated(choice)} for choice in choices]
    if isinstance(output, list):  # OpenAI's Responses: what it thought, called and said, one after the other
        return [_spoken(output, body)]
    if isinstance(output, dict):  # Amazon's Converse
        body = {**output, **{c: v for c, v in body.items() if c != "output"}}
    if {"content", "message", "text", "response", "completion"} & body.keys():
        return [_answer(body, {})]
    raise DataError("column 'response': holds no choices. Name the text with --map response=PATH.")


def feedback(given: Row) -> tuple[Row, Row]:
    """Return the scores and the `raters` of what is said of one answer: numbers, thumbs, objects and lists of them."""
    found, rest = inside(given)
    for name, value in thumbs(rest).items():
        several = thumbs(value) if name in SCORES and isinstance(value, dict) else figures(value)
        found = {**(several if isinstance(value, dict) else {name: value}), **found}
    return scored(found)


def _rated(choice: Row) -> Row:
    """Return the scores that a choice has of its own."""
    given = {c: choice[c] for c in FEEDBACK if c in choice}
    scores, raters = feedback(given) if given else ({}, {})
    return {"scores": scores, **raters}


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
    answer = _answer({"message": message, "tool_calls": calls}, body)
    names = dict.fromkeys(str(item.get("type")) for item in objects(output))
    if names and not (answer["response"].strip() or calls or "message" in names):
        answer[LEFT_OUT] = f"its response holds {', '.join(names)}, and no text"
    return answer


def _answer(choice: Row, body: Row) -> Row:
    """Return the text of a choice with its reasoning, its tool calls, and whether it was cut off."""
    message = choice.get("message", choice)
    message = {"content": message} if isinstance(message, str) else fields(message, "response.message")
    content = message.get("content")
    content = content.get("parts") if isinstance(content, dict) else content
    for column in ("parts", "text", "response", "completion", "refusal"):
        content = message.get(column) if content is None else content
    kept = {c: v for c, v in message.items() if v and (c in ("tool_calls", "function_call") or is_thought(c))}
    calls = choice.get("tool_calls") or choice.get("toolCalls")
    turn = {**kept, **({"tool_calls": calls} if calls else {}), "role": "assistant", "content": content}
    _, response, after = cut(conversation([turn], "response"))
    grounding = as_object(choice.get("groundingMetadata") or choice.get("grounding_metadata"))
    if any(grounding.values()):  # what Google's search found
        hide(after, BUILT_IN)
    cut_off = any(ended(part) is False for part in (choice, message, body))
    if content is None and not cut_off and not {"tool_calls", THOUGHT} & after.keys():
        raise DataError("column 'response': a choice holds no text (a tool call?). Leave it out.")
    return {"response": response, **after, **({"finished": False} if cut_off else {})}
