"""Records as other programs of 2026 write them: nothing is reversed, joined wrongly, lost or trained by mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest

from data_recipes import layouts
from data_recipes.files import DataError
from data_recipes.marks import LEFT_OUT, NOTED
from data_recipes.metadata import metadata
from steer.labelling.scorer import readable
from steer.rows import Tally, read, read_rows
from steer.rows.directions import of_name
from steer.rows.notices import noted
from steer.rows.reading import Reading

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


@pytest.mark.parametrize(
    ("scores", "right"),
    [((5, 2), (5.0, 2.0)), (("4", None), (4.0, None)), (("4/5", 1), None), ((True, False), (1.0, 0.0))],
)
def test_scores_of_both_sides_of_a_pair_may_be_in_one_object(scores: tuple[Any, Any], right: Any) -> None:
    record = {"prompt": "Q?", "chosen": "x", "rejected": "y", "scores": dict(zip(("chosen", "rejected"), scores))}
    if right is None:
        with pytest.raises(DataError, match="column 'scores': a pair has two answers"):
            rows(record)
        return
    found = rows(record)
    assert [r["scores"].get("score") for r in found] == [*right]
    assert [r["scores"]["preference"] for r in found] == [1.0, 0.0]


@pytest.mark.parametrize("scores", [[5, 2], {"helpful": 5}, {"chosen": 5}, 5])
def test_scores_of_a_pair_that_belong_to_no_side_are_refused(scores: Any) -> None:
    pair = {"prompt": "Q?", "chosen": "x", "rejected": "y"}
    with pytest.raises(DataError, match=r"column 'scores': .* wanted an object \{chosen: number, rejected: number\}"):
        rows({**pair, "scores": scores})
    with pytest.raises(DataError, match="columns 'scores', 'score-chosen': both hold scores of the two answers"):
        rows({**pair, "scores": {"chosen": 5, "rejected": 2}, "score-chosen": 4})
    assert [r["scores"] for r in rows({**pair, "scores": None})] == [{"preference": 1.0}, {"preference": 0.0}]


CHOSEN = {"prompt": "Q?", "chosen": "x", "rejected": "y"}


@pytest.mark.parametrize(
    "said",
    [
        {"status": "tie"},
        {"winner": "tie (bothbad)"},
        {"preference": "equal"},
        {"Verdict": ["tie", "a", "b"]},
        {"tie": True},
        {"is_tie": "1"},
    ],
)
def test_a_pair_that_says_it_is_a_tie_is_one(said: dict[str, Any]) -> None:
    found = rows({**CHOSEN, **said})
    assert [r["scores"] for r in found] == [{"preference": 0.5}, {"preference": 0.5}]
    assert {*found[0][NOTED]} == {f"read as a tie: a pair whose '{next(iter(said))}' says so"}


@pytest.mark.parametrize(
    "said",
    [
        {"overall_preference": "rejected"},
        {"winner": "response_rejected"},
        {"better": "y"},
        {"winner": "m", "rejected_model": "m", "chosen_model": "n"},
    ],
)
def test_a_pair_that_says_the_contrary_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"column '{next(iter(said))}': says that the rejected response is the better"):
        rows({**CHOSEN, **said})


@pytest.mark.parametrize(
    ("beside", "notes"),
    [
        ({"winner": "chosen", "status": "rejected", "tie": False}, []),
        ({"winner": "m", "rejected_model": "m", "chosen_model": "m", "choice": "C", "preference": 2}, []),
        (
            {"winner": "model_b"},
            ["kept as a column and no preference: 'winner' (a or b is neither chosen nor rejected)"],
        ),
        ({"vote": "a"}, ["kept as a column and no preference: 'vote' (a or b is neither chosen nor rejected)"]),
        (
            {"score_chosen": 5, "score_rejected": 5},
            ["kept as chosen: a response whose 'score' is equal to that of the rejected one"],
        ),
        (
            {"chosen_rating": 3, "rejected_rating": 5},
            ["kept as chosen: a response whose 'rating' is below that of the rejected one"],
        ),
        ({"chosen_toxicity": 1, "rejected_toxicity": 5, "chosen_score": 2, "rejected_score": 1}, []),
    ],
)
def test_a_pair_is_kept_where_what_is_beside_it_only_raises_a_doubt(beside: dict[str, Any], notes: list[str]) -> None:
    found = rows({**CHOSEN, **beside})
    assert [r["scores"]["preference"] for r in found] == [1.0, 0.0]
    assert [r.get(NOTED, []) for r in found] == [notes, notes]


@pytest.mark.parametrize(
    ("record", "third"),
    [
        ({"response_a": "x", "response_b": "y", "response_c": "z", "winner": "c"}, "response_c"),
        ({"response_a": "x", "response_b": "y", "response_c": "z", "winner": "a"}, "response_c"),
        ({**{f"response_{i}": "x" * i for i in (1, 2, 3, 4)}, "rank_1": 1, "rank_2": 2}, "response_3"),
        ({"answer_0": "x", "answer_1": "y", "answer_2": "z"}, "answer_2"),
        ({f"conversation_{side}": [*ASK, {"role": "assistant", "content": side}] for side in "abc"}, "conversation_c"),
        ({**{f"response_{i}": "x" * i for i in (1, 2, 3)}, "prompt": "Q?", "preference_strength": 2}, "response_3"),
        ({"instruction": "Q?", "output_1": "x", "output_2": "y", "output_3": "z"}, "output_3"),
    ],
)
def test_a_third_answer_beside_two_is_refused_with_what_reads_it(record: dict[str, Any], third: str) -> None:
    with pytest.raises(DataError, match=f"column '{third}': is a third answer beside two.*a list 'responses'"):
        rows({"question": "Q?", **record})
    found = rows({"question": "Q?", **record, **{c: None for c in record if c[-1] in third[-1] + "4"}})
    assert len(found) == 2


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
    ("system", "prompt"),
    [
        ({"role": "system", "content": "Be nice."}, "Be nice."),
        ({"content": [{"type": "text", "text": "Be nice."}]}, "Be nice."),
        ({"text": "Be nice."}, "Be nice."),
        ({"parts": [{"text": "Be nice."}]}, "Be nice."),
        ({"role": "system", "parts": {"text": "Be nice."}}, "Be nice."),
        (["Be nice.", "Very."], "Be nice.\nVery."),
        ({"os": "linux"}, ""),
        (["gpt", "claude"], ""),
    ],
)
def test_a_system_column_may_be_a_turn_or_several_texts(system: Any, prompt: str) -> None:
    row = one({"system": system, "prompt": "Q?", "response": "A."})
    assert row["prompt"] == [*([{"role": "system", "content": prompt}] if prompt else []), *ASK]
    assert row.get("system") == (None if prompt else system)


def test_a_system_column_with_a_text_for_each_of_several_answers_is_no_prompt() -> None:
    record = {"prompt": "Q?", "responses": ["x", "y"], "scores": [1, 2]}
    with pytest.raises(DataError, match="column 'system': holds a text for each of several answers"):
        rows({**record, "system": ["Be nice.", "Be rude."]})
    assert [row["system"] for row in rows({**record, "system": ["gpt", "claude"]})] == ["gpt", "claude"]


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>\n", "<|im_end|></s>"]
)
def test_a_token_that_ends_a_turn_is_taken_off_a_response_and_counted(end: str) -> None:
    row = one({"prompt": "Q?", "response": f"A.{end}"})
    assert row["response"] == "A."
    assert row[NOTED] == [f"taken off: {end.strip()} at the end of a response"]


def test_marks_of_templates_inside_of_texts_are_counted_and_stay() -> None:
    for text in (
        "<|channel|>analysis<|message|>x",
        "[INST] Q?",
        "<start_of_turn>model",
        "<|begin_of_thought|>hm",
        "<|user|>Q",
        "a </s> b",
    ):
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


CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "called",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"content": None, "tool_calls": [{"name": "f", "arguments": "{}"}]},
        {"tool_calls": [CALL]},
        {"text": "", "function_call": {"name": "f", "arguments": "{}"}},
    ],
)
def test_one_of_several_responses_may_be_a_call(called: dict[str, Any]) -> None:
    found = rows({"prompt": "Q?", "responses": [called, {"content": "b"}, {"content": ""}], "scores": [5, 2, 1]})
    assert [(r["response"], r.get("tool_calls"), r["scores"], LEFT_OUT in r) for r in found] == [
        ("", [CALL], {"score": 5.0}, False),
        ("b", None, {"score": 2.0}, False),
        ("", None, {"score": 1.0}, True),
    ]


@pytest.mark.parametrize(
    ("preferred", "right"),
    [
        ({"content": "Let me check.", "tool_calls": [CALL]}, {"response": "Let me check.", "tool_calls": [CALL]}),
        ({"content": None, "tool_calls": [CALL]}, {"response": "", "tool_calls": [CALL]}),
        ({"content": "x", "reasoning_content": "hm"}, {"response": "x", "reasoning_content": "hm"}),
        ({"content": None, "refusal": "No."}, {"response": "No."}),
    ],
)
def test_openais_preferred_output_is_a_turn_with_all_that_it_holds(preferred: Any, right: dict[str, Any]) -> None:
    bad = {"role": "assistant", "content": "bad"}
    record = {"input": {"messages": ASK}, "non_preferred_output": [bad]}
    record["preferred_output"] = [{"role": "assistant", **preferred}]
    chosen, rejected = rows(record)
    kept = ("response", "tool_calls", "reasoning_content")
    assert ({c: chosen[c] for c in kept if c in chosen}, chosen["prompt"]) == (right, ASK)
    assert (rejected["response"], [row["scores"]["preference"] for row in (chosen, rejected)]) == ("bad", [1.0, 0.0])
    step = [{"role": "assistant", "content": "x", "tool_calls": [CALL]}, {"role": "tool", "content": "r"}]
    record["preferred_output"] = [*step, {"role": "assistant", "content": "y"}]
    with pytest.raises(DataError, match="'preferred_output', 'non_preferred_output': differ before their last turn"):
        rows(record)
    chosen, rejected = rows({**record, "non_preferred_output": [*step, bad]})
    assert chosen["prompt"] == [*ASK, *step] == rejected["prompt"]


def test_messages_beside_generations_hold_one_of_them() -> None:
    talk = [*ASK, {"role": "assistant", "content": "<think>a b</think>g1"}]
    answers = ["<think>a b</think>g1", "<think>c d</think>g2"]
    found = rows({"problem": "Q?", "generations": answers, "correct": [True, False], "messages": talk})
    assert [(r["response"], r["reasoning_content"], r["scores"]) for r in found] == [
        ("g1", "a b", {"correct": 1.0}),
        ("g2", "c d", {"correct": 0.0}),
    ]
    assert {len(r["prompt"]) for r in found} == {1}


THREE = {"prompt": "Q?", "responses": ["x", "y", "z"], "models": ["m", "n", "o"]}


@pytest.mark.parametrize(
    "places",
    [
        {"ranking": [2, 0, 1]},
        {"order": [3, 1, 2]},
        {"ranked": ["C", "a", "B"]},
        {"Ranking": ["o", "m", "n"]},
        {"ranked_responses": ["y", "x", "z"]},
    ],
)
def test_a_list_that_may_hold_ranks_or_the_order_of_responses_is_refused_until_it_says_which(
    places: dict[str, Any],
) -> None:
    [(name, value)] = places.items()
    with pytest.raises(
        DataError, match=rf"column '{name}': may hold the rank .*, or name them in .* --map ranks={name}"
    ):
        rows({**THREE, **places})
    if not isinstance(value[0], str):
        columns = {"prompt": "prompt", "responses": "responses", "ranks": name}
        assert [r["scores"]["rank"] for r in read_rows([{**THREE, **places}], columns=columns)] == value
        assert [r["scores"]["rank"] for r in rows({**THREE, "ranks": value})] == value


@pytest.mark.parametrize(
    "places", [{"ranking": [1, 3, 2]}, {"order": [1, 0, 2]}, {"order": [1, 1, 2]}, {"ranked": [3, 2, 1]}]
)
def test_a_list_that_says_the_same_as_ranks_and_as_an_order_is_the_rank(places: dict[str, Any]) -> None:
    assert [{"rank": float(n)} for n in next(iter(places.values()))] == [r["scores"] for r in rows({**THREE, **places})]


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


REQUEST = {"messages": ASK}


def told(*records: dict[str, Any], **reading: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows as `steer data` reads them, and the lines that it says."""
    tally = Tally()
    return list(read(list(records), reading=Reading(**reading), tally=tally)), list(noted(tally))


