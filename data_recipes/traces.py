"""Read what tracing tools and gateways export as a request and its response, the columns that `logs.py` knows.

Langfuse's observations, LiteLLM's payloads, LangSmith's runs, W&B Weave's calls, spans of OpenInference (Phoenix) and
of OpenTelemetry, Google's requests and answers side by side, and what OpenAI stores. A span that is no call of a model
is left out and counted: what it holds is also in the calls below it. So is a call that failed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from data_recipes import spans
from data_recipes.cells import number
from data_recipes.marks import LEFT_OUT, Row
from data_recipes.parts import as_object, parsed
from data_recipes.speakers import langchain
from data_recipes.streams import DataError

NO_CALL = "_no_call"  # why a record of a trace is left out
GOOGLE = (
    "contents",
    "systemInstruction",
    "system_instruction",
    "tools",
    "toolConfig",
    "tool_config",
    "generationConfig",
)
NUMERIC = ("NUMERIC", "BOOLEAN")  # types of Langfuse's scores; others are words, whose number is only their place
UNNAMED = ("request", "response", "prompt", "scores", "raters", "id", "error")  # columns that no word may take
DIRECT = ("prompt", "messages", "response", "request")  # columns of records that are no span


def plain(record: Row) -> Row:
    """Return a record of a trace as {request, response, ...}, or with NO_CALL; any other record unchanged."""
    refuse_table(record)
    columns = record.keys()
    if _dotted(tuple(columns)):
        record = spans.nested(record)  # of a data frame
    if not {*DIRECT} & columns and spans.is_span(record):
        return _span(record)
    if not {*DIRECT} & columns and isinstance(parsed(record.get("inputs")), dict):
        if {"op_name", "output"} <= columns:
            return _run(record, "output", "op_name")
        if "outputs" in columns:
            return _run(record, "outputs", "run_type", wanted=("llm",))
    if isinstance(name := record.get("object"), str) and name in ("list", "response", "chat.completion"):
        return _stored(record, name)
    if {"input", "output"} <= columns and {"traceId", "trace_id", "observations"} & columns:
        return _observation(record)
    if {"messages", "response", "model_parameters"} <= columns:
        return _payload(record)
    if isinstance(record.get("contents"), list) and not {*DIRECT} & columns:
        return _google(record)
    return record


def refuse_table(record: Row) -> None:
    """Raise DataError if a record is a whole table: `DataFrame.to_json` without orient="records", or {data: [rows]}."""
    columns = [*record.values()]
    by_row = len(columns) > 1 and all(isinstance(column, dict) and column for column in columns)
    by_row = by_row and all(column.keys() == columns[0].keys() for column in columns)
    by_row = by_row and all(str(key).isdecimal() for key in columns[0])
    split = ({"columns", "index", "data"}, {"columns", "data"}, {"schema", "data"})  # orient="split" and "table"
    table = record.keys() in split and isinstance(record["data"], list)
    if by_row or table:
        raise DataError(
            "holds a whole table of pandas. Write one row a line: "
            'frame.to_json("rows.jsonl", orient="records", lines=True).'
        )
    if record.keys() == {"data"} and isinstance(record["data"], list):
        raise DataError("holds all rows in one list. Write each entry of its 'data' on a line of its own.")


@lru_cache(maxsize=1000)
def _dotted(columns: tuple[str, ...]) -> bool:
    """Whether some of the columns are attributes of a span, each a column of its own."""
    return any(isinstance(c, str) and c.startswith(("attributes.llm.", "attributes.gen_ai.")) for c in columns)


def nothing(record: Row) -> list[Row]:
    """Return the row of a record that is no call of a model: it is left out, and says why."""
    return [{"prompt": [], LEFT_OUT: record[NO_CALL]}]


def _exchange(record: Row, used: set[str], request: Row, response: Any, scores: Any = None) -> Row:
    if error := record.get("error") or record.get("exception"):
        why = error.get("message", error.get("code")) if isinstance(error, dict) else error
        return {NO_CALL: f"its call failed ({' '.join(str(why).split())[:60]})"}
    rest = {c: v for c, v in record.items() if c not in {*used, "scores", "error"}}
    return {**rest, **_scores(scores or record.get("scores")), "request": request, "response": response}


def _scores(given: Any) -> Row:
    """Return scores {name: number} and raters {name: [numbers]} from a list of {name or key, value or score}.

    What is said in a word becomes a column of that name.
    """
    given = parsed(given)
    if isinstance(given, dict):
        given = [{"name": name, "value": value} for name, value in given.items()]
    several: dict[str, list[float]] = {}
    words: Row = {}
    for one in given if isinstance(given, list) else ():
        if isinstance(one, dict):
            name, value = one.get("name", one.get("key")), one.get("value", one.get("score"))
            each = value.get("avg") if isinstance(value, dict) else value  # LangSmith's feedback_stats
            word = next(
                (w for w in (one.get("stringValue"), one.get("string_value"), each) if isinstance(w, str) and w), ""
            )
            kind = str(one.get("dataType", one.get("data_type")) or "NUMERIC")
            if isinstance(name, str) and kind in NUMERIC and (score := number(each)) is not None:
                several.setdefault(name, []).append(score)
            elif isinstance(name, str) and word:
                words[name] = word
    words = {name: word for name, word in words.items() if name not in several and name not in UNNAMED}
    if not several:
        return words
    means = {name: sum(each) / len(each) for name, each in several.items()}
    raters = {name: each for name, each in several.items() if len(each) > 1}
    return {**words, "scores": means, **({"raters": raters} if raters else {})}


def _observation(record: Row) -> Row:
    """Read an observation of Langfuse: JSON, or the same as text in a table."""
    if isinstance(record.get("observations"), list):
        raise DataError("holds a whole trace. Export the table of its observations, which has one call a record.")
    name = record.get("type")
    if isinstance(name, str) and name.lower() != "generation":
        return {NO_CALL: f"it is an observation of the type {name.lower()}, no call of a model"}
    sent, output = parsed(record["input"]), parsed(record["output"])
    if sent is None or output is None:
        return {NO_CALL: "its input or its output was not logged"}
    output = {"message": output} if isinstance(output, dict) and "role" in output else output
    if isinstance(output, list) and output and all(isinstance(each, dict) and "role" in each for each in output):
        output = {"message": output[-1]}
    request = {**sent} if isinstance(sent, dict) else {"messages": sent} if isinstance(sent, list) else {"prompt": sent}
    return _exchange(record, {"input", "output", "type"}, _request(request), output)


def _stored(record: Row, name: str) -> Row:
    """Read a completion or a response that OpenAI keeps, if what was asked is beside it."""
    if name == "list":
        raise DataError("holds a page of a list. Write each entry of its 'data' on a line of its own.")
    ask = next((c for c in ("messages", "input", "prompt") if isinstance(record.get(c), (str, list)) and record[c]), "")
    if not ask:
        where = "/responses/ID/input_items, as 'input'" if name == "response" else "/chat/completions/ID/messages"
        remedy = f"Write that beside it (from GET {where}), or give one prompt to all with --default-prompt"
        raise DataError(f"holds an answer without what was asked. {remedy}.")
    if name != "response" or not isinstance(record.get("output"), list):
        return record
    sent = ("instructions", "tools", "tool_choice", "previous_response_id", "conversation")
    request = {c: record[c] for c in sent if record.get(c)} | {"input": record[ask]}
    response = {c: record[c] for c in ("output", "status", "incomplete_details") if c in record}
    return _exchange(record, {*request, *response, ask, "object", "truncation", "reasoning", "text"}, request, response)


def _payload(record: Row) -> Row:
    """Read a payload of LiteLLM, whose settings of the request are in a column of their own."""
    if record.get("status") == "failure":
        record = {**record, "error": record.get("error_str") or "failure"}
    request = {**as_object(record["model_parameters"]), "messages": record["messages"]}
    return _exchange(record, {"messages", "response", "model_parameters"}, request, record["response"])


def _google(record: Row) -> Row:
    """Read Google's request and answer side by side; contents alone are a conversation."""
    if "candidates" in record:
        request = {c: record[c] for c in GOOGLE if c in record}
        return _exchange(record, {*request, "candidates"}, request, {"candidates": record["candidates"]})
    instruction: Row = next((record[c] for c in GOOGLE[1:3] if isinstance(record.get(c), dict)), {})
    system = [{"role": "system", "parts": instruction["parts"]}] if instruction.get("parts") else []
    rest = {c: v for c, v in record.items() if c not in GOOGLE or c == "tools"}
    return {**rest, "messages": [*system, *({"role": "user", **turn} for turn in record["contents"])]}


