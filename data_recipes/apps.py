"""Read what chat applications export: chats and feedback of Open WebUI, and conversations of ChatGPT and Claude.

A chat is a tree, because answers are drawn again and questions are edited: what the application shows is a path in it.
"""

from __future__ import annotations

import re
from typing import Any

from data_recipes.cells import number
from data_recipes.parts import BUILT_IN, HIDDEN, as_object, hide, objects
from data_recipes.streams import DataError
from data_recipes.turns import NOTED, Row, Turn

# What Open WebUI writes into the text of an answer: a thought, or what a tool did.
DETAILS = re.compile(r'<details type="(\w+)"[^>]*>\s*(?:<summary>.*?</summary>)?(.*?)</details>\s*', re.DOTALL)


def plain(record: Row) -> Row:
    """Return an exported chat as a conversation, and feedback on an answer as that answer; other records unchanged."""
    if "snapshot" in record and isinstance(record.get("data"), dict):
        return _feedback(record)
    chat = record.get("chat")
    if isinstance(chat, dict) and isinstance(chat.get("history"), dict):
        return _chat({**{c: record[c] for c in ("id", "user_id") if c in record}, "title": chat.get("title")}, chat)
    if isinstance(record.get("mapping"), dict) and "current_node" in record:
        return _chatgpt(record)
    if isinstance(record.get("chat_messages"), list):
        named = {"chat_messages": "messages", "uuid": "id"}
        return {named.get(column, column): value for column, value in record.items()}
    return record


def _path(nodes: Row, last: Any, parent: str) -> list[Row]:
    """Return the nodes from the root of a tree to the node that is named `last`."""
    path: list[Row] = []
    while isinstance(node := nodes.get(str(last)), dict) and len(path) < len(nodes):
        path.append(node)
        last = node.get(parent)
    return path[::-1]


def _chat(rest: Row, chat: Row) -> Row:
    """Read a chat of Open WebUI: its turns, with the thumb and the rating (1 to 10) that an answer was given."""
    nodes = as_object(chat["history"].get("messages"))
    path = _path(nodes, chat["history"].get("currentId"), "parentId")
    shown = {id(node) for node in path}
    aside = sum(bool(_rated(node)) for node in nodes.values() if isinstance(node, dict) and id(node) not in shown)
    notes = ["left out: answers with a rating that the chat shows no more (export the feedback)"] if aside else []
    turns = [{**_turn(node), **_rated(node)} for node in path]
    return {**rest, "messages": turns, **({NOTED: notes} if notes else {})}


def _turn(node: Row) -> Turn:
    """Return a message of Open WebUI as a turn: thoughts that stand in its text are its thought."""
    turn: Turn = {"role": node.get("role"), "content": node.get("content")}
    turn |= {"files": node["files"]} if node.get("files") else {}
    if node.get("role") != "assistant" or not isinstance(turn["content"], str):
        return turn
    blocks = DETAILS.findall(turn["content"])
    thoughts = [re.sub(r"(?m)^> ?", "", inner).strip() for kind, inner in blocks if kind == "reasoning"]
    if any(kind != "reasoning" for kind, _ in blocks):
        hide(turn, BUILT_IN)
    turn["content"] = DETAILS.sub("", turn["content"]).strip() if blocks else turn["content"]
    return {**turn, "reasoning_content": "\n".join(thoughts)} if thoughts else turn


def _rated(node: Row) -> Row:
    """Return the thumb and the rating of a message, from its `annotation`, or of feedback, from its `data`."""
    given = as_object(node.get("annotation", node.get("data")))
    thumb, rating = number(given.get("rating")), number(as_object(given.get("details")).get("rating"))
    return {**({} if thumb is None else {"thumbs": thumb > 0}), **({} if rating is None else {"rating": rating})}


