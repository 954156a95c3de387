"""Logs as APIs, gateways, tracing and labelling tools write them: each gives the row that its conversation holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attribute_models.templates import options_of
from data_recipes import layouts
from data_recipes.streams import DataError
from steer.errors import SteerError
from steer.rows import Tally, read, read_rows
from steer.rows.reading import Reading

Record = dict[str, Any]

SYSTEM, ASK = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "How heavy is the moss?"}
PARAMETERS = {"type": "object", "properties": {"what": {"type": "string"}}}
WEIGH = {"name": "weigh", "description": "Weigh it", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEIGH}]
ARGUMENTS = '{"what": "moss"}'
CALL = {"id": "call_1", "type": "function", "function": {"name": "weigh", "arguments": ARGUMENTS}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
SAID = "Three grams."
CHOICE = {"index": 0, "message": {"role": "assistant", "content": SAID, "reasoning_content": "Three."}}
CHOICE |= {"finish_reason": "stop", "logprobs": None}
COMPLETION = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}
COMPLETION |= {"usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}
REQUEST = {"model": "m", "messages": [SYSTEM, ASK, CALLING, RESULT], "tools": TOOLS, "temperature": 1}


def reasoned(text: str) -> Record:
    return {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": ASK["content"]}]},
    reasoned("Use the scale."),
    {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weigh", "arguments": ARGUMENTS},
    {"type": "function_call_output", "call_id": "call_1", "output": "3"},
]
ASKED = {"instructions": "Be brief.", "input": ITEMS, "tools": [{"type": "function", **WEIGH, "strict": None}]}
SPOKEN = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": SAID, "annotations": []}]}
RESPONSE = {"id": "resp_1", "object": "response", "status": "completed", "error": None, "incomplete_details": None}
RESPONSE |= {"output": [reasoned("Three."), SPOKEN], "model": "m", "created_at": 1, "previous_response_id": None}

BLOCKS = [
    ASK,
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "Use the scale.", "signature": "x"},
        {"type": "tool_use", "id": "call_1", "name": "weigh", "input": {"what": "moss"}},
    ]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "3"}]},
]  # fmt: skip
BLOCK_TOOLS = [{"name": "weigh", "description": "Weigh it", "input_schema": PARAMETERS}]
CLAUDE: Record = {"id": "msg_1", "type": "message", "role": "assistant", "stop_reason": "end_turn", "usage": {}}
CLAUDE |= {"content": [{"type": "thinking", "thinking": "Three.", "signature": "x"}, {"type": "text", "text": SAID}]}
SENT = {"system": [{"type": "text", "text": "Be brief."}], "messages": BLOCKS, "tools": BLOCK_TOOLS, "max_tokens": 99}

CONTENTS = [
    {"parts": [{"text": ASK["content"]}]},
    {
        "role": "model",
        "parts": [{"functionCall": {"name": "weigh", "args": {"what": "moss"}}, "thoughtSignature": "x"}],
    },
    {"role": "user", "parts": [{"functionResponse": {"name": "weigh", "response": {"result": "3"}}}]},
]
GOOGLE = {"contents": CONTENTS, "systemInstruction": {"parts": [{"text": "Be brief."}]}}
GOOGLE |= {"tools": [{"functionDeclarations": [WEIGH]}], "generationConfig": {"temperature": 1}}
PARTS = [{"text": "Three.", "thought": True}, {"text": SAID}, {"thoughtSignature": "x"}]
CANDIDATES = {"candidates": [{"content": {"role": "model", "parts": PARTS}, "finishReason": "STOP", "index": 0}]}
CANDIDATES |= {"usageMetadata": {"totalTokenCount": 3}, "modelVersion": "m", "responseId": "r"}

OBSERVED = {
    "id": "o1",
    "traceId": "t1",
    "type": "GENERATION",
    "startTime": "2026-01-01",
    "latency": 1.2,
    "level": "DEFAULT",
}
OBSERVED |= {"input": {"messages": REQUEST["messages"], "tools": TOOLS}, "output": CHOICE["message"]}
SCORES = [{"name": "helpfulness", "value": 4, "dataType": "NUMERIC"}, {"name": "note", "value": "fine"}]

PAYLOAD = {
    "id": "chatcmpl-1",
    "call_type": "acompletion",
    "response_cost": 1e-5,
    "status": "success",
    "total_tokens": 13,
}
PAYLOAD |= {
    "messages": REQUEST["messages"],
    "response": COMPLETION,
    "model_parameters": {"tools": TOOLS},
    "error_str": None,
}

RUN = {"id": "r1", "name": "ChatOpenAI", "run_type": "llm", "error": None, "trace_id": "t", "total_tokens": 13}
RUN |= {"inputs": {"messages": REQUEST["messages"]}, "outputs": COMPLETION}
RUN |= {"extra": {"invocation_params": {"tools": TOOLS}}, "feedback_stats": {"helpfulness": {"n": 1, "avg": 4.0}}}


def langchain(kind: str, content: str, **more: Any) -> Record:
    """A message as LangChain serialises it."""
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", kind],
            "kwargs": {"content": content, "type": kind.removesuffix("Message").lower(), **more}}  # fmt: skip


CHAIN = [[
    langchain("SystemMessage", "Be brief."),
    langchain("HumanMessage", str(ASK["content"])),
    langchain("AIMessage", "", tool_calls=[
        {"name": "weigh", "args": {"what": "moss"}, "id": "call_1", "type": "tool_call"}
    ]),
    langchain("ToolMessage", "3", tool_call_id="call_1", name="weigh"),
]]  # fmt: skip
DRAWN = langchain("AIMessage", SAID, tool_calls=[], additional_kwargs={"reasoning_content": "Three."})
GENERATIONS = {"generations": [[{"text": SAID, "generation_info": {"finish_reason": "stop"}, "message": DRAWN}]]}

WEAVE = {"id": "c1", "op_name": "weave:///e/p/op/openai.chat.completions.create:abc", "exception": None, "summary": {}}
WEAVE |= {"inputs": {"self": "<OpenAI>", "model": "m", "messages": REQUEST["messages"], "tools": TOOLS}}
WEAVE |= {"output": COMPLETION, "started_at": "2026-01-01", "trace_id": "t", "attributes": {"weave": {}}}

FLAT: Record = {"openinference.span.kind": "LLM", "llm.model_name": "m", "llm.token_count.total": 13}
for place, turn in enumerate(REQUEST["messages"]):
    FLAT |= {f"llm.input_messages.{place}.message.{name}": turn[name] for name in ("role", "content") if turn[name]}
ID = "llm.input_messages.2.message.tool_calls.0.tool_call"
FLAT |= {f"{ID}.id": "call_1", f"{ID}.function.name": "weigh", f"{ID}.function.arguments": ARGUMENTS}
FLAT |= {"llm.input_messages.3.message.tool_call_id": "call_1", "llm.tools.0.tool.json_schema": json.dumps(TOOLS[0])}
FLAT |= {"llm.output_messages.0.message.role": "assistant", "llm.output_messages.0.message.reasoning_content": "Three."}
FLAT |= {"llm.output_messages.0.message.content": SAID}
FRAME = {
    "context.span_id": "s", "span_kind": "LLM", "attributes.llm.model_name": "m",
    "attributes.llm.input_messages": [
        {f"message.{name}": value for name, value in turn.items()} for turn in REQUEST["messages"]
    ],
    "attributes.llm.output_messages": [{"message.role": "assistant", "message.contents": [
        {"message_content.type": "reasoning", "message_content.text": "Three."},
        {"message_content.type": "text", "message_content.text": SAID},
    ]}],
    "attributes.llm.tools": [{"tool.json_schema": json.dumps(TOOLS[0])}],
}  # fmt: skip
NAMED = {
    "gen_ai.operation.name": "chat", "gen_ai.tool.definitions": json.dumps(TOOLS),
    "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
    "gen_ai.input.messages": json.dumps([
        {"role": "user", "parts": [{"type": "text", "content": ASK["content"]}]},
        {"role": "assistant", "parts": [
            {"type": "tool_call", "id": "call_1", "name": "weigh", "arguments": {"what": "moss"}}
        ]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": "3"}]},
    ]),
    "gen_ai.output.messages": json.dumps([{"role": "assistant", "finish_reason": "stop", "parts": [
        {"type": "reasoning", "content": "Three."}, {"type": "text", "content": SAID}]}]),
}  # fmt: skip


def otlp(value: Any) -> Record:
    """A value as OTLP's JSON writes it."""
    if isinstance(value, dict):
        return {"kvlistValue": {"values": keyed(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [otlp(each) for each in value]}}
    names = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    return {names[type(value)]: str(value) if type(value) is int else value}


def keyed(attributes: Record) -> list[Record]:
    return [{"key": name, "value": otlp(value)} for name, value in attributes.items()]


def exported(*spans: Record, scope: str = "scopeSpans") -> Record:
    """Spans as a collector writes them: one object holds many."""
    spans = tuple({"traceId": "t1", "spanId": f"s{i}", "startTimeUnixNano": "1764425000000000000", **span}
                  for i, span in enumerate(spans))  # fmt: skip
    resource = {"attributes": keyed({"service.name": "shop"})}
    return {"resourceSpans": [{"resource": resource, scope: [{"scope": {"name": "x"}, "spans": [*spans]}]}]}


def event(name: str, attributes: Record) -> Record:
    return {"name": name, "timeUnixNano": "1", "attributes": keyed(attributes)}


TOLD = [event(f"gen_ai.{turn['role']}.message", {name: json.dumps(text) if isinstance(text, list) else text
                                                 for name, text in turn.items() if text})
        for turn in REQUEST["messages"]]  # fmt: skip
TOLD += [event("gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": json.dumps(CHOICE["message"])})]
DECLARED = {"gen_ai.operation.name": "chat", "gen_ai.tool.definitions": json.dumps(TOOLS)}

