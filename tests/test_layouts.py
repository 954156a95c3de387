"""Every layout gives our rows, by its columns alone, from made records and from real files."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_recipes import files, layouts
from data_recipes.files import DataError
from steer.rows import prompt_key, read_rows

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")

ASK = [{"role": "user", "content": "Hi"}]
TALK = [*ASK, {"role": "assistant", "content": "Hello"}]


def one(record: dict[str, Any]) -> dict[str, Any]:
    """The only row of a record, without its id."""
    (row,) = layouts.rows(record)
    return {name: value for name, value in row.items() if name != "id"}


def row(scores: dict[str, float] | None = None, **extra: Any) -> dict[str, Any]:
    return {"prompt": ASK, "response": "Hello", "scores": scores or {}, **extra}


SAME = [
    ("prompt, response, scores", {"prompt": "Hi", "response": "Hello", "scores": {"a": 4}}, {"a": 4.0}),
    ("prompt, response", {"prompt": "Hi", "response": "Hello", "helpful": 4, "long": 2}, {"helpful": 4.0, "long": 2.0}),
    ("prompt, response", {"prompt": ASK, "response": "Hello", "attributes": {"a": 1.5, "b": None}}, {"a": 1.5}),
    ("prompt, response", {"prompt": "Hi", "response": [{"type": "text", "text": "Hello"}]}, {}),
    ("prompt, completion", {"prompt": "Hi", "completion": "Hello", "label": True}, {"label": 1.0}),
    ("prompt, completion", {"prompt": ASK, "completion": TALK[1:], "label": False}, {"label": 0.0}),
    ("messages", {"messages": TALK}, {}),
    ("messages", {"messages": TALK, "quality": 3}, {"quality": 3.0}),
    ("conversations", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, {}),
    (
        "conversations",
        {
            "system": "",
            "mask": "User",
            "conversations": [
                {"from": "User", "value": "Hi", "label": None},
                {"from": "Assistant", "value": "Hello", "label": "quality:4,toxicity:0"},
            ],
        },
        {"quality": 4.0, "toxicity": 0.0},
    ),
    ("instruction, output", {"instruction": "Hi", "input": "", "output": "Hello"}, {}),
]


@pytest.mark.parametrize(("name", "record", "scores"), SAME)
def test_every_layout_gives_the_same_row(name: str, record: dict[str, Any], scores: dict[str, float]) -> None:
    assert layouts.recognise(record) == name
    assert one(record) == row(scores)


@pytest.mark.parametrize(
    ("preference", "scores", "margin"),
    [
        (1, [1.0, 0.0], 1.0),
        (2.0, [0.0, 1.0], 1.0),
        (1.25, [1.0, 0.0], 0.5),
        (0, [0.5, 0.5], 0.0),
        (1.5, [0.5, 0.5], 0.0),
        (None, [None, None], None),
    ],
)
def test_alpaca_evals_annotations_are_pairs(preference: Any, scores: list[Any], margin: Any) -> None:
    record = {"instruction": "Hi", "output_1": "Hello", "output_2": "Hey", "preference": preference}
    record |= {"generator_1": "a", "generator_2": "b", "annotator": "c"}
    found = layouts.rows(record)
    assert layouts.recognise(record) == "AlpacaEval annotations"
    assert [(r["response"], r["generator"]) for r in found] == [("Hello", "a"), ("Hey", "b")]
    assert [r["scores"].get("preference") for r in found] == scores
    assert [r.get("margin") for r in found] == [margin, margin]
    assert len({r["group"] for r in found}) == 1
    with pytest.raises(DataError, match="none of AlpacaEval's"):
        layouts.rows({**record, "preference": 3})


def test_all_layouts_are_recognised_by_their_columns() -> None:
    for name, (required, _) in layouts.LAYOUTS.items():
        assert layouts.recognise(dict.fromkeys(required, "x")) == name


def test_unknown_columns_name_what_is_known() -> None:
    with pytest.raises(DataError) as caught:
        layouts.rows({"question": "Hi", "verdict": "Hello"})
    assert str(caught.value).startswith(
        "columns question, verdict fit no known layout. Name them with --map prompt=COLUMN --map res"
    )
    assert "or rename them to one of: prompt, response; messages; " in str(caught.value)
    with pytest.raises(DataError, match="columns \\(none\\) fit"):
        layouts.rows({})


def test_columns_that_hold_null_count_only_when_nothing_fits() -> None:
    empty = {"messages": None, "chosen": None, "rejected": None}
    assert layouts.recognise({**empty, "prompt": "Hi", "completion": "Hello"}) == "prompt, completion"
    assert layouts.recognise({"prompt": "Hi", "response": None}) == "prompt"
    assert layouts.recognise({"prompt": None, "response": None}) == "prompt, response"


def test_our_own_rows_pass_through() -> None:
    own = {
        "id": "r1",
        **row({"quality": 4.0}),
        "levels": {"quality": 3},
        "target": {"quality": 4},
        "predicted": {"quality": 3.7},
        "reward": 0.5,
        "group": "g",
        "source": "log",
        "split": "train",
        "anything": [1, {"b": None}],
    }
    assert layouts.rows(own) == [own]
    generated = {**row(), "target": {"quality": 4}, "reward": 0.5, "id": "r2"}
    assert layouts.rows({k: v for k, v in generated.items() if k != "scores"}) == [generated]


def test_scores_are_floats_and_unknown_ones_stay_unknown() -> None:
    record = {"prompt": "Hi", "response": "Hello", "scores": {"a": 3, "b": True, "c": None, "d": 0.5}}
    scores = one(record)["scores"]
    assert scores == {"a": 3.0, "b": 1.0, "c": None, "d": 0.5}
    assert [type(score) for score in scores.values()] == [float, float, type(None), float]
    assert one({"prompt": "Hi", "response": "Hello", "scores": None, "target": {"a": 1}})["scores"] == {}


def test_which_top_level_columns_are_scores() -> None:
    record = {
        "prompt": "Hi",
        "response": "Hello",
        "id": 7,
        "group": 8,
        "seed": 9,
        "user_id": 10,
        "idx": 11,
        "split": "train",
    }
    attributes = {"quality": "4", "punch": " .5e1 ", "safe": True, "rank": -2, "huge": 10**400}
    words = {
        "sentiment": "Happy",
        "day": "2026-11-21",
        "comma": "1,500",
        "underscore": "1_000",
        "nan": "nan",
        "tags": ["a"],
    }
    made = layouts.rows({**record, **attributes, **words, "unknown": "", "absent": None})
    assert made == [
        {
            **(record | {"id": "7", "group": "8"}),
            **row({"quality": 4.0, "punch": 5.0, "safe": 1.0, "rank": -2.0, "huge": math.inf}),
            **words,
        }
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": TALK},
        {"prompt": "Hi", "response": "Hello"},
        {"instruction": "Hi", "output": "Hello"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"request": {"messages": ASK}, "response": {"choices": [{"message": TALK[1]}]}},
    ],
)
@pytest.mark.parametrize("column", ["feedback", "user_feedback", "ratings", "Rating", "human-feedback"])
def test_numbers_and_thumbs_in_an_object_of_feedback_are_scores(record: dict[str, Any], column: str) -> None:
    """What is no number stays in the object; a column of the record comes before one of the object."""
    found = one({**record, column: {"helpful": 4, "thumbs": "down", "comment": "too long", "rater_id": 7}})
    assert found["scores"] == {"helpful": 4.0, "thumbs": 0.0}
    assert found[column] == {"comment": "too long", "rater_id": 7}
    assert column not in one({**record, column: {"helpful": 4}})
    if "request" not in record:
        assert one({**record, "helpful": 2, column: {"helpful": 4}})["scores"] == {"helpful": 2.0}


def test_a_dict_of_attributes_is_the_only_place_of_scores_and_its_words_become_columns() -> None:
    record = {
        "prompt": "Hi",
        "response": "Hello",
        "attributes": {"quality": "4", "mood": "sad", "empty": ""},
        "year": 2026,
    }
    assert one(record) == row({"quality": 4.0}, mood="sad", year=2026)


def test_prompt_of_turns_is_kept_with_tool_fields_and_without_what_is_about_the_log() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "timestamp": 3}
    told = {
        "role": "tool",
        "content": [{"type": "text", "text": "4"}, {"type": "text", "text": "5"}],
        "tool_call_id": "1",
    }
    made = one({"messages": [*ASK, call, told, *TALK]})
    assert made["prompt"] == [
        *ASK,
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "4\n5", "tool_call_id": "1"},
        *ASK,
    ]


def test_turns_after_the_last_answer_are_kept_beside_the_row() -> None:
    assert one({"messages": [*TALK, *ASK]}) == row(after_response=ASK)
    assert one({"messages": ASK}) == {"prompt": ASK, "scores": {}}
    assert one({"messages": [{"role": "system", "content": "Be kind"}]})["prompt"][0]["role"] == "system"


def test_completion_of_turns_may_hold_several() -> None:
    assert one({"prompt": "Hi", "completion": [*TALK[1:], *TALK]}) == {**row(), "prompt": [*TALK, *ASK]}


def test_roles_of_sharegpt() -> None:
    turns = [("system", "Be kind"), ("human", "Hi"), ("gpt", "Hello"), ("user", "Hi"), ("assistant", "Hello")]
    made = one({"conversations": [{"from": role, "value": text} for role, text in turns]})
    assert [turn["role"] for turn in made["prompt"]] == ["system", "user", "assistant", "user"]
    assert made["response"] == "Hello"


def test_steerlm_takes_every_labelled_turn_and_splits_flattened_turns() -> None:
    record = {
        "system": "Be kind",
        "mask": "User",
        "dataset": "made",
        "conversations": [
            {"from": "User", "value": "One\n<extra_id_1>Assistant\nTwo\n<extra_id_1>User\nThree", "label": None},
            {"from": "Assistant", "value": "Four", "label": "quality:1"},
            {"from": "User", "value": "Five"},
            {"from": "Assistant", "value": "Six", "label": "quality:4,toxicity:0.5"},
            {"from": "User", "value": "Seven"},
            {"from": "Assistant", "value": "Eight", "label": None},
        ],
    }
    first, made = layouts.rows(record)
    assert (first["prompt"][-1]["content"], first["response"], first["scores"]) == ("Three", "Four", {"quality": 1.0})
    assert [turn["content"] for turn in first["after_response"]] == ["Five", "Six", "Seven", "Eight"]
    assert [row["id"] for row in layouts.rows({**record, "id": "c"})] == ["c:0", "c:1"]
    said = ["Be kind", "One", "Two", "Three", "Four", "Five"]
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    assert made["prompt"] == [{"role": role, "content": text} for role, text in zip(roles, said)]
    assert made["response"] == "Six"
    assert made["scores"] == {"quality": 4.0, "toxicity": 0.5}
    assert made["dataset"] == "made"
    assert [turn["content"] for turn in made["after_response"]] == ["Seven", "Eight"]


def test_alpaca_with_input_system_and_history() -> None:
    made = one(
        {
            "instruction": "Add",
            "input": "1 2",
            "output": "3",
            "system": "Be exact",
            "history": [["Hi", "Hello"]],
            "quality": 4,
        }
    )
    said = [("system", "Be exact"), ("user", "Hi"), ("assistant", "Hello"), ("user", "Add\n\n1 2")]
    assert made == {
        "prompt": [{"role": role, "content": text} for role, text in said],
        "response": "3",
        "scores": {"quality": 4.0},
    }
    assert "response" not in one({"instruction": "Add"})


GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("Good", "Bad"))
PAIRS = [
    {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"},
    {"prompt": ASK, "chosen": GOOD, "rejected": BAD},
    {"chosen": ASK + GOOD, "rejected": ASK + BAD},
    {"prompt": "Hi", "chosen": ASK + GOOD, "rejected": ASK + BAD},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Good", "rejected": "\n\nHuman: Hi\n\nAssistant: Bad"},
    {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Good", "rejected": "Bad"},
]


@pytest.mark.parametrize("record", PAIRS)
def test_a_pair_gives_two_rows_of_one_group(record: dict[str, Any]) -> None:
    better, worse = layouts.rows(record)
    assert (better["prompt"], better["response"], better["scores"]) == (ASK, "Good", {"preference": 1.0})
    assert (worse["prompt"], worse["response"], worse["scores"]) == (ASK, "Bad", {"preference": 0.0})
    assert better["group"] == worse["group"]
    assert better["id"] != worse["id"]


def test_columns_of_a_pair_go_to_their_side() -> None:
    record = {"prompt": "Hi", "chosen": "Good", "rejected": "Bad", "id": 0, "source": "log", "margin": 5}
    record |= {"score_chosen": 8, "score_rejected": "3", "chosen_model": "a", "rejected_model": "b"}
    shared = {"prompt": ASK, "group": "0", "source": "log", "margin": 5}
    assert layouts.rows(record) == [
        {**shared, "id": "0:chosen", "response": "Good", "scores": {"preference": 1.0, "score": 8.0}, "model": "a"},
        {**shared, "id": "0:rejected", "response": "Bad", "scores": {"preference": 0.0, "score": 3.0}, "model": "b"},
    ]


def test_two_pairs_of_one_prompt_are_two_groups() -> None:
    first = layouts.rows({"prompt": "Hi", "chosen": "a", "rejected": "b"})
    second = layouts.rows({"prompt": "Hi", "chosen": "a", "rejected": "c"})
    assert first[0]["group"] != second[0]["group"]
    assert first[0]["id"] == second[0]["id"]


def test_a_blank_last_answer_of_hh_stays_the_answer() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: More\n\nAssistant: "
    assert layouts.rows({"chosen": text + "Yes", "rejected": text})[1]["response"] == ""


def test_ids_come_from_the_content() -> None:
    (a,), (b,), (c,) = (
        layouts.rows(record)
        for record in (
            {"prompt": "Hi", "response": "Hello", "quality": 1},
            {"messages": TALK, "id": ""},
            {"prompt": "Hi", "response": "Bye"},
        )
    )
    assert a["id"] == b["id"] != c["id"]
    assert len(a["id"]) == 16
    assert int(a["id"], 16) >= 0
    assert layouts.content_id(a) == a["id"]


WRONG = [
    ({"prompt": 5, "response": "x"}, "column 'prompt': holds a number, wanted a list of turns"),
    ({"prompt": "x", "response": 5}, "column 'response': holds a number, wanted a text."),
    ({"prompt": "x", "response": {"a": 1}}, "column 'response': holds no choices. Name the text with --map"),
    ({"messages": "[]"}, "column 'messages': holds a text, wanted a list of turns"),
    ({"messages": [{"content": "x"}]}, "column 'messages': turn 1 has no role."),
    ({"messages": [*ASK, "x"]}, "column 'messages': turn 2 has no role."),
    ({"messages": [{"role": "user", "content": 3}]}, "'messages', turn 1 'content': holds a number"),
    ({"messages": [{"role": "user", "content": [{"type": "chart"}]}]}, "holds a part that is no text (chart)."),
    ({"prompt": "x", "response": ["y"]}, "column 'response': holds a list of texts, wanted one text."),
    ({"conversations": "x"}, "column 'conversations': holds a text, wanted a list of turns"),
    ({"conversations": [{"from": "gpt", "value": "x", "label": "good"}]}, "label 'good' does not read name:number"),
    ({"conversations": [{"from": "gpt", "value": "x", "label": "a:1,"}]}, "label 'a:1,' does not read name:number"),
    ({"instruction": 3, "output": "x"}, "column 'instruction': holds a number, wanted a text."),
    ({"instruction": "x", "output": "y", "history": "z"}, "column 'history': wanted pairs"),
    ({"chosen": ASK + TALK, "rejected": TALK}, "columns 'chosen', 'rejected': differ before their last turn."),
]


@pytest.mark.parametrize(("record", "message"), WRONG)
def test_wrong_types_name_the_column(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        layouts.rows(record)
    assert message in str(caught.value)


REAL = {
    "summeval": "prompt, response",
    "nlg_novikova": "prompt, response",
    "emobank": "prompt, response",
    "topical_chat_turns": "prompt, response",
    "oasst_sample_messages": "prompt, response",
    "pairs_hh_harmless_test": "prompt, chosen, rejected",
    "pairs_llmbar": "prompt, chosen, rejected",
    "pairs_finegrained_dev": "prompt, chosen, rejected",
    "steerlm_format_512": "conversations",
    "open_instruct_human": "prompt, response_a, response_b",
}


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_real_files_are_recognised(name: str) -> None:
    found = Counter(layouts.recognise(record) for _, record in files.records(SHARED / f"{name}.jsonl.gz"))
    assert list(found) == [REAL[name]]


@needs_shared
def test_real_steerlm_file() -> None:
    made = []
    for _, record in files.records(SHARED / "steerlm_format_512.jsonl.gz"):
        (row,) = layouts.rows(record)
        made.append(row)
        last = record["conversations"][-1]
        assert row["response"] == last["value"]
        assert last["label"] == ",".join(f"{name}:{score:g}" for name, score in row["scores"].items())
        assert (row["prompt"][0]["role"] == "system") == bool(record["system"])
        assert row["prompt"][-1]["role"] == "user"
        assert not any("<extra_id_1>" in turn["content"] for turn in row["prompt"])
    assert len(made) == 512
    assert sum(len(row["prompt"]) > 1 for row in made) > 100


@needs_shared
def test_real_conversations_of_hh_become_turns() -> None:
    for _, record in files.records(SHARED / "pairs_hh_harmless_test.jsonl.gz"):
        better, worse = layouts.rows(record)
        said = "".join(
            f"\n\n{'Human' if t['role'] == 'user' else 'Assistant'}: {t['content']}" for t in better["prompt"]
        )
        assert said == record["prompt"]
        assert (better["response"], worse["response"]) == (record["chosen"], record["rejected"])


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        ("hm\n</think>\n\nRed.", ("hm", "Red.")),
        ("hm</think>\nRed.", ("hm", "Red.")),
        ("hm\n</think>Red.", ("hm", "Red.")),
        ("</think>Red.", (None, "Red.")),
        ("hm\n◁/think▷Red.", ("hm", "Red.")),
        ("Close it with `</think>` first.", (None, "Close it with `</think>` first.")),
        ("The tag </think> ends a thought.\nSo it does.", (None, "The tag </think> ends a thought.\nSo it does.")),
    ],
)
def test_a_closing_tag_ends_a_thought_where_it_begins_or_ends_a_line(
    tmp_path: Path, response: str, parts: tuple[str | None, str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Which?", "response": response}))
    [row] = read_rows(tmp_path / "rows.jsonl")
    assert (row.get("reasoning_content"), row["response"]) == parts


def test_outputs_of_one_instruction_are_answers_to_one_prompt(tmp_path: Path) -> None:
    record = {"instruction": "Name a colour.", "input": "", "output": ["Red.", "Blue."], "rating": [4, 2]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(record))
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [(row["response"], row["scores"]) for row in rows] == [("Red.", {"rating": 4.0}), ("Blue.", {"rating": 2.0})]
    assert len({prompt_key(row) for row in rows}) == 1
