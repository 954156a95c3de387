"""Columns as people's files spell them: votes, thumbs, cells that hold nothing, turns that are not to be learned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from attribute_models.templates import options_of
from data_recipes import endings, layouts, votes
from data_recipes.streams import DataError
from steer.errors import SteerError
from steer.methods import groups
from steer.rows import Tally, prompt_key, read, read_rows

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def first(record: dict[str, Any]) -> dict[str, Any]:
    return layouts.rows(record)[0]


def table(path: Path, text: str) -> list[dict[str, Any]]:
    path.write_text(text, encoding="utf-8")
    return read_rows(path)


@pytest.mark.parametrize(
    ("word", "vote"),
    [("A>B", (1, 0)), ("B>A", (0, 1)), ("[[A>>B]]", (1, 0)), ("[[B>>A]]", (0, 1)), ("A<B", (0, 1)), ("A=B", (0.5, 0.5)),
     ("leftvote", (1, 0)), ("right_vote", (0, 1)), ("tievote", (0.5, 0.5)), ("bothbad_vote", (0.5, 0.5)),
     ("A-is-clearly-better", (1, 0))],
)  # fmt: skip
def test_a_vote_written_with_signs_or_as_an_arena_logs_it_goes_to_its_side(
    word: str, vote: tuple[float, float]
) -> None:
    assert votes.vote(word) == vote


@pytest.mark.parametrize(
    ("names", "said", "winner"),
    [(("response_1", "response_2"), ("response_2", "response_1", "tie"), "winner"),
     (("answer1", "answer2"), (2, 1, 1.5), "preference"),
     (("output A", "output B"), ("B", "A", "tie"), "overall_preference"),
     (("completion_0", "completion_1"), ("completion_1", "completion_0", "both_bad"), "choice")],
)  # fmt: skip
def test_the_second_of_two_numbered_answers_wins_where_the_vote_names_it(
    tmp_path: Path, names: tuple[str, str], said: tuple[Any, ...], winner: str
) -> None:
    records = [{"Prompt": f"q{i}", names[0]: "x", names[1]: "y", winner: vote} for i, vote in enumerate(said)]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = read_rows(tmp_path / "v.jsonl")
    assert [(row["response"], row["scores"]["preference"]) for row in rows] == [
        ("x", 0), ("y", 1), ("x", 1), ("y", 0), ("x", 0.5), ("y", 0.5)
    ]  # fmt: skip


def test_the_columns_of_a_vote_are_not_named_as_numbers_that_are_no_scores(tmp_path: Path) -> None:
    record = {"prompt": "q", "response_a": "x", "response_b": "y", "model_a": "m1", "model_b": "m2"}
    record |= {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}
    (tmp_path / "v.jsonl").write_text(json.dumps(record) + "\n")
    tally = Tally()
    rows = list(read(tmp_path / "v.jsonl", tally=tally))
    assert [row["scores"] for row in rows] == [{"preference": 0.0}, {"preference": 1.0}]
    assert not tally.not_scores


def test_comparisons_without_a_vote_are_said_with_the_flag_that_names_it() -> None:
    (line,) = votes.summary({("", "unknown"): 3})
    assert "none of 3 comparisons says which is better" in line
    assert "--map preference=COLUMN" in line


def comparisons(folder: Path) -> Path:
    """Three comparisons of one question that name it as their group, with the votes of five people on two aspects."""
    pairs = [("x", "y", "AABNA", "NNB"), ("y", "z", "BBBAN", "AAN"), ("z", "x", "ABNNn", "ABB")]
    records = [
        {
            "prompt": "q",
            "response_a": a,
            "response_b": b,
            "votes": {"depth": [*depth], "quality": [*quality]},
            "group": "g",
        }
        for a, b, quality, depth in pairs
    ]
    (folder / "v.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "v.jsonl"


def test_what_most_of_several_voters_say_on_each_aspect_is_the_score_and_each_voter_a_rater(tmp_path: Path) -> None:
    rows = read_rows(comparisons(tmp_path), columns={"preference": "votes.quality", "depth": "votes.depth"})
    assert [row["scores"] for row in rows] == [
        {"preference": 1, "depth": 0}, {"preference": 0, "depth": 1},
        {"preference": 0, "depth": 1}, {"preference": 1, "depth": 0},
        {"preference": 0.5, "depth": 0}, {"preference": 0.5, "depth": 1},
    ]  # fmt: skip
    assert rows[1]["raters"] == {"preference": [0, 0, 1, 0.5, 0], "depth": [0.5, 0.5, 1]}
    assert rows[0]["response"] == "x"
    assert "depth" not in rows[0]


def test_comparisons_of_one_group_are_not_pooled(tmp_path: Path) -> None:
    """x above y and z above y, by two votes; nobody said how x and z compare but in the third, a tie."""
    rows = read_rows(comparisons(tmp_path), columns={"preference": "votes.quality"})
    assert [row["group"] for row in rows[::2]] == [row["group"] for row in rows[1::2]]
    assert len({row["group"] for row in rows}) == 3
    scored = [{**row, "reward": row["scores"]["preference"]} for row in rows]
    formed = [tuple(row["response"] for row in group.rows) for group in groups.pairs(scored, "all")]
    assert formed == [("x", "y"), ("z", "y")]


def test_votes_that_nobody_named_are_pointed_at(tmp_path: Path) -> None:
    tally = Tally()
    rows = list(read(comparisons(tmp_path), tally=tally))
    assert [row["scores"] for row in rows] == [{}] * 6
    assert [*votes.summary(tally.votes, tally.votes_at)] == [
        "votes: none of 3 comparisons says which is better, 3 unknown: --map preference=COLUMN, "
        "for example --map preference=votes.quality."
    ]


def test_a_list_of_votes_without_one_that_is_known_is_unknown_and_a_word_that_is_none_is_refused() -> None:
    assert votes.counted(["n/a", "unsure"]) == (None, [])
    assert votes.counted(["A", "tie", "B"]) == ((0.5, 0.5), [(1, 0), (0.5, 0.5), (0, 1)])
    assert votes.meant([1, 2, None], {"1": "a", "2": "b"}) == ["a", "b", "unknown"]
    with pytest.raises(DataError, match="the vote 'purple' is none that is known"):
        votes.counted(["A", "purple"])


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [("feedback", "thumbs_up", "thumbs-down"), ("rating", "up", "down"), ("thumbs", "👍", "👎"),
     ("label", "desirable", "undesirable"), ("label", "chosen", "rejected"), ("user_feedback", "Like", "dislike"),
     ("helpful", "Y", "N"), ("kto_tag", True, False)],
)  # fmt: skip
def test_praise_is_one_and_blame_is_zero(column: str, good: Any, bad: Any) -> None:
    for value, score in ((good, 1.0), (bad, 0.0)):
        assert first({"prompt": "q", "completion": "a", column: value})["scores"] == {column: score}


def test_words_of_a_topic_and_numbers_stay_what_they_are() -> None:
    assert first({"prompt": "q", "response": "a", "label": "positive"})["label"] == "positive"
    assert first({"prompt": "q", "response": "a", "direction": "up"})["direction"] == "up"
    assert first({"prompt": "q", "response": "a", "score": "-1"})["scores"] == {"score": -1.0}


@pytest.mark.parametrize(
    "flag",
    [{"weight": "0"}, {"do_train": False}, {"train_on_turn": False}, {"compute_loss": 0}, {"loss_mask": 0},
     {"skip": True}, {"is_masked": True}, {"train": "false"}, {"Trainable": False}, {"loss_scale": 0},
     {"is_trained": False}, {"train_on": False}, {"skip_training": True}],
    ids=str,
)  # fmt: skip
def test_a_turn_that_is_not_to_be_learned_is_no_response(flag: dict[str, Any]) -> None:
    row = first({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", **flag}]})
    assert "none of its assistant turns is to be learned" in row[layouts.LEFT_OUT]


@pytest.mark.parametrize(
    "flag",
    [
        {"deleted": True},
        {"isDeleted": "true"},
        {"is_removed": 1},
        {"deleted_at": "2026-11-30"},
        {"deletedAt": 17e8},
        {"deleted": 1},
        {"removed": "1"},
        {"deleted": "t"},
    ],
    ids=str,
)
def test_a_row_that_was_deleted_is_left_out_and_one_that_was_not_has_no_score_of_it(flag: dict[str, Any]) -> None:
    [(column, value)] = flag.items()
    row = first({"prompt": "q", "response": "a", "quality": 0, **flag})
    assert row[layouts.LEFT_OUT] == f"it was deleted ('{column}')"
    for other in (False, "0", "", None):
        row = first({"prompt": "q", "response": "a", "quality": 0, column: other})
        assert (row["scores"], layouts.LEFT_OUT in row) == ({"quality": 0.0}, False)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    gone = {"role": "assistant", "content": "b", **flag}
    row = first({"messages": [*turns, gone]})
    assert (row["response"], row["after_response"]) == ("a", turns[2:])
    assert row[layouts.NOTED] == ["left out: turns from the first one that was deleted"]
    assert first({"messages": [turns[0], gone]})[layouts.LEFT_OUT] == "turn 2 of its messages was deleted"
    assert first({"prompt": [*turns[:1], gone, turns[2]], "response": "c"})[layouts.LEFT_OUT].startswith("turn 2 of")
    kept, left = layouts.rows({"prompt": "q", "responses": ["a", "b"], column: [None, value]})
    assert (layouts.LEFT_OUT in kept, layouts.LEFT_OUT in left) == (False, True)


@pytest.mark.parametrize("flag", [{"status": "deleted"}, {"state": "Removed"}, {"status": "deleted by the user"}])
def test_a_state_may_say_that_a_row_was_deleted(flag: dict[str, Any]) -> None:
    [column] = flag
    assert first({"prompt": "q", "response": "a", **flag})[layouts.LEFT_OUT] == f"it was deleted ('{column}')"
    assert layouts.LEFT_OUT not in first({"prompt": "q", "response": "a", column: "done"})
    assert first({"messages": [Q, {**A, **flag}]})[layouts.LEFT_OUT] == "turn 2 of its messages was deleted"


ABORTED = ("interrupted", "aborted", "cancelled", "canceled", "partial", "truncation", "stopped_limit")


@pytest.mark.parametrize(
    "said",
    [{"finish_reason": "SAFETY"}, {"finishReason": "RECITATION"}, {"stop_reason": "refusal"}, {"finish": "length"},
     {"stop_reason": "pause_turn"}, {"hit_max_tokens": True}, {"is_complete": False}, {"completed": False},
     {"stopped_by": "max_new_tokens"}, {"eos": False}, {"incomplete": "true"}, {"finish_reason": ["length"]},
     {"stop_reason": {"type": "length"}}, {"meta_info": {"finish_reason": {"type": "length", "length": 5}}},
     {"response_metadata": '{"finish_reason": "length"}'}, {"metadata": {"finish_reason": "length"}},
     {"finish_reasons": ["length"]}, {"finishReason": {"unified": "length", "raw": "max_tokens"}},
     {"finish_details": {"type": "max_tokens"}}, {"finish_reason": "2"}, {"status": "max_tokens"},
     {"state": "Aborted"}, *({name: True} for name in ABORTED), {"interrupted": 1}, {"stopped_limit": "t"},
     {"stopped_limit": True, "stopped_eos": False}, {"stopped_eos": False}],
    ids=str,
)  # fmt: skip
def test_a_response_that_was_cut_off_in_any_spelling_is_not_finished(said: dict[str, Any]) -> None:
    assert endings.ended(said) is False
    row = first({"prompt": "q", "response": "a", "quality": 1, **said})
    assert (row["finished"], row["scores"]) == (False, {"quality": 1.0})
    row = first({"messages": [Q, {**A, **said}]})
    assert (row["finished"], row.get(layouts.NOTED)) == (False, None)


@pytest.mark.parametrize(
    "said",
    [{"stopped_limit": False, "stopped_eos": False, "stopped_word": True}, {"stop_reason": 128009},
     {"meta_info": {"finish_reason": {"type": "stop", "matched": 2}}}, {"finish_reason": ["stop"]},
     {"finish_reason": 1}, {"generation_kwargs": {"truncation": True}}, {"status": "completed"},
     {"interrupted": False}, {"partial": "0"}, {"metadata": "length"}],
    ids=str,
)  # fmt: skip
def test_a_response_that_ended_by_itself_is_finished_and_has_no_score_of_it(said: dict[str, Any]) -> None:
    assert endings.ended(said) is not False
    row = first({"prompt": "q", "response": "a", "quality": 1, **said})
    assert (row.get("finished"), row["scores"]) == (None, {"quality": 1.0})


@pytest.mark.parametrize(
    "text",
    ["\ufeffprompt;response;quality\np;r;1,5\n", "sep=;\nprompt;response;quality\np;r;1,5\n",
     "Prompt,Response,Quality\np,r,1.5\n", "prompt,response,quality,,\np,r,1.5,,\n",
     "prompt\tresponse\tquality\np\tr\t1.5\n"],
)  # fmt: skip
def test_a_table_as_a_spreadsheet_saves_it_is_read(tmp_path: Path, text: str) -> None:
    (row,) = table(tmp_path / "t.csv", text)
    assert (row["prompt"][0]["content"], row["response"], row["scores"]) == ("p", "r", {"quality": 1.5})


def test_a_value_in_a_column_without_a_name_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=r":2: holds 'odd' in a column without a name\. Name the column"):
        table(tmp_path / "t.csv", "prompt,response,quality,\np,r,1,odd\n")


@pytest.mark.parametrize("column", ["sys", "developer", "developer_message", "preprompt", "System"])
def test_a_system_prompt_in_any_column_of_its_own_is_the_first_turn(column: str) -> None:
    (turn, _) = first({column: "be kind", "prompt": "q", "response": "a"})["prompt"]
    assert turn == {"role": "system", "content": "be kind"}
    (turn, _) = first({"system_prompt": "Rhyme", "prompt": "q", "response": "a"})["prompt"]
    assert turn == {"role": "system", "content": "Rhyme"}
    assert first({"system": "M11", "prompt": "q", "response": "a"})["system"] == "M11"


def test_a_rejected_answer_beside_a_conversation_makes_a_pair() -> None:
    for rejected in ("b", {"role": "assistant", "content": "b"}, [Q, {"role": "assistant", "content": "b"}]):
        name = "rejected_messages" if isinstance(rejected, list) else "rejected_response"
        made = layouts.rows({"messages": [Q, A], name: rejected})
        assert [(row["response"], row["scores"]) for row in made] == [
            ("a", {"preference": 1}),
            ("b", {"preference": 0}),
        ]
        assert made[0]["prompt"] == [Q] == made[1]["prompt"]


def test_an_overall_score_of_ten_beside_aspects_of_one_is_unknown_in_every_layout() -> None:
    aspects = {"helpfulness": 1, "honesty": 1, "truthfulness": 2, "instruction_following": 1}
    lists = {name: [{"Rating": str(value)}] for name, value in aspects.items()}
    for record in (
        {"prompt": "q", "response": "a", "overall_score": 10, **aspects},
        {"instruction": "q", "completions": [{"response": "a", "overall_score": "10", "annotations": lists}]},
        {"instruction": "q", "completions": [{"response": "a", "overall_score": 10, "fine-grained_score": 1.0}]},
    ):
        assert first(record)["scores"].get("overall_score") is None, record
    assert first({"prompt": "q", "response": "a", "overall_score": 10, "honesty": 5})["scores"]["overall_score"] == 10


@pytest.mark.parametrize(("asks", "says"), [("instruction", "completions"), ("prompt", "completions"),
                                            ("instruction", "responses"), ("messages", "generations")])  # fmt: skip
def test_aspects_of_ultrafeedback_are_scores_under_any_names_of_its_columns(asks: str, says: str) -> None:
    aspects = {"helpfulness": {"Rating": "1", "Rationale": "no"}, "honesty": [{"Rating": "N/A"}]}
    entry = {"response": "a", "overall_score": 10, "annotations": aspects}
    row = first({asks: [Q] if asks == "messages" else "q", says: [entry]})
    assert {name: score for name, score in row["scores"].items() if score is not None} == {"helpfulness": 1}
    assert (row["prompt"], row["response"], row["annotations"]) == ([Q], "a", aspects)


@pytest.mark.parametrize(
    ("record", "response"),
    [({"conversation": [Q, A], "model": "m", "turn": 1}, "a"),
     ({"context": [Q], "response": "a", "feedback": ["good"]}, "a"),
     ({"object": "response", "input": "q", "output": [{"type": "message", "role": "assistant",
       "content": [{"type": "output_text", "text": "a"}]}], "status": "completed"}, "a"),
     ({"input": [Q], "output": A}, "a"), ({"input": {"messages": [Q]}, "output": [A]}, "a"),
     ({"request_body": {"messages": [Q]}, "response_body": {"choices": [{"message": A}]}}, "a"),
     ({"request": {"input": "q"}, "response": {"output": [{"type": "message", "role": "assistant",
       "content": [{"type": "refusal", "refusal": "I can't."}]}]}}, "I can't."),
     ({"request": {"messages": [Q]}, "response": {"choices": [{"message": {"role": "assistant", "content": None,
       "refusal": "No."}}]}}, "No."),
     ({"prompt": "q", "outputs": [{"text": "a", "finish_reason": "stop"}]}, "a")],
)  # fmt: skip
def test_logs_in_other_columns_are_read(record: dict[str, Any], response: str) -> None:
    row = first(record)
    assert (row["prompt"], row["response"]) == ([Q], response)


def test_ranked_answers_are_candidates_whose_lowest_rank_is_best() -> None:
    said = [{"answer": "x", "model": "m", "rank": 1.0}, {"answer": "y", "model": "n", "rank": 3.0}]
    made = layouts.rows({"prompt": "\n\nHuman: q \n\nAssistant: ", "answers": said, "turns": 1, "source": ["lmsys"]})
    assert [(row["response"], row["scores"], row["source"]) for row in made] == [
        ("x", {"rank": 1.0}, "lmsys"), ("y", {"rank": 3.0}, "lmsys")
    ]  # fmt: skip
    assert made[0]["group"] == made[1]["group"]


def test_a_batch_of_anthropic_is_read_with_its_end_and_a_failure_is_named(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": [{"type": "text", "text": "a"}], "stop_reason": "max_tokens"}
    lines: list[dict[str, Any]] = [
        {"custom_id": "1", "params": {"messages": [Q]}},
        {"custom_id": "1", "result": {"type": "succeeded", "message": message}},
    ]
    path = tmp_path / "batch.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = read_rows(path)
    assert (row["response"], row["finished"]) == ("a", False)
    failed = {"type": "errored", "error": {"type": "error", "error": {"message": "Overloaded"}}}
    lines[1] = {"custom_id": "1", "result": failed}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SteerError, match=r"the request failed \(Overloaded\)"):
        read_rows(path)


def test_messages_of_a_stopped_tree_are_left_out_and_a_blank_parent_is_none(tmp_path: Path) -> None:
    texts = [("t", "", "prompter", "hi"), ("m", "t", "assistant", "x")]
    for state, kept in (("ready_for_export", 1), ("halted_by_moderator", 0)):
        lines = [
            {"message_id": name, "parent_id": parent, "role": role, "text": text, "tree_state": state}
            for name, parent, role, text in texts
        ]
        path = tmp_path / f"{state}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert len(read_rows(path)) == kept


def test_a_reason_that_is_one_letter_is_no_score_beside_reasons_in_words(tmp_path: Path) -> None:
    record = {"instruction": "q", "generations": ["a", "b"], "ratings": [1, 5], "rationales": ["x", "y"]}
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n")
    found = read_rows(tmp_path / "d.jsonl")
    assert [(row["scores"], row["rationale"]) for row in found] == [({"rating": 1.0}, "x"), ({"rating": 5.0}, "y")]


WEIGH = {"name": "weigh", "description": "Weigh it", "parameters": {"type": "object", "properties": {}}}
DECLARED = {"type": "function", "function": WEIGH}
SPEC = {"name": "weigh", "description": "Weigh it", "inputSchema": {"json": WEIGH["parameters"]}}


@pytest.mark.parametrize(
    "record",
    [{"prompt": "q", "response": "a", "functions": [WEIGH], "function_call": "auto"},
     {"prompt": "q", "response": "a", "functions": json.dumps([WEIGH])},
     {"messages": [Q, A], "functions": [WEIGH], "tools": None},
     {"messages": [Q, A], "functions": [WEIGH], "tools": [DECLARED]},
     {"instruction": "q", "output": "a", "functions": [WEIGH]},
     {"prompt": "q", "chosen": "a", "rejected": "b", "functions": [WEIGH]},
     {"request": {"messages": [Q], "functions": [WEIGH]}, "response": {"choices": [{"message": A}]}},
     {"request": {"contents": [{"parts": [{"text": "q"}]}], "tools": [{"functionDeclarations": [WEIGH]}]},
      "response": "a"},
     {"request": {"messages": [Q], "toolConfig": {"tools": [{"toolSpec": SPEC}]}}, "response": "a"}],
)  # fmt: skip
def test_functions_reach_the_template_as_tools(record: dict[str, Any]) -> None:
    row = first(record)
    assert options_of(row) == {"tools": [DECLARED]}
    assert "functions" not in row
    others = json.loads(json.dumps(record).replace("weigh", "measure"))
    assert prompt_key(first(others)) != prompt_key(row) != prompt_key({**row, "tools": None})


def test_a_call_beside_a_response_is_what_it_calls() -> None:
    call = {"name": "weigh", "arguments": "{}"}
    for record in (
        {"prompt": "q", "response": None, "function_call": call},
        {"prompt": "q", "response": "", "function_call": json.dumps(call)},
        {"instruction": "q", "output": None, "tool_calls": [{"name": "weigh", "args": "{}", "type": "tool_call"}]},
    ):
        row = first(record)
        assert (row["response"], row["tool_calls"]) == ("", [{"type": "function", "function": call}])


@pytest.mark.parametrize(
    "request_",
    [{"messages": [Q], "functions": [WEIGH], "function_call": "none"},
     {"messages": [Q], "tools": [DECLARED], "tool_choice": "none"},
     {"messages": [Q], "tools": [DECLARED], "tool_choice": {"type": "none"}},
     {"contents": [{"parts": [{"text": "q"}]}], "tools": [{"functionDeclarations": [WEIGH]}],
      "toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}],
)  # fmt: skip
def test_tools_that_a_request_forbade_to_call_are_left_out_and_counted(
    tmp_path: Path, request_: dict[str, Any]
) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"request": request_, "response": "a"}) + "\n")
    tally = Tally()
    (row,) = read(tmp_path / "log.jsonl", tally=tally)
    assert not row.get("tools")
    assert tally.notes == {"left out: 'tools' that the request forbade to call (choice none)": 1}


def test_a_column_that_only_bears_the_name_of_functions_stays() -> None:
    assert first({"prompt": "q", "response": "a", "functions": ["cook"]})["functions"] == ["cook"]


TRACE, OTHER = "Eggs boil in nine minutes.", "Ask a cook."


@pytest.mark.parametrize(
    "name",
    ["reasoning", "thinking", "thought", "thoughts", "Reasoning Content", "rationale", "scratchpad", "think",
     "thought_process", "thinking_trajectories", "reasoning_text", "model_reasoning", "internal_monologue"],
)  # fmt: skip
@pytest.mark.parametrize("say", [("prompt", "response"), ("prompt", "completion"), ("instruction", "output")])
def test_a_column_of_reasoning_is_the_thought_of_its_response(name: str, say: tuple[str, str]) -> None:
    row = first({say[0]: "q", say[1]: "a", name: f" {TRACE}\n"})
    assert (row["response"], row["reasoning_content"]) == ("a", TRACE)
    assert name not in row
    assert row["_noted"] == [f"taken for what the model thought: column '{name}'"]
    assert first({say[0]: "q", say[1]: "a", name: [TRACE, OTHER]})["reasoning_content"] == f"{TRACE}\n{OTHER}"


@pytest.mark.parametrize(
    ("record", "thoughts"),
    [({"chosen": "a", "rejected": "b", "chosen_reasoning": TRACE, "rejected_reasoning": OTHER}, [TRACE, OTHER]),
     ({"chosen": "a", "rejected": "b", "thinking_chosen": TRACE}, [TRACE, None]),
     ({"response_a": "a", "response_b": "b", "winner": "a", "thought_a": TRACE, "thought_b": OTHER}, [TRACE, OTHER]),
     ({"responses": ["a", "b"], "reasonings": [TRACE, OTHER]}, [TRACE, OTHER]),
     ({"chosen": "a", "rejected": "b", "reasoning": TRACE}, [None, None]),  # perhaps why one was chosen
     ({"chosen": "a", "rejected": "b", "reasoning_content": TRACE}, [None, None]),
     ({"responses": ["a", "b"], "thinking": TRACE}, [None, None])],
)  # fmt: skip
def test_each_of_several_responses_has_its_own_thought_or_none(
    record: dict[str, Any], thoughts: list[str | None]
) -> None:
    rows = layouts.rows({"prompt": "q", **record})
    assert [row.get("reasoning_content") for row in rows] == thoughts
    if not any(thoughts):
        assert [TRACE in row.values() for row in rows] == [True, True]
        assert all("of several responses" in note for row in rows for note in row["_noted"])


def test_a_rationale_beside_scores_explains_them_and_a_setting_is_no_thought(tmp_path: Path) -> None:
    row = first({"prompt": "q", "response": "a", "quality": 4, "rationale": TRACE})
    assert (row["rationale"], row.get("reasoning_content")) == (TRACE, None)
    assert row["_noted"] == ["kept as a column and no thought: 'rationale' beside scores"]
    row = first({"prompt": "q", "response": "a", "quality": 4, "reasoning": TRACE})
    assert row["reasoning_content"] == TRACE
    assert row["_noted"][0].endswith("beside scores (rename it if it explains them)")
    assert first({"prompt": "q", "response": "a", "reasoning": "high"})["reasoning"] == "high"
    for name in ("reasoning_effort", "thinking_budget", "reasoning_model", "reasoning_tokens"):
        row = first({"prompt": "q", "response": "a", name: TRACE})
        assert (row[name], row.get("reasoning_content")) == (TRACE, None)
        assert row["_noted"] == [
            f"kept as a column and no thought: '{name}' (rename it to reasoning_content if it is one)"
        ]
        assert "_noted" not in first({"prompt": "q", "response": "a", name: "high"})
    own = [Q, {**A, "thinking": OTHER}]
    row = first({"messages": own, "reasoning": TRACE})  # the turn's own comes first
    assert (row["reasoning_content"], row["reasoning"]) == (OTHER, TRACE)
    row = first({"prompt": "q", "response": f"<think>{TRACE}</think>a", "reasoning_content": TRACE})
    assert (row["response"], row["reasoning_content"]) == ("a", TRACE)  # once, where it stands in both places


def test_a_thought_beside_columns_that_a_map_names_is_kept(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"question": "q", "answer": "a", "reasoning": TRACE}) + "\n")
    (row,) = read_rows(tmp_path / "log.jsonl", columns={"prompt": "question", "response": "answer"})
    assert (row["response"], row["reasoning_content"]) == ("a", TRACE)
    columns = {"prompt": "question", "response": "answer", "reasoning_content": "reasoning"}
    (row,) = read_rows(tmp_path / "log.jsonl", columns=columns)
    assert (row["response"], row["reasoning_content"]) == ("a", TRACE)


@pytest.mark.parametrize(
    ("asks", "says"),
    [("question", "answer"), ("Query", "Response"), ("input", "output"), ("prompt", "answer"), ("instruction", "reply"),
     ("user", "assistant"), ("User Message", "Bot Response"), ("human", "ai"), ("request", "completion")],
)  # fmt: skip
def test_one_column_that_asks_and_one_that_answers_are_a_pair_which_is_said(asks: str, says: str) -> None:
    tally = Tally()
    record = {"id": "7", asks: "How heavy is it?", says: "Three grams.", "quality": 4, "system_prompt": "Be brief."}
    (row,) = read([record], tally=tally)
    assert [turn["content"] for turn in row["prompt"]] == ["Be brief.", "How heavy is it?"]
    assert (row["response"], row["scores"]) == ("Three grams.", {"quality": 4})
    (note,) = tally.notes
    assert all(name in note.lower() for name in (asks.lower(), says.lower()) if name not in ("prompt", "response"))


@pytest.mark.parametrize(
    "more",
    [{"context": "A stone."}, {"choices": ["a", "b"]}, {"query": "And then?"}, {"output": "Four."}, {"Passage": "x"}],
)
def test_a_pair_that_may_be_read_in_two_ways_is_left_to_map(more: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="--map"):
        layouts.rows({"question": "How heavy is it?", "answer": "Three grams.", **more})
    (row,) = layouts.rows({"question": "q", "answer": "a", **dict.fromkeys(more, "")})
    assert row["response"] == "a"


def test_turns_and_their_answer_in_a_table_of_inputs_and_outputs_are_a_log() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    for sent in (turns, {"messages": turns}, json.dumps(turns), json.dumps({"messages": turns})):
        for said in ("a", json.dumps({"role": "assistant", "content": "a"})):
            (row,) = layouts.rows({"input": sent, "output": said})
            assert ([turn["content"] for turn in row["prompt"]], row["response"]) == (["s", "q"], "a")


PICTURE = {"type": "image_url", "image_url": {"url": "x"}}
SEEN: dict[str, Any] = {  # what a turn may hold that is no text, or a record beside its texts
    "OpenAI": {"content": [{"type": "text", "text": "q"}, PICTURE]},
    "Responses": {"content": [{"type": "input_text", "text": "q"}, {"type": "input_image", "image_url": "x"}]},
    "Anthropic": {"content": [{"type": "image", "source": {"type": "base64", "data": "x"}}]},
    "a result": {"content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image"}]}]},
    "Google": {"parts": [{"text": "q"}, {"inlineData": {"mimeType": "image/png", "data": "x"}}]},
    "Amazon": {"content": [{"text": "q"}, {"image": {"format": "png", "source": {"bytes": "x"}}}]},
    "OpenTelemetry": {"parts": [{"type": "blob", "modality": "image", "data": "x"}]},
    "Ollama": {"content": "q", "images": ["iVBO"]},
    "sound": {"content": [{"type": "input_audio", "input_audio": {"data": "x"}}]},
    "a document": {"content": [{"type": "document", "source": {}}]},
    "a place": {"content": "q", "image_path": "a"},
    "a list of media": {"content": "q", "media": ["a.png"]},
    "a file of a server": {"content": "q", "file_ids": ["file-1"]},
    "an attachment": {"content": "q", "attachment": {"name": "a.pdf"}},
}


@pytest.mark.parametrize("name", SEEN)
def test_a_conversation_with_a_picture_is_left_out_and_counted(name: str) -> None:
    said = {"role": "assistant", "content": "a cat"}
    tally = Tally()
    asked = {"role": "user", "content": "q"}
    records = [{"messages": [turn, said]} for turn in ({"role": "user", **SEEN[name]}, asked)]
    assert [row["prompt"] for row in read(records, tally=tally)] == [[asked]]
    assert [*tally.dropped.values()] == [1]
    (why,) = tally.dropped
    assert re.fullmatch(r"rows: row 1: it holds (a picture|sound|a document|a file).*, and only text can be used", why)


@pytest.mark.parametrize(
    ("column", "value", "left_out"),
    [("image", "coco/1.jpg", True), ("images", ["https://x/1.png"], True),
     ("image", {"bytes": None, "path": "x"}, True), ("videos", [{"path": "x"}], True), ("image", "python:3.11", False),
     ("images", [], False), ("image", None, False),
     ("image_path", "coco/1", True), ("img", "1.png", True), ("photo", "1.jpg", True), ("Image", "1.png", True),
     ("picture", {"bytes": "x", "path": None}, True), ("image_urls", ["https://x.org/y"], True),
     ("imageUrl", "https://x.org/y", True), ("image_base64", "iVBO", True), ("image", "/9j/4AAQ", True),
     ("decoded_image", {"bytes": None, "path": "a.png"}, True), ("image_1", {"src": "x"}, True),
     ("jpg", {"bytes": "x"}, True), ("video_path", "a", True), ("audio", {"array": [0.1]}, True),
     ("media", ["a.png"], True), ("attachments", ["a.pdf"], True), ("file_name", "a.png", True),
     ("image_count", 0, False), ("num_images", 2, False), ("has_image", False, False), ("image_path", "", False),
     ("image", "none", False), ("images", [None], False), ("image", {"bytes": None, "path": None}, False),
     ("image_caption", "a cat", False), ("file_path", "src/main.py", False), ("upload_date", "2024", False),
     ("files", [{"path": "a.py", "content": "x"}], False), ("profile_image_url", "https://x.org/y", False),
     ("documents", ["Moss is green."], False), ("media", "news", False), ("social_media_url", "https://x.org", False)],
)  # fmt: skip
def test_a_row_beside_a_column_of_pictures_is_left_out_unless_its_texts_are_named(
    column: str, value: Any, left_out: bool, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "<image> what?", "response": "a cat", column: value}) + "\n")
    tally = Tally()
    assert len(list(read(path, tally=tally))) == (not left_out)
    assert sum(tally.dropped.values()) == left_out
    columns = {"prompt": "prompt", "response": "response"}
    assert len(read_rows(path, columns=columns)) == 1


@pytest.mark.parametrize("place", ["<image>", "<|image_1|>", "<start_of_image>", "<|image_pad|>", "<audio>"])
def test_what_stands_for_a_picture_in_a_prompt_is_counted(place: str) -> None:
    (row,) = layouts.rows({"prompt": f"{place}\nq", "response": "a cat"})
    assert row["prompt"] == [{"role": "user", "content": f"{place}\nq"}]
    (note,) = row[layouts.NOTED]
    assert note.startswith(f"kept as text: {place} in a prompt, which may stand for a picture or sound")
    (row,) = layouts.rows({"prompt": f"<video>{place[1:-1]}</video> < 3?", "response": f"{place} is a tag"})
    assert layouts.NOTED not in row


def test_documents_of_a_turn_are_counted_and_those_of_a_record_said() -> None:
    said = {"role": "assistant", "content": "a"}
    (row,) = layouts.rows({"messages": [{**Q, "documents": [{"text": "Moss."}]}, said]})
    assert (row["prompt"], row["response"]) == ([Q], "a")
    assert row[layouts.NOTED] == ["left out: 'documents' of a turn (write it into the turn's text if the model saw it)"]


THOUGHT = {"type": "text", "text": "hm"}


@pytest.mark.parametrize(
    "thought",
    [{"reasoning_content": ["hm"]}, {"reasoning": [THOUGHT]}, {"reasoning": {"content": "hm"}}, {"thought": "hm"},
     {"reasoning": {"summary": [{"type": "summary_text", "text": "hm"}]}}, {"thinking": {"thinking": "hm"}},
     {"reasoning": {"effort": "high"}, "thinking": "hm"}, {"scratchpad": "hm"}, {"thoughtProcess": ["hm"]}],
)  # fmt: skip
def test_a_thought_in_a_list_or_an_object_is_kept(thought: dict[str, Any]) -> None:
    assert first({"messages": [Q, {**A, **thought}]})["reasoning_content"] == "hm"
    answered = {"choices": [{"message": {**A, **thought}}]}
    assert first({"request": {"messages": [Q]}, "response": answered})["reasoning_content"] == "hm"


@pytest.mark.parametrize("columns", [("request", "response"), ("request_body", "response_body")])
def test_a_request_and_its_response_that_a_table_holds_as_json_are_a_log(columns: tuple[str, str]) -> None:
    sent, said = {"messages": [Q], "model": "m"}, {"choices": [{"message": A, "finish_reason": "length"}]}
    tally = Tally()
    (row,) = read([{columns[0]: json.dumps(sent), columns[1]: json.dumps(said)}], tally=tally)
    assert (row["prompt"], row["response"], row["finished"]) == ([Q], "a", False)
    assert not tally.notes
    assert first({"request": "q", "response": '{"name": "a"}'})["response"] == '{"name": "a"}'


def test_a_pair_in_capitals_needs_no_note() -> None:
    tally = Tally()
    (row,) = read([{"Prompt": "q", "Response": "a"}], tally=tally)
    assert (row["response"], dict(tally.notes)) == ("a", {})


@pytest.mark.parametrize("result", [{"grams": 3}, 3, 0.5])
def test_a_result_that_is_data_is_written_as_json(result: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weigh", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    row = first({"messages": [Q, said, {"role": "tool", "tool_call_id": "c", "content": result}, A]})
    assert row["prompt"][2]["content"] == json.dumps(result)


def test_a_turn_of_the_role_tool_call_is_the_call() -> None:
    value = json.dumps({"name": "weigh", "arguments": {"what": "moss"}})
    talk = [("human", "q"), ("tool_call", value), ("tool_response", "3"), ("chatbot", "a")]
    row = first({"conversations": [{"from": role, "value": text} for role, text in talk]})
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "tool"]
    assert row["prompt"][1]["tool_calls"][0]["function"] == {"name": "weigh", "arguments": {"what": "moss"}}
    assert row["response"] == "a"


@pytest.mark.parametrize(
    "turns",
    [
        [{"type": "human", "content": "q"}, {"type": "ai", "content": "a", "tool_calls": [], "id": "run-1"}],
        [{"type": "human", "data": {"content": "q"}}, {"type": "ai", "data": {"content": "a"}}],
        [{"speaker": "Customer", "text": "q"}, {"speaker": "Agent", "text": "a"}],
        [{"sender": "user", "message": "q"}, {"sender": "bot", "message": "a"}],
        [{"author": "user", "content": "q"}, {"author": "assistant", "content": "a"}],
        [
            {"lc": 1, "id": ["schema", kind], "kwargs": {"content": text, "type": kind}}
            for kind, text in (("HumanMessage", "q"), ("AIMessageChunk", "a"))
        ],
    ],
)
def test_turns_that_name_who_speaks_in_another_way_are_read(turns: list[dict[str, Any]]) -> None:
    row = first({"messages": turns, "quality": 3})
    assert (row["prompt"], row["response"], row.get("tool_calls")) == ([Q], "a", None)


@pytest.mark.parametrize(
    ("won", "lost"),
    [("win", "lose"), ("winner", "loser"), ("better", "worse"), ("preferred_response", "dispreferred_response"),
     ("y_w", "y_l"), ("response_j", "response_k"), ("accepted", "rejected"), ("winning_answer", "losing_answer")],
)  # fmt: skip
def test_a_pair_whose_columns_say_which_won_is_a_pair_and_that_is_said(won: str, lost: str) -> None:
    rows = layouts.rows({"prompt": "q", lost: "b", won: "a"})
    assert [(row["response"], row["scores"]) for row in rows] == [
        ("a", {"preference": 1.0}),
        ("b", {"preference": 0.0}),
    ]
    assert rows[0][layouts.NOTED][0].startswith(
        f"read: '{won}' as the chosen response and '{lost}' as the rejected one"
    )


def test_who_won_is_no_pair_of_texts() -> None:
    assert "scores" not in first({"prompt": "q", "winner": "a", "loser": None})


def test_what_a_tool_gave_may_be_a_list_of_data() -> None:
    found = [{"city": "x"}, {"city": "y"}]
    turns = [
        Q,
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]},
        {"role": "tool", "content": found},
    ]
    assert json.loads(first({"messages": [*turns, A]})["prompt"][2]["content"]) == found
    parts = [{"type": "text", "text": "x"}]
    turns[2] = {"role": "tool", "content": parts}
    assert first({"messages": [*turns, A]})["prompt"][2]["content"] == "x"


def test_langchain_says_in_its_metadata_that_a_response_was_cut_off() -> None:
    answer = {"type": "ai", "content": "a", "response_metadata": {"finish_reason": "length"}}
    row = first({"messages": [{"type": "human", "content": "q"}, answer]})
    assert (row["response"], row["finished"]) == ("a", False)


def test_a_call_of_langchain_is_a_call_and_a_person_is_no_role() -> None:
    called = {
        "type": "ai",
        "content": "",
        "tool_calls": [{"name": "f", "args": {"x": 1}, "id": "1", "type": "tool_call"}],
    }
    row = first({"messages": [{"type": "human", "content": "q"}, called]})
    assert row["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    with pytest.raises(DataError, match=r"turn 1 has no role\. Write it as \{role, content\}"):
        first({"messages": [{"speaker": "Anna", "text": "q"}, {"speaker": "Ben", "text": "a"}]})


def test_turns_and_a_column_that_answers_them_are_a_pair_and_a_blank_answer_is_named() -> None:
    tally = Tally()
    (row,) = read([{"prompt": [Q], "answer": "b"}], tally=tally)
    assert (row["prompt"], row["response"]) == ([Q], "b")
    assert [*tally.notes] == ["read: 'answer' as the response (--map names others)"]
    for blank in ("", None):
        with pytest.raises(SteerError, match="'response': is blank"):
            read_rows([{"question": "q", "answer": blank}])
