"""Read published sets of pairs: two rows of one group with the score `preference`, 1 the better, 0 the worse, .5 a tie.

How strongly the better one was preferred is the extra column `margin`; what single annotators said is in `raters`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from data_recipes import pairs, votes
from data_recipes.answers import candidates
from data_recipes.cells import number
from data_recipes.marks import Row
from data_recipes.metadata import RATED, metadata
from data_recipes.parts import text
from data_recipes.streams import DataError
from data_recipes.turns import fields, objects, turns

LONGEST = 3  # HelpSteer's strengths run from -3 to 3; others, such as -100, say that neither can be judged


def _leaning(strength: Any) -> tuple[float, float] | None:
    """Return (preference of the first, of the second) for a strength, below 0 if the first is better; None: unknown."""
    value = number(strength)
    if value is None or abs(value) > LONGEST:
        return None
    return (1.0, 0.0) if value < 0 else (0.0, 1.0) if value > 0 else (0.5, 0.5)


HELPSTEER2 = ("prompt", "response_1", "response_2", "preference_strength")
HELPSTEER3 = ("context", "response1", "response2", "overall_preference")


def helpsteer(record: Row, columns: tuple[str, str, str, str], column: str, key: str) -> list[Row]:
    """Read nvidia/HelpSteer2, folder preference, or HelpSteer3, config preference: -3 (the first much better) to 3.

    `columns`: prompt, answers and strength; `column`: the notes of single raters with their strengths as `key`. Files
    that hold the notes as a text keep it as a column.
    """
    prompt, *sides, strength = columns
    two_alone(record, "response", third="3")
    single = [] if isinstance(record.get(column), str) else objects(record.get(column), "preferences")
    raters = [vote for note in single if (vote := _leaning(note.get(key)))]
    leaning = _leaning(record[strength])
    answers: dict[str, Row] = {}
    for i, side in enumerate(sides):
        answer: Row = {"response": text(record[side], f"response {i + 1}"), "scores": {}}
        if leaning:
            answer |= {"scores": {"preference": leaning[i]}, "margin": abs(number(record[strength]) or 0.0)}
        if raters:
            answer["raters"] = {"preference": [vote[i] for vote in raters]}
        answers[str(i + 1)] = answer
    return candidates(record, {prompt, *sides}, turns(record[prompt], prompt), answers)


helpsteer2 = partial(helpsteer, columns=HELPSTEER2, column="all_preferences_unprocessed", key="strength")
helpsteer3 = partial(helpsteer, columns=HELPSTEER3, column="individual_preference", key="score")


def _sided(record: Row, sides: str) -> tuple[list[Row], set[str]]:
    """Return the columns that are about one of two answers, named without the side, and all their names."""
    own: list[Row] = [{}, {}]
    used = set()
    for column, value in record.items():
        for i, side in enumerate(sides):
            name = re.sub(f"(^|_){side}($|_)", lambda m: m[1] and m[2], column)
            if name != column:
                own[i][name] = value
                used.add(column)
    return own, used


def two_alone(record: Row, name: str, third: str = "c23") -> None:
    """Raise DataError if a record holds a third answer, such as response_c; response_2 is one beside 0 and 1."""
    for column, value in record.items():
        if value and re.fullmatch(rf"{name}[ _.-]?[{third}]", column.lower()):
            raise DataError(
                f"column '{column}': is a third answer beside two. Put the answers into a list 'responses', "
                "and what rates them into a list 'scores' or 'ranks'."
            )


def _two(
    record: Row, prompt: Any, response: str, sides: str, used: set[str], judged: Callable[[int, Row], Row]
) -> list[Row]:
    """Return the rows of two answers in columns such as human_ref_A and human_ref_B.

    `judged` returns scores, and what else belongs to an answer, from its place and its columns.
    """
    own, about = _sided(record, sides)
    answers = {}
    for i, (side, answer) in enumerate(zip(sides, own)):
        answer_text = text(answer.pop(response), f"{response}_{side}")
        judgement = judged(i, answer)
        answers[side] = {**answer, "response": answer_text, **judgement}
    return candidates(record, {*about, *used}, prompt, answers)


def safe_rlhf(record: Row) -> list[Row]:
    """Read PKU-Alignment/PKU-SafeRLHF: `preference` (helpful), `safer`, `is_safe`, `severity_level` 0 (none) to 3."""
    answers = {}
    used = {"prompt", "response_0", "response_1", "better_response_id", "safer_response_id"}
    for i in (0, 1):
        own = {}
        for column, value in record.items():
            match = re.fullmatch(f"(is_)?response_{i}_(.+)", column)
            if match:
                own[(match[1] or "") + match[2]] = value
                used.add(column)
        scores = {name: own.pop(name) for name in ("is_safe", "severity_level") if name in own}
        for name, column in (("preference", "better_response_id"), ("safer", "safer_response_id")):
            if (better := number(record.get(column))) is not None:
                scores[name] = float(better == i)
        answers[str(i)] = {**own, "response": text(record[f"response_{i}"], f"response_{i}"), "scores": scores}
    return candidates(record, used, turns(record["prompt"], "prompt"), answers)


def shp(record: Row) -> list[Row]:
    """Read stanfordnlp/SHP: labels 1 if A is preferred, 0 if B is; `score` counts the votes of a comment."""
    better = number(record["labels"])

    def judged(i: int, answer: Row) -> Row:
        preferred = None if better is None else float(better == 1 - i)
        return {"scores": {"preference": preferred, "score": answer.pop("score", None)}}

    return _two(record, turns(record["history"], "history"), "human_ref", "AB", {"history", "labels"}, judged)


def asked_summary(info: Any) -> str:
    """Return the prompt of summarize-from-feedback: a Reddit post with its title, or an article."""
    if not isinstance(info, dict) or not (info.get("post") or info.get("article")):
        raise DataError("column 'info': holds no post and no article. Give the file as it was published.")
    if info.get("post") is None:
        return f"{info['article']}\n\nTL;DR:"
    return f"SUBREDDIT: r/{info.get('subreddit')}\n\nTITLE: {info.get('title')}\n\nPOST: {info['post']}\n\nTL;DR:"


def summaries(record: Row) -> list[Row]:
    """Read openai/summarize_from_feedback, comparisons: `choice` is the better of two summaries."""
    pair = objects(record["summaries"], "summaries")
    if len(pair) != 2 or number(record["choice"]) not in (0, 1):
        raise DataError("columns 'summaries', 'choice': wanted two summaries and 0 or 1. Correct the record.")
    answers = {}
    for i, summary in enumerate(pair):
        own = {column: value for column, value in summary.items() if column != "text"}
        scores = {"preference": float(number(record["choice"]) == i)}
        answers[str(i)] = {**own, "response": text(summary.get("text"), "summaries"), "scores": scores}
    prompt = turns(asked_summary(record["info"]), "info")
    return candidates(record, {"info", "summaries", "choice"}, prompt, answers)


def webgpt(record: Row) -> list[Row]:
    """Read openai/webgpt_comparisons: `score` from -1 to 1, the better above 0; both 0 is a tie."""
    question = record["question"]
    prompt = question.get("full_text") if isinstance(question, dict) else question

    def judged(i: int, answer: Row) -> Row:
        score = number(answer.pop("score", None))
        preferred = None if score is None else 1.0 if score > 0 else 0.0 if score < 0 else 0.5
        return {"scores": {"preference": preferred, "score": score}}

    return _two(record, turns(prompt, "question"), "answer", "01", set(), judged)


def prometheus(record: Row) -> list[Row]:
    """Read prometheus-eval/Preference-Collection: two responses judged by the criteria of the record."""
    better = record.get("orig_preference")

    def judged(i: int, answer: Row) -> Row:
        preferred = float(better == "AB"[i]) if better in ("A", "B") else None
        return {"scores": {"preference": preferred, "score": answer.pop("orig_score", None)}}

    prompt, used = turns(record["orig_instruction"], "orig_instruction"), {"orig_instruction", "orig_preference"}
    return _two(record, prompt, "orig_response", "AB", {*used, "instruction", "output"}, judged)


def openai(record: Row) -> list[Row]:
    """Read OpenAI's preference fine-tuning file: the preferred output is better than the other."""
    request = record["input"].get("messages") if isinstance(record["input"], dict) else record["input"]
    columns = ("preferred_output", "non_preferred_output")
    sides = pairs.two(turns(request, "input"), record, columns)
    answers = {
        key: {**after, "response": response, "scores": {"preference": float(key == "chosen")}}
        for key, (_, response, after) in zip(pairs.SIDES, sides)
    }
    rest = record["input"] if isinstance(record["input"], dict) else {}
    extra = {column: value for column, value in rest.items() if column != "messages" and column not in record}
    return candidates({**extra, **record}, {"input", *columns}, sides[0][0], answers)