ONE: dict[str, list[Record]] = {  # all hold the same conversation: a call, its result, and the answer after a thought
    "OpenAI, request and completion": [{"request": REQUEST, "response": COMPLETION, "latency_ms": 12}],
    "OpenAI, stored completion with its messages": [{**COMPLETION, **REQUEST, "metadata": {}, "top_p": 1.0}],
    "OpenAI, batch": [
        {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST},
        {"id": "b1", "custom_id": "q1", "response": {"status_code": 200, "body": COMPLETION}, "error": None},
    ],
    "Responses, request and response": [{"request": ASKED, "response": RESPONSE}],
    "Responses, stored with its input": [{**RESPONSE, **ASKED, "truncation": "disabled", "temperature": 1.0}],
    "Responses, batch": [
        {"id": "b1", "custom_id": "q1", "response": {"status_code": 200, "body": RESPONSE}, "error": None},
        {"custom_id": "q1", "method": "POST", "url": "/v1/responses", "body": ASKED},
    ],
    "Anthropic, request and response": [{"request": SENT, "response": CLAUDE}],
    "Anthropic, conversation": [
        {"system": "Be brief.", "tools": BLOCK_TOOLS,
         "messages": [*BLOCKS, {"role": "assistant", "content": CLAUDE["content"]}]}
    ],
    "Google, request and response": [{"request": GOOGLE, "response": CANDIDATES}],
    "Google, side by side": [{**GOOGLE, **CANDIDATES}],
    "Google, batch": [{"key": "k1", "response": CANDIDATES}, {"key": "k1", "request": GOOGLE}],
    "Google, tuning": [{**GOOGLE, "contents": [*CONTENTS, {"role": "model", "parts": PARTS}]}],
    "Langfuse, observation": [{**OBSERVED, "scores": SCORES}],
    "Langfuse, table": [
        {**OBSERVED, "input": json.dumps(OBSERVED["input"]), "output": json.dumps([OBSERVED["output"]])}
    ],
    "Langfuse, blob storage": [
        {"id": "o1", "trace_id": "t1", "type": "GENERATION", "input": json.dumps(OBSERVED["input"]),
         "output": json.dumps(OBSERVED["output"]), "usage_details": {}, "latency": 1.2}
    ],
    "LiteLLM, payload": [PAYLOAD],
    "LangSmith, OpenAI's form": [RUN],
    "LangSmith, LangChain's form": [{**RUN, "inputs": {"messages": CHAIN}, "outputs": GENERATIONS}],
    "LangSmith, bulk export": [
        {name: json.dumps(value) if isinstance(value, dict) else value for name, value in RUN.items()}
    ],
    "LangSmith, data set": [
        {"inputs": {"messages": REQUEST["messages"], "tools": TOOLS}, "outputs": {"message": CHOICE["message"]}}
    ],
    "Weave, call": [WEAVE],
    "OpenInference, span": [{"name": "c", "context": {"span_id": "s"}, "span_kind": "LLM", "attributes": FLAT}],
    "Phoenix, data frame": [FRAME],
    "OpenTelemetry, span": [{"name": "chat m", "attributes": NAMED}],
    "OTLP": [exported({"name": "chat m", "attributes": keyed(NAMED), "status": {"code": 1}})],
    "OTLP, values that are no texts": [
        exported({"attributes": keyed({name: json.loads(value) if value[:1] == "[" else value
                                       for name, value in NAMED.items()})})
    ],
    "OTLP, of an older collector": [
        exported({"attributes": keyed(NAMED)}, scope="instrumentationLibrarySpans")
    ],
    "OTLP of Phoenix": [exported({"name": "c", "attributes": keyed(FLAT)})],
    "OTLP, turns as events": [exported({"attributes": keyed(DECLARED), "events": TOLD})],
    "OTLP, details as an event": [
        exported({"attributes": keyed({"gen_ai.operation.name": "chat"}),
                  "events": [event("gen_ai.client.inference.operation.details", NAMED)]})
    ],
    "OTLP, logs": [
        {"resourceLogs": [{"scopeLogs": [{"logRecords": [
            {"eventName": "gen_ai.client.inference.operation.details", "attributes": keyed(NAMED), "spanId": "s"}
        ]}]}]}
    ],
}  # fmt: skip
RATED = ("Langfuse, observation", "LangSmith, bulk export", "LangSmith, OpenAI's form", "LangSmith, LangChain's form")


