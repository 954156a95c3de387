"""Read what chat applications export: chats and feedback of Open WebUI, and conversations of ChatGPT and Claude.

A chat is a tree, because answers are drawn again and questions are edited: what the application shows is a path in it.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from data_recipes.cells import number
from data_recipes.marks import LEFT_OUT, NOTED, Row, Turn
from data_recipes.parts import BUILT_IN, UNSAID, as_object, gathered, hide, objects, parsed
from data_recipes.streams import DataError

# What Open WebUI writes into the text of an answer: a thought, or what a tool did.
DETAILS = re.compile(r'<details\b[^>]*? type="(\w+)"[^>]*>\s*(?:<summary>.*?</summary>)?(.*?)</details>\s*', re.DOTALL)
# What ChatGPT writes into the text of an answer, and shows as a link or a name: \ue200KIND\ue202...\ue201.
MARK = re.compile("( ?)(?:\ue200(.*?)\ue201|【[^】]*†[^】]*】)", re.DOTALL)
MARKS = "marks in answers of ChatGPT that only its interface shows (citations, ...)"
STOPPED = ("in_progress", "finished_partial_completion")  # states of its messages
CONTEXT = ("user_profile", "user_instructions", "model_set_context")  # what a user told ChatGPT once for all
CLAUDE = ("chat_messages", "uuid", "name", "is_starred", "is_temporary", "current_leaf_message_uuid")


def plain(record: Row) -> Row:
    """Return an exported chat as a conversation, and feedback on an answer as that answer; other records unchanged."""
    if isinstance(record.get("chat_messages"), list) and "messages" not in record:
        return _claude(record)
    if {"prompt", "messages", "response"} & record.keys():
        return record
    if {"snapshot", "meta"} <= record.keys() and isinstance(record.get("data"), dict):
        return _feedback(record)
    chat = record.get("chat")
    if isinstance(chat, dict) and isinstance(chat.get("history"), dict):
        return _chat({**{c: record[c] for c in ("id", "user_id") if c in record}, "title": chat.get("title")}, chat)
    if isinstance(record.get("mapping"), dict) and "current_node" in record:
        return _chatgpt(record)
    return record


def _path(nodes: Row, last: Any, parent: str) -> list[Row]:
    """Return the nodes from the root of a tree to the node that is named `last`."""
    path: list[Row] = []
    while isinstance(node := nodes.get(str(last)), dict) and len(path) < len(nodes):
        path.append(node)
        last = node.get(parent)
    return path[::-1]


def _talk(rest: Row, turns: list[Turn], notes: list[str]) -> Row:
    """Return a conversation up to its last answer with a text: many a chat ends with one that failed or was stopped."""
    spoken = [turn.get("role", turn.get("sender")) == "assistant" for turn in turns]
    last = max((i for i, turn in enumerate(turns) if spoken[i] and _says(turn)), default=-1)
    if last < 0:
        return {**rest, "messages": turns, LEFT_OUT: "its chat holds no answer"}
    if any(spoken[last + 1 :]):
        turns, notes = turns[: last + 1], [*notes, "left out: answers without a text at the end of a chat"]
    return {**rest, "messages": turns, **({NOTED: notes} if notes else {})}


def _says(turn: Turn) -> bool:
    """Whether a turn holds a text, or a file that `conversation` refuses."""
    content = turn.get("content", turn.get("text"))
    parts = [{"text": content}] if isinstance(content, str) else objects(content)
    return bool(turn.get("files")) or not all(_blank(part.get("text")) for part in parts)


def _blank(value: Any) -> bool:
    return not str(value or "").strip()


def _claude(record: Row) -> Row:
    """Read a conversation of Claude: of a list of all messages, also those edited or drawn again, the path it shows."""
    given = objects(record["chat_messages"])
    if given and not any("sender" in each for each in given):
        named = {"chat_messages": "messages"} if "id" in record else {"chat_messages": "messages", "uuid": "id"}
        return {named.get(column, column): value for column, value in record.items()}
    nodes = {str(each.get("uuid")): each for each in given}
    if any(each.get("parent_message_uuid") in nodes for each in given):
        given = _path(nodes, record.get("current_leaf_message_uuid") or given[-1].get("uuid"), "parent_message_uuid")
    turns = [each if each.get("content") else {c: v for c, v in each.items() if c != "content"} for each in given]
    rest = {c: v for c, v in record.items() if c not in CLAUDE}
    return _talk({**rest, "id": record.get("uuid"), "title": record.get("name")}, turns, [])


def _chat(rest: Row, chat: Row) -> Row:
    """Read a chat of Open WebUI: its turns, with the thumb and the rating (1 to 10) that an answer was given."""
    nodes = as_object(chat["history"].get("messages"))
    path = _path(nodes, chat["history"].get("currentId"), "parentId") or objects(chat.get("messages"))
    shown = {id(node) for node in path}
    aside = sum(bool(_rated(node)) for node in nodes.values() if isinstance(node, dict) and id(node) not in shown)
    notes = ["left out: answers with a rating that the chat shows no more (export the feedback)"] if aside else []
    turns = [{**_turn(node), **_rated(node)} for node in path]
    return _talk(rest, [*_system(chat), *turns], notes)


def _system(chat: Row) -> list[Turn]:
    """Return the system prompt that a user gave to a chat of Open WebUI."""
    said = as_object(chat.get("params")).get("system") or chat.get("system")
    return [{"role": "system", "content": said}] if isinstance(said, str) else []


def _turn(node: Row) -> Turn:
    """Return a message of Open WebUI as a turn: thoughts that stand in its text are its thought."""
    turn: Turn = {"role": node.get("role"), "content": node.get("content")}
    turn |= {"files": node["files"]} if node.get("files") else {}
    if node.get("role") != "assistant" or not isinstance(turn["content"], str):
        return turn
    turn |= {"finished": False} if node.get("done") is False else {}
    blocks = DETAILS.findall(turn["content"])
    thoughts = [_unquoted(inner.strip()) for kind, inner in blocks if kind == "reasoning"]
    if any(kind != "reasoning" for kind, _ in blocks) or node.get("sources") or node.get("citations"):
        hide(turn, BUILT_IN)
    turn["content"] = DETAILS.sub("", turn["content"]).strip() if blocks else turn["content"]
    return {**turn, "reasoning_content": "\n".join(thoughts)} if thoughts else turn


def _unquoted(thought: str) -> str:
    """Return a thought without the mark of a quotation before each line; later versions write it, and all, as HTML."""
    return re.sub(r"(?m)^> ?", "", unescape(thought) if thought.startswith("&gt;") else thought)


def _model(node: Row) -> Any:
    """Return the model that answered: in the arena `model` is the arena's own name."""
    return node.get("selectedModelId") or node.get("model")