@pytest.mark.parametrize(
    "failed",
    [
        {"response": {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}},
        {"response": {"message": "Too many requests", "code": 429}},
        {"response": {"message": "Try later", "code": "rate_limit_exceeded"}},
        {"response": {"message": "No", "type": "authentication_error"}},
        {"response": {"error": "overloaded"}},
        {"response": {"detail": "Not Found"}},
        {"response": '{"error_code":"REQUEST_LIMIT_EXCEEDED","message":"..."}'},
        {"response": '{"detail":"Not Found"}'},
        {"response": "Bad gateway", "status_code": 502},
        {"response": "Bad gateway", "response_status": "429"},
        {"response": "Bad gateway", "status": 500},
    ],
)
def test_what_a_server_says_of_a_failure_is_no_answer(failed: dict[str, Any]) -> None:
    for asked in ({"request": REQUEST}, {"prompt": "Q?"}):
        if "request" in asked or not (isinstance(failed["response"], str) and failed["response"].startswith("{")):
            with pytest.raises(DataError, match="the request failed"):
                rows({**asked, **failed})


@pytest.mark.parametrize(
    "fine",
    [
        {"response": SAID, "status_code": 200, "status": "success"},
        {"response": {**SAID, "error": None}},
        {"response": {"type": "message", "role": "assistant", "content": "A."}},
        {"response": {"code": 0, "message": "A."}},
        {"response": {"message": "A.", "code": "ok"}},
        {"response": "A.", "status": 1},
    ],
)
def test_what_a_server_says_of_an_answer_is_no_failure(fine: dict[str, Any]) -> None:
    assert one({"request": REQUEST, **fine})["response"] == "A."
    structured = '{"error": "none", "total": 3}'
    assert one({"request": REQUEST, "response": structured})["response"] == structured


