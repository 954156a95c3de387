"""Read two responses of which one was chosen as two rows of one group with the score `preference`."""

from __future__ import annotations

import re

from data_recipes import votes
from data_recipes.answers import content_id
from data_recipes.asked import question
from data_recipes.cells import number
from data_recipes.endings import called, plain
from data_recipes.marks import NOTED, Row, Turn
from data_recipes.metadata import words
from data_recipes.scores import may_score, named_once
from data_recipes.streams import DataError
from data_recipes.turns import answered, conversation

SIDES = ("chosen", "rejected")
FIRST = re.compile(r"(chosen|Chosen|rejected|Rejected)(?:[ _.:/-]+|(?=[A-Z]))(.+)")  # chosen_score, chosenScore
LAST = re.compile(r"(.+?)(?:[ _.:/-]+(chosen|Chosen|rejected|Rejected)|(Chosen|Rejected))")  # score-chosen
VOTES = (*map(plain, votes.COLUMNS), "status")  # columns in which a pair may say itself that it is none
TIED = words("tie tied istie istied draw isdraw")  # true: neither is better
SAID = (*TIED, *VOTES)
REJECTED = re.compile(rf"(?:the )?(?:{votes.NOUN} )?rejected(?: {votes.NOUN})?")
OVERALL = re.compile(
    r"((overall|avg|average|mean|final|total|reward|quality)[ _-]?)?(score|rating|reward|quality|grade)"
)


NAMED = [
    names
    for text in ("response", "completion", "answer", "output")
    for names in ((f"chosen_{text}", f"rejected_{text}"), (f"{text}_chosen", f"{text}_rejected"))
]  # what the two texts are called where it is not chosen and rejected


def named(record: Row) -> list[Row]:
    """Read a pair whose texts are in columns such as chosen_response and rejected_response."""
    names = next(names for names in NAMED if {*names} <= {*record})
    return pair({SIDES[names.index(c)] if c in names else c: v for c, v in record.items()})


BESIDE = ("rejected_response", "rejected_messages", "rejected")  # ms-swift's: beside a whole conversation


def beside(record: Row) -> list[Row]:
    """Read a conversation that ends with the chosen answer, and the rejected one alone or as a conversation."""
    named = [name for name in BESIDE if name in record]
    name = next((name for name in named if record[name] is not None), named[0])
    turns = conversation(record["messages"], "messages")
    prompt = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
    if prompt == turns:
        raise DataError(f"columns 'messages', '{name}': hold no chosen answer. End 'messages' with it.")
    rest = {column: value for column, value in record.items() if column not in ("messages", name)}
    return pair({**rest, "prompt": prompt, "chosen": turns[-1:], "rejected": record[name]})


def sided(column: str) -> tuple[str, str]:
    """Split the name of a column into its side and the rest: chosen-rating is ("chosen", "rating")."""
    if match := FIRST.fullmatch(column):
        side, name = match[1], match[2]
    elif match := LAST.fullmatch(column):
        side, name = match[2] or match[3], match[1]
    else:
        return "", column
    return side.lower(), name[0].lower() + name[1:]


def _spread(record: Row) -> Row:
    """Return a record with {chosen: 5, rejected: 2} in `scores` as chosen_score and rejected_score."""
    if "scores" not in record:
        return record
    scores, rest = record["scores"], {column: value for column, value in record.items() if column != "scores"}
    if scores in (None, "", {}, []):
        return rest
    if not isinstance(scores, dict) or {*scores} != {*SIDES} or any(map(_no_score, scores.values())):
        raise DataError(
            "column 'scores': a pair has two answers, wanted an object {chosen: number, rejected: number}. "
            "Correct it, or rename the column."
        )
    if other := next((c for c in rest if sided(c) in {(side, "score") for side in SIDES}), ""):
        raise DataError(f"columns 'scores', '{other}': both hold scores of the two answers. Keep one of them.")
    return {**rest, **{f"{side}_score": score for side, score in scores.items()}}


def _no_score(value: object) -> bool:
    return value is not None and number(value) is None


