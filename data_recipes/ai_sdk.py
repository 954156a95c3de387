"""Read messages of the AI SDK (Vercel), whose parts hold several steps of a model and the results of its tools."""

from __future__ import annotations

from typing import Any

from data_recipes.parts import hide, objects

Part = dict[str, Any]
SHOWN = ("source-url", "source-document", "source")  # where an interface says that a statement comes from
ERRORS = ("errorText", "error")  # why a tool failed


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
    rest = {name: value for name, value in turn.items() if name not in ("parts", "content", "toolInvocations")}
    said: list[tuple[list[Part], list[Part]]] = [([], [])]  # of each step: its parts, and the results of its tools
    for part in parts:
        name = str(part.get("type"))
        if name.startswith("data-"):
            hide(rest, "parts of messages that only an interface shows (data-...)")
        if name in SHOWN or name.startswith("data-"):
            continue
        if said[-1][1] and not _tool(name):
            said.append(([], []))
        if name == "step-start":
            continue
        if not _tool(name):
            said[-1][0].append({**part, "text": part["reasoning"]} if "reasoning" in part else part)
            continue
        made = part["toolInvocation"] if isinstance(part.get("toolInvocation"), dict) else part
        tool = made.get("toolName") or name.removeprefix("tool-")
        if made.get("providerExecuted"):
            said[-1][0].append(part)
            continue
        asked = {"toolCallId": made.get("toolCallId"), "toolName": tool}
        said[-1][0].append({"type": "tool-call", **asked, "input": made.get("input", made.get("args"))})
        found = next((made[key] for key in ("output", "result", *ERRORS) if made.get(key) is not None), None)
        if found is not None:
            said[-1][1].append({"type": "tool-result", **asked, "result": found})
    turns = []
    for number, (own, results) in enumerate(said):
        turns.append({**(rest if number == len(said) - 1 else {"role": rest.get("role")}), "content": own})
        turns += [{"role": "tool", "content": [result]} for result in results]
    return turns


def _tool(name: str) -> bool:
    """Whether a part of this type is a call of a tool, with its result where it has one."""
    return name.startswith("tool-") or name == "dynamic-tool"
