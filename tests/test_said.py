"""What a conversation or a log says in another place, or not at all: it is read, left out and counted, or named."""

from __future__ import annotations

from typing import Any

import pytest

from data_recipes.layouts import rows
from data_recipes.marks import LEFT_OUT, NOTED
from data_recipes.streams import DataError
from steer.rows.reading import Reading, prompts, read

ASK: list[dict[str, Any]] = [{"role": "user", "content": "q"}]
THOUGHT = "it ends with its thought and has no answer"
CUT = "it was cut off before it answered"


def chat(message: dict[str, Any], end: str) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", **message}, "finish_reason": end}
    return {"request": {"messages": ASK}, "response": {"choices": [choice]}, "rating": 1}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (chat({"content": None, "reasoning_content": "so"}, "length"), THOUGHT),
        (chat({"content": "", "reasoning_content": "so"}, "stop"), THOUGHT),
        (chat({"content": None}, "length"), CUT),
        (chat({"content": ""}, "length"), CUT),
        (
            {
                "request": {"messages": ASK},
                "response": {"content": [{"type": "thinking", "thinking": "so"}], "stop_reason": "max_tokens"},
            },
            THOUGHT,
        ),
        (
            {
                "request": {"contents": [{"role": "user", "parts": [{"text": "q"}]}]},
                "response": {"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}]},
            },
            CUT,
        ),
        ({"messages": [*ASK, {"role": "assistant", "content": None, "reasoning_content": "so"}]}, THOUGHT),
        ({"prompt": "q", "response": "", "reasoning_content": "so it is"}, THOUGHT),
        ({"prompt": "q", "response": "", "finish_reason": "length"}, CUT),
    ],
)
def test_an_answer_that_was_never_said_is_left_out_and_counted(record: dict[str, Any], why: str) -> None:
    [row] = rows(record)
    assert row[LEFT_OUT] == why


def test_an_answer_without_text_that_says_no_reason_is_named() -> None:
    with pytest.raises(DataError, match="a choice holds no text"):
        rows(chat({"content": None}, "stop"))


@pytest.mark.parametrize(
    "turn",
    [
        {"content": None, "refusal": "No."},
        {"content": "", "refusal": "No."},
        {"refusal": "No."},
        {"text": "No."},
        {"message": "No."},
        {"content": "No."},
    ],
)
def test_a_turn_says_its_text_under_any_of_its_names(turn: dict[str, Any]) -> None:
    said = {"role": "assistant", **turn}
    [earlier] = rows({"messages": [*ASK, said, {"role": "user", "text": "r"}, {"role": "assistant", "content": "y"}]})
    assert earlier["prompt"] == [*ASK, {"role": "assistant", "content": "No."}, {"role": "user", "content": "r"}]
    [last] = rows({"messages": [*ASK, said]})
    assert (last["prompt"], last["response"]) == (ASK, "No.")


@pytest.mark.parametrize("front", ["\n\n", "", "\n", " \n\n"])
def test_a_conversation_as_one_text_may_have_lost_the_lines_in_front(front: str) -> None:
    text = f"{front}Human: q\n\nAssistant:"
    pair = rows({"chosen": f"{text} good", "rejected": f"{text} bad"})
    assert [(row["prompt"], row["response"]) for row in pair] == [(ASK, "good"), (ASK, "bad")]
    logged = {"request": {"prompt": text}, "response": {"completion": "x"}}
    for record in ({"prompt": text, "response": "x"}, logged):
        [row] = rows(record)
        assert (row["prompt"], row["response"]) == (ASK, "x")
    [plain] = rows({"prompt": f"{front}Human: a word", "response": "x"})
    assert front == "\n\n" or plain["prompt"] == [{"role": "user", "content": f"{front}Human: a word"}]


def test_scores_of_earlier_answers_are_read_or_said_to_be_left_out() -> None:
    talk = [*ASK, {"role": "assistant", "content": "x", "rating": 5}, *ASK, {"role": "assistant", "content": "y"}]
    [row] = rows({"messages": talk, "quality": 3})
    assert row["scores"] == {"quality": 3.0}
    assert row[NOTED] == ["left out: scores of earlier answers of a conversation (--turns all reads them)"]
    first, last = rows({"messages": talk, "quality": 3}, every=True)
    assert first["scores"] == {"quality": 3.0, "rating": 5.0}
    assert NOTED not in first
    assert NOTED not in last