def lines(tmp_path: Path, records: list[Record]) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("name", ONE)
def test_a_log_gives_the_row_of_its_conversation(name: str, tmp_path: Path) -> None:
    (row,) = read(lines(tmp_path, ONE[name]), tally=Tally())
    said = [(turn["role"], turn["content"]) for turn in row["prompt"]]
    assert said == [("system", "Be brief."), ("user", ASK["content"]), ("assistant", ""), ("tool", "3")]
    (called,) = row["prompt"][2]["tool_calls"]
    arguments = called["function"]["arguments"]
    assert called["function"]["name"] == "weigh"
    assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"what": "moss"}
    assert (row["response"], row["reasoning_content"]) == (SAID, "Three.")
    assert [tool["function"]["name"] for tool in options_of(row)["tools"]] == ["weigh"]
    assert row["scores"] == ({"helpfulness": 4} if name in RATED else {})
    assert "finished" not in row


ENCRYPTED = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
REDACTED = {"type": "redacted_thinking", "data": "xyz"}


@pytest.mark.parametrize(
    "record",
    [{"request": ASKED, "response": {"output": [ENCRYPTED, SPOKEN]}},
     {"request": {"input": [ITEMS[0], ENCRYPTED, *ITEMS[2:]]}, "response": {"output": [SPOKEN]}},
     {"request": SENT, "response": {"content": [REDACTED, {"type": "text", "text": SAID}]}},
     {"messages": [ASK, {"role": "assistant", "content": [REDACTED, {"type": "text", "text": SAID}]}]}],
)  # fmt: skip
def test_thoughts_that_are_encrypted_are_left_out_and_counted(record: Record, tmp_path: Path) -> None:
    tally = Tally()
    (row,) = read(lines(tmp_path, [record]), tally=tally)
    assert (row["response"], "_hidden" in json.dumps(row)) == (SAID, False)
    assert tally.notes == {"left out: thoughts that are encrypted": 1}


