"""Read published sets of pairs: two rows of one group with the score `preference`, 1 the better, 0 the worse, .5 a tie.

How strongly the better one was preferred is the extra column `margin`; what single annotators said is in `raters`.
"""

from __future__ import annotations

import re
from typing import Any

from data_recipes import votes
from data_recipes.streams import DataError
from data_recipes.turns import Row, candidates, fields, number, objects, text, turns

LONGEST = 3  # HelpSteer's strengths run from -3 to 3; others, such as -100, say that neither can be judged


def _leaning(strength: Any) -> tuple[float, float] | None:
    """Return (preference of the first, of the second) for a strength, below 0 if the first is better; None: unknown."""
    value = number(strength)
    if value is None or abs(value) > LONGEST:
        return None
    return (1.0, 0.0) if value < 0 else (0.0, 1.0) if value > 0 else (0.5, 0.5)


def _rated_pair(texts: list[Any], strength: Any, single: list[Any]) -> list[Row]:
    """Return HelpSteer's two answers with their preference, its margin and what each rater said."""
    leaning = _leaning(strength)
    single_votes = [vote for value in single if (vote := _leaning(value))]
    answers = []
    for i, response in enumerate(texts):
        answer: Row = {"response": text(response, f"response {i + 1}"), "scores": {}}
        if leaning:
            answer |= {"scores": {"preference": leaning[i]}, "margin": abs(number(strength) or 0.0)}
        if single_votes:
            answer["raters"] = {"preference": [vote[i] for vote in single_votes]}
        answers.append(answer)
    return answers


def _notes(value: Any) -> list[Row]:
    """Return the notes of single annotators; files that hold them as a text keep it as a column."""
    return [] if isinstance(value, str) else objects(value, "preferences")


def helpsteer2(record: Row) -> list[Row]:
    """Read nvidia/HelpSteer2, folder preference: strength -3 (the first much better) to 3."""
    single = [note.get("strength") for note in _notes(record.get("all_preferences_unprocessed"))]
    first, second = _rated_pair([record["response_1"], record["response_2"]], record["preference_strength"], single)
    used = {"prompt", "response_1", "response_2"}
    return candidates(record, used, turns(record["prompt"], "prompt"), {"1": first, "2": second})


def helpsteer3(record: Row) -> list[Row]:
    """Read nvidia/HelpSteer3, config preference: overall preference -3 (the first much better) to 3."""
    single = [note.get("score") for note in _notes(record.get("individual_preference"))]
    first, second = _rated_pair([record["response1"], record["response2"]], record["overall_preference"], single)
    used = {"context", "response1", "response2"}
    return candidates(record, used, turns(record["context"], "context"), {"1": first, "2": second})


def _sided(record: Row, sides: tuple[str, str]) -> tuple[list[Row], set[str]]:
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
    own, used = _sided(record, ("A", "B"))
    better = number(record["labels"])
    answers = {}
    for i, side in enumerate("AB"):
        response = text(own[i].pop("human_ref"), f"human_ref_{side}")
        scores = {"preference": None if better is None else float(better == 1 - i), "score": own[i].pop("score", None)}
        answers[side] = {**own[i], "response": response, "scores": scores}
    prompt = turns(record["history"], "history")
    return candidates(record, {*used, "history", "labels"}, prompt, answers)


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
    own, used = _sided(record, ("0", "1"))
    answers = {}
    for side, answer in zip("01", own):
        score = number(answer.pop("score", None))
        leaning = None if score is None else 1.0 if score > 0 else 0.0 if score < 0 else 0.5
        response = text(answer.pop("answer"), f"answer_{side}")
        answers[side] = {**answer, "response": response, "scores": {"preference": leaning, "score": score}}
    return candidates(record, used, turns(prompt, "question"), answers)


def prometheus(record: Row) -> list[Row]:
    """Read prometheus-eval/Preference-Collection: two responses judged by the criteria of the record."""
    own, used = _sided(record, ("A", "B"))
    answers = {}
    for side, answer in zip("AB", own):
        better = record.get("orig_preference")
        scores = {
            "preference": None if better not in ("A", "B") else float(better == side),
            "score": answer.pop("orig_score", None),
        }
        response = text(answer.pop("orig_response"), f"orig_response_{side}")
        answers[side] = {**answer, "response": response, "scores": scores}
    prompt = turns(record["orig_instruction"], "orig_instruction")
    return candidates(record, {*used, "orig_instruction", "orig_preference", "instruction", "output"}, prompt, answers)


def openai(record: Row) -> list[Row]:
    """Read OpenAI's preference fine-tuning file: the preferred output is better than the other."""
    request = record["input"].get("messages") if isinstance(record["input"], dict) else record["input"]
    prompt = turns(request, "input")
    answers = {}
    for key, column in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        output = record[column]
        output = (
            output[-1].get("content")
            if isinstance(output, list) and output and isinstance(output[-1], dict)
            else output
        )
        answers[key] = {"response": text(output, column), "scores": {"preference": float(key == "chosen")}}
    rest = record["input"] if isinstance(record["input"], dict) else {}
    extra = {column: value for column, value in rest.items() if column != "messages" and column not in record}
    used = {"input", "preferred_output", "non_preferred_output"}
    return candidates({**extra, **record}, used, prompt, answers)


def compared(record: Row) -> list[Row]:
    """Read two responses and a vote (see `votes.py`); columns that end in _a or _b belong to one of them."""
    leaning, strength, cast = votes.cast(record)
    attributes = fields(record.get("attributes"), "attributes")
    own, used = _sided({c: v for c, v in record.items() if c not in cast}, ("a", "b"))
    scores, taken = _sided({c: v for c, v in attributes.items() if c not in cast}, ("a", "b"))
    answers = {}
    for i, side in enumerate("ab"):
        response = text(own[i].pop("response"), f"response_{side}")
        better = None if leaning is None else leaning[i]
        margin = {} if strength is None else {"margin": strength}
        answers[side] = {**own[i], "response": response, "scores": {"preference": better, **scores[i]}, **margin}
    rest = {column: value for column, value in attributes.items() if column not in {*taken, *cast}}
    shared = {**{c: v for c, v in record.items() if c != "attributes"}, **rest}
    return candidates(shared, {*used, *cast, "prompt"}, turns(record["prompt"], "prompt"), answers)


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