@pytest.mark.parametrize("asked", [{"request": REQUEST}, {"prompt": "Q?"}])
@pytest.mark.parametrize("head", ["", "event: content_block_delta\n"])
def test_a_stream_of_events_is_no_text(asked: dict[str, Any], head: str) -> None:
    stream = head + 'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\ndata: [DONE]\n'
    with pytest.raises(DataError, match="holds a stream of events"):
        rows({**asked, "response": stream})


TURNS = [{"id": "m0", "role": "user", "content": "Q?"}]
CALLING = [
    *TURNS,
    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "content": "5"},
]


@pytest.mark.parametrize(
    "cell",
    [TURNS, CALLING, [{"type": "human", "content": "Q?"}], TURNS[0], {"messages": TURNS}, {"messages": CALLING}],
)
@pytest.mark.parametrize("written", [json.dumps, repr])
def test_turns_in_a_cell_of_a_table_are_turns(cell: Any, written: Any) -> None:
    prompt = one({"prompt": written(cell), "response": "A."})["prompt"]
    assert prompt[0] == {"role": "user", "content": "Q?"}
    assert [turn["role"] for turn in prompt] in (["user"], ["user", "assistant", "tool"])
    answer = {"id": "m1", "role": "assistant", "content": "A."}
    for said in (answer, [answer]):
        row = one({"prompt": "Q?", "response": written(said)})
        assert (row["prompt"], row["response"]) == (ASK, "A.")
    whole = [*(cell if isinstance(cell, list) else TURNS), answer]
    assert one({"messages": written(whole)})["response"] == "A."


