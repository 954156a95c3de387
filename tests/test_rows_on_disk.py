"""Rows as other people's files hold them: what is asked is kept whole, nothing is learned that a file says not to."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_recipes import layouts
from data_recipes.cells import number
from data_recipes.endings import ended
from data_recipes.marks import LEFT_OUT, NOTED
from data_recipes.streams import DataError
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.rows import Reading, Tally, prompts, read
from steer.rows.command import data_command

Record = dict[str, Any]


def talk(*said: str) -> list[Record]:
    """Turns of user and assistant in alternation; a text that begins with "system " is a system turn."""
    turns, roles = [], ["user", "assistant"]
    for text in said:
        role = "system" if text.startswith("system ") else roles[0]
        roles = roles if role == "system" else roles[::-1]
        turns.append({"role": role, "content": text})
    return turns


def asked(row: Record) -> list[str]:
    """Roles and texts of a prompt."""
    return [f"{turn['role']}: {turn['content']}" for turn in row["prompt"]]


def lines(tmp_path: Path, *records: Record) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


WHOLE = talk("system Be terse", "Soil?", "Earth.", "Apples?")
PROMPTS: list[Any] = [
    "Apples?",  # the last question only
    " Apples?\n",
    "Soil?",  # the first one
    talk("Soil?", "Earth.", "Apples?"),  # all but the system turn
    talk("Apples?"),
    WHOLE,
    "",
    None,
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_question_of_a_pair_stands_once_however_much_the_answers_repeat(prompt: Any) -> None:
    better, worse = layouts.rows(
        {
            "prompt": prompt,
            "chosen": [*WHOLE, {"role": "assistant", "content": "Good"}],
            "rejected": [*WHOLE, {"role": "assistant", "content": "Bad"}],
        }
    )
    assert (
        asked(better)
        == asked(worse)
        == ["system: system Be terse", "user: Soil?", "assistant: Earth.", "user: Apples?"]
    )
    assert (better["response"], worse["response"]) == ("Good", "Bad")


def test_a_prompt_that_knows_more_than_the_answers_keeps_it() -> None:
    sides = {"chosen": talk("Apples?", "Good"), "rejected": talk("Apples?", "Bad")}
    better, _ = layouts.rows({"prompt": WHOLE, **sides})
    assert better["prompt"] == WHOLE
    better, _ = layouts.rows({"prompt": talk("system Be terse", "Apples?"), **sides})
    assert asked(better) == ["system: system Be terse", "user: Apples?"]


def test_a_prompt_that_is_another_question_than_that_of_the_answers_is_refused() -> None:
    with pytest.raises(DataError, match="columns 'prompt', 'chosen': each holds a question, and not the same one"):
        layouts.rows({"prompt": "Rivers?", "chosen": talk("Apples?", "Good"), "rejected": talk("Apples?", "Bad")})


ASKED = {"prompt": "Hi"}
SYSTEM_ROWS = [
    {"prompt": "Hi", "response": "Hello"},
    {"prompt": "Hi", "completion": "Hello"},
    {"prompt": talk("Hi"), "response": "Hello", "scores": {"quality": 1}},
    {"prompt": "Hi"},
    {"messages": talk("Hi", "Hello")},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"instruction": "Hi", "output": "Hello"},
    {"prompt": "Hi", "chosen": "Hello", "rejected": "Bye"},
    {"question": "Hi", "chosen": "Hello", "rejected": "Bye"},
    {"chosen": talk("Hi", "Hello"), "rejected": talk("Hi", "Bye")},
    {"prompt": "Hi", "response_a": "Hello", "response_b": "Bye", "preference": 1},
    {"prompt": "Hi", "response_1": "Hello", "response_2": "Bye", "preference_strength": 1},
]


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message", "systemPrompt", "System Message"])
@pytest.mark.parametrize("record", SYSTEM_ROWS)
def test_a_column_with_a_system_prompt_is_the_first_turn_in_every_layout(record: Record, column: str) -> None:
    for row in layouts.rows({column: "Reply as a pirate.", **record}):
        assert asked(row) == ["system: Reply as a pirate.", "user: Hi"]
        assert column not in row


def test_a_system_prompt_stands_once_and_two_different_ones_are_refused() -> None:
    said = talk("system Be terse", "Hi", "Hello")
    (row,) = layouts.rows({"system": "system Be terse", "messages": said})
    assert row["prompt"] == said[:-1]
    with pytest.raises(DataError, match="column 'system': is not the system turn that the conversation begins with"):
        layouts.rows({"system": "Be kind", "messages": said})
    with pytest.raises(DataError, match="'system', 'system_prompt': hold different system prompts"):
        layouts.rows({"system": "Be kind", "system_prompt": "Be terse", **ASKED})
    assert asked(layouts.rows({"system": "", "system_prompt": None, **ASKED})[0]) == ["user: Hi"]


def test_the_name_of_a_system_that_answered_is_no_system_prompt(tmp_path: Path) -> None:
    path = lines(tmp_path, *({"prompt": f"Hi {i}", "response": "Hello", "system": "Dusek-2.0"} for i in range(3)))
    told = data_command(DataConfig(str(path), str(tmp_path / "out")))
    assert [row["system"] for row in read(tmp_path / "out" / "rows.jsonl")] == ["Dusek-2.0"] * 3
    assert "note: 'system' stays a column: a word such as 'Dusek-2.0' names a system" in told


ALPACA = {"instruction": "Describe apples.", "input": "Keep it short.", "system": "Be a teacher."}
ALPACA |= {"history": [["hi", "hello"]], "chosen": "Good", "rejected": "Bad"}


def test_alpaca_and_orca_pairs_have_their_whole_prompt(tmp_path: Path) -> None:
    better, worse = layouts.rows(ALPACA)
    wanted = ["system: Be a teacher.", "user: hi", "assistant: hello", "user: Describe apples.\n\nKeep it short."]
    assert asked(better) == asked(worse) == wanted
    assert {"instruction", "input", "history", "system"}.isdisjoint(better)
    orca = {"system": "Be a gardener.", "question": "Apples?", "chosen": "Good", "rejected": "Bad"}
    path = lines(tmp_path, orca)
    for columns in (
        {},
        {"prompt": "question"},
        {name: name for name in ("chosen", "rejected")} | {"prompt": "question"},
    ):
        better, worse = read(path, reading=Reading(columns))
        assert asked(better) == asked(worse) == ["system: Be a gardener.", "user: Apples?"]
        assert (better["response"], worse["scores"]) == ("Good", {"preference": 0.0})


def test_earlier_turns_in_a_column_history_are_part_of_the_prompt() -> None:
    for history in ([["Soil?", "Earth."]], talk("Soil?", "Earth.")):
        (row,) = layouts.rows({"prompt": "Apples?", "response": "Good", "history": history})
        assert asked(row) == ["user: Soil?", "assistant: Earth.", "user: Apples?"]
    assert layouts.rows({"prompt": "Hi", "response": "Hello", "history": "a text"})[0]["history"] == "a text"


@pytest.mark.parametrize("sign", ["_", "-", ".", " ", ": ", "/"])
def test_columns_about_a_side_go_there_whatever_parts_their_names(sign: str) -> None:
    record = {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"}
    for name, values in (("rating", (4.5, 2)), ("model", ("a", "b")), ("avg_score", ("3", "1"))):
        record |= {f"{side}{sign}{name}": value for side, value in zip(("chosen", "rejected"), values)}
    record |= {f"reward{sign}chosen": 0.5, f"reward{sign}rejected": -1}
    better, worse = layouts.rows(record)
    assert better["scores"] == {"rating": 4.5, "avg_score": 3.0, "reward": 0.5, "preference": 1.0}
    assert worse["scores"] == {"rating": 2.0, "avg_score": 1.0, "reward": -1.0, "preference": 0.0}
    assert (better["model"], worse["model"]) == ("a", "b")
    assert not any("chosen" in column or "rejected" in column for column in better)


def test_columns_in_camel_case_go_to_their_side() -> None:
    record = {"prompt": "Hi", "chosen": "Good", "rejected": "Bad", "chosenRating": 5, "rejectedRating": 1}
    better, worse = layouts.rows({**record, "modelChosen": "a", "modelRejected": "b", "margin": 4})
    assert (better["scores"]["rating"], worse["scores"]["rating"]) == (5.0, 1.0)
    assert (better["model"], worse["model"], better["margin"]) == ("a", "b", 4)


EQUAL = [
    {"chosen": "\n\nHuman: Hi\n\nAssistant: same", "rejected": "\n\nHuman: Hi\n\nAssistant: same"},
    {"prompt": "Hi", "chosen": "same", "rejected": "same ", "chosen_score": 8, "rejected_score": 3},
    {"prompt": "Hi", "response_a": "same", "response_b": "same", "preference": -2},
]


@pytest.mark.parametrize("record", EQUAL)
def test_a_pair_of_equal_texts_is_left_out_and_counted(record: Record, tmp_path: Path) -> None:
    tally = Tally()
    path = lines(tmp_path, record, {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"})
    assert [row["response"] for row in read(path, tally=tally)] == ["Good", "Bad"]
    assert list(tally.dropped) == [f"{path}:1: its two responses are the same text, so neither can be the better one"]
    told = data_command(DataConfig(str(path), str(tmp_path / "out")))
    assert f"left out: 1 like {path}:1: its two responses are the same text" in told
    assert "same text" in (tmp_path / "out" / "left_out.jsonl").read_text()


def test_a_tie_of_equal_texts_says_nothing_wrong() -> None:
    tie = layouts.rows({"prompt": "Hi", "response_a": "same", "response_b": "same", "preference": 0})
    assert not any(LEFT_OUT in row for row in tie)


def test_what_is_left_out_is_said_wherever_rows_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lines(tmp_path, EQUAL[1], {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"})
    assert len(list(read(path))) == 2
    list(read(path))  # said once
    assert capsys.readouterr().err.count("left out: 1 like") == 1


UNTAUGHT = [{"weight": 0}, {"weight": 0.0}, {"weight": "0"}, {"train": False}, {"training": False}, {"loss": False}]
UNTAUGHT += [{"trainable": "false"}, {"mask": True}, {"masked": 1}]


@pytest.mark.parametrize("mark", UNTAUGHT)
def test_a_turn_that_is_not_to_be_learned_is_never_the_response(mark: Record) -> None:
    first, second = talk("Apples?", "Good", "Thanks", "Welcome")[:2], talk("Thanks", "Welcome")
    said = [*first, second[0], {**second[1], **mark}]
    named = [{"from": {"user": "human", "assistant": "gpt"}[t["role"]], "value": t["content"], **mark} for t in said]
    named[1] = {"from": "gpt", "value": "Good", "weight": 1.0}
    sides = {"chosen": said, "rejected": talk("Apples?", "Bad")}
    for record in ({"messages": said}, {"conversations": named}, {"prompt": [], "completion": said}, sides):
        row = layouts.rows(record)[0]
        assert (asked(row), row["response"]) == (["user: Apples?"], "Good")
        assert [turn["content"] for turn in row["after_response"]] == ["Thanks", "Welcome"]


def test_a_conversation_without_a_turn_to_learn_is_left_out_and_counted(tmp_path: Path) -> None:
    unlearned = {"messages": [*talk("Hi"), {"role": "assistant", "content": "No", "weight": 0}]}
    path = lines(tmp_path, unlearned, {"messages": talk("Hi", "Yes")})
    tally = Tally()
    assert [row["response"] for row in read(path, tally=tally)] == ["Yes"]
    assert list(tally.dropped) == [f"{path}:1: none of its assistant turns is to be learned (weight 0 or train false)"]


CUT = [
    {"finish_reason": "length"},
    {"finishReason": "MAX_TOKENS"},
    {"stop_reason": "max_tokens"},
    {"stopReason": "max_tokens"},
    {"done_reason": "length"},
    {"finish_reason": "FinishReason.MAX_TOKENS"},
    {"finish_reason": "content_filter"},
    {"stop_reason": "model_context_window_exceeded"},
    {"status": "incomplete"},
    {"incomplete_details": {"reason": "max_output_tokens"}},
    {"truncated": True},
    {"is_truncated": "true"},
    {"finished": "False"},
    {"finished": 0},
]
ENDED = [{"finish_reason": "stop"}, {"stop_reason": "end_turn"}, {"status": "completed"}, {"truncated": False}, {}]
ENDED += [{"finish_reason": None}, {"finish_reason": "stop_sequence"}, {"finish_reason": "eos"}, {"status": "error"}]


def ways(mark: Record) -> list[Record]:
    """Records of many layouts whose response carries the mark."""
    message = {"role": "assistant", "content": "Hello"}
    request = {"messages": talk("Hi")}
    return [
        {"request": request, "response": {"choices": [{"message": message, **mark}]}},
        {"request": request, "response": {"role": "assistant", "content": [{"type": "text", "text": "Hello"}], **mark}},
        {"request": request, "response": {"message": message, **mark}},
        {"messages": talk("Hi"), "choices": [{"message": message, **mark}]},
        {"messages": [*talk("Hi"), {**message, **mark}]},
        {"messages": talk("Hi", "Hello"), **mark},
        {"prompt": "Hi", "response": "Hello", **mark},
        {"prompt": "Hi", "completion": [{**message, **mark}]},
        {"prompt": talk("Hi"), "response": "Hello", "scores": {}, **mark},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Bye", **{f"chosen_{name}": v for name, v in mark.items()}},
    ]


@pytest.mark.parametrize("mark", CUT)
def test_a_response_that_was_cut_off_is_not_finished_in_any_layout(mark: Record) -> None:
    for record in ways(mark):
        row = layouts.rows(record)[0]
        assert (row["response"], row["finished"]) == ("Hello", False)
        assert {"finished", "truncated", "is_truncated"}.isdisjoint(row["scores"])


@pytest.mark.parametrize("mark", ENDED)
def test_a_response_that_ended_is_not_said_to_be_cut_off(mark: Record) -> None:
    for record in ways(mark):
        assert layouts.rows(record)[0].get("finished") is not False
    assert ended(mark) is not False


def message(name: str, parent: str | None, role: str = "assistant", **more: Any) -> Record:
    return {"message_id": name, "parent_id": parent, "text": name, "role": role, "deleted": False, **more}


TREE = [
    message("root", None, "prompter"),
    message("good", "root"),
    message("spam", "root", deleted=True),
    message("more", "spam", "prompter"),
    message("below", "more", review_result=True),
    message("failed", "root", review_result=False),
    message("thanks", "good", "prompter"),
    message("last", "thanks", review_result=None),
]


def tree(name: str) -> Record:
    """The message with its replies, as the exports of trees hold them."""
    node = next(m for m in TREE if m["message_id"] == name)
    return {**node, "replies": [tree(m["message_id"]) for m in TREE if m["parent_id"] == name]}


@pytest.mark.parametrize("whole", [False, True])
def test_deleted_messages_and_all_below_them_are_left_out_and_counted(tmp_path: Path, whole: bool) -> None:
    records = [{"message_tree_id": "root", "prompt": tree("root")}] if whole else TREE
    tally = Tally()
    path = lines(tmp_path, *records)
    assert [row["response"] for row in read(path, tally=tally)] == ["good", "last"]
    assert sorted(message.split(": ", 1)[1] for message in tally.dropped) == [
        "message 'below' is below one that is left out",
        "message 'failed' failed its review",
        "message 'spam' was deleted",
    ]


def test_reasoning_is_kept_beside_the_response_and_said(tmp_path: Path) -> None:
    thought = {"role": "assistant", "content": "Hello", "thinking": "Be polite."}
    parts = [{"type": "thinking", "thinking": "Be polite."}, {"type": "text", "text": "Hello"}]
    records: list[Record] = [
        {"messages": [*talk("Hi"), thought]},
        {"prompt": "Hi", "completion": [{"role": "assistant", "content": "Hello", "reasoning_content": "Be polite."}]},
        {"request": {"messages": talk("Hi")}, "response": {"role": "assistant", "content": parts}},
        {"messages": talk("Hi"), "choices": [{"message": {"content": "Hello", "reasoning": "Be polite."}}]},
    ]
    for record in records:
        (row,) = layouts.rows(record)
        assert (row["response"], row["reasoning_content"]) == ("Hello", "Be polite.")
    told = data_command(DataConfig(str(lines(tmp_path, records[0])), str(tmp_path / "out")))
    assert "note: 1 responses have reasoning, kept in 'reasoning_content'" in told


CALL = {"id": "1", "type": "function", "function": {"name": "weigh", "arguments": "{}"}}
CALLS: list[Record] = [
    {"messages": [*talk("Hi"), {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}]},
    {"messages": [*talk("Hi"), {"role": "assistant", "content": "Let me see.", "function_call": CALL["function"]}]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": '{"name": "weigh"}'}]},
    {"prompt": "Hi", "completion": [{"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}]},
    {
        "request": {"messages": talk("Hi")},
        "response": {
            "content": [{"type": "text", "text": "Let me see."}, {"type": "tool_use", "name": "weigh", "input": {}}]
        },
    },
    {
        "request": {"input": "Hi"},
        "response": {"output": [{"type": "function_call", "name": "weigh", "arguments": "{}", "call_id": "1"}]},
    },
]


@pytest.mark.parametrize("record", CALLS)
def test_an_answer_that_is_a_call_of_a_tool_is_a_row_and_not_cut_to_the_sentence_before_it(
    record: Record, tmp_path: Path
) -> None:
    (row,) = read(lines(tmp_path, record))
    assert row["response"] in ("Let me see.", "")
    assert [call["function"]["name"] for call in row["tool_calls"]] == ["weigh"]


def test_an_answer_after_the_result_of_a_tool_is_a_row(tmp_path: Path) -> None:
    result = {"role": "tool", "tool_call_id": "1", "content": "3 kg"}
    said = [*talk("Hi"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, result]
    path = lines(tmp_path, {"messages": [*said, {"role": "assistant", "content": "It weighs 3 kg."}]})
    (row,) = read(path)
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "tool"]
    assert (row["prompt"][1]["tool_calls"], row["response"]) == ([CALL], "It weighs 3 kg.")
    (prompt,) = prompts(lines(tmp_path, {"messages": said}))  # a call in the middle of what is asked is no response
    assert [turn["role"] for turn in prompt["prompt"]] == ["user", "assistant", "tool"]
    assert prompt["prompt"][1]["tool_calls"] == [CALL]


COLLIDE = [
    {"b": 1, "<b>": 5},
    {"my score": 2, "my_score": 4},
    {"Helpful Ness": 1, "helpful-ness": 2},
    {"attributes": {"quality": 1, "Quality": 2}},
    {"quality": [1, 2], "quality ": [3, 4]},
]


@pytest.mark.parametrize("columns", COLLIDE)
def test_two_columns_that_name_one_attribute_are_refused_by_name(columns: Record) -> None:
    first, second = columns.get("attributes", columns)
    with pytest.raises(DataError, match=f"columns '{first}', '{second}': both name the attribute"):
        layouts.rows({"prompt": "Hi", "response": "Hello", **columns})
    with pytest.raises(DataError, match="columns 'chosen_score', 'score_chosen': both name the attribute 'score'"):
        layouts.rows({"prompt": "Hi", "chosen": "a", "rejected": "b", "chosen_score": 1, "score_chosen": 2})


def test_a_name_that_stands_twice_in_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"prompt": "Hi", "response": "Hello", "q": 1, "q": 2}\n')
    with pytest.raises(SteerError, match="the name 'q' stands twice in one object"):
        list(read(path))
    table = pyarrow.Table.from_arrays(
        [pyarrow.array([v]) for v in ("Hi", "Hello", 1, 2)], names=["prompt", "response", "q", "q"]
    )
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(SteerError, match="has two columns named 'q'"):
        list(read(tmp_path / "log.parquet"))


CELLS = [
    ("3,5", 3.5),
    ("-0,125", -0.125),
    ("50%", 50.0),
    ("12,5 %", 12.5),
    ("true", 1.0),
    ("FALSE", 0.0),
    ("Yes", 1.0),
    ("no", 0.0),
    ("1,234", None),  # nobody knows
    ("1,234,567", None),
    ("%", None),
    ("1,2,3", None),
    ("maybe", None),
]


@pytest.mark.parametrize(("cell", "value"), CELLS)
def test_cells_are_read_as_the_numbers_that_they_are(cell: str, value: float | None) -> None:
    assert number(cell) == value


@pytest.mark.parametrize(
    ("cells", "scores"),
    [(["0,5", "1,5", "2"], [0.5, 1.5, 2.0]), (["true", "false", ""], [1.0, 0.0, None]), (["50%", "5 %"], [50.0, 5.0])],
)
def test_a_column_of_a_table_is_read_in_one_way(tmp_path: Path, cells: list[str], scores: list[float | None]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,response,quality\n" + "".join(f'Hi,Hello,"{cell}"\n' for cell in cells))
    assert [row["scores"].get("quality") for row in read(path)] == scores


@pytest.mark.parametrize(
    "cells",
    [["0,5", "0.5"], ["50%", "0.5"], ["true", "3"], ["50%", "5"], ["4,5", "1.234"]],
)
def test_a_score_that_is_written_in_two_ways_is_refused_by_name_and_another_column_is_none(
    tmp_path: Path, cells: list[str]
) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,response,quality\n" + "".join(f'Hi,Hello,"{cell}"\n' for cell in cells))
    with pytest.raises(SteerError, match=f"log.csv:3: column 'quality': holds '{cells[1]}', but"):
        list(read(path))
    path.write_text(path.read_text().replace("quality", "zest"))
    tally = Tally()
    assert [(row["scores"], row["zest"]) for row in read(path, tally=tally)] == [({}, cell) for cell in cells]
    assert tally.not_scores == {"zest": f"written in several ways: {', '.join(map(repr, cells))}"}


@pytest.mark.parametrize(
    ("cells", "scores"),
    [([4, "4.5"], [4, 4.5]), (["yes", "true"], [1, 1]), ([True, "no"], [1, 0]), (["4", "1,234"], [4, None]),
     (["maybe", "yes"], [None, None]), (["yes", "maybe", "yes"], [1, None, 1])],
)  # fmt: skip
def test_cells_that_can_be_read_in_one_way_are(tmp_path: Path, cells: list[Any], scores: list[float | None]) -> None:
    records = [{"prompt": "Hi", "response": f"{i}", "quality": cell} for i, cell in enumerate(cells)]
    assert [row["scores"].get("quality") for row in read(lines(tmp_path, *records))] == scores


def test_a_word_that_is_yes_among_other_words_is_no_score(tmp_path: Path) -> None:
    path = lines(tmp_path, *({"prompt": "Hi", "response": "Hello", "answer": answer} for answer in ("maybe", "yes")))
    assert [(row["answer"], row["scores"]) for row in read(path)] == [("maybe", {}), ("yes", {})]


def test_real_pairs_are_read_whole(shared: Path) -> None:
    found: Counter[str] = Counter()
    with gzip.open(shared / "data" / "pairs_llmbar.jsonl.gz", "rt") as file:
        for line in file:
            made = layouts.rows(json.loads(line))
            found["left out"] += LEFT_OUT in made[0]
            found["rows"] += len(made)
            assert all(row["prompt"][-1]["role"] == "user" for row in made)
    assert found == {"rows": 2400, "left out": 1}


LISTED: list[Record] = [
    {"instruction": "Hi", "generations": ["Good", "Bad"], "ratings": [5, 1], "generation_models": ["m1", "m2"]},
    {"prompt": "Hi", "responses": ["Good", "Bad"], "ratings": ["5", "1"], "models": ["m1", "m2"]},
    {
        "prompt": talk("Hi"),
        "completions": [talk("", "Good")[1:], talk("", "Bad")[1:]],
        "rating": [5, 1],
        "model": ["m1", "m2"],
    },
    {
        "instruction": "Hi",
        "responses": [{"text": "Good", "rating": 5, "model": "m1"}, {"text": "Bad", "rating": 1, "model": "m2"}],
    },
    {
        "messages": talk("Hi"),
        "generations": ["Good", "Bad"],
        "scores": [{"rating": 5}, {"rating": 1}],
        "models": ["m1", "m2"],
    },
]


@pytest.mark.parametrize("record", LISTED)
def test_every_response_of_a_list_is_a_row_with_its_own_values(record: Record) -> None:
    first, second = layouts.rows({**record, "tags": ["a", "b", "c"]})
    assert (asked(first), asked(second)) == (["user: Hi"], ["user: Hi"])
    assert (first["response"], first["scores"], first["model"]) == ("Good", {"rating": 5.0}, "m1")
    assert (second["response"], second["scores"], second["model"]) == ("Bad", {"rating": 1.0}, "m2")
    assert first["group"] == second["group"]
    assert first["tags"] == ["a", "b", "c"]


def test_ratings_that_are_not_one_for_each_response_are_refused() -> None:
    with pytest.raises(DataError, match="column 'ratings': holds 3 values for 2 responses"):
        layouts.rows({"instruction": "Hi", "generations": ["Good", "Bad"], "ratings": [5, 1, 2]})


def test_a_generation_that_failed_is_left_out_and_counted(tmp_path: Path) -> None:
    tally = Tally()
    path = lines(tmp_path, {"instruction": "Hi", "generations": [None, "Good"], "ratings": [None, 5]})
    assert [(row["response"], row["scores"]) for row in read(path, tally=tally)] == [("Good", {"rating": 5.0})]
    assert list(tally.dropped) == [f"{path}:1: one of its generations holds no text and no call"]


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Hi", "generation": "Hello", "rating": 4},
        {"instruction": "Hi", "response": "Hello", "rating": 4},
        {"messages": talk("Hi"), "response": "Hello", "rating": 4},
        {"messages": talk("Hi", "Hello"), "response": "Hello", "rating": 4},
        {"messages": talk("Hi"), "completion": talk("", "Hello")[1:], "rating": 4},
        {"messages": talk("Hi"), "response": {"role": "assistant", "content": "Hello"}, "rating": 4},
    ],
)
def test_an_answer_beside_its_question_is_read_whatever_their_names(record: Record) -> None:
    (row,) = layouts.rows(record)
    assert (asked(row), row["response"], row["scores"]) == (["user: Hi"], "Hello", {"rating": 4.0})


ANNOTATED: list[Record] = [
    {"prompt": "Hi", "response": "Hello", "quality.responses": [4, 5], "quality.suggestion": 1, "style.suggestion": 2},
    {
        "prompt": "Hi",
        "response": "Hello",
        "quality.responses": [4, 5, 1],
        "quality.responses.status": ["submitted", "submitted", "discarded"],
        "quality.suggestion": 1,
        "style.suggestion": 2,
    },
    {
        "prompt": "Hi",
        "response": "Hello",
        "quality": [{"value": 4, "status": "submitted"}, {"value": 5, "user_id": "u"}, {"value": 1, "status": "draft"}],
        "quality-suggestion": 1,
        "style": [],
        "style-suggestion": 2,
    },
    {
        "fields": {"prompt": "Hi", "response": "Hello"},
        "responses": {"quality": [{"value": 4}, {"value": 5}]},
        "suggestions": {"quality": {"value": 1, "agent": "m"}, "style": {"value": 2}},
        "metadata": {"length": 5},
    },
    {
        "fields": {"instruction": "Hi", "generation": "Hello"},
        "responses": [
            {"values": {"quality": {"value": 4}}, "status": "submitted"},
            {"values": {"quality": {"value": 5}}, "status": "submitted"},
            {"values": {"quality": {"value": 1}}, "status": "discarded"},
        ],
        "suggestions": [{"question_name": "quality", "value": 1}, {"question_name": "style", "value": 2}],
    },
]


@pytest.mark.parametrize("record", ANNOTATED)
def test_what_people_said_counts_before_what_a_model_suggested(record: Record) -> None:
    (row,) = layouts.rows(record)
    assert (asked(row), row["response"]) == (["user: Hi"], "Hello")
    assert row["scores"] == {"quality": 4.5, "style": 2.0}
    assert row["raters"] == {"quality": [4.0, 5.0]}
    assert row["suggestions"] == {"quality": 1}


def test_answers_in_words_stay_a_column() -> None:
    (row,) = layouts.rows({"prompt": "Hi", "response": "Hello", "tone.responses": ["formal", "formal"]})
    assert (row["tone"], row["scores"]) == (["formal", "formal"], {})


WIRE: list[tuple[Record, Record]] = [
    (
        {"system": "Be kind.", "messages": talk("Hi")},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
    ),
    (
        {"system": [{"type": "text", "text": "Be kind."}], "messages": [{"role": "user", "content": "Hi"}]},
        {"content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn"},
    ),
    (
        {"instructions": "Be kind.", "input": "Hi"},
        {
            "object": "response",
            "output": [
                {"type": "reasoning", "summary": []},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
            ],
        },
    ),
    (
        {"instructions": "Be kind.", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]},
        {"status_code": 200, "body": {"output": [{"type": "message", "content": [{"text": "Hello"}]}]}},
    ),
    (
        {
            "systemInstruction": {"parts": [{"text": "Be kind."}]},
            "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        },
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello"}]}, "finishReason": "STOP"}]},
    ),
    (
        {"system": [{"text": "Be kind."}], "messages": [{"role": "user", "content": [{"text": "Hi"}]}]},
        {"output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}}, "stopReason": "end_turn"},
    ),
    ({"system": "Be kind.", "prompt": "Hi"}, {"response": "Hello", "done_reason": "stop"}),
]


@pytest.mark.parametrize(("request_", "response"), WIRE)
def test_logs_of_every_server_give_the_same_row(request_: Record, response: Record) -> None:
    (row,) = layouts.rows({"request": request_, "response": response, "rating": 4})
    assert (asked(row), row["response"]) == (["system: Be kind.", "user: Hi"], "Hello")
    assert (row["scores"], row.get("finished")) == ({"rating": 4.0}, None)


def test_a_response_of_openai_that_is_incomplete_is_not_finished() -> None:
    body = {"output": [{"type": "message", "content": [{"text": "Hello"}]}], "status": "incomplete"}
    (row,) = layouts.rows({"request": {"input": "Hi"}, "response": body})
    assert row["finished"] is False


def test_calls_and_results_of_tools_in_a_log_are_turns_of_the_prompt() -> None:
    wanted = [("user", "Weigh it"), ("assistant", "Let me see."), ("tool", "3 kg"), ("user", "Well?")]
    anthropic = [
        {"role": "user", "content": "Weigh it"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "1", "name": "weigh", "input": {"what": "it"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "3 kg"},
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    responses = [
        {"role": "user", "content": "Weigh it"},
        {"role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "1", "name": "weigh", "arguments": '{"what": "it"}'},
        {"type": "function_call_output", "call_id": "1", "output": "3 kg"},
        {"role": "user", "content": "Well?"},
    ]
    reply = {"content": "It weighs 3 kg."}
    (row,) = layouts.rows({"request": {"messages": anthropic}, "response": reply})
    assert [(turn["role"], turn["content"]) for turn in row["prompt"]] == wanted
    assert row["prompt"][1]["tool_calls"][0]["function"] == {"name": "weigh", "arguments": {"what": "it"}}
    (row,) = layouts.rows({"request": {"input": responses}, "response": reply})
    assert [(turn["role"], turn["content"]) for turn in row["prompt"]] == wanted
    assert row["prompt"][1]["tool_calls"][0]["function"]["name"] == "weigh"


def arena(winner: Any, **more: Any) -> Record:
    sides = {f"conversation_{side}": talk("Hi", said) for side, said in (("a", "Good"), ("b", "Bad"))}
    return {"question_id": "q", "model_a": "m1", "model_b": "m2", **sides, "turn": 1, "winner": winner, **more}


@pytest.mark.parametrize(
    ("winner", "preferred"),
    [("model_a", (1, 0)), ("model_b", (0, 1)), ("tie", (0.5, 0.5)), ("tie (bothbad)", (0.5, 0.5)), ("m2", (0, 1))],
)
def test_a_vote_of_an_arena_is_a_preference(winner: str, preferred: tuple[float, float]) -> None:
    a, b = layouts.rows(arena(winner))
    assert (asked(a), asked(b)) == (["user: Hi"], ["user: Hi"])
    assert (a["response"], b["response"], a["model"], b["model"]) == ("Good", "Bad", "m1", "m2")
    assert (a["scores"]["preference"], b["scores"]["preference"]) == preferred
    assert "conversation_a" not in a


def test_only_the_answer_that_was_judged_is_the_response() -> None:
    sides = {f"conversation_{side}": talk("Hi", said, "More?", said * 2) for side, said in (("a", "A"), ("b", "B"))}
    a, b = layouts.rows(arena("model_a", **sides))
    assert (a["response"], b["response"], asked(a)) == ("A", "B", ["user: Hi"])
    assert LEFT_OUT not in a


def test_answers_that_follow_different_turns_are_left_out_and_counted(tmp_path: Path) -> None:
    sides = {f"conversation_{side}": talk("Hi", said, "More?", said * 2) for side, said in (("a", "A"), ("b", "B"))}
    tally = Tally()
    path = lines(tmp_path, arena("model_a"), arena("model_a", **sides, turn=2))
    assert [row["response"] for row in read(path, tally=tally)] == ["Good", "Bad"]
    assert [left.split(": ", 1)[1] for left in tally.dropped] == [
        "its two answers follow different turns, so they are not answers to one prompt"
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": '["Hi"]', "response_a": '["Good"]', "response_b": '["Bad"]'},
        {"prompt": "Hi", "response_a": talk("Hi", "Good"), "response_b": talk("Hi", "Bad")},
        {"instruction": "Hi", "output_a": "Good", "output_b": "Bad"},
        {"messages": talk("Hi"), "completion_a": "Good", "completion_b": "Bad"},
        {"question": "Hi", "answer_a": "Good", "answer_b": "Bad"},
    ],
)
def test_answers_side_by_side_are_a_pair_however_they_are_written(record: Record) -> None:
    hot = {"winner_model_a": 0, "winner_model_b": "1", "winner_tie": 0}
    for vote in ({"preference": -1}, {"winner": "model_b"}, {"winner": "B"}, hot):
        a, b = layouts.rows({**record, **vote, "model_a": "m1", "model_b": "m2"})
        assert (asked(a), a["response"], b["response"]) == (["user: Hi"], "Good", "Bad")
        assert (a["scores"], b["scores"]) == ({"preference": 0.0}, {"preference": 1.0})
        assert (a["model"], b["model"]) == ("m1", "m2")


@pytest.mark.parametrize("written", [json.dumps, repr])
def test_turns_in_a_cell_of_a_table_are_turns(tmp_path: Path, written: Any) -> None:
    path = tmp_path / "log.csv"
    cells = [written(talk("Hi", said)).replace('"', '""') for said in ("Good", "Bad")]
    path.write_text('prompt,chosen,rejected\nHi,"{}","{}"\n'.format(*cells))
    assert [(asked(row), row["response"]) for row in read(path)] == [(["user: Hi"], "Good"), (["user: Hi"], "Bad")]
    path.write_text(f'messages,quality\n"{cells[0]}",4\n')
    assert [(asked(row), row["response"]) for row in read(path)] == [(["user: Hi"], "Good")]


def test_turns_in_a_cell_that_cannot_be_read_are_refused_and_other_lists_are_text() -> None:
    with pytest.raises(DataError, match="column 'response': holds turns as text that cannot be read"):
        layouts.rows({"prompt": "Hi", "response": "[{'role': 'user'}\n {'role': 'assistant'}]"})
    for text in ('[{"role": "admin"}]', "[1, 2]", "[{'a': 1}]"):
        assert layouts.rows({"prompt": "Hi", "response": text})[0]["response"] == text


@pytest.mark.parametrize("columns", [("chosen_response", "rejected_response"), ("answer_chosen", "answer_rejected")])
def test_chosen_and_rejected_may_be_called_by_what_they_are(columns: tuple[str, str]) -> None:
    record = {
        "instruction": "Hi",
        **dict(zip(columns, ("Good", "Bad"))),
        "chosen_avg_rating": 5,
        "rejected_avg_rating": 1,
    }
    better, worse = layouts.rows(record)
    assert (asked(better), better["response"], worse["response"]) == (["user: Hi"], "Good", "Bad")
    assert (better["scores"], worse["scores"]["avg_rating"]) == ({"avg_rating": 5.0, "preference": 1.0}, 1.0)


def test_an_end_that_is_noted_in_an_object_beside_the_response_counts() -> None:
    for column in ("response_metadata", "details", "meta"):
        assert (
            layouts.rows({"prompt": "Hi", "response": "Hello", column: {"finish_reason": "length"}})[0]["finished"]
            is False
        )
    (row,) = layouts.rows({"prompt": "Hi", "choices": [{"text": "Hello", "finish_reason": "length"}]})
    assert (row["response"], row["finished"]) == ("Hello", False)


def test_a_placeholder_of_a_deleted_text_is_left_out_and_counted(tmp_path: Path) -> None:
    tally = Tally()
    path = lines(tmp_path, *({"prompt": f"Hi {i}", "response": said} for i, said in enumerate(("[deleted]", "Hello"))))
    assert [row["response"] for row in read(path, tally=tally)] == ["Hello"]
    assert list(tally.dropped) == [f"{path}:1: its response was deleted"]


@pytest.mark.parametrize("nothing", ["NULL", "None", r"\N", "nan", "NaN"])
@pytest.mark.parametrize(("suffix", "comma"), [(".csv", ","), (".tsv", "\t")])
def test_an_empty_cell_that_a_table_writes_as_a_word_is_no_text(
    nothing: str, suffix: str, comma: str, tmp_path: Path
) -> None:
    table = [("prompt", "response", "rating"), ("Hi", nothing, "1"), (nothing, "Yes", "2"), ("Hi", "Hello", "3")]
    path = tmp_path / f"rows{suffix}"
    path.write_text("".join(f"{comma.join(cells)}\n" for cells in table))
    tally = Tally()
    assert [row["response"] for row in read(path, tally=tally)] == ["Hello"]
    said = "is an empty cell, written as a word (NULL, None, nan)"
    assert list(tally.dropped) == [f"{path}:2: its response {said}", f"{path}:3: its prompt {said}"]
    assert [asked(row) for row in prompts(path)] == [["user: Hi"], ["user: Hi"]]
    assert [row["response"] for row in read(lines(tmp_path, {"prompt": "Left?", "response": nothing}))] == [nothing]


@pytest.mark.parametrize("nothing", ["nan", "NULL", "<noinput>", "<NoInput>"])
def test_a_word_for_nothing_beside_an_instruction_is_blank_and_counted(nothing: str) -> None:
    for column, answer in (
        ("input", {"output": "x"}),
        ("input", {"output": ["x", "y"]}),
        ("context", {"response": "x"}),
    ):
        for row in layouts.rows({"instruction": "Go.", column: nothing, **answer}):
            assert asked(row) == ["user: Go."]
            assert row[NOTED] == [f"read as blank: {nothing!r} in '{column}'"]


def test_scores_of_one_name_are_refused_in_logs_and_labels_too() -> None:
    log = {"request": "Hi", "response": "Hello", "feedback": {"my score": 1, "my_score": 2}}
    with pytest.raises(DataError, match="columns 'my score', 'my_score': both name the attribute"):
        layouts.rows(log)
    said = [{"from": "User", "value": "Hi"}, {"from": "Assistant", "value": "Hello", "label": "quality:1,quality:4"}]
    with pytest.raises(DataError, match="label 'quality:1,quality:4' names an attribute twice"):
        layouts.rows({"conversations": said})