CUT = {**CHOICE, "finish_reason": "length"}
SHORT: dict[str, list[Record]] = {  # the answer was cut off, or is a call
    "OpenAI": [{"request": REQUEST, "response": {"choices": [CUT]}}],
    "Responses": [{**RESPONSE, **ASKED, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}],
    "Anthropic": [{"request": SENT, "response": {**CLAUDE, "stop_reason": "max_tokens"}}],
    "Google": [{**GOOGLE, "candidates": [{**CANDIDATES["candidates"][0], "finishReason": "MAX_TOKENS"}]}],
    "LiteLLM": [{**PAYLOAD, "response": {"choices": [CUT]}}],
    "LangSmith": [
        {**RUN, "outputs": {"generations": [[{"text": SAID, "generation_info": {"finish_reason": "length"}}]]}}
    ],
    "Weave": [{**WEAVE, "output": {"choices": [CUT]}}],
    "OpenTelemetry": [{"attributes": {name: text.replace('"stop"', '"length"') for name, text in NAMED.items()}}],
}


@pytest.mark.parametrize("name", SHORT)
def test_an_answer_that_was_cut_off_is_not_finished_in_any_log(name: str, tmp_path: Path) -> None:
    (row,) = read(lines(tmp_path, SHORT[name]), tally=Tally())
    assert (row["response"], row["finished"]) == (SAID, False)