@pytest.mark.parametrize("cell", ['[{"a": 1}]', '{"type": "user", "id": 5}', '[{"role": "admin"}]', "[1] is a user?"])
def test_data_in_a_cell_is_what_a_user_wrote(cell: str) -> None:
    assert one({"prompt": cell, "response": "A."})["prompt"] == [{"role": "user", "content": cell}]


def test_turns_among_other_data_in_a_cell_are_refused() -> None:
    with pytest.raises(DataError, match=r"^column 'prompt': holds turns as text that cannot be read"):
        rows({"prompt": json.dumps([*TURNS, {"x": 1}]), "response": "A."})


THINKS = {"role": "assistant", "channel": "analysis", "content": "hm"}
ANSWERS = {"role": "assistant", "channel": "final", "content": "A."}
CALLS = {"role": "assistant", "channel": "commentary", "recipient": "functions.f", "content": '{"x": 1}'}


def test_the_analysis_of_gpt_oss_is_the_thought_of_the_turn_that_follows() -> None:
    thought = {"role": "assistant", "content": "A.", "reasoning_content": "hm"}
    talk = [*ASK, THINKS, ANSWERS, *ASK]
    for record in ({"messages": [*talk, THINKS, THINKS, ANSWERS]}, {"prompt": talk, "response": [THINKS, ANSWERS]}):
        row = one(record)
        assert row["prompt"] == [*ASK, thought, *ASK]
        assert (row["response"], row["reasoning_content"].split("\n")[0]) == ("A.", "hm")
    assert one({"request": {"messages": talk}, "response": "B."})["prompt"] == [*ASK, thought, *ASK]
    called = one({"messages": [*ASK, THINKS, CALLS, {"role": "tool", "content": "5"}, ANSWERS]})["prompt"][1]
    assert (called["content"], called["reasoning_content"]) == ("", "hm")
    assert called["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    at_once = {**THINKS, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    called = one({"messages": [*ASK, at_once, {"role": "tool", "content": "5"}, ANSWERS]})["prompt"][1]
    assert (called["content"], called["reasoning_content"], len(called["tool_calls"])) == ("", "hm", 1)
    stopped = one({"messages": [*ASK, THINKS, *ASK, ANSWERS]})
    assert (len(stopped["prompt"]), stopped[NOTED]) == (2, ["left out: thoughts of answers that were stopped"])


FIVE_AND_ONE = [{"name": "helpful", "value": 5}, {"name": "helpful", "value": 1}]
ANSWERED = {"messages": [*ASK, {"role": "assistant", "content": "A."}]}


def test_several_ratings_of_one_name_are_those_of_several_raters() -> None:
    turn = {"role": "assistant", "content": "A.", "feedback": FIVE_AND_ONE}
    for record in (
        {"prompt": "Q?", "response": "A.", "feedback": FIVE_AND_ONE},
        {"request": REQUEST, "response": SAID, "feedback": FIVE_AND_ONE},
        {**ANSWERED, "feedback": FIVE_AND_ONE},
        {"messages": [*ASK, turn]},
    ):
        row = one(record)
        assert (row["scores"], row["raters"]) == ({"helpful": 3.0}, {"helpful": [5.0, 1.0]})


@pytest.mark.parametrize(
    ("given", "scores", "left"),
    [
        ({"feedback": [{"key": "helpful", "score": 4}]}, {"helpful": 4.0}, None),
        ({"feedback": {"type": "thumbs_up"}}, {"feedback": 1.0}, None),
        ({"feedback": {"type": "thumbs_down", "comment": "no"}}, {"feedback": 0.0}, {"comment": "no"}),
        ({"feedback": {"value": 3, "comment": "no"}}, {"feedback": 3.0}, {"comment": "no"}),
        (
            {"feedback": [{"name": "helpful", "value": 4}, {"name": "note", "value": "x"}]},
            {"helpful": 4.0},
            [{"name": "note", "value": "x"}],
        ),
    ],
)
def test_feedback_in_other_shapes_is_read_and_its_words_stay(given: Any, scores: Any, left: Any) -> None:
    for record in ({"prompt": "Q?", "response": "A."}, {"request": REQUEST, "response": SAID}):
        row = one({**record, **given})
        assert (row["scores"], row.get("feedback")) == (scores, left)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"feedback": [{"rating": 4}, {"rating": 2}]}, "feedback.0.rating"),
        ({"ratings": [{"annotator": "a", "helpful": 4}]}, "ratings.0.helpful"),
        ({"assessments": [{"assessment_name": "h", "feedback": {"value": 4}}]}, "assessments.0.feedback.value"),
    ],
)
def test_numbers_in_lists_of_objects_are_named_by_the_path_that_map_wants(given: Any, place: str) -> None:
    for record in ({"prompt": "Q?", "response": "A."}, {"request": REQUEST, "response": SAID}):
        ([row], lines) = told({**record, **given})
        assert row["scores"] == {}
        assert lines == [
            f"no scores: {next(iter(given))} (numbers inside, {place}). --map NAME=COLUMN makes one a score."
        ]


