"""Read a prompt with a list of responses, and lists with their values (distilabel's generations, ratings)."""

from __future__ import annotations

from typing import Any

from data_recipes import rated, tools, votes
from data_recipes.answers import candidates
from data_recipes.asked import question
from data_recipes.cells import WORDS, number, written
from data_recipes.endings import called, plain
from data_recipes.marks import LEFT_OUT, NOTED, Row
from data_recipes.metadata import words
from data_recipes.scores import may_score, ratings, scored
from data_recipes.streams import DataError, kind
from data_recipes.turns import answered

LISTS = ("responses", "completions", "generations", "answers", "outputs", "candidates")
BEST = {plain(name) for name in (*votes.COLUMNS, *words("best chosen selected"))}
BEST |= {name + end for name in words("best chosen selected winner") for end in words("index id response answer")}
ORDERS = words("ranking rankings ranked rankedresponses order ordering rankorder preferenceorder")
TEXTS = ("response", "completion", "generation", "text", "content", "output", "answer")


def several(record: Row, column: str) -> list[Row]:
    """Return one row per response; another list of the same length gives every row its own value."""
    responses = record[column]
    if not isinstance(responses, list):
        raise DataError(f"column '{column}': holds {kind(responses)}, wanted a list of responses. Correct the record.")
    prompt, used = question(record)
    if prompt and prompt[-1]["role"] == "assistant" and "messages" in used:  # one of the answers, beside the others
        prompt = prompt[:-1]
    labels = record.get("labels")
    if column == "completions" and isinstance(labels, list) and labels and all(isinstance(x, bool) for x in labels):
        raise DataError(
            "columns 'completions', 'labels': are the steps of one answer, each right or wrong (stepwise supervision). "
            "Join the steps to a response, with a score of the whole; if they are answers, call the labels 'thumbs'."
        )
    record = _ranked(record, column)
    beside = {c: v for c, v in record.items() if c not in (column, *used) and isinstance(v, list)}
    own = {c: v for c, v in beside.items() if len(v) == len(responses)}
    for other, values in beside.items():
        if other not in own and values and ratings(values) is not None and may_score(other):
            raise DataError(
                f"column '{other}': holds {len(values)} values for {len(responses)} responses. Correct the record."
            )
    texts = {one(name, column) for name, values in own.items() if any(map(_says, values))}
    answers: dict[str, Row] = {}
    for i, each in enumerate(responses):
        mine = {one(name, column): value[i] for name, value in own.items()}
        answers[str(i)] = _candidate(prompt, each, mine, column, texts)
    rows = candidates(record, {column, *used, *own}, prompt, answers)
    if not (named := _best(record, own)):
        return rows
    note = f"kept as a column and no preference: '{named}' (a list of 1 and 0, one for each of the {column}, is one)"
    return [{**row, NOTED: [*row.get(NOTED, ()), note]} for row in rows]


def _ranked(record: Row, column: str) -> Row:
    """Return a record whose list of places, if it has one, is the `rank` of each response, the lowest the best.

    A list called ranking or order may name the responses instead, the best first: DataError unless both are the same.
    """
    for name in called(tuple(record), ORDERS):
        places, count = record[name], len(record[column])
        if name == column or not isinstance(places, list) or len(places) != count:
            continue
        if _turns_round(places) or any(_names(places, other) for c, other in record.items() if c != name):
            raise DataError(
                f"column '{name}': may hold the rank of each of the {column}, or name them in their order, the best "
                f"first. Write the rank of each into 'ranks', or say --map ranks={name} (beside those of the other "
                "columns) if it holds that."
            )
        if ratings(places) and "rank" not in record:
            return {"rank" if c == name else c: value for c, value in record.items()}
    return record


def _turns_round(places: list[Any]) -> bool:
    """Whether places are all those from 0 or 1 on, and say something else as ranks than as the order of responses."""
    numbers = [number(place) for place in places]
    first = 0.0 if 0.0 in numbers else 1.0
    wanted = [first + i for i in range(len(numbers))]
    return {*numbers} == {*wanted} and [first + numbers.index(place) for place in wanted] != numbers


def _names(places: list[Any], others: Any) -> bool:
    """Whether places are the values of another list in another order, or letters from A on."""
    if not all(isinstance(place, str) for place in places) or len(places) < 2:
        return False
    letters = [chr(ord("A") + i) for i in range(len(places))]
    same = isinstance(others, list) and all(isinstance(other, str) for other in others)
    return sorted(place.upper() for place in places) == letters or (same and sorted(places) == sorted(others))


def _best(record: Row, own: Row) -> str:
    """Return the column that may say by a place or a name which of several responses is the best."""
    said = (c for c, v in record.items() if plain(c) in BEST and c not in own and isinstance(v, int | str) and v != "")
    return next(said, "")


def _says(value: Any) -> bool:
    """Whether a value is words and no number: a "y" or "yes" beside such is a word too."""
    return isinstance(value, str) and bool(value.strip()) and number(value) is None


def _candidate(prompt: list[Row], answer: Any, values: Row, column: str, texts: set[str]) -> Row:
    """Return a response with its scores and its other values; `texts`: those of which some are words."""
    spoken = {n: v for n, v in values.items() if n in texts and isinstance(v, str) and written(v) in WORDS}
    values = {n: v for n, v in values.items() if n not in spoken}
    if isinstance(answer, dict) and "role" not in answer:
        answer = tools.named(answer)
        if not (name := next((c for c in TEXTS if c in answer), "")) and not answer.get("tool_calls"):
            raise DataError(f"column '{column}': holds {', '.join(answer)}, and no text. Name it {TEXTS[0]}.")
        values = {**values, **answer}
        answer = values.pop(name, None)
    before, response, after = answered(prompt, answer, column)
    if before != prompt:
        raise DataError(f"column '{column}': a response follows another prompt than the others. Give each its own row.")
    offered = {n: v for n, v in values.items() if may_score(n) and not isinstance(v, dict)}
    for name in ("scores", "score", "ratings", "rating", "attributes"):  # {aspect: number}
        offered |= values.pop(name) if isinstance(values.get(name), dict) else {}
    if isinstance(values.get("annotations"), dict):  # of UltraFeedback, under whatever names its columns have
        offered |= rated.aspects(values["annotations"])
    scores, raters = scored(offered)
    rest = {n: v for n, v in values.items() if number(v) is None or not may_score(n)}
    called = after.get("tool_calls") or rest.get("tool_calls")
    reason = {} if response or called else {LEFT_OUT: f"one of its {column} holds no text and no call"}
    return {**rest, **spoken, **after, **raters, **reason, "response": response or "", "scores": scores}


def one(name: str, column: str) -> str:
    """Return the name of one value of a list: rating for ratings, model for generation_models."""
    name = name.removeprefix(f"{column.removesuffix('s')}_")
    return name.removesuffix("s") if len(name) > 2 and not name.endswith("ss") else name