def _rated(node: Row) -> Row:
    """Return the thumb and the rating of a message, from its `annotation`, or of feedback, from its `data`."""
    given = as_object(node.get("annotation", node.get("data")))
    thumb, rating = number(given.get("rating")), number(as_object(given.get("details")).get("rating"))
    return {**({} if thumb is None else {"thumbs": thumb > 0}), **({} if rating is None else {"rating": rating})}


def _feedback(record: Row) -> Row:
    """Read feedback of Open WebUI: the answer that was rated, and those of other models that it was compared with."""
    whole = as_object(as_object(record["snapshot"]).get("chat"))
    chat = as_object(whole.get("chat", whole))
    nodes, meta = as_object(as_object(chat.get("history")).get("messages")), as_object(record.get("meta"))
    path = _path(nodes, meta.get("message_id"), "parentId")
    if not path:
        raise DataError("column 'snapshot': does not hold the message that was rated. Export the feedback anew.")
    answer, data = path[-1], record["data"]
    before = [*_system(chat), *(_turn(node) for node in path[:-1])]
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
        and _model(node) in named
        and _rated(node).get("thumbs") in (None, not scores.get("thumbs"))  # both may be good
    ]
    if not others or "thumbs" not in scores:
        rated = _turn(answer)
        rest |= {} if _says(rated) else {LEFT_OUT: "the answer that was rated holds no text"}
        return {**rest, "model": _model(answer), **scores, "messages": [*before, rated]}
    won = float(scores["thumbs"])
    responses = []
    for node in (answer, *others):
        turn = _turn(node)
        vote = {"preference": won, **scores} if node is answer else {"preference": 1 - won}
        own = {c: v for c, v in turn.items() if c not in ("role", "content")}
        responses.append({**own, "response": turn["content"], "model": _model(node), **vote})
    return {**rest, "messages": before, "responses": responses}


