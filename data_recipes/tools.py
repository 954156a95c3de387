"""Read what a record says of tools in columns of its own: functions, a choice among them, and the response's calls."""

from __future__ import annotations

from typing import Any

from data_recipes.marks import NOTED, Row
from data_recipes.parts import calls, parsed

CHOICE = ("tool_choice", "function_call")  # which tool may be called: OpenAI's names of 2024 and of 2023
ANSWER = ("response", "completion", "generation", "output")  # columns of an answer that may be a call and no text


def named(record: Row) -> Row:
    """Return a record with its functions in `tools` and its calls in `tool_calls`; what was left out is in NOTED.

    OpenAI's `functions` of 2023 are tools; a `function_call` with arguments is what the response calls; tools that the
    request forbade to call (`tool_choice` none) are no part of the prompt, as in `steer serve`.
    """
    notes: list[str] = []
    functions = _functions(record.get("functions"))
    if functions and not record.get("tools"):
        record = {**{c: v for c, v in record.items() if c != "functions"}, "tools": functions}
    elif functions:
        notes += ["ignored: 'functions' beside other 'tools'"] if functions != _functions(record["tools"]) else []
        record = {c: v for c, v in record.items() if c != "functions"}
    if isinstance(declared := parsed(record.get("tools")), list) and (flat := _flat(declared)) != declared:
        record = {**record, "tools": flat}
    called = parsed(record.get("function_call"))
    if isinstance(called, dict) and "arguments" in called and not record.get("tool_calls"):
        rest = {c: v for c, v in record.items() if c != "function_call"}
        record = {**rest, "tool_calls": called}
    if isinstance(made := calls(record.get("tool_calls")), list) and made:
        unsaid = {c: "" for c in ANSWER if c in record and record[c] is None}
        record = {**record, "tool_calls": made, **unsaid}
    if record.get("tools") and "none" in [_kind(record.get(c)) for c in CHOICE]:
        notes.append("left out: 'tools' that the request forbade to call (choice none)")
        record = {c: v for c, v in record.items() if c != "tools"}
    return {**record, NOTED: [*record.get(NOTED, ()), *notes]} if notes else record


def _functions(value: Any) -> list[Row]:
    """Return declarations of functions as entries of `tools`; empty if the value holds something else."""
    value = parsed(value)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return []
    tools = [
        each if isinstance(each.get("function"), dict) else {"type": "function", "function": each} for each in value
    ]
    return tools if all(isinstance(tool["function"].get("name"), str) for tool in tools) else []


def _flat(tools: list[Any]) -> list[Any]:
    """Return tools with those one by one that Google and Amazon declare together."""
    flat: list[Any] = []
    for tool in tools:
        names = ("functionDeclarations", "function_declarations") if isinstance(tool, dict) else ()
        several = next((tool[name] for name in names if isinstance(tool.get(name), list)), None)
        flat += _functions(several) or [tool] if several is not None else [_spec(tool)]
    return flat


def _spec(tool: Any) -> Any:
    """Return Amazon's {toolSpec: {name, description, inputSchema: {json}}} as OpenAI writes it."""
    spec = tool.get("toolSpec") if isinstance(tool, dict) else None
    if not isinstance(spec, dict):
        return tool
    schema = spec.get("inputSchema")
    schema = schema.get("json", schema) if isinstance(schema, dict) else {}
    function = {c: v for c, v in spec.items() if c != "inputSchema"} | {"parameters": schema}
    return {"type": "function", "function": function}


def _kind(choice: Any) -> Any:
    """Return the kind of a choice among tools: auto, none, ..., or a name."""
    return choice.get("type") if isinstance(choice, dict) else choice