@pytest.mark.parametrize(
    ("given", "scores"),
    [
        ({"scores": [{"name": "help", "value": 4}]}, {"help": 4.0}),
        ({"scores": '{"help": 4}'}, {"help": 4.0}),
        ({"scores": {"help": {"value": 4}, "warm": 2}}, {"help": 4.0, "warm": 2.0}),
        ({"attributes": [{"key": "help", "score": 4}]}, {"help": 4.0}),
        ({"scores": [4, 5]}, {"scores": 4.5}),
        ({"score": {"value": 0.5, "label": "good"}}, {"score": 0.5}),
    ],
)
def test_scores_are_read_in_every_form_that_logs_have(given: dict[str, Any], scores: dict[str, float]) -> None:
    others = [{"messages": [*ASK, {"role": "assistant", "content": "x"}]}, {"instruction": "q", "output": "x"}]
    own = "scores" in given and given["scores"] != [4, 5]  # the layout of rows of steer wants names
    for record in [*others, {"prompt": "q", "response": "x"}] if own else others:
        [row] = rows({**record, **given})
        assert row["scores"] == scores
        assert NOTED not in row


def test_what_scores_hold_beside_numbers_is_said_and_other_forms_are_refused() -> None:
    record = {"messages": [*ASK, {"role": "assistant", "content": "x"}]}
    [row] = rows({**record, "scores": {"help": {"score": 4, "reason": "r"}}})
    assert row["scores"] == {"help": 4.0}
    assert row[NOTED] == ["left out: what 'scores' holds beside numbers"]
    with pytest.raises(DataError, match=r"column 'scores': holds a text, wanted an object \{attribute: number\}"):
        rows({**record, "scores": "good"})


@pytest.mark.parametrize("scores", [[], [None, None], "[]", {}, [{"name": "help", "value": None}]])
def test_a_row_that_nobody_rated_has_no_scores(scores: Any) -> None:
    [row] = rows({"messages": [*ASK, {"role": "assistant", "content": "x"}], "scores": scores})
    assert row["scores"] == {}
    assert NOTED not in row


def test_a_row_without_an_answer_is_a_prompt_and_judged_as_a_blank_answer() -> None:
    records = [
        {"prompt": "q0", "response": "", "finish_reason": "length"},
        {"prompt": "q1", "response": "", "reasoning_content": "so it is"},
        {"prompt": "q2", "response": "<think>so it"},
        {"prompt": "q3", "response": "x"},
        {"prompt": "q4", "response": "", "finish_reason": "length", "deleted": True},
    ]
    texts = [row["response"] for row in read(records, reading=Reading(blank=True))]
    assert texts == ["", "", "", "x"], "what never answers counts; what was deleted does not"
    assert [row["prompt"][0]["content"] for row in prompts(records)] == ["q0", "q1", "q2", "q3"]
    assert [row["response"] for row in read(records)] == ["x"]


@pytest.mark.parametrize("column", ["instruction", "question", "prompt"])
def test_a_text_that_only_speaks_of_a_conversation_stays_a_text(column: str) -> None:
    said = "Human: Which tea?\n\nAssistant: Green."
    [row] = rows({column: "Write a chat about tea.", "output" if column == "instruction" else "response": said})
    assert row["response"] == said
    about = f"{said}\n\nSummarise this."
    [row] = rows({column: about, "output" if column == "instruction" else "response": "A choice."})
    assert row["prompt"] == [{"role": "user", "content": about}]
    [row] = rows({column: "Human: q\n\nAssistant:", "output" if column == "instruction" else "response": "x"})
    assert row["prompt"] == ASK


@pytest.mark.parametrize(
    ("more", "kept"),
    [({"removed": 1}, True), ({"deleted": "1"}, True), ({"is_deleted": 1}, False), ({"deleted": "true"}, False)],
)
def test_a_count_of_what_was_removed_is_no_flag(more: dict[str, Any], kept: bool) -> None:
    [row] = rows({"prompt": "q", "response": "x", "added": 12, **more})
    assert (LEFT_OUT not in row) == kept


def test_a_blank_turn_with_a_call_or_of_a_tool_stays_blank() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    talk = [*ASK, {"role": "assistant", "content": "", "tool_calls": calls, "value": 0.9, "message": "m"}]
    talk += [{"role": "tool", "content": "", "message": "ok"}, {"role": "assistant", "content": "x"}]
    [row] = rows({"messages": talk})
    assert [turn["content"] for turn in row["prompt"]] == ["q", "", ""]