CALLED: dict[str, Record] = {
    "OpenAI": {"request": REQUEST, "response": {"choices": [{"message": CALLING, "finish_reason": "tool_calls"}]}},
    "Responses": {"request": ASKED, "response": {"output": [ITEMS[2]]}},
    "Anthropic": {"request": SENT, "response": {"content": BLOCKS[1]["content"], "stop_reason": "tool_use"}},
    "Google": {"contents": CONTENTS[:1], "candidates": [{"content": CONTENTS[1], "finishReason": "STOP"}]},
    "Langfuse": {**OBSERVED, "output": CALLING},
    "LangSmith": {**RUN, "inputs": {"messages": CHAIN[0][:2]}, "outputs": {"messages": CHAIN[0][2:3]}},
    "OpenInference": {"attributes": {
        name.replace("input_messages.2", "output_messages.0"): value for name, value in FLAT.items()
        if "output_messages" not in name and "messages.3" not in name
    }},
}  # fmt: skip


@pytest.mark.parametrize("name", CALLED)
def test_an_answer_that_calls_a_tool_is_its_call_in_any_log(name: str, tmp_path: Path) -> None:
    (row,) = read(lines(tmp_path, [CALLED[name]]), tally=Tally())
    assert (row["response"], [call["function"]["name"] for call in row["tool_calls"]]) == ("", ["weigh"])


@pytest.mark.parametrize(
    ("record", "why"),
    [({**OBSERVED, "type": "SPAN"}, "it is an observation of the type span, no call of a model"),
     ({**OBSERVED, "output": None}, "its input or its output was not logged"),
     ({**PAYLOAD, "status": "failure", "error_str": "overloaded", "response": {}}, "its call failed (overloaded)"),
     ({**RUN, "run_type": "chain"}, "it is a run of the type chain, no call of a model"),
     ({**RUN, "error": "timeout", "outputs": None}, "its call failed (timeout)"),
     ({**WEAVE, "op_name": "weave:///e/p/op/score:x", "inputs": {"x": 1}, "output": {"y": 2}},
      "it holds no messages and no answer to them (or --map prompt=inputs.NAME response=output.NAME)"),
     ({**WEAVE, "exception": "APIError", "output": None}, "its call failed (APIError)"),
     ({"name": "r", "attributes": {"openinference.span.kind": "RETRIEVER", "input.value": "moss"}},
      "it is a span without the messages of a call of a model"),
     ({**RESPONSE, **ASKED, "previous_response_id": "resp_0"}, "it continues 'resp_0', whose turns it does not hold"),
     ({"request": {**ASKED, "previous_response_id": "resp_0"}, "response": RESPONSE},
      "it continues 'resp_0', whose turns it does not hold")],
)  # fmt: skip
def test_what_is_no_whole_call_of_a_model_is_left_out_and_counted(record: Record, why: str, tmp_path: Path) -> None:
    tally = Tally()
    path = lines(tmp_path, [*ONE["Langfuse, observation"], record])
    assert [row["response"] for row in read(path, tally=tally)] == [SAID]
    assert dict(tally.dropped) == {f"{path}:2: {why}": 1}