def two(prompt: list[Turn], record: Row, columns: tuple[str, str]) -> list[tuple[list[Turn], str | None, Row]]:
    """Return the prompt, the response and its other values of two columns; DataError if they answer other prompts."""
    sides = [answered(prompt, record[column], column) for column in columns]
    if sides[0][0] != sides[1][0]:
        names = ", ".join(map(repr, columns))
        raise DataError(f"columns {names}: differ before their last turn. Give both the same prompt.")
    return sides


def pair(record: Row) -> list[Row]:
    """Read a pair, chosen first; columns such as score_chosen or rejected-model go to the row that they are about.

    Where it says itself that it is a tie, both have the preference .5.
    """
    record = _spread(record)
    shared, used = question(record)
    answers = dict(zip(SIDES, two(shared, record, SIDES)))
    name = "" if record.get("id") is None else str(record["id"])
    group = str(record.get("group") or name or content_id({"prompt": shared, "response": list(answers.values())}))
    about = {column: sided(column) for column in record if column not in SIDES}
    others = {c: record[c] for c, (side, _) in about.items() if not side and c not in used}
    tie, notes = _tied(record, about)
    rows = []
    for side, (prompt, response, after) in answers.items():
        own = {c: n for c, (of, n) in about.items() if of == side}
        scores = {c: s for c, n in own.items() if may_score(n) and (s := number(record[c])) is not None}
        named = named_once({c: own[c] for c in scores})
        kept = {n: record[c] for c, n in own.items() if c not in scores and record[c] is not None}
        row = {**others, **kept, "group": group, **after}
        preferred = {**{named[c]: s for c, s in scores.items()}, "preference": tie or float(side == "chosen")}
        row |= {"prompt": prompt, "response": response, "scores": preferred}
        rows.append({**row, "id": f"{name}:{side}" if name else ""})
    if notes := [*notes, *([] if tie else _doubts(*(row["scores"] for row in rows)))]:
        rows = [{**row, NOTED: [*row.get(NOTED, ()), *notes]} for row in rows]
    return rows


def _tied(record: Row, about: dict[str, tuple[str, str]]) -> tuple[float, list[str]]:
    """Return .5 if a column says that neither of a pair is better, else 0, and what is to be noted.

    DataError if one says that the rejected one is. What names neither side, such as a model or "a", says nothing here.
    """
    notes = []
    for column in called(tuple(record), SAID):
        value = record[column]
        vote = votes.in_words(value) if not isinstance(value, str) or 1 < len(value) < 40 else None
        flag = plain(column) in TIED
        if number(value) == 1 if flag else vote and vote[0] == votes.TIE:
            return 0.5, [f"read as a tie: a pair whose '{column}' says so"]
        if flag or column.lower() == "status":  # of a record: what was rejected there is no response
            continue
        if _names_rejected(value, record, about):
            raise DataError(
                f"column '{column}': says that the rejected response is the better one. Correct the record, or rename "
                "the column if it is about something else."
            )
        if (vote and vote[0]) or (isinstance(value, str) and value.lower() in votes.SIDES):
            notes.append(f"kept as a column and no preference: '{column}' (a or b is neither chosen nor rejected)")
    return 0.0, notes


def _names_rejected(value: object, record: Row, about: dict[str, tuple[str, str]]) -> bool:
    """Whether a vote is for the rejected response: by that word, its text, or what only its own columns hold."""
    if not isinstance(value, str) or not value.strip():
        return False
    if len(value) < 40 and REJECTED.fullmatch(" ".join(re.findall("[a-z]+", value.lower()))):
        return True
    held = {side: [record[side], *(record[c] for c, (of, _) in about.items() if of == side)] for side in SIDES}
    return value in held["rejected"] and value not in held["chosen"]


def _doubts(chosen: Row, rejected: Row) -> list[str]:
    """Return notes on scores of a pair by which the chosen response is no better than the rejected one."""
    both = [n for n in chosen if n != "preference" and n in rejected and OVERALL.fullmatch(n.lower())]
    equal = [n for n in both if chosen[n] == rejected[n]]
    below = [n for n in both if chosen[n] < rejected[n]]
    says = {"equal to that of the rejected one": equal, "below that of the rejected one": below}
    return [f"kept as chosen: a response whose '{names[0]}' is {how}" for how, names in says.items() if names]