def _run(record: Row, column: str, named: str, wanted: tuple[str, ...] = ()) -> Row:
    """Read a run of LangSmith or a call of Weave: objects of what went in and what came out."""
    sent, output, name = parsed(record["inputs"]), parsed(record[column]), record.get(named)
    if wanted and isinstance(name, str) and name not in wanted:
        return {NO_CALL: f"it is a run of the type {name}, no call of a model"}
    tools = as_object(as_object(parsed(record.get("extra"))).get("invocation_params")).get("tools")
    response = _output(output)
    asked = {"messages", "prompts", "prompt", "input", "contents"} & sent.keys()
    if not asked or (response is None and not record.get("error") and not record.get("exception")):
        named = f"--map prompt=inputs.NAME response={column}.NAME"
        return {NO_CALL: f"it holds no messages and no answer to them (or {named})"}
    request = {**({"tools": tools} if tools else {}), **_request(sent)}
    scores = record.get("feedback") or record.get("feedback_stats")
    return _exchange(record, {"inputs", column, named, "extra"}, request, response, scores)


def _request(sent: Row) -> Row:
    """Return a request with its messages in OpenAI's form; LangChain has a list of them for each prompt."""
    sent = {**sent}
    if isinstance(prompts := sent.pop("prompts", None), list) and len(prompts) == 1:
        sent["prompt"] = prompts[0]
    for name in ("messages", "input"):
        if isinstance(sent.get(name), list):
            turns = sent[name][0] if len(sent[name]) == 1 and isinstance(sent[name][0], list) else sent[name]
            sent[name] = [langchain(turn) for turn in turns]
    return sent


