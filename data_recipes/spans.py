"""Read spans of OpenInference (Phoenix) and of OpenTelemetry, also from OTLP's JSON, which holds many in one object.

What was asked and said is in attributes (`llm.input_messages`, `gen_ai.input.messages`), or in events of the span.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_recipes.cells import number
from data_recipes.marks import Row
from data_recipes.parts import as_object, objects, parsed
from data_recipes.streams import DataError, Record

WRAPPED = ("message", "tool_call", "message_content", "tool")  # OpenInference puts every entry of a list into one
OTLP = (  # names of lists inside of each other, in the spellings of OTLP's JSON, of older versions and of Tempo
    ("resourceSpans", "resource_spans", "batches", "resourceLogs", "resource_logs"),
    ("scopeSpans", "scope_spans", "instrumentationLibrarySpans", "scopeLogs", "scope_logs"),
    ("spans", "logRecords", "log_records"),
)
NAMES = {"traceId": "trace_id", "spanId": "id", "span_id": "id", "eventName": "name"}
VALUES = ("stringValue", "string_value", "boolValue", "bool_value", "doubleValue", "double_value")
ROLES = ("system", "user", "assistant", "tool")  # of the events gen_ai.ROLE.message
FAILED = ("2", "ERROR", "STATUS_CODE_ERROR")


def expanded(place: str, record: Record) -> Iterator[tuple[str, Record]]:
    """Yield the spans and the records of logs that an object of OTLP's JSON holds; any other record as it is."""
    if not any(isinstance(record.get(name), list) for name in OTLP[0]):
        yield place, record
        return
    found: list[Any] = [record]
    for names in OTLP:
        lists = [each[name] for each in found for name in names if each.get(name) is not None]
        found = [inner for several in lists for inner in (several if isinstance(several, list) else [several])]
        if not all(isinstance(each, dict) for each in found):
            raise DataError(f"{place}: column '{names[0]}': wanted lists of objects, as OTLP writes them.")
    for i, span in enumerate(found, start=1):
        yield f"{place}, span {i}", _plain(span)


def _plain(span: Row) -> Row:
    """Return a span of OTLP with its attributes as an object, and those of its events."""
    events = [{**event, "attributes": _attributes(event.get("attributes"))} for event in objects(span.get("events"))]
    plain = {NAMES.get(name, name): value for name, value in span.items()}
    if "body" in plain:  # of a record of a log, of which a span has several
        body = _value(plain.pop("body"))
        events.append({"name": plain.get("name"), "attributes": as_object(body)})
        plain = {name: value for name, value in plain.items() if name != "id"}
    return {"trace_id": "", **plain, "attributes": _attributes(span.get("attributes")), "events": events}


def _attributes(value: Any) -> Row:
    """Return OTLP's list of {key, value} as an object."""
    if isinstance(value, dict):
        return value
    return {str(each.get("key")): _value(each.get("value")) for each in objects(value)}


def _value(value: Any) -> Any:
    """Return a value of OTLP, an object that names its type, as JSON has it."""
    if not isinstance(value, dict):
        return value
    for name, inner in value.items():
        if name in VALUES:
            return inner
        if name in ("intValue", "int_value"):  # a text, because JSON's numbers are not exact
            return int(number(inner) or 0)
        if name in ("arrayValue", "array_value"):
            return [_value(each) for each in objects(as_object(inner).get("values"))]
        if name in ("kvlistValue", "kvlist_value"):
            return _attributes(as_object(inner).get("values"))
    return None


def is_span(record: Row) -> bool:
    """Whether a record is a span: it has an id among spans, or attributes whose names have parts, or hold objects."""
    attributes = record.get("attributes")
    if not isinstance(attributes, dict):
        return False
    flat = any(str(name).startswith(("llm.", "gen_ai.", "openinference.")) for name in attributes)
    held = any(isinstance(attributes.get(name), dict) for name in ("llm", "gen_ai", "openinference"))
    return flat or held or {"trace_id", "events"} <= record.keys()


