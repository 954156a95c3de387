"""Read messages of the AI SDK (Vercel), whose parts hold several steps of a model and the results of its tools."""

from __future__ import annotations

from typing import Any

from data_recipes.parts import DENIED, as_object, hide, objects

Part = dict[str, Any]
SHOWN = ("source-url", "source-document", "source")  # where an interface says that a statement comes from
ASKED = ("input", "args", "rawInput")  # what a tool was asked; the last where that was no valid JSON
FOUND = ("output", "result", "errorText", "error")  # what it answered, or why it failed
ANSWERED = ("output-available", "result")  # states of a call whose tool answered, if with nothing
SAID = ("reasoning", "text")  # what a step of versions 3 and 4 holds beside calls and results


def steps(turn: Any) -> list[Any]:
    """Return a message of an interface as the turns that the model wrote and saw; anything else as it is.

    A step is what the model wrote until it waited for tools: a turn with its calls, followed by a turn for each result.
    """
    if not isinstance(turn, dict):
        return [turn]
    parts = objects(turn.get("parts"))
    if not any(isinstance(part.get("type"), str) for part in parts):
        invoked = objects(turn.get("toolInvocations"))  # version 3: the calls, and the text that follows them
        if not invoked:
            return [turn]
        parts = [{"type": "tool-invocation", "toolInvocation": each} for each in invoked]
        parts += [{"type": "text", "text": turn["content"]}] if turn.get("content") else []
    twice = ("reasoning",) if any(part.get("type") == "reasoning" for part in parts) else ()  # of version 4
    rest = {n: value for n, value in turn.items() if n not in ("parts", "content", "toolInvocations", *twice)}
    said: list[tuple[list[Part], list[Part]]] = [([], [])]  # of each step: its parts, and the results of its tools
    step = None  # of version 4: the number of a call's step
    for part in parts:
        name = str(part.get("type"))
        if name.startswith("data-"):
            hide(rest, "parts of messages that only an interface shows (data-...)")
        if name in SHOWN or name.startswith("data-"):
            continue
        if said[-1][1] and not _tool(name):
            said.append(([], []))
        if not _tool(name):
            said[-1][0].append({**part, "text": part["reasoning"]} if "reasoning" in part else part)
            continue
        made = part["toolInvocation"] if isinstance(part.get("toolInvocation"), dict) else part
        if said[-1][1] and made.get("step") != step:
            said.append(([], []))
        step = made.get("step")
        tool = made.get("toolName") or name.removeprefix("tool-")
        if made.get("providerExecuted"):
            said[-1][0].append(part)
            continue
        asked = {"toolCallId": made.get("toolCallId"), "toolName": tool}
        said[-1][0].append({"type": "tool-call", **asked, "input": _first(made, ASKED)})
        found = _first(made, FOUND)
        if found is None and made.get("state") == "output-denied":
            found = as_object(made.get("approval")).get("reason") or DENIED
        if found is not None or made.get("state") in ANSWERED:
            said[-1][1].append({"type": "tool-result", **asked, "result": "" if found is None else found})
    if len(said) > 1 and all(part.get("type") == "step-start" for part in said[-1][0]):  # nothing came of it
        said.pop()
    turns = []
    for number, (own, results) in enumerate(said):
        turns.append({**(rest if number == len(said) - 1 else {"role": rest.get("role")}), "content": own})
        turns += [{"role": "tool", "content": [result]} for result in results]
    return turns


def generated(response: Any) -> tuple[list[Part], Any]:
    """Return the turns before the last step of a result of `generateText`, and that step; else none, and the response.

    As JSON versions 5 and 6 hold nothing but the steps; what 3 and 4 hold beside them is that of the last one.
    """
    taken = objects(response.get("steps")) if isinstance(response, dict) else []
    if not taken or not all("finishReason" in step for step in taken):
        return [], response
    turns: list[Part] = []
    for step in taken:
        texts = [{"type": name, "text": step[name]} for name in SAID if isinstance(step.get(name), str)]
        calls = [{"type": "tool-call", **part} for part in objects(step.get("toolCalls"))]
        results = [{"type": "tool-result", **part} for part in objects(step.get("toolResults"))]
        parts = objects(step.get("content")) or [*texts, *calls, *results]
        own = [p for p in parts if p.get("type") in ("tool-result", "tool-error") and not p.get("providerExecuted")]
        turns.append({"role": "assistant", "content": [part for part in parts if part not in own]})
        turns += [{"role": "tool", "content": [{**part, "type": "tool-result"}]} for part in own]
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    return turns[:last], {"message": turns[last], "finishReason": taken[-1]["finishReason"]}


def _first(values: Part, names: tuple[str, ...]) -> Any:
    """Return the first of several values that is there."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def _tool(name: str) -> bool:
    """Whether a part of this type is a call of a tool, with its result where it has one."""
    return name.startswith("tool-") or name == "dynamic-tool"
