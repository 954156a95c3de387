"""Rename columns that are spelled differently to the names that the layouts know.

Only records that fit no layout with an answer come here; an ambiguous name stays, for --map.
"""

from __future__ import annotations

import re
from typing import Any

from data_recipes import logs, votes
from data_recipes.endings import plain
from data_recipes.marks import NOTED, Row
from data_recipes.metadata import words
from data_recipes.parts import as_object, parsed

TALKS = ("conversation", "dialogue", "dialog", "chat", "turns", "items")  # lists of turns
BODIES = {"request_body": "request", "response_body": "response", "requestbody": "request", "responsebody": "response"}
PAIRS = (("1", "2"), ("0", "1"), ("a", "b"))
ASKS = words("""
    prompt instruction question query input request user human userinput usermessage userprompt userquery userquestion
    humanmessage
""")  # columns of what was asked, and of its answer: one of each in a record is a pair
SAYS = words("""
    response answer output reply completion generation assistant bot ai assistantmessage assistantresponse
    assistantreply botresponse botmessage botreply modelresponse modeloutput modelanswer airesponse aimessage
    systemresponse llmresponse llmoutput
""")
MORE = words("""
    context contexts passage passages document documents paragraph article background choices options candidates
    evidence knowledge facts
""")  # what a question may be about: then its prompt is more than the question
PAST = words("history chathistory conversationhistory dialoghistory dialoguehistory input instructions")
VOICE = words("preamble persona metaprompt")  # how the model was to answer
BESIDE = (*MORE, *PAST, *VOICE)  # what a prompt may lack
WON = {"win": "lose", "winner": "loser", "winning": "losing", "better": "worse", "preferred": "dispreferred"}
WON |= {"y_w": "y_l", "yw": "yl", "response_j": "response_k", "accepted": "rejected"}  # j and k: of lvwerra's pairs
SIDED = re.compile(rf"({'|'.join(WON)})((?:[ _.-](?:{'|'.join(votes.ANSWERS)}))?)")
ANSWER = re.compile(rf"({'|'.join(votes.ANSWERS)})[ _.-]?(0|1|a)")


def known(record: Row) -> Row:
    """Rename columns: lower case, the two sides of a comparison as _a and _b, turns as conversations."""
    small = {c: c.strip().lower() for c in record if isinstance(c, str)}
    if len({*small.values()}) == len(record):
        record = {small[c]: value for c, value in record.items()}
    record = {BODIES.get(c, c): value for c, value in record.items()}
    talk = next((c for c in TALKS if _turns(record.get(c))), "")
    if talk and "conversations" not in record:
        record = {"conversations" if c == talk else c: value for c, value in record.items()}
    if {"prompt", "response1", "response2", "overall_preference"} <= record.keys():  # HelpSteer3's, context renamed
        return {("context" if column == "prompt" else column): value for column, value in record.items()}
    if _turns(record.get("context")) and "response" in record and "prompt" not in record:  # HelpSteer3's feedback
        record = {"prompt" if c == "context" else c: value for c, value in record.items()}
    return _paired(_logged(_lettered(_chosen(record))))


def _turns(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(v, dict) and {"role", "from"} & {*v} for v in value)
    )


def _asked(sent: Any) -> bool:
    return _turns(sent) or (isinstance(sent, dict) and _turns(sent.get("messages")))


def _chosen(record: Row) -> Row:
    """Rename the two texts of a pair, such as win and lose or preferred_response and dispreferred_response."""
    for column in record:
        name = SIDED.fullmatch(column)
        other = WON[name[1]] + name[2] if name else ""
        if name and all(isinstance(record.get(c), (str, list)) and record[c] for c in (column, other)):
            note = f"read: '{column}' as the chosen response and '{other}' as the rejected one (--map names others)"
            named = {column: "chosen", other: "rejected"}
            return {**{named.get(c, c): v for c, v in record.items()}, NOTED: [*record.get(NOTED, ()), note]}
    return record


def _lettered(record: Row) -> Row:
    """Rename response_1 and response_2, or response A and response B, and all columns named so, to _a and _b."""
    matches = [(c, m) for c in record if (m := ANSWER.fullmatch(c))]
    for column, name in matches:
        first, second = next(pair for pair in PAIRS if pair[0] == name[2])
        other = column[: -len(first)] + second
        if other not in record or f"{name[1]}_a" in record:
            continue
        named: dict[str, str] = {}
        for c in record:
            stem, end = c[: -len(first)], c[-len(first) :]
            if end in (first, second) and {stem + first, stem + second} <= {*record}:
                named[c] = f"{stem.rstrip(' _.-')}_{'a' if end == first else 'b'}"
        sides = {column: "a", other: "b"}
        winners = {
            c: sides[v.lower()] for c in votes.COLUMNS if isinstance(v := record.get(c), str) and v.lower() in sides
        }
        return {named.get(c, c): winners.get(c, value) for c, value in record.items()}
    return record


def _logged(record: Row) -> Row:
    """Rename the input and output of tracing tools and OpenAI's stored responses to request and response."""
    sent, output = record.get("input"), record.get("output")
    if isinstance(output, str) and _asked(parsed(sent)):  # a table holds both as JSON
        sent, inner = parsed(sent), parsed(output)
        output = inner if isinstance(inner, dict) and {"role", "choices", "content"} & {*inner} else {"text": output}
    if not isinstance(output, (list, dict)) or not isinstance(sent, (str, list, dict)):
        return record
    if isinstance(sent, dict) and not {*logs.ASKED} & {*sent}:  # Bedrock's logs: `--map` names the request inside
        return record
    if isinstance(output, dict):
        response = {"message": output} if "role" in output else output
    else:
        response = {c: record[c] for c in ("status", "incomplete_details") if c in record} | {"output": output}
    more = {c: record.get(c) for c in ("instructions", "previous_response_id")}
    more["conversation"] = as_object(record.get("conversation"))  # a text is a name of the user's own
    request = sent if isinstance(sent, dict) else {"input": sent, **more}
    rest = {c: v for c, v in record.items() if c not in ("input", "output", "instructions", "object", "status")}
    return {**rest, "request": request, "response": response}


def _paired(record: Row) -> Row:
    """Rename one text that was asked and one that answers it to prompt and response, which is noted.

    Two columns of either kind, or one that the question may be about, are ambiguous.
    """
    texts = [c for c, v in record.items() if isinstance(v, str) and v.strip()]
    asks, says = ([c for c in texts if plain(c) in names] for names in (ASKS, SAYS))
    says = says or [c for c, v in record.items() if plain(c) in SAYS and (v is None or isinstance(v, str))]
    asks = asks or (["prompt"] if _turns(record.get("prompt")) else [])
    if len(asks) != 1 or len(says) != 1 or any(plain(c) in MORE and record[c] for c in record):
        return record
    names = {asks[0]: "prompt", says[0]: "response"}
    if {"request", "response"} <= record.keys() or all(old == new for old, new in names.items()):
        return record  # a log, or a pair as it is
    if any(new in record and new != old for old, new in names.items()):
        return record
    note = " and ".join(f"'{old}' as the {new}" for old, new in names.items() if old != new)
    note = f"read: {note} (--map names others)"
    record = {c: v for c, v in record.items() if plain(c) not in MORE}  # all of them are blank
    record[says[0]] = record[says[0]] or ""
    return {**{names.get(c, c): v for c, v in record.items()}, NOTED: [*record.get(NOTED, ()), note]}