def call(record: Row) -> tuple[Row, Row, Row] | str:
    """Return what a span asked, what was answered and its other values, or why it is no call of a model."""
    attributes = nested(_with_events(record))
    llm, gen = (as_object(attributes.get(name)) for name in ("llm", "gen_ai"))
    sent, said = _of_events(record)
    sent = _unwrapped(llm.get("input_messages")) or _of(gen, "input", "messages") or parsed(gen.get("prompt")) or sent
    said = (
        _unwrapped(llm.get("output_messages"))
        or _of(gen, "output", "messages")
        or parsed(gen.get("completion"))
        or said
    )
    sent = [{"role": "user", "content": sent}] if isinstance(sent, str) else sent
    said = [{"role": "assistant", "content": said}] if isinstance(said, str) else said
    rest = _scores(record)
    if isinstance(sent, list) and sent and (why := _failed(record)):
        return {}, {}, {"error": why}
    if not isinstance(sent, list) or not isinstance(said, list) or not said:
        return "it is a span without the messages of a call of a model"
    declared = [
        parsed(each.get("json_schema")) for each in _unwrapped(llm.get("tools")) or () if isinstance(each, dict)
    ]
    tools = declared or _of(gen, "tool", "definitions")
    system = parsed(gen.get("system_instructions"))
    request = {"messages": sent, **({"tools": tools} if tools else {})}
    request |= {"system": system} if system else {}
    model = llm.get("model_name") or _of(gen, "request", "model")
    rest |= {"model": model} if isinstance(model, str) else {}
    choices = [each if "message" in each else {"message": each} for each in said if isinstance(each, dict)]
    return request, {"choices": choices}, rest


def _failed(record: Row) -> str:
    """Return why the call of a span failed, "" if it did not."""
    status = as_object(record.get("status"))
    code = status.get("code", status.get("status_code", record.get("status_code")))
    named = (status.get("message"), status.get("description"), record.get("status_message"), "its status is an error")
    return next((str(each) for each in named if each), "") if str(code) in FAILED else ""


def _events(record: Row) -> Iterator[tuple[str, Row]]:
    """Yield the names of a span's events with their attributes; some hold all of these as JSON in one."""
    for event in objects(record.get("events")):
        if isinstance(attributes := event.get("attributes"), dict):
            inner = parsed(attributes.get("gen_ai.event.content"))
            yield str(event.get("name")), {**attributes, **as_object(inner)}


def _with_events(record: Row) -> Row:
    """Return the attributes of a span and those that its events have in their place."""
    inside: Row = {}
    for _, attributes in _events(record):
        inside |= {name: value for name, value in attributes.items() if str(name).startswith("gen_ai.")}
    return {**inside, **as_object(record.get("attributes"))}


def _of_events(record: Row) -> tuple[list[Row], list[Row]]:
    """Return what was asked and what was said, where each turn is an event (`gen_ai.user.message`, `gen_ai.choice`)."""
    sent: list[Row] = []
    said: list[Row] = []
    for name, flat in _events(record):
        event = {key: parsed(value) for key, value in nested(flat).items() if key != "gen_ai"}
        role = name.removeprefix("gen_ai.").removesuffix(".message")
        if name == "gen_ai.choice":
            said.append(event)
        elif role in ROLES and name != role:
            named = {"tool_call_id": event["id"]} if role == "tool" and event.get("id") else {}
            sent.append({"role": role, **named, **event})
    return sent, said


def _scores(record: Row) -> Row:
    """Return the scores among the events of a span."""
    found = [flat for name, flat in _events(record) if name == "gen_ai.evaluation.result"]
    scores = [
        {"name": each.get("gen_ai.evaluation.name"), "value": each.get(f"gen_ai.evaluation.score.{kind}")}
        for each in found
        for kind in ("value", "label")
        if each.get(f"gen_ai.evaluation.score.{kind}") is not None
    ]
    return {"scores": scores} if scores else {}


def _of(value: Row, *path: str) -> Any:
    """Return what an object holds at a path of names, read as JSON if it is a text; None if there is nothing."""
    inner: Any = value
    for name in path:
        inner = inner.get(name) if isinstance(inner, dict) else None
    return parsed(inner)


def nested(flat: Row) -> Row:
    """Return {"a.0.b": x} as {"a": [{"b": x}]}; nested objects are looked at too."""
    tree: Row = {}
    for path, value in flat.items():
        at = tree
        *before, last = str(path).split(".")
        for name in before:
            at[name] = at[name] if isinstance(at.get(name), dict) else {}
            at = at[name]
        at[last] = value
    return {name: _listed(value) for name, value in tree.items()}


def _listed(value: Any) -> Any:
    """Return objects whose names are 0, 1, ... as lists, at every depth; names with dots are paths."""
    if isinstance(value, list):
        return [_listed(each) for each in value]
    if not isinstance(value, dict):
        return value
    if any("." in str(name) for name in value):
        return nested(value)
    if value and all(str(name).isdigit() for name in value):
        return [_listed(value[name]) for name in sorted(value, key=int)]
    return {name: _listed(inner) for name, inner in value.items()}


def _unwrapped(value: Any) -> Any:
    """Return lists without the object around each entry: {"message": {"role": ...}} is {"role": ...}."""
    if isinstance(value, list):
        return [_unwrapped(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and (name := next(iter(value))) in WRAPPED and isinstance(value[name], dict):
        return _unwrapped(value[name])
    inner = {name: _unwrapped(each) for name, each in value.items()}
    return {**inner, "content": inner["contents"]} if inner.get("contents") and "role" in inner else inner