RESULT_OF = {"gen_ai.evaluation.name": "helpfulness", "gen_ai.evaluation.score.value": 4}
JUDGED = event("gen_ai.evaluation.result", {**RESULT_OF, "gen_ai.evaluation.score.label": "good"})


def test_spans_of_one_object_are_rows_with_their_scores_or_left_out_one_by_one(tmp_path: Path) -> None:
    call = {"attributes": keyed(NAMED), "events": [JUDGED]}
    failed = {"attributes": keyed(NAMED), "status": {"code": 2, "message": "overloaded"}}
    path = lines(tmp_path, [exported(call, {"name": "GET /", "attributes": keyed({"http.status": 200})}, failed)])
    tally = Tally()
    (row,) = read(path, tally=tally)
    assert (row["id"], row["response"], row["scores"]) == ("s0", SAID, {"helpfulness": 4})
    assert dict(tally.dropped) == {
        f"{path}:1, span 2: it is a span without the messages of a call of a model": 1,
        f"{path}:1, span 3: its call failed (overloaded)": 1,
    }


def test_an_object_of_otlp_that_is_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=r"log.jsonl:1: column 'resourceSpans': wanted lists of objects"):
        read_rows(lines(tmp_path, [{"resourceSpans": ["x"]}]))


def scored(name: str, value: Any, kind: str = "NUMERIC", **of: str) -> Record:
    """A score of Langfuse as blob storage has it."""
    word = {"string_value": value} if isinstance(value, str) else {"value": value, "string_value": None}
    return {"id": f"c{name}{value}", "name": name, "value": 0, "data_type": kind, "source": "API", **word, **of}


GIVEN = [
    scored("helpfulness", 4, observation_id="o1", trace_id="t1"), scored("helpfulness", 1, trace_id="t1"),
    scored("helpfulness", 2, observation_id="o1", trace_id="t1"), scored("depth", 3, trace_id="t1"),
    scored("tone", "kind", "CATEGORICAL", trace_id="t1"), scored("depth", 3, trace_id="elsewhere"),
]  # fmt: skip


@pytest.mark.parametrize("apart", [True, False])
def test_scores_that_langfuse_exports_apart_are_those_of_its_observations(apart: bool, tmp_path: Path) -> None:
    observed = [{**OBSERVED, "id": name} for name in ("o1", "o2")]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(score) + "\n" for score in GIVEN))
    path = lines(tmp_path, observed if apart else [*GIVEN, *observed])
    tally = Tally()
    reading = Reading(scores=str(tmp_path / "scores.jsonl") if apart else "")
    first, second = read(path, tally=tally, reading=reading)
    assert first["scores"] == {"helpfulness": 3, "depth": 3}
    assert first["raters"] == {"helpfulness": [4, 2]}
    assert second["scores"] == {"helpfulness": 1, "depth": 3}
    assert (first["tone"], second["tone"]) == ("kind", "kind")
    assert tally.notes == {"given: scores of its whole trace": 2}
    assert [why.split(": ", 1)[1] for why in tally.dropped] == ["it is a score of a trace that is not there"]