@pytest.mark.parametrize(
    "column",
    ["max_rating", "ratingScale", "rating_count", "num_ratings", "n_stars", "number_of_ratings", "count", "max"],
)
def test_numbers_about_ratings_are_no_ratings(column: str) -> None:
    assert metadata(column)
    (row,), lines = told({"prompt": "Q?", "response": "A.", "rating": 4, column: 5})
    assert (row["scores"], row[column]) == ({"rating": 4.0}, 5)
    assert f"no scores: {column} (metadata, by the name)" in lines[0]
    assert one({"prompt": "Q?", "response": "A.", "rating": {"stars": 4, column: 5}})["scores"] == {"stars": 4.0}


@pytest.mark.parametrize("column", ["mean_rating", "avg_score", "total_score", "overall_quality", "stars"])
def test_ratings_of_several_are_ratings(column: str) -> None:
    assert not metadata(column)


PAIR = {"prompt": "Q?", "response_a": "x", "response_b": "y", "winner": "a"}


@pytest.mark.parametrize(
    "beside",
    [
        *({name: "Doc."} for name in ("context", "input", "history", "instructions", "Background")),
        *({name: "Be a pirate."} for name in ("preamble", "persona", "meta_prompt")),
        {"documents": ["d1", "d2", "d3"]},
        {"chat_history": [{"role": "user", "content": "x"}]},
        {"history": [{"user": "a", "assistant": "b"}]},
    ],
)
def test_what_a_question_is_about_and_is_no_part_of_the_prompt_is_said(beside: dict[str, Any]) -> None:
    note = f"kept as a column and no part of the prompt: {next(iter(beside))!r}"
    note += " (write it into the prompt if the model saw it)"
    for record in (
        {"prompt": "Q?", "response": "A.", "rating": 4},
        {"prompt": "Q?", "chosen": "x", "rejected": "y"},
        {"prompt": "Q?", "responses": ["x", "y"]},
        {"request": REQUEST, "response": SAID},
        ANSWERED,
        PAIR,
    ):
        for row in rows({**record, **beside}):
            assert row["prompt"] == ASK
            assert row[NOTED] == [note]


