"""Read published sets with ratings of single responses; several ratings of one response stay in `raters`."""

from __future__ import annotations

from typing import Any

from data_recipes.answers import candidates, content_id
from data_recipes.cells import number
from data_recipes.marks import NOTED, Row
from data_recipes.metadata import words
from data_recipes.parts import text
from data_recipes.preferences import asked_summary
from data_recipes.scores import scored
from data_recipes.streams import DataError
from data_recipes.turns import fields, objects, turns


def ultrafeedback(record: Row) -> list[Row]:
    """Read openbmb/UltraFeedback: one row per completion with its aspects (1 to 5) and overall score (1 to 10).

    Ratings that are no number ("N/A") are unknown, and so is an overall score of 10 where all aspects are 1 or 2.
    The principle that a model was told stays an extra column.
    """
    prompt = turns(record["instruction"], "instruction")
    answers = {}
    for i, completion in enumerate(objects(record["completions"], "completions")):
        own = {column: value for column, value in completion.items() if column != "response"}
        scores = aspects(fields(own.get("annotations"), "annotations"))
        for column in ("overall_score", "fine-grained_score"):
            scores[column] = own.pop(column, None)
        answers[str(i)] = {**own, "response": text(completion.get("response"), "completions"), "scores": scores}
    group = record.get("group") or content_id({"prompt": prompt})
    return candidates({**record, "group": group}, {"instruction", "completions"}, prompt, answers)


def aspects(annotations: Row) -> Row:
    """Return the rating of each aspect from {aspect: {Rating}} or {aspect: [{Rating}]}."""
    alone = {aspect: n[0] if isinstance(n, list) and len(n) == 1 else n for aspect, n in annotations.items()}
    return {aspect: note["Rating"] for aspect, note in alone.items() if isinstance(note, dict) and "Rating" in note}


ASPECTS = words("instruction_following honesty truthfulness helpfulness fine-grained_score fine_grained_score")


def corrected(row: Row) -> Row:
    """Set an overall score of 10 to unknown if all aspects are 1 or 2: UltraFeedback read 1.0 as 10."""
    scores = row.get("scores")
    if not isinstance(scores, dict) or number(scores.get("overall_score")) != 10:
        return row
    known = [score for aspect in ASPECTS if (score := number(scores.get(aspect))) is not None]
    if not known or max(known) > 2:
        return row
    fault = "overall_score 10 on an answer whose aspects are all 1 or 2 (a known fault: 1.0 read as 10)"
    return {**row, "scores": {**scores, "overall_score": None}, NOTED: [f"set to unknown: {fault}"]}


def summary_axes(record: Row) -> list[Row]:
    """Read openai/summarize_from_feedback, axis: overall, accuracy, coverage, coherence from 1 to 7 by one worker."""
    summary = fields(record["summary"], "summary")
    own = {column: value for column, value in summary.items() if column not in ("text", "axes")}
    answer = {**own, "response": text(summary.get("text"), "summary"), "scores": fields(summary.get("axes"), "axes")}
    prompt = turns(asked_summary(record["info"]), "info")
    group = str(record["info"].get("id") or content_id({"prompt": prompt}))
    (row,) = candidates({**record, "group": group}, {"info", "summary"}, prompt, {"0": answer})
    return [row]


def prometheus(record: Row) -> list[Row]:
    """Read prometheus-eval/Feedback-Collection: `score` from 1 to 5 by the criteria of the record."""
    prompt = turns(record["orig_instruction"], "orig_instruction")
    response = text(record["orig_response"], "orig_response")
    answer = {"response": response, "scores": {"score": record["orig_score"]}}
    used = {"orig_instruction", "orig_response", "orig_score", "instruction", "output"}
    group = content_id({"prompt": prompt})
    return candidates({**record, "group": record.get("group") or group}, used, prompt, {"0": answer})


def summeval(record: Row) -> list[Row]:
    """Read Yale-LILY/SummEval, paired with its articles: the mean of the experts (1 to 5), each kept in `raters`."""
    if not record.get("text"):
        raise DataError("column 'text': is missing. Pair the annotations with their articles first, as SummEval says.")
    prompt = turns(record["text"], "text")
    ratings: dict[str, list[Any]] = {}
    for note in objects(record["expert_annotations"], "expert_annotations"):
        for name, value in note.items():
            ratings.setdefault(name, []).append(number(value))
    scores, raters = scored(ratings)
    answer = {"response": text(record["decoded"], "decoded"), "scores": scores, **raters}
    shared = {**record, "id": "", "group": str(record.get("id") or content_id({"prompt": prompt}))}
    name = f"{record.get('id')}:{record.get('model_id')}" if record.get("id") and record.get("model_id") else ""
    (row,) = candidates(shared, {"id", "text", "decoded", "expert_annotations"}, prompt, {"0": answer})
    return [{**row, "id": name}]
