"""Read two responses of which one was chosen as two rows of one group with the score `preference`."""

from __future__ import annotations

import re

from data_recipes.answers import content_id
from data_recipes.asked import question
from data_recipes.cells import number
from data_recipes.marks import Row, Turn
from data_recipes.scores import may_score, named_once
from data_recipes.streams import DataError
from data_recipes.turns import answered, conversation

SIDES = ("chosen", "rejected")
FIRST = re.compile(r"(chosen|Chosen|rejected|Rejected)(?:[ _.:/-]+|(?=[A-Z]))(.+)")  # chosen_score, chosenScore
LAST = re.compile(r"(.+?)(?:[ _.:/-]+(chosen|Chosen|rejected|Rejected)|(Chosen|Rejected))")  # score-chosen


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
    """Read a pair, chosen first; columns such as score_chosen or rejected-model go to the row that they are about."""
    record = _spread(record)
    shared, used = question(record)
    answers = dict(zip(SIDES, two(shared, record, SIDES)))
    name = "" if record.get("id") is None else str(record["id"])
    group = str(record.get("group") or name or content_id({"prompt": shared, "response": list(answers.values())}))
    about = {column: sided(column) for column in record if column not in SIDES}
    others = {c: record[c] for c, (side, _) in about.items() if not side and c not in used}
    rows = []
    for side, (prompt, response, after) in answers.items():
        own = {c: n for c, (of, n) in about.items() if of == side}
        scores = {c: s for c, n in own.items() if may_score(n) and (s := number(record[c])) is not None}
        named = named_once({c: own[c] for c in scores})
        kept = {n: record[c] for c, n in own.items() if c not in scores and record[c] is not None}
        row = {**others, **kept, "group": group, **after}
        preferred = {**{named[c]: s for c, s in scores.items()}, "preference": float(side == "chosen")}
        row |= {"prompt": prompt, "response": response, "scores": preferred}
        rows.append({**row, "id": f"{name}:{side}" if name else ""})
    return rows