def _feedback(record: Row) -> Row:
    """Read feedback of Open WebUI: the answer that was rated, and those of other models that it was compared with."""
    whole = as_object(as_object(record["snapshot"]).get("chat"))
    history = as_object(as_object(whole.get("chat", whole)).get("history"))
    nodes, meta = as_object(history.get("messages")), as_object(record.get("meta"))
    path = _path(nodes, meta.get("message_id"), "parentId")
    if not path:
        raise DataError("column 'snapshot': does not hold the message that was rated. Export the feedback anew.")
    answer, data, before = path[-1], record["data"], [_turn(node) for node in path[:-1]]
    said = {name: data[name] for name in ("reason", "comment") if data.get(name)}
    rest = {"id": record.get("id"), "conversation": meta.get("chat_id"), **said}
    scores = _rated(record)
    named = data.get("sibling_model_ids") or ()
    others = [
        node
        for node in nodes.values()
        if isinstance(node, dict)
        and node is not answer
        and (node.get("parentId"), node.get("role")) == (answer.get("parentId"), "assistant")
        and node.get("model") in named
    ]
    if not others or "thumbs" not in scores:
        return {**rest, "model": answer.get("model"), **scores, "messages": [*before, _turn(answer)]}
    won = float(scores["thumbs"])
    answers = [
        {**_turn(node), "model": node.get("model"), "preference": won if node is answer else 1 - won}
        for node in (answer, *others)
    ]
    answers[0] |= scores
    spoken = [{**{c: v for c, v in each.items() if c != "role"}, "response": each["content"]} for each in answers]
    return {**rest, "messages": before, "responses": [{c: v for c, v in s.items() if c != "content"} for s in spoken]}


def _chatgpt(record: Row) -> Row:
    """Read a conversation of ChatGPT. What its own tools were told and found is left out, and counted."""
    turns: list[Turn] = []
    hidden: Turn = {}
    thoughts: list[str] = []
    for node in _path(record["mapping"], record["current_node"], "parent"):
        message = as_object(node.get("message"))
        content, role = as_object(message.get("content")), as_object(message.get("author")).get("role")
        kind = content.get("content_type")
        if role == "tool" or (role == "assistant" and message.get("recipient", "all") != "all"):
            hide(hidden, BUILT_IN)
        elif kind == "thoughts":
            thoughts += [str(each["content"]) for each in objects(content.get("thoughts")) if each.get("content")]
        elif role in ("user", "assistant", "system") and kind in ("text", "multimodal_text", "code"):
            parts = content.get("parts", [content.get("text") or ""])
            said = [{"type": "text", "text": p} if isinstance(p, str) else {"type": kind, **_pointer(p)} for p in parts]
            if said == [{"type": "text", "text": ""}]:
                continue
            turn: Turn = {"role": role, "content": said, **hidden}
            turn |= {"reasoning_content": "\n".join(thoughts)} if thoughts else {}
            hidden, thoughts = ({}, []) if role == "assistant" else (hidden, thoughts)
            if turns and role == "assistant" == turns[-1]["role"]:
                turn = _joined(turns.pop(), turn)
            turns.append(turn)
    named = {"id": record.get("conversation_id") or record.get("id"), "title": record.get("title")}
    return {**named, "model": record.get("default_model_slug"), "messages": turns}


def _joined(first: Turn, second: Turn) -> Turn:
    """Return two messages of one answer, between which a tool worked, as one turn."""
    content = [*first["content"], {"type": "text", "text": "\n"}, *second["content"]]
    hidden = [*first.get(HIDDEN, ()), *second.get(HIDDEN, ())]
    thoughts = [turn["reasoning_content"] for turn in (first, second) if "reasoning_content" in turn]
    thought = {"reasoning_content": "\n".join(thoughts)} if thoughts else {}
    return {**first, **thought, "content": content, **({HIDDEN: hidden} if hidden else {})}


def _pointer(part: Any) -> Row:
    """Return a part of a message that is no text, such as a picture, under the type that it names."""
    part = as_object(part)
    return {**part, "type": part.get("content_type", "file")}