def compared(record: Row) -> list[Row]:
    """Read two responses and a vote (see `votes.py`); columns that end in _a or _b belong to one of them.

    Votes of several voters are `raters` of each response; votes on aspects, in `attributes`, become scores too.
    """
    leaning, strength, cast, single = votes.cast(record)
    attributes = {c: v for c, v in fields(record.get("attributes"), "attributes").items() if c not in cast}
    scores, about = _sided(attributes, "ab")
    margin = {} if strength is None else {"margin": strength}
    voted = {"preference": (leaning, single)}
    voted |= {c: vote for c, v in attributes.items() if c not in about and (vote := votes.in_words(v))}

    def judged(i: int, answer: Row) -> Row:
        sides = {name: vote and vote[i] for name, (vote, _) in voted.items()}
        raters = {name: [vote[i] for vote in each] for name, (_, each) in voted.items() if each}
        rated = {c: answer.pop(c) for c in [*answer] if _rates(c) and number(answer[c]) is not None}
        return {"scores": {**sides, **rated, **scores[i]}, **margin, **({"raters": raters} if raters else {})}

    shared = {c: v for c, v in record.items() if c != "attributes" and c not in cast}
    shared |= {c: v for c, v in attributes.items() if c not in (*about, *voted)}
    return _two(shared, turns(record["prompt"], "prompt"), "response", "ab", {"prompt"}, judged)