@pytest.mark.parametrize(
    ("records", "apart", "message"),
    [(GIVEN[:1], [], "log.jsonl:1: holds a score without the observation that it is of. Read the file of observations"),
     ([OBSERVED, GIVEN[0]], [], "log.jsonl:2: holds a score after observations that it may be of. Name the file of"),
     ([OBSERVED], [OBSERVED], "scores.jsonl:1: holds no score; wanted scores of Langfuse")],
)  # fmt: skip
def test_scores_of_langfuse_that_cannot_be_joined_are_refused_with_a_remedy(
    records: list[Record], apart: list[Record], message: str, tmp_path: Path
) -> None:
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(score) + "\n" for score in apart))
    with pytest.raises(SteerError) as caught:
        list(read(lines(tmp_path, records), reading=Reading(scores=str(tmp_path / "scores.jsonl") if apart else "")))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [(COMPLETION, "holds an answer without what was asked. Write that beside it (from GET /chat/completions/ID/mess"),
     (RESPONSE, "holds an answer without what was asked. Write that beside it (from GET /responses/ID/input_items"),
     ({"object": "list", "data": [COMPLETION]}, "holds a page of a list. Write each entry of its 'data' on a line"),
     ({"prompt": {"0": "q", "7": "r"}, "response": {"0": "x", "7": "y"}}, "holds a whole table of pandas. Write one"),
     ({"columns": ["prompt"], "index": [0], "data": [["q"]]}, "holds a whole table of pandas. Write one row a line: "),
     ({"schema": {"fields": []}, "data": [{"index": 0, "prompt": "q"}]}, "holds a whole table of pandas. Write one"),
     ({"data": [{"prompt": "q", "response": "x"}]}, "holds all rows in one list. Write each entry of its 'data' on"),
     ({**OBSERVED, "observations": [{}]}, "holds a whole trace. Export the table of its observations")],
)  # fmt: skip
def test_a_log_that_lacks_what_was_asked_is_refused_with_a_remedy(record: Record, message: str) -> None:
    with pytest.raises(DataError) as caught:
        layouts.rows(record)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "record",
    [COMPLETION, RESPONSE, {"custom_id": "1", "response": {"status_code": 200, "body": RESPONSE}},
     {"custom_id": "1", "response": {"status_code": 200, "body": COMPLETION}}, {"key": "1", "response": CANDIDATES}],
)  # fmt: skip
def test_answers_alone_take_one_prompt_for_all(record: Record, tmp_path: Path) -> None:
    path = lines(tmp_path, [record])
    (row,) = read_rows(path, prompt="Say it")
    assert (row["prompt"], row["response"], row["reasoning_content"]) == (
        [{"role": "user", "content": "Say it"}], SAID, "Three."
    )  # fmt: skip
    with pytest.raises(SteerError, match="--default-prompt"):
        read_rows(path)


def test_attributes_of_a_response_are_no_attributes_of_a_span() -> None:
    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (row,) = layouts.rows({"conversations": said, "attributes": {"llm": 3, "gen_ai": 1}})
    assert (row["response"], row["scores"]) == ("a", {"llm": 3, "gen_ai": 1})


def annotated(*results: Record, cancelled: bool = False) -> Record:
    return {"id": 1, "completed_by": 1, "was_cancelled": cancelled, "lead_time": 4.2, "result": list(results)}


def answer(name: str, kind: str, value: Any) -> Record:
    return {"id": "a", "from_name": name, "to_name": "response", "type": kind, "value": {kind: value}}


def test_what_annotators_of_label_studio_said_are_ratings_of_several_raters() -> None:
    first = annotated(answer("quality", "rating", 4), answer("tone", "choices", ["kind"]), answer("depth", "number", 2))
    others = [annotated(answer("quality", "rating", 2)), annotated(answer("quality", "rating", 1), cancelled=True)]
    record = {"id": 7, "data": {"prompt": "q", "response": "a"}, "annotations": [first, *others], "predictions": []}
    (row,) = layouts.rows(record)
    assert (row["id"], row["response"], row["tone"]) == ("7", "a", "kind")
    assert row["scores"] == {"quality": 3, "depth": 2}
    assert row["raters"]["quality"] == [4, 2]
    (row,) = layouts.rows({**record, "annotations": []})
    assert row["scores"] == {}


@pytest.mark.parametrize(
    ("selected", "preferred"), [(["left"], [1, 0]), (["right", "right"], [0, 1]), (["left", "right"], [0.5, 0.5])]
)
def test_a_choice_between_two_texts_in_label_studio_is_a_preference(
    selected: list[str], preferred: list[float]
) -> None:
    results = [
        {"from_name": "pw", "to_name": "a,b", "type": "pairwise", "value": {"selected": side}} for side in selected
    ]
    data = {"prompt": "q", "answer1": "good", "answer2": "bad"}
    rows = layouts.rows({"id": 7, "data": data, "annotations": [annotated(result) for result in results]})
    assert [(row["response"], row["scores"]["preference"]) for row in rows] == [*zip(["good", "bad"], preferred)]