def test_what_is_part_of_the_prompt_or_blank_is_not_said_to_be_none() -> None:
    for record in (
        {"prompt": "Q?", "response": "A.", "context": " ", "documents": [], "history": []},
        {"prompt": "Q?", "response": "A.", "history": [["a", "b"]]},
        {"instruction": "Q?", "context": "Doc.", "response": "A."},
        {"instruction": "Q?", "input": "Doc.", "output": "A."},
        {"prompt": "Q?", "response": "A.", "context": {"user": 5}},
    ):
        assert NOTED not in one(record)


def test_ratings_of_a_turn_are_read_under_their_usual_names_and_other_numbers_are_counted() -> None:
    rated = {"user_rating": 5, "thumbs_up": True, "helpfulness": "4/5", "feedback": {"type": "thumbs_up"}}
    row = one({"messages": [*ASK, {"role": "assistant", "content": "A.", **rated}]})
    assert row["scores"] == {"user_rating": 5.0, "thumbs_up": 1.0, "helpfulness": 4.0, "feedback": 1.0}
    other = {"annotation": {"rating": 1}, "toxic": False, "latency_ms": 3, "index": 1, "finished": True, "weight": 1}
    for record in (
        {"messages": [*ASK, {"role": "assistant", "content": "A.", **other}]},
        {"prompt": [*ASK, {"role": "assistant", "content": "A.", **other}, *ASK], "response": "B."},
    ):
        row = one(record)
        assert row["scores"] == {}
        assert row[NOTED] == [
            f"left out: '{name}' of a turn (write it into the turn's 'scores' if it is one)"
            for name in ("annotation", "toxic")
        ]