def _rates(column: str) -> bool:
    """Whether the name of a column that belongs to one side says that its number is a score."""
    return bool(RATED.search(column) or "reward" in column) and not metadata(column)


def alpaca_eval(record: Row) -> list[Row]:
    """Read AlpacaEval's annotations.json: 1 if output_1 is preferred, 2 if output_2 is, 0 or 1.5 a tie, null unknown.

    A number between leans to the nearer of the two; how far it is from a tie, on a scale of 0 to 1, is the margin.
    """
    lean = number(record.get("preference"))
    if lean is not None and not (lean == 0 or 1 <= lean <= 2):
        raise DataError(
            f"column 'preference': {record['preference']!r} is none of AlpacaEval's, 1 to 2 or 0. Correct it."
        )
    lean = 1.5 if lean == 0 else lean
    two_alone(record, "output", third="3")
    answers = {}
    for side, better in (("1", -1), ("2", 1)):
        away = None if lean is None else better * (lean - 1.5)
        answers[side] = {
            "response": text(record[f"output_{side}"], f"output_{side}"),
            "generator": record.get(f"generator_{side}"),
            "scores": {} if away is None else {"preference": 0.5 + 0.5 * ((away > 0) - (away < 0))},
            "margin": None if away is None else 2 * abs(away),
        }
    used = {"instruction", "preference", *(f"{c}_{side}" for c in ("output", "generator") for side in "12")}
    return candidates(record, used, turns(record["instruction"], "instruction"), answers)
