"""Published sets in their exact upstream layout, as a file on disk and through datasets, give the same rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_recipes import files, layouts
from data_recipes.joined import joined
from steer.rows import Tally, read

Record = dict[str, Any]
ASK = [{"role": "user", "content": "Hi"}]


def user(text: str) -> list[Record]:
    return [{"role": "user", "content": text}]


HELPSTEER2 = {"prompt": "c#", "response": "A language.", "helpfulness": 3, "correctness": 4, "coherence": 4}
HELPSTEER2 |= {"complexity": 2, "verbosity": 1}
DISAGREEMENT = {"prompt": "c#", "response": "A language.", "helpfulness": [3, 3, 4], "verbosity": [2, 1]}
PREFERENCE = {
    "split": "val",
    "prompt": "One\n<extra_id_1>Assistant\nTwo\n<extra_id_1>User\nThree",
    "response_1": "Four",
    "response_2": "Five",
    "preference_strength": 2,
    "preference_statement": "@Response 2 is better",
    "preference_elaboration": "It is complete",
    "three_most_similar_preferences": [{"statement": "a", "elaboration": "b", "strength": 2}],
    "all_preferences_unprocessed": [
        {"strength": 2, "justification": "a"},
        {"strength": -1, "justification": "b"},
        {"strength": 0, "justification": "c"},
        {"strength": -100, "justification": "neither"},
    ],
}
HELPSTEER3 = {
    "domain": "code",
    "language": "python",
    "context": [*ASK, {"role": "assistant", "content": "Hello"}, *user("Add 1 2")],
    "response1": "3",
    "response2": "4",
    "overall_preference": -3,
    "individual_preference": [
        {"score": -3, "reasoning": "right", "feedback1": "yes", "feedback2": "no"},
        {"score": -2, "reasoning": "right", "feedback1": "yes", "feedback2": "no"},
    ],
}
ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Hi",
    "models": ["alpaca-7b", "gpt-4"],
    "completions": [
        {
            "annotations": {
                "instruction_following": {"Rating": "2", "Rationale": "short"},
                "honesty": {"Rating": "N/A", "Rationale": "none"},
                "truthfulness": {"Type": ["1"], "Rationale": "x", "Rating": "5", "Rationale For Rating": "no"},
                "helpfulness": {"Type": ["1"], "Rationale": "x", "Rating": "1", "Rationale For Rating": "no"},
            },
            "custom_system_prompt": "Be honest.",
            "model": "alpaca-7b",
            "principle": "honesty",
            "response": "Hello",
            "critique": "Say more.",
            "fine-grained_score": 2.25,
            "overall_score": 4.0,
        },
        {
            "annotations": {"helpfulness": {"Rating": "5", "Rationale": "good"}},
            "custom_system_prompt": "Be helpful.",
            "model": "gpt-4",
            "principle": "helpfulness",
            "response": "Hello, friend",
            "critique": "Fine.",
            "fine-grained_score": 5.0,
            "overall_score": 9.0,
        },
    ],
    "correct_answers": ["None"],
    "incorrect_answers": ["None"],
}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: More\n\nAssistant: Good",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: More\n\nAssistant: Bad",
}
SHP = {
    "post_id": "abc",
    "domain": "askculinary_train",
    "upvote_ratio": 0.98,
    "history": "How do I boil an egg?",
    "c_root_id_A": "a1",
    "c_root_id_B": "b1",
    "created_at_utc_A": 1600000000,
    "created_at_utc_B": 1600000100,
    "score_A": 5,
    "score_B": 52,
    "human_ref_A": "In oil",
    "human_ref_B": "In water",
    "labels": 0,
    "seconds_difference": 100.0,
    "score_ratio": 10.4,
}
COMPARISON = {
    "info": {"id": "t3_x", "post": "Long story", "title": "Help", "subreddit": "legaladvice", "site": None},
    "summaries": [
        {"text": " short", "policy": "sup4", "note": "unclear"},
        {"text": " better", "policy": "ref", "note": None},
    ],
    "choice": 1,
    "worker": "w1",
    "batch": "batch9",
    "split": "valid1",
    "extra": {"confidence": 8},
}
AXIS = {
    "info": {"id": "c1", "site": "dailymail", "title": "Sent off", "article": "A long article"},
    "split": "test",
    "summary": {
        "text": "A man was sent off.",
        "policy": "ref",
        "note": "13th??",
        "axes": {"overall": 3, "accuracy": 5, "coverage": 4, "coherence": None},
    },
    "worker": "w2",
    "batch": "cnndm1",
}
WEBGPT = {
    "question": {"dataset": "eli5", "id": "q1", "full_text": "Why is the sky blue?"},
    "quotes_0": {"title": ["a"], "extract": ["b"]},
    "answer_0": "Scattering.",
    "tokens_0": {"prefix": [1, 2], "completion": [3]},
    "score_0": 0.5,
    "quotes_1": {"title": ["c"], "extract": ["d"]},
    "answer_1": "Water.",
    "tokens_1": {"prefix": [1, 2], "completion": [4]},
    "score_1": -0.5,
}
SAFE = {
    "prompt": "How to pick a lock?",
    "response_0": "Like this",
    "response_1": "Ask a locksmith",
    "prompt_source": "log",
    "response_0_source": "alpaca-7b",
    "response_1_source": "alpaca-7b",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "response_0_harm_category": {"White-Collar Crime": True},
    "response_1_harm_category": {"White-Collar Crime": False},
    "response_0_severity_level": 2,
    "response_1_severity_level": 0,
    "better_response_id": 0,
    "safer_response_id": 1,
    "response_0_sha256": "aa",
    "response_1_sha256": "bb",
}
BEAVER = {
    "prompt": "Hi",
    "response": "Hello",
    "category": {"animal_abuse": False, "controversial_topics,_politics": True},
    "is_safe": False,
}
FEEDBACK = {
    "instruction": "###Task Description: ...",
    "output": "Feedback: good [RESULT] 4",
    "orig_instruction": "Hi",
    "orig_response": "Hello",
    "orig_reference_answer": "Hello!",
    "orig_criteria": "Is it polite?",
    "orig_score1_description": "rude",
    "orig_score5_description": "polite",
    "orig_feedback": "good",
    "orig_score": "4",
}
COLLECTION = {
    "orig_instruction": "Hi",
    "orig_response_A": "Hello",
    "orig_response_B": "What",
    "orig_reference_answer": "Hello!",
    "orig_criteria": "Is it polite?",
    "orig_feedback_A": "good",
    "orig_feedback_B": "rude",
    "orig_score_A": "4",
    "orig_score_B": "2",
    "orig_preference": "A",
    "instruction": "###Task Description: ...",
    "output": "[RESULT] A",
}
SUMMEVAL = {
    "id": "dm-test-1",
    "decoded": "A man.",
    "expert_annotations": [
        {"coherence": 2, "consistency": 1, "fluency": 4, "relevance": 2},
        {"coherence": 1, "consistency": 1, "fluency": 2, "relevance": 1},
        {"coherence": 1, "consistency": 1, "fluency": 3, "relevance": 2},
    ],
    "turker_annotations": [{"coherence": 3, "consistency": 3, "fluency": 3, "relevance": 3}],
    "references": ["A woman."],
    "model_id": "M11",
    "filepath": "cnn/x.story",
    "text": "Long article",
}
LABELS = {"name": ["quality", "toxicity"], "value": [0.75, 0.0], "count": [3, 3]}


def message(name: str, parent: str | None, role: str, text: str, **more: Any) -> Record:
    """A flat message as OpenAssistant/oasst2 has it on the hub."""
    made = {"message_id": name, "parent_id": parent, "user_id": "u", "created_date": "2023-02-05", "text": text}
    made |= {"role": role, "lang": "en", "review_count": 3, "review_result": True, "deleted": False, "rank": None}
    made |= {"synthetic": False, "model_name": None, "message_tree_id": "m1", "tree_state": "ready_for_export"}
    return {**made, "emojis": {"name": ["+1"], "count": [2]}, "labels": LABELS, **more}


OASST = [
    message("m1", None, "prompter", "Hi"),
    message("m2", "m1", "assistant", "Hello", rank=0),
    message("m3", "m1", "assistant", "What", rank=1, labels=None),
    message("m4", "m2", "prompter", "More"),
    message("m5", "m4", "assistant", "Yes"),
]
TREE = {
    "message_tree_id": "m1",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "m1",
        "text": "Hi",
        "role": "prompter",
        "replies": [
            {
                "message_id": "m2",
                "text": "Hello",
                "role": "assistant",
                "rank": 0,
                "labels": {"quality": {"value": 0.75, "count": 3}, "toxicity": {"value": 0.0, "count": 3}},
                "replies": [
                    {
                        "message_id": "m4",
                        "text": "More",
                        "role": "prompter",
                        "replies": [
                            {"message_id": "m5", "text": "Yes", "role": "assistant", "labels": LABELS, "replies": []}
                        ],
                    }
                ],
            },
            {"message_id": "m3", "text": "What", "role": "assistant", "rank": 1, "replies": []},
        ],
    },
}
OPENAI = {
    "input": {"messages": ASK, "tools": [], "parallel_tool_calls": True},
    "preferred_output": [{"role": "assistant", "content": "Hello"}],
    "non_preferred_output": [{"role": "assistant", "content": "What"}],
}
TUNED = {
    "messages": [
        *ASK,
        {"role": "assistant", "content": "Hello", "weight": 1},
        *user("More"),
        {"role": "assistant", "content": "Bad", "weight": 0},
    ]
}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
COMPLETION = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "m", "messages": ASK}
COMPLETION |= {"choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
LOGGED = {
    "request_id": "r1",
    "request": {"model": "m", "messages": ASK, "temperature": 0.7},
    "response": {"id": "chatcmpl-2", "choices": [CHOICE, {**CHOICE, "index": 1, "message": {"content": "What"}}]},
    "latency_ms": 120,
    "thumbs": "up",
    "feedback": {"score": 4, "comment": "nice"},
}
BATCH_IN = {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": ASK}}
BATCH_OUT = {
    "id": "vllm-1",
    "custom_id": "q1",
    "response": {"status_code": 200, "request_id": "x", "body": {"id": "c", "model": "m", "choices": [CHOICE]}},
    "error": None,
}

# name of the layout, records, [(last turn of the prompt, turns in it, response, scores)]
SETS: dict[str, tuple[str, list[Record], list[tuple[str, int, str, dict[str, float]]]]] = {
    "HelpSteer2": (
        "prompt, response",
        [HELPSTEER2],
        [("c#", 1, "A language.", {k: float(v) for k, v in HELPSTEER2.items() if isinstance(v, int)})],
    ),
    "disagreements": (
        "prompt, response",
        [DISAGREEMENT],
        [("c#", 1, "A language.", {"helpfulness": 10 / 3, "verbosity": 1.5})],
    ),
    "preference": (
        "HelpSteer2 preferences",
        [PREFERENCE],
        [("Three", 3, "Four", {"preference": 0.0}), ("Three", 3, "Five", {"preference": 1.0})],
    ),
    "HelpSteer3": (
        "HelpSteer3 preferences",
        [HELPSTEER3],
        [("Add 1 2", 3, "3", {"preference": 1.0}), ("Add 1 2", 3, "4", {"preference": 0.0})],
    ),
    "UltraFeedback": (
        "UltraFeedback",
        [ULTRAFEEDBACK],
        [
            (
                "Hi",
                1,
                "Hello",
                {"instruction_following": 2.0, "truthfulness": 5.0, "helpfulness": 1.0}
                | {"overall_score": 4.0, "fine-grained_score": 2.25},
            ),
            ("Hi", 1, "Hello, friend", {"helpfulness": 5.0, "overall_score": 9.0, "fine-grained_score": 5.0}),
        ],
    ),
    "hh-rlhf": (
        "chosen, rejected",
        [HH],
        [("More", 3, "Good", {"preference": 1.0}), ("More", 3, "Bad", {"preference": 0.0})],
    ),
    "SHP": (
        "SHP",
        [SHP],
        [
            ("How do I boil an egg?", 1, "In oil", {"preference": 0.0, "score": 5.0}),
            ("How do I boil an egg?", 1, "In water", {"preference": 1.0, "score": 52.0}),
        ],
    ),
    "comparisons": (
        "summarize-from-feedback comparisons",
        [COMPARISON],
        [
            ("SUBREDDIT: r/legaladvice\n\nTITLE: Help\n\nPOST: Long story\n\nTL;DR:", 1, " short", {"preference": 0.0}),
            (
                "SUBREDDIT: r/legaladvice\n\nTITLE: Help\n\nPOST: Long story\n\nTL;DR:",
                1,
                " better",
                {"preference": 1.0},
            ),
        ],
    ),
    "axis": (
        "summarize-from-feedback axis",
        [AXIS],
        [
            (
                "A long article\n\nTL;DR:",
                1,
                "A man was sent off.",
                {"overall": 3.0, "accuracy": 5.0, "coverage": 4.0},
            )
        ],
    ),
    "webgpt_comparisons": (
        "WebGPT comparisons",
        [WEBGPT],
        [
            ("Why is the sky blue?", 1, "Scattering.", {"preference": 1.0, "score": 0.5}),
            ("Why is the sky blue?", 1, "Water.", {"preference": 0.0, "score": -0.5}),
        ],
    ),
    "PKU-SafeRLHF": (
        "PKU-SafeRLHF",
        [SAFE],
        [
            (
                "How to pick a lock?",
                1,
                "Like this",
                {"is_safe": 0.0, "severity_level": 2.0, "preference": 1.0, "safer": 0.0},
            ),
            (
                "How to pick a lock?",
                1,
                "Ask a locksmith",
                {"is_safe": 1.0, "severity_level": 0.0, "preference": 0.0, "safer": 1.0},
            ),
        ],
    ),
    "BeaverTails": ("prompt, response", [BEAVER], [("Hi", 1, "Hello", {"is_safe": 0.0})]),
    "Feedback-Collection": ("Prometheus feedback", [FEEDBACK], [("Hi", 1, "Hello", {"score": 4.0})]),
    "Preference-Collection": (
        "Prometheus preferences",
        [COLLECTION],
        [("Hi", 1, "Hello", {"preference": 1.0, "score": 4.0}), ("Hi", 1, "What", {"preference": 0.0, "score": 2.0})],
    ),
    "SummEval": (
        "SummEval",
        [SUMMEVAL],
        [
            (
                "Long article",
                1,
                "A man.",
                {"coherence": 4 / 3, "consistency": 1.0, "fluency": 3.0, "relevance": 5 / 3},
            )
        ],
    ),
    "oasst2": (
        "OASST messages",
        OASST,
        [
            ("Hi", 1, "Hello", {"quality": 0.75, "toxicity": 0.0, "rank": 0.0}),
            ("Hi", 1, "What", {"rank": 1.0}),
            ("More", 3, "Yes", {"quality": 0.75, "toxicity": 0.0}),
        ],
    ),
    "oasst trees": (
        "OASST trees",
        [TREE],
        [
            ("Hi", 1, "Hello", {"quality": 0.75, "toxicity": 0.0, "rank": 0.0}),
            ("More", 3, "Yes", {"quality": 0.75, "toxicity": 0.0}),
            ("Hi", 1, "What", {"rank": 1.0}),
        ],
    ),
    "openai dpo": (
        "OpenAI preferences",
        [OPENAI],
        [("Hi", 1, "Hello", {"preference": 1.0}), ("Hi", 1, "What", {"preference": 0.0})],
    ),
    "openai fine-tuning": ("messages", [TUNED], [("Hi", 1, "Hello", {})]),
    "openai completion": ("messages, choices", [COMPLETION], [("Hi", 1, "Hello", {})]),
    "request log": (
        "request, response",
        [LOGGED],
        [("Hi", 1, "Hello", {"thumbs": 1.0, "score": 4.0}), ("Hi", 1, "What", {"thumbs": 1.0, "score": 4.0})],
    ),
    "batch": ("request, response", [BATCH_IN, BATCH_OUT], [("Hi", 1, "Hello", {})]),
}


def told(path: str) -> tuple[set[str], list[tuple[str, int, str, dict[str, float]]]]:
    """Names of the layouts, and the rows as SETS writes them; unknown scores left out."""
    tally = Tally()
    rows = list(read(path, tally=tally))
    assert len({r["id"] for r in rows}) == len(rows)
    return set(tally.records), [
        (
            r["prompt"][-1]["content"],
            len(r["prompt"]),
            r["response"],
            {n: s for n, s in r["scores"].items() if s is not None},
        )
        for r in rows
    ]


@pytest.mark.parametrize("name", SETS)
def test_a_published_set_as_it_lies_on_disk(name: str, tmp_path: Path) -> None:
    layout, records, rows = SETS[name]
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    assert told(str(path)) == ({layout}, rows)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of datasets of the test's own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "cache"


@pytest.mark.parametrize("name", [name for name in SETS if name != "batch"])
def test_a_published_set_by_hub_name_and_as_a_dataset_folder(name: str, tmp_path: Path, cache: Path) -> None:
    layout, records, rows = SETS[name]
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    if name in ("UltraFeedback", "oasst2", "SHP", "webgpt_comparisons"):  # published, or converted, as Parquet
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "train-00000-of-00001.parquet")
    else:
        (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    for path in (f"hf:{folder}", str(folder)):
        assert told(path) == ({layout}, rows)
    assert all(row["split"] == records[0].get("split", "train") for row in read(str(folder)))


def test_splits_folders_and_configs_of_a_hub_set(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "HelpSteer2"
    for name, record in (("train", HELPSTEER2), ("validation", HELPSTEER2), ("more/preference", PREFERENCE)):
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(record).encode()))
    header = "configs:\n- config_name: ratings\n  data_files:\n  - split: 330k_train\n    path: train.jsonl.gz\n"
    header += "  - split: 330k_test\n    path: validation.jsonl.gz\n- config_name: preference\n"
    header += "  data_files: more/*.jsonl.gz\n"
    (folder / "README.md").write_text(f"---\n{header}---\n")
    with pytest.raises(files.DataError, match=r"cannot be loaded .*wants :CONFIG"):
        list(files.records(f"hf:{folder}"))
    sides = [r["split"] for r in read(f"hf:{folder}:ratings")]
    assert sides == ["330k_train", "330k_test"]
    assert [r["split"] for r in read(f"hf:{folder}:ratings#330k_test")] == ["330k_test"]
    assert [r["response"] for r in read(f"hf:{folder}:preference")] == ["Four", "Five"]
    assert [r["response"] for r in read(f"hf:{folder}/more")] == ["Four", "Five"]
    with pytest.raises(files.DataError, match=r"no split 'dev'; known: 330k_train, 330k_test\."):
        list(files.records(f"hf:{folder}:ratings#dev"))
    with pytest.raises(files.DataError, match=r"cannot be read\. Write it as hf:OWNER/NAME"):
        list(files.records("hf:"))


LINE, CELLS = json.dumps({"prompt": "Hi", "response": "Hello"}), "prompt,response\nHi,Hello\n"


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ({"a.jsonl": LINE, "b.csv": CELLS}, r"holds CSV \('b.csv'\) and JSON \('a.jsonl'\), of which one"),
        ({"train.jsonl": LINE, "more/b.csv": CELLS}, r"holds CSV \('b.csv'\) and JSON"),
        ({"a.csv": CELLS, "b.tsv": CELLS.replace(",", "\t")}, r"holds CSV \('a.csv'\) and TSV \('b.tsv'\)"),
        ({"a.jsonl": LINE, "b.JSONL": LINE}, r"'b.JSONL' would not be read with the others\. Name all alike"),
        ({"train.jsonl": LINE, "b.jsonl": LINE, "c.json": LINE}, r"'b.jsonl' and 1 more would not be read"),
    ],
)
def test_a_folder_of_which_a_part_would_be_lost_is_refused(
    texts: dict[str, str], why: str, tmp_path: Path, cache: Path
) -> None:
    folder = tmp_path / "set"
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for path in (str(folder), f"hf:{folder}"):
        with pytest.raises(files.DataError, match=f"^{folder}: {why}.*--mix"):
            list(files.records(path))


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        ({"a.jsonl": LINE, "b.json": LINE, "more/c.ndjson": LINE}, 3),
        ({"b.tsv": CELLS.replace(",", "\t")}, 1),
        ({"train.jsonl": LINE, "test.jsonl": LINE, "preference/pairs.jsonl": LINE}, 2),
        ({"train.jsonl": LINE, "dataset_infos.json": "{}", ".cache/b.csv": CELLS}, 1),
        (
            {
                "a.jsonl": LINE,
                "b.csv": CELLS,
                "README.md": "---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n---\n",
            },
            1,
        ),
    ],
)
def test_a_folder_as_published_sets_have_it_is_read(
    texts: dict[str, str], count: int, tmp_path: Path, cache: Path
) -> None:
    for name, text in texts.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(text)
    assert len(list(files.records(tmp_path / "set"))) == count


def test_label_takes_a_hub_name(tmp_path: Path, cache: Path) -> None:
    from steer.config.labelling import LabelConfig
    from steer.labelling.command import label_command

    folder = tmp_path / "HelpSteer2"
    folder.mkdir()
    rows = [{**HELPSTEER2, "helpfulness": i % 5} for i in range(10)]
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert "label: 10 rows in, 10 out" in label_command(
        LabelConfig(f"hf:{folder}", str(tmp_path / "labels"), min_support=1)
    )


def test_a_hub_set_without_a_network_says_so(cache: Path) -> None:
    with pytest.raises(files.DataError, match=r"hf:nobody/nothing: cannot be loaded .* the network and HF_TOKEN"):
        list(files.records("hf:nobody/nothing"))


def test_raters_stay_beside_their_mean(tmp_path: Path) -> None:
    def rated(record: Record) -> list[Any]:
        return [row.get("raters") for row in layouts.rows(record)]

    assert rated(DISAGREEMENT) == [{"helpfulness": [3.0, 3.0, 4.0], "verbosity": [2.0, 1.0]}]
    assert rated(PREFERENCE) == [{"preference": [0.0, 1.0, 0.5]}, {"preference": [1.0, 0.0, 0.5]}]
    assert rated(HELPSTEER3) == [{"preference": [1.0, 1.0]}, {"preference": [0.0, 0.0]}]
    assert rated(SUMMEVAL)[0]["coherence"] == [2.0, 1.0, 1.0]
    own = {"prompt": "Hi", "response": "Hello", "scores": {"quality": [4, None, 5]}}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(own))
    (row,) = read(path)
    assert (row["scores"], row["raters"]) == ({"quality": 4.5}, {"quality": [4.0, None, 5.0]})


def test_what_belongs_to_one_answer_stays_with_it_and_the_rest_with_both() -> None:
    a, b = layouts.rows(WEBGPT)
    assert (a["quotes"], b["tokens"]) == (WEBGPT["quotes_0"], WEBGPT["tokens_1"])
    a, b = layouts.rows(SAFE)
    assert (a["harm_category"], b["sha256"], a["prompt_source"]) == ({"White-Collar Crime": True}, "bb", "log")
    a, b = layouts.rows(SHP)
    assert (a["c_root_id"], b["created_at_utc"], b["domain"]) == ("a1", 1600000100, "askculinary_train")
    assert a["group"] == b["group"]
    a, b = layouts.rows(PREFERENCE)
    assert a["margin"] == b["margin"] == 2.0
    a, b = layouts.rows(ULTRAFEEDBACK)
    assert (a["model"], b["principle"], a["source"]) == ("alpaca-7b", "helpfulness", "evol_instruct")


def test_ties_and_pairs_that_cannot_be_judged() -> None:
    tie = layouts.rows({**HELPSTEER3, "overall_preference": 0})
    assert [row["scores"] for row in tie] == [{"preference": 0.5}, {"preference": 0.5}]
    neither = layouts.rows({**PREFERENCE, "preference_strength": -100})
    assert [row["scores"] for row in neither] == [{}, {}]
    tie = layouts.rows({**WEBGPT, "score_0": 0.0, "score_1": 0.0})
    assert [row["scores"]["preference"] for row in tie] == [0.5, 0.5]
    a, b = layouts.rows({"prompt": "Hi", "response_a": "x", "response_b": "y", "preference": "B", "model_a": "m"})
    assert (a["scores"], b["scores"], a["model"], "model" in b) == (
        {"preference": 0.0},
        {"preference": 1.0},
        "m",
        False,
    )


def test_messages_may_come_before_their_parents() -> None:
    found = [record for _, record in joined((str(i), record) for i, record in enumerate(reversed(OASST)))]
    assert sorted(record["message_id"] for record in found) == ["m1", "m2", "m3", "m4", "m5"]
    assert {r["message_id"]: len(r["thread"]) for r in found} == {"m1": 0, "m2": 1, "m3": 1, "m4": 2, "m5": 3}
    with pytest.raises(files.DataError, match=r"9: column 'parent_id': there is no message 'm4'\. Give the file"):
        list(joined([("9", OASST[4])]))


def test_batch_results_find_their_requests(tmp_path: Path) -> None:
    def put(name: str, *records: Record) -> str:
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in records))
        return str(tmp_path / name)

    from steer.rows import Reading

    failed = {**BATCH_OUT, "custom_id": "q2", "response": {"status_code": 500, "body": {}}}
    unsent = {**BATCH_OUT, "custom_id": "q3"}
    errored = {**BATCH_OUT, "custom_id": "q4", "response": None, "error": {"code": "expired", "message": "late"}}
    asked = [{**BATCH_IN, "custom_id": name} for name in ("q1", "q2", "q4", "q5")]
    requests = put("in.jsonl", *asked)
    results = put("out.jsonl", BATCH_OUT, failed, unsent, errored)
    skipped: list[str] = []
    (row,) = read(results, reading=Reading(requests=requests), skipped=skipped)
    assert (row["id"], row["prompt"], row["response"], row["model"]) == ("q1", ASK, "Hello", "m")
    assert [message.removeprefix(str(tmp_path)) for message in skipped] == [
        "/out.jsonl:2: column 'response': the request failed (status 500). Send it again, or leave it out.",
        "/out.jsonl:4: column 'error': the request failed (late). Send it again, or leave it out.",
        "/in.jsonl:4: request 'q5' has no result. Send it again, or leave it out.",
        "/out.jsonl:3: result 'q3' has no request. Name the file that was sent with --requests FILE, "
        "or what all of them answer with --default-prompt.",
    ]


def test_columns_by_a_map_of_dotted_paths(tmp_path: Path) -> None:
    from steer.errors import SteerError
    from steer.rows import Reading

    record = {"q": {"text": "Hi"}, "answers": [{"body": "Hello"}, {"body": "no"}], "meta": {"stars": 4}, "lang": "en"}
    (tmp_path / "log.jsonl").write_text(json.dumps(record))
    columns = {"prompt": "q.text", "response": "answers.0.body", "quality": "meta.stars"}
    (row,) = read(tmp_path / "log.jsonl", reading=Reading(columns=columns))
    assert (row["prompt"], row["response"], row["scores"], row["lang"]) == (ASK, "Hello", {"quality": 4.0}, "en")
    assert row["meta"] == {"stars": 4}
    cells = 'question,answer,meta\nHi,Hello,"{""stars"": 3}"\n'
    (tmp_path / "log.csv").write_text(cells)
    (tmp_path / "log.tsv").write_text("question\tanswer\tmeta\nHi\tHello\t{stars: 3}\n")
    columns = {"prompt": "question", "response": "answer", "quality": "meta.stars"}
    (row,) = read(tmp_path / "log.csv", reading=Reading(columns=columns))
    assert (row["prompt"], row["scores"]) == (ASK, {"quality": 3.0})
    (row,) = read(tmp_path / "log.tsv", reading=Reading(columns={"prompt": "question", "response": "answer"}))
    assert (row["response"], row["meta"]) == ("Hello", "{stars: 3}")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / "log.parquet")
    columns = {"prompt": "q.text", "response": "answers.-1.body"}
    (row,) = read(tmp_path / "log.parquet", reading=Reading(columns=columns))
    assert (row["prompt"], row["response"]) == (ASK, "no")
    with pytest.raises(SteerError, match="response"):
        list(read(tmp_path / "log.jsonl", reading=Reading(columns={"prompt": "q.text", "response": "nothing.here"})))


def test_names_that_no_attribute_can_have_are_changed_in_one_way() -> None:
    record = {
        "prompt": "Hi",
        "response": "Hello",
        "attributes": {"+1": 2, "-1": 1, "hate speech, threats": 0, "5 star": 3, "Qualität": 1, "n_2": 4, "7": 5},
    }
    (row,) = layouts.rows(record)
    assert row["scores"] == {
        "plus_1": 2.0,
        "minus_1": 1.0,
        "hate_speech_threats": 0.0,
        "n_5_star": 3.0,
        "Qualitat": 1.0,
        "n_2": 4.0,
        "n_7": 5.0,
    }


@pytest.mark.parametrize("column", ["质量", "质量2", "👍"])
def test_a_score_whose_name_has_no_letter_of_an_attribute_is_refused_until_a_map_names_it(
    column: str, tmp_path: Path
) -> None:
    from steer.errors import SteerError
    from steer.rows.reading import Reading

    record = {"prompt": "Hi", "response": "Hello", column: 3}
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(SteerError, match=f"--map quality={column}"):
        list(read(path))
    assert next(read(path, reading=Reading(columns={"quality": column})))["scores"] == {"quality": 3.0}
    (row,) = layouts.rows({**record, column: "a remark"})
    assert row[column] == "a remark"


WRONG = [
    ({**ULTRAFEEDBACK, "completions": "x"}, "column 'completions': holds a text, wanted a list of objects"),
    ({**COMPARISON, "choice": 2}, "wanted two summaries and 0 or 1"),
    ({**COMPARISON, "info": {"id": "x"}}, "column 'info': holds no post and no article"),
    ({**AXIS, "summary": "x"}, "column 'summary': holds a text, wanted an object"),
    ({**SUMMEVAL, "text": None}, "column 'text': is missing. Pair the annotations"),
    ({**TREE, "prompt": "x"}, "column 'prompt': wanted a message"),
    ({"request": {"model": "m"}, "response": "x"}, "column 'request': holds no messages and no prompt"),
    ({"request": {"messages": ASK}, "response": {"choices": []}}, "column 'response': holds no choices"),
    ({"request": {"messages": ASK}, "response": 5}, "column 'response': holds a number, wanted an object with choices"),
    ({"request": {"messages": ASK}, "response": {"choices": [{"message": {"tool_calls": []}}]}}, "a tool call?"),
]


@pytest.mark.parametrize(("record", "message"), WRONG)
def test_wrong_shapes_name_the_column(record: Record, message: str) -> None:
    with pytest.raises(files.DataError) as caught:
        layouts.rows(record)
    assert message in str(caught.value)