@pytest.mark.parametrize(("key", "value"), [("trainBlocked", True), ("loss_cap", "0"), ("mask_part", 1)])
def test_a_key_of_a_turn_that_may_mean_not_to_learn_it_is_counted_as_such(key: str, value: Any) -> None:
    row = one({"messages": [*ASK, {"role": "assistant", "content": "A.", key: value, "train_set": "x"}]})
    why = "it may mean not to learn this turn: then write weight 0"
    assert (row["scores"], row[NOTED]) == ({}, [f"left out: '{key}' of a turn ({why})"])
    score = one({"messages": [*ASK, {"role": "assistant", "content": "A.", "constrained": 1}]})
    assert score[NOTED] == ["left out: 'constrained' of a turn (write it into the turn's 'scores' if it is one)"]


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
def test_a_response_of_a_conversation_that_its_server_keeps_is_left_out(conversation: Any) -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "A."}]}]
    for record in (
        {"request": {"input": "and 0?", "conversation": conversation}, "response": {"output": output}},
        {"request": {"input": "and 0?"}, "response": {"output": output, "conversation": conversation}},
        {"object": "response", "input": "and 0?", "output": output, "conversation": conversation},
    ):
        assert one(record)[LEFT_OUT] == "it continues 'conv_1', whose turns it does not hold"
    whole = {"request": {**REQUEST, "conversation": conversation}, "response": SAID}
    assert LEFT_OUT not in one(whole), "a name of the user's own, beside all messages"
    beside = one({"input": "and 0?", "output": output, "previous_response_id": "resp_0"})
    assert beside[LEFT_OUT] == "it continues 'resp_0', whose turns it does not hold"


def test_a_custom_tool_is_called_by_its_name() -> None:
    made = {"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    choice = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [made]}}]}
    for record in (
        {"messages": [*ASK, {"role": "assistant", "tool_calls": [made]}]},
        {"prompt": "Q?", "response": "", "tool_calls": [made]},
        {"request": REQUEST, "response": choice},
    ):
        row = one(record)
        assert row["tool_calls"] == [{"id": "c1", "type": "function", "function": {"name": "sh", "arguments": "ls"}}]
        assert readable(row)["response"] == "sh(ls)"


TAGGED = '<tool_call>\n{"name": "weigh", "arguments": {"what": "moss"}}\n</tool_call>'
WEIGH = {"type": "function", "function": {"name": "weigh", "arguments": {"what": "moss"}}}
FOUND = "<tool_response>\n3 kg\n</tool_response>"


def shared(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": text} for who, text in (("human", "Q?"), *turns)]}


@pytest.mark.parametrize(("asks", "said"), [("tool", 1), ("tool", 2), ("human", 1)])
@pytest.mark.parametrize("form", [TAGGED, TAGGED.replace('"', "'")], ids=["JSON", "Python"])
def test_calls_and_results_in_tags_are_calls_and_results(asks: str, said: int, form: str) -> None:
    row = one(shared(("gpt", f"Let me see.\n{form}\n{form}"), (asks, "\n".join([FOUND] * said)), ("gpt", "3 kg")))
    called = {"role": "assistant", "content": "Let me see.", "tool_calls": [WEIGH, WEIGH]}
    assert row["prompt"] == [*ASK, called, *[{"role": "tool", "content": "3 kg"}] * said]
    assert (row["response"], NOTED in row) == ("3 kg", False)


def test_a_response_in_tags_is_a_call_in_every_layout() -> None:
    for record in (
        {"prompt": "Q?", "response": TAGGED},
        {"prompt": "Q?", "chosen": TAGGED, "rejected": "x"},
        {"prompt": "Q?", "responses": [TAGGED, "x"]},
        {"request": REQUEST, "response": {"choices": [{"message": {"role": "assistant", "content": TAGGED}}]}},
        shared(("gpt", f"<think>hm</think>\n{TAGGED}")),
    ):
        row = rows(record)[0]
        assert (row["response"], row["tool_calls"], NOTED in row) == ("", [WEIGH], False)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        (f"Write {TAGGED} to call.", "<tool_call>"),
        ("<tool_call>\n<function=weigh>\n</tool_call>", "<tool_call>"),
        ("<tool_call>{}</tool_call>", "<tool_call>"),
        ('[TOOL_CALLS][{"name": "weigh"}]', "[TOOL_CALLS]"),
        ("<functioncall> {}", "<functioncall>"),
    ],
)
def test_other_tags_of_calls_are_counted_and_stay(text: str, tag: str) -> None:
    row = one({"prompt": "Q?", "response": text})
    assert (row["response"], "tool_calls" in row) == (text, False)
    assert row[NOTED][0].startswith(f"kept as text: {tag} in an answer or a result")
    row = one(shared(("gpt", text), ("human", f"{FOUND} is text"), ("gpt", "A.")))
    assert (row["prompt"][1]["content"], row["prompt"][2]["role"]) == (text, "user")
    assert len(row[NOTED]) == 1
    declared = {"from": "system", "value": f"<tools></tools> Call with {text}"}
    assert NOTED not in one({"conversations": [declared, *shared(("gpt", "A."))["conversations"]]})