def _output(output: Any) -> Any:
    """Return what came out as a response that `logs.py` reads, or None."""
    if isinstance(output, str):
        return output or None
    if not isinstance(output, dict):
        return {"message": langchain(output[-1])} if isinstance(output, list) and output else None
    drawn = output.get("generations")
    if isinstance(drawn, list):  # of LangChain: for each prompt, its candidates
        drawn = drawn[0] if drawn and isinstance(drawn[0], list) else drawn
        return {"choices": [_generation(each) for each in drawn]} if drawn else None
    if isinstance(output.get("messages"), list) and output["messages"]:
        return {"message": langchain(output["messages"][-1])}
    if isinstance(output.get("message"), dict):
        return {**output, "message": langchain(output["message"])}
    if "role" in output or output.get("lc"):
        return {"message": langchain(output)}
    if isinstance(output.get("output"), str):
        return output["output"]
    return output if {"choices", "candidates", "content", "output", "text", "completion"} & output.keys() else None


def _generation(each: Any) -> Row:
    """Return a generation of LangChain as a choice."""
    each = each if isinstance(each, dict) else {"text": each}
    inner = langchain(each["message"]) if isinstance(each.get("message"), dict) else {"content": each.get("text")}
    return {**as_object(each.get("generation_info")), "message": inner}


def _span(record: Row) -> Row:
    """Read a span of OpenInference or of OpenTelemetry."""
    read = spans.call(record)
    if isinstance(read, str):
        return {NO_CALL: read}
    request, response, rest = read
    return _exchange({**record, **rest}, {"attributes", "span_kind", "events", "status"}, request, response)
