"""Read who speaks in a turn: roles by any of their names, LangChain's messages, and the speakers of a desk's logs."""

from __future__ import annotations

from typing import Any

from data_recipes.endings import ended
from data_recipes.metadata import words
from data_recipes.parts import as_object

ROLES = {"human": "user", "prompter": "user"}
ROLES |= dict.fromkeys(("gpt", "chatgpt", "bot", "ai", "chatbot", "model", "function_call", "tool_call"), "assistant")
ROLES |= dict.fromkeys(("observation", "function", "function_response", "tool_response", "ipython"), "tool")
SPEAKERS = {"customer": "user", "client": "user", "agent": "assistant"}  # in logs of a desk
SPEAKERS |= {name: ROLES.get(name, name) for name in words("system developer user human assistant ai bot model tool")}


def spoken(turn: dict[str, Any]) -> dict[str, Any]:
    """Return a turn that names who speaks in another way with role and content; others, and names of persons, as it is.

    LangChain writes {type, content}, {type, data: {content}} or {lc, id, kwargs}, logs of a desk {speaker, text}.
    """
    if turn.keys() & {"role", "from"}:
        return turn
    named = langchain(turn) if turn.get("lc") or isinstance(turn.get("type"), str) else turn
    if "role" not in named:
        by = next((key for key in ("speaker", "sender", "author") if isinstance(turn.get(key), str)), "")
        named = {**{key: value for key, value in turn.items() if key != by}, "role": turn[by]} if by else turn
    role = named.get("role")
    if not isinstance(role, str) or role.lower() not in SPEAKERS:
        return turn
    content = next((named[key] for key in ("content", "text", "message", "value") if named.get(key) is not None), None)
    return {**named, "role": SPEAKERS[role.lower()], "content": content}


def langchain(turn: Any) -> Any:
    """Return a message with role, content and calls: LangChain writes its kind, and nests it by how it was saved."""
    if isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
        return {"role": turn[0], "content": turn[1]}  # ["human", "..."]
    if not isinstance(turn, dict):
        return turn
    inner = turn.get("kwargs") if turn.get("lc") else turn.get("data") if "role" not in turn else None
    name = turn["id"][-1] if turn.get("lc") and isinstance(turn.get("id"), list) and turn["id"] else turn.get("type")
    inner = inner if isinstance(inner, dict) else turn
    if "role" in inner or not isinstance(name, str):
        return inner
    role = name.removesuffix("Chunk").removesuffix("Message").lower()
    more, ending = as_object(inner.get("additional_kwargs")), as_object(inner.get("response_metadata"))
    own = {c: v for c, v in inner.items() if c not in ("type", "additional_kwargs", "response_metadata") and v != []}
    whole = ended(ending)
    reason = {} if whole is None else {"finish_reason": ending.get("finish_reason") or ("stop" if whole else "length")}
    return {**more, **reason, **own, "role": role}