def test_numbers_beside_a_log_are_read_or_named() -> None:
    given = {"rating": 4, "helpfulness": 4, "user_rating": 5, "thumbs_up": True, "done": True}
    (row,), lines = told({"request": REQUEST, "response": SAID, **given})
    assert row["scores"] == {"rating": 4.0}
    assert lines == [
        "no scores: helpfulness, user_rating, thumbs_up (numbers beside a log). --map NAME=COLUMN makes one a score."
    ]
    columns = {name: name for name in ("rating", "helpfulness")}
    (row,), _ = told({"request": REQUEST, "response": SAID, **given}, columns=columns)
    assert row["scores"] == {"rating": 4.0, "helpfulness": 4.0}


def test_each_choice_of_a_log_has_its_own_rating() -> None:
    def choices(*rated: dict[str, Any]) -> dict[str, Any]:
        return {"request": REQUEST, "response": {"choices": [{"message": {"content": "A."}, **each} for each in rated]}}

    for record in (
        {**choices({}, {}), "rating": [4, 2]},
        choices({"rating": 4}, {"rating": 2}),
        {**choices({"feedback": {"rating": 4}}, {"feedback": {"rating": 2}}), "id": "x"},
    ):
        assert [row["scores"] for row in rows(record)] == [{"rating": 4.0}, {"rating": 2.0}]
    (row,) = rows({**choices({}), "rating": [4, 2]})
    assert (row["scores"], row["raters"]) == ({"rating": 3.0}, {"rating": [4, 2]}), "one answer, two raters"
    _, lines = told({**choices({}, {}, {}), "rating": [4, 2]})
    assert "no scores: rating (numbers beside a log)" in lines[0]


def test_choices_may_be_called_output() -> None:
    choice = {"message": {"role": "assistant", "content": "A."}, "finish_reason": "length"}
    row = one({"input": ASK, "output": [choice]})
    assert (row["prompt"], row["response"], row["finished"]) == (ASK, "A.", False)


def test_a_request_that_is_no_request_is_refused_under_its_own_name() -> None:
    record = {
        "input": {"inputBodyJson": REQUEST},
        "output": {"outputBodyJson": {"role": "assistant", "content": [{"type": "text", "text": "A."}]}},
    }
    with pytest.raises(DataError, match=r"^columns input, output fit no known layout"):
        rows(record)
    columns = {"request": "input.inputBodyJson", "response": "output.outputBodyJson"}
    (row,), _ = told(record, columns=columns)
    assert (row["prompt"], row["response"]) == (ASK, "A.")


@pytest.mark.parametrize("kind", ["shell_call", "local_shell_call", "apply_patch_call", "computer_call"])
def test_a_call_of_a_shell_is_left_out_by_its_name(kind: str) -> None:
    ask, made = {"role": "user", "content": "Q?"}, {"type": kind, "call_id": "c", "action": {"commands": ["ls"]}}
    row = one({"request": {"input": [ask]}, "response": {"output": [made]}})
    assert row[LEFT_OUT] == f"its response holds {kind}, and no text"
    said = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "A."}]}]}
    row = one({"request": {"input": [ask, made, {**made, "type": f"{kind}_output"}]}, "response": said})
    note = "left out: calls of tools that are no functions (a shell, a patch, a computer), and their results"
    assert row[NOTED] == [note]


def test_a_thumb_that_map_names_is_a_score() -> None:
    record = {"prompt": "Q?", "response": "good", "feedback": {"type": "thumbs_up"}}
    for name, path in (("helpful", "feedback.type"), ("mine", "feedback.type")):
        columns = {"prompt": "prompt", "response": "response", name: path}
        (row,), lines = told(record, columns=columns)
        assert (row["scores"], row["response"], lines) == ({name: 1.0}, "good", [])