def _chatgpt(record: Row) -> Row:
    """Read a conversation of ChatGPT. What its own tools were told and found is left out, and counted."""
    turns: list[Turn] = []
    hidden: Turn = {}
    thoughts: list[str] = []
    for node in _path(record["mapping"], record["current_node"], "parent"):
        message = as_object(node.get("message"))
        more = as_object(message.get("metadata"))
        role, said = _message(message, more)
        if role == "thought":
            thoughts += [part["text"] for part in said]
        elif role == "tool":
            hide(hidden, BUILT_IN)
        elif said:
            turn: Turn = {"role": role, "content": said, **hidden}
            hidden = {}
            if role == "assistant":
                turn |= {"truncated": _stopped(message, more)}
                turn |= {"reasoning_content": "\n".join(thoughts)} if thoughts else {}
                turn = _unmarked(turn)
            elif role == "user":
                turn |= {"attachments": more["attachments"]} if more.get("attachments") else {}
                if thoughts:
                    hide(turn, UNSAID)
            thoughts = thoughts if role == "system" else []
            if turns and turns[-1]["role"] == role != "user":
                turn = _joined(turns.pop(), turn)
            turns.append(turn)
    if turns and hidden:
        turns[-1] |= gathered(turns[-1], hidden)
    named = {"id": record.get("conversation_id") or record.get("id"), "title": record.get("title")}
    return _talk({**named, "model": record.get("default_model_slug")}, turns, [])


def _message(message: Row, more: Row) -> tuple[str, list[Row]]:
    """Return who speaks in a message of ChatGPT, and its parts: none where it says nothing.

    "thought" is what a model thought, "tool" what a tool was told or found, and what no user was shown.
    """
    content, role = as_object(message.get("content")), as_object(message.get("author")).get("role")
    kind, parts = content.get("content_type"), content.get("parts")
    if kind in ("user_editable_context", "model_editable_context"):  # the model has read it, whoever wrote it
        role, kind, parts = "system", "text", ["\n".join(str(content[c]) for c in CONTEXT if content.get(c))]
    elif kind == "thoughts":
        role = "thought"
        parts = [str(each["content"]) for each in objects(content.get("thoughts")) if each.get("content")]
    elif role == "tool" or (role == "assistant" and _aside(message, more)):
        return "tool", []
    parts = parts if isinstance(parts, list) else [content.get("text") or ""]
    said = [{"type": "text", "text": p} if isinstance(p, str) else {"type": kind, **_pointer(p)} for p in parts]
    if role == "thought" or (role == "assistant" and message.get("channel") == "analysis"):
        return "thought", [part for part in said if part["type"] == "text"]
    blank = not more.get("attachments") and all(p["type"] == "text" and _blank(p.get("text")) for p in said)
    known = role in ("user", "assistant", "system") and kind in ("text", "multimodal_text", "code")
    return str(role), said if known and not blank else []


def _aside(message: Row, more: Row) -> bool:
    """Whether a message of ChatGPT was for a tool, or hidden from its user."""
    return message.get("recipient") not in (None, "all") or bool(more.get("is_visually_hidden_from_conversation"))


def _stopped(message: Row, more: Row) -> bool:
    """Whether a message of ChatGPT was stopped by its user or at a limit."""
    end = as_object(more.get("finish_details")).get("type")
    return end in ("interrupted", "max_tokens") or message.get("status") in STOPPED


def _unmarked(turn: Turn) -> Turn:
    """Return a turn of ChatGPT without marks of its interface; what a link or a name shows stays."""
    content = [
        {**part, "text": MARK.sub(_mark, part["text"])} if isinstance(part.get("text"), str) else part
        for part in turn["content"]
    ]
    if content != turn["content"]:
        hide(turn, MARKS)
    return {**turn, "content": content}


def _mark(mark: re.Match[str]) -> str:
    """Return what a mark shows within a text: the title of a link, or a name that is [kind, name, ...]."""
    kind, *rest = (mark[2] or "").split("\ue202")
    inner = parsed(rest[0]) if rest else ""
    shown = inner if kind == "url" else inner[1] if kind == "entity" and isinstance(inner, list) and inner[1:] else ""
    return f"{mark[1]}{shown}" if shown else ""


def _joined(first: Turn, second: Turn) -> Turn:
    """Return two messages of one answer, between which a tool worked or which was stopped and goes on, as one turn."""
    apart = first["role"] == "assistant" and not first.get("truncated")  # other parts are on lines of their own
    between = [{"type": "text", "text": "\n"}] if apart else []
    content = [*first["content"], *between, *second["content"]]
    return {**first, **second, **gathered(first, second), "content": content}


def _pointer(part: Any) -> Row:
    """Return a part of a message that is no text, such as a picture, under the type that it names."""
    part = as_object(part)
    return {**part, "type": part.get("content_type", "file")}
