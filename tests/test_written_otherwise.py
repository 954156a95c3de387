"""Records as other programs of 2026 write them: nothing is reversed, joined wrongly, lost or trained by mistake."""

from __future__ import annotations

from typing import Any

import pytest

from data_recipes import layouts
from data_recipes.files import DataError
from data_recipes.turns import NOTED
from steer.rows.directions import of_name

ASK = [{"role": "user", "content": "Q?"}]
SAID = {"choices": [{"message": {"role": "assistant", "content": "A."}}]}


def rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a record, its columns renamed as `steer data` renames them."""
    return layouts.rows(layouts.spelled_out(record))


def one(record: dict[str, Any]) -> dict[str, Any]:
    (row,) = rows(record)
    return row


@pytest.mark.parametrize(
    ("name", "better"),
    [
        *(dict.fromkeys(("thumbs_down", "thumbsDown", "thumbs_neg", "low_quality", "poor_quality"), -1).items()),
        *(dict.fromkeys(("quality_issue", "neg_reward", "dissatisfaction", "uncertainty", "escalated"), -1).items()),
        *(dict.fromkeys(("thumbs_up", "thumbs_up_down", "low_toxicity", "followup", "problem_solving"), 1).items()),
    ],
)
def test_a_word_that_turns_a_name_round_is_read(name: str, better: int) -> None:
    assert of_name(name)[0] == better


def test_parts_of_an_answer_go_on_where_the_one_before_ends() -> None:
    """Citations part a sentence, SDKs of Google the stream; a call between two texts parts them."""
    texts = [
        {"type": "text", "text": "The grass is "},
        {"type": "text", "text": "green"},
        {"type": "text", "text": "."},
    ]
    blocks = {"type": "message", "role": "assistant", "content": texts, "stop_reason": "end_turn"}
    google = {"candidates": [{"content": {"role": "model", "parts": [{"text": "The grass "}, {"text": "is green."}]}}]}
    asked = {"contents": [{"role": "user", "parts": [{"text": "Q?"}]}]}
    for record in (
        {"request": {"messages": ASK}, "response": blocks},
        {"messages": ASK, "response": blocks},
        {"messages": [*ASK, {"role": "assistant", "content": texts}]},
        {"request": asked, "response": google},
    ):
        assert one(record)["response"] == "The grass is green."
    call = {"type": "tool_use", "id": "1", "name": "look", "input": {}}
    parted = one({"messages": [*ASK, {"role": "assistant", "content": [texts[1], call, texts[1]]}]})
    assert parted["response"] == "green\ngreen"
    user = one({"messages": [{"role": "user", "content": texts[:2]}, {"role": "assistant", "content": "A."}]})
    assert user["prompt"][0]["content"] == "The grass is \ngreen", "documents and a question are apart"


def test_a_preference_of_helpsteer3_means_the_same_under_any_name_of_the_prompt() -> None:
    pair = {"response1": "a", "response2": "b", "overall_preference": -2}
    for prompt in ({"context": ASK}, {"prompt": "Q?"}):
        assert [(r["response"], r["scores"]) for r in rows({**prompt, **pair})] == [
            ("a", {"preference": 1.0}),
            ("b", {"preference": 0.0}),
        ]


@pytest.mark.parametrize(
    "ending",
    [
        {"stop_reason": "max_tokens"},
        {"done_reason": "length"},
        {"finish_reason": "length"},
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    ],
)
def test_an_answer_of_langchain_that_was_cut_off_is_not_finished(ending: dict[str, Any]) -> None:
    for turn in (
        {"type": "ai", "data": {"content": "A.", "response_metadata": ending}},
        {"type": "ai", "content": "A.", "response_metadata": ending},
    ):
        assert one({"messages": [{"type": "human", "content": "Q?"}, turn]})["finished"] is False


@pytest.mark.parametrize(("reason", "finished"), [(0, None), (1, True), (2, False), (3, False)])
def test_the_reason_of_google_may_be_a_number(reason: int, finished: bool | None) -> None:
    choice = {"content": {"role": "model", "parts": [{"text": "A."}]}, "finish_reason": reason}
    row = one(
        {"request": {"contents": [{"role": "user", "parts": [{"text": "Q?"}]}]}, "response": {"candidates": [choice]}}
    )
    assert row.get("finished") in ((None, True) if finished is not False else (False,))


def test_ratings_of_both_sides_of_a_comparison_are_scores() -> None:
    found = rows({"prompt": "Q?", "response_a": "x", "response_b": "y", "score_a": 2, "score_b": 9, "winner": "b"})
    assert [r["scores"] for r in found] == [{"preference": 0.0, "score": 2.0}, {"preference": 1.0, "score": 9.0}]
    found = rows(
        {"prompt": "Q?", "completion_a": "x", "completion_b": "y", "reward_a": 2, "reward_b": 9, "tokens_a": 5}
    )
    assert [r["scores"] for r in found] == [{"reward": 2.0}, {"reward": 9.0}]


def test_steps_of_one_answer_are_no_answers() -> None:
    with pytest.raises(DataError, match=r"are the steps of one answer, each right or wrong \(stepwise supervision\)"):
        rows({"prompt": "2+2*2?", "completions": ["2*2=4.", "2+4=6."], "labels": [True, False]})


def test_a_system_column_may_be_a_part_of_the_system_turn() -> None:
    talk = [{"role": "system", "content": "reasoning language: French\n\nBe nice."}, *ASK]
    talk.append({"role": "assistant", "content": "A.", "thinking": "hmm oui"})
    for column in ("developer", "system"):
        row = one({column: "Be nice.", "messages": talk})
        assert [turn["content"] for turn in row["prompt"]] == ["reasoning language: French\n\nBe nice.", "Q?"]
        with pytest.raises(DataError, match=f"^column '{column}': is not the system turn that the conversation begins"):
            rows({column: "Be rude.", "messages": talk})


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>\n", "<|im_end|></s>"]
)
def test_a_token_that_ends_a_turn_is_taken_off_a_response_and_counted(end: str) -> None:
    row = one({"prompt": "Q?", "response": f"A.{end}"})
    assert row["response"] == "A."
    assert row[NOTED] == [f"taken off: {end.strip()} at the end of a response"]


def test_marks_of_templates_inside_of_texts_are_counted_and_stay() -> None:
    for text in ("<|channel|>analysis<|message|>x", "[INST] Q?", "<start_of_turn>model", "<|begin_of_thought|>hm"):
        row = one({"prompt": "Q?", "response": text})
        assert row["response"] == text
        assert row[NOTED][0].startswith("kept as text: ")
    row = one({"prompt": "Q?", "response": "<s>old</s>"})
    assert (row["response"], NOTED in row) == ("<s>old</s>", False), "a text that was crossed out"


def test_feedback_in_objects_and_lists_is_read_and_what_is_left_is_counted() -> None:
    row = one({"request": {"messages": ASK}, "response": SAID, "scores": {"helpful": {"value": 4}, "note": "x"}})
    assert row["scores"] == {"helpful": 4.0}
    assert row[NOTED] == ["left out: what 'scores' holds beside numbers"]
    talk = {"messages": [*ASK, {"role": "assistant", "content": "A."}]}
    row = one({**talk, "feedback": [{"name": "helpful", "value": 4}], "rating": {"value": 3}})
    assert row["scores"] == {"helpful": 4.0, "rating": 3.0}
    assert not {"feedback", "rating"} & row.keys()


def test_a_message_that_says_its_type_is_a_message() -> None:
    answer = {"id": "m", "type": "message", "role": "assistant", "content": [{"type": "text", "text": "A."}]}
    row = one({"messages": ASK, "response": {**answer, "stop_reason": "max_tokens"}})
    assert (row["response"], row["finished"]) == ("A.", False)
    good, bad = ([{"type": "message", "role": "assistant", "content": text}] for text in ("good", "bad"))
    assert [r["response"] for r in rows({"prompt": "Q?", "chosen": good, "rejected": bad})] == ["good", "bad"]


def test_messages_beside_generations_hold_one_of_them() -> None:
    talk = [*ASK, {"role": "assistant", "content": "<think>a b</think>g1"}]
    answers = ["<think>a b</think>g1", "<think>c d</think>g2"]
    found = rows({"problem": "Q?", "generations": answers, "correct": [True, False], "messages": talk})
    assert [(r["response"], r["reasoning_content"], r["scores"]) for r in found] == [
        ("g1", "a b", {"correct": 1.0}),
        ("g2", "c d", {"correct": 0.0}),
    ]
    assert {len(r["prompt"]) for r in found} == {1}


@pytest.mark.parametrize("vote", [{"best": 1}, {"winner": "b"}, {"preferred_response": 0}, {"chosen_index": 1}])
def test_a_vote_for_one_of_several_responses_by_its_place_is_said_to_be_none(vote: dict[str, Any]) -> None:
    made = rows({"prompt": "Q?", "responses": ["A.", "B."], **vote})
    assert [row["scores"] for row in made] == [{}, {}]
    for row in made:
        assert row[NOTED] == [
            f"kept as a column and no preference: '{next(iter(vote))}' "
            "(a list of 1 and 0, one for each of the responses, is one)"
        ]
    told = rows({"prompt": "Q?", "responses": ["A.", "B."], "preference": [0, 1]})
    assert [row["scores"]["preference"] for row in told] == [0, 1]
