"""The row contract: what is read, what is refused and how it is said, and that writing loses nothing."""

import copy
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from steer import rows
from steer.errors import SteerError
from steer.progress import note_once
from steer.rows import split_of
from steer.rows.notices import noted
from steer.settings import SHARE

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data in {SHARED}")

ROWS = [
    {
        "id": "a",
        "prompt": [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Écris 🙂\u2028"}],
        "response": "line\nline",
        "scores": {"quality": 4.0, "verbosity": None},
        "levels": {"quality": 3},
        "target": {"quality": 4},
        "predicted": {"quality": 3.5},
        "reward": 0.5,
        "group": "g",
        "source": "log",
        "split": "train",
    },
    {"id": "b", "prompt": [{"role": "user", "content": "Hi"}], "response": "Hello", "scores": {"verbosity": 1.0}},
]
SUFFIXES = [".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".parquet"]


def put(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def row(**columns: Any) -> dict[str, Any]:
    """A right row with some columns replaced; None takes one away."""
    made = {"id": "r", "prompt": [{"role": "user", "content": "Hi"}], "response": "Hello", "scores": {}, **columns}
    return {name: value for name, value in made.items() if value is not None}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SteerError) as caught:
        call()
    return str(caught.value)


def known(value: Any) -> Any:
    """Without nulls: unknown and absent mean the same."""
    if isinstance(value, dict):
        return {name: known(inner) for name, inner in value.items() if inner is not None}
    return value


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_rows_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"rows{suffix}"
    assert rows.write_rows(iter(ROWS), path) == len(ROWS)
    assert [known(r) for r in rows.read_rows(path)] == [known(r) for r in ROWS]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    for path in (one, other):
        rows.write_rows(ROWS, path)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_no_rows_and_no_scores_can_be_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    assert rows.write_rows([], path) == 0
    assert "holds no rows" in refusal(lambda: rows.read_rows(path))
    bare = [row(id="a", margin=3), row(id="b", margin=4)]
    rows.write_rows(bare, path)
    assert rows.read_rows(path) == bare


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_half_an_emoji_outside_prompt_and_response_survives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    rows.write_rows([row(note="cut \ud83d here")], path)
    assert rows.read_rows(path) == [row(note="cut \ud83d here")]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows.write_rows(ROWS, path)

    def broken() -> Iterator[dict[str, Any]]:
        yield row()
        yield row(id="nan", margin=math.nan)

    found = refusal(lambda: rows.write_rows(broken(), path))
    assert found.startswith(f"{path}: row 'nan' cannot be written as JSON (Out of range float")
    assert rows.read_rows(path) == ROWS
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_killed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows.write_rows(ROWS, path)
    program = (
        "import os, sys\nfrom steer import rows\n"
        "def some():\n    yield {'id': 'x'}\n    os.kill(os.getpid(), 9)\n"
        "rows.write_rows(some(), sys.argv[1])"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert rows.read_rows(path) == ROWS


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = refusal(lambda: rows.write_rows(ROWS, tmp_path / "file" / "rows.jsonl"))
    assert found.startswith(f"{tmp_path}/file/rows.jsonl: cannot be written (")
    assert found.endswith("Choose another folder.")
    (tmp_path / "folder.jsonl").mkdir()
    assert "cannot be written (Is a directory)" in refusal(lambda: rows.write_rows(ROWS, tmp_path / "folder.jsonl"))
    for name in ("rows.csv", "rows.parquet.gz", "rows.jsonl.xz", "rows"):
        assert "Change the suffix." in refusal(lambda name=name: rows.write_rows(ROWS, tmp_path / name))
    for suffix in (".jsonl", ".parquet"):
        path = tmp_path / f"rows{suffix}"
        assert "row 'r' cannot be written as JSON" in refusal(
            lambda path=path: rows.write_rows([row(x=object())], path)
        )
        assert not path.exists()


def test_values_without_a_common_type_are_written_as_json(tmp_path: Path) -> None:
    mixed = [row(id="a", note="x"), row(id="b", note=[1]), row(id="c", note={"y": None}), row(id="d", note="[1]")]
    rows.write_rows(mixed, tmp_path / "rows.parquet")
    assert rows.read_rows(tmp_path / "rows.parquet") == mixed


def test_permission_denied_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    user = os.geteuid()
    try:
        if user == 0:  # who may write everywhere
            os.seteuid(65534)
        assert "cannot be written (Permission denied)" in refusal(
            lambda: rows.write_rows(ROWS, tmp_path / "rows.jsonl")
        )
    finally:
        os.seteuid(user)


BAD = [
    (row(id=3), "column 'id': holds a number, wanted a text. Write it in quotes."),
    ({"prompt": [], "response": "x"}, "column 'id': holds null, wanted a text."),
    (row(split=True), "column 'split': holds true or false, wanted a text."),
    (row(prompt=None), "column 'prompt': is missing (there are: id, response, scores), wanted a list of turns"),
    (row(prompt="Hi"), "column 'prompt': holds a text, wanted a list of turns {role, content}."),
    (row(prompt=["Hi"]), "column 'prompt': turn 1 is a text, wanted {role, content}."),
    (row(prompt=[{"role": "narrator", "content": "x"}]), "column 'prompt': turn 1 has the role 'narrator'. Use one of"),
    (row(prompt=[{"role": "user", "content": 1}]), "column 'prompt': turn 1 holds a number, wanted a text."),
    (row(prompt=[{"role": "user"}]), "column 'prompt': turn 1 holds null, wanted a text."),
    (row(prompt=[]), "column 'prompt': is empty. Write what was asked"),
    (row(prompt=[{"role": "user", "content": " \n"}]), "column 'prompt': is empty. Write what was asked"),
    (row(prompt=[{"role": "system", "content": "x"}]), "column 'prompt': ends with a turn of the system. End it with"),
    (row(prompt=[{"role": "user", "content": "a\ud83d"}]), "column 'prompt': turn 1 has half a surrogate pair"),
    (row(response=None), "column 'response': is missing (there are: id, prompt, scores). Add it, or use the file"),
    (row(response=["x"]), "column 'response': holds a list, wanted a text."),
    (row(response=" \n"), "column 'response': is blank. Write what was answered, or remove the row."),
    (row(response="ab\udc00"), "column 'response': has half a surrogate pair (a cut emoji) as character 3. Remove it."),
    (row(scores=4), "column 'scores': holds a number, wanted an object {attribute: a number or null}. Rename"),
    (row(scores={"a": "4"}), "column 'scores': attribute 'a' holds '4', wanted a number or null."),
    (row(scores={"a": True}), "column 'scores': attribute 'a' holds True, wanted a number or null."),
    (row(scores={"a": math.nan}), "column 'scores': attribute 'a' is nan. Write null where a score is unknown."),
    (row(scores={"a": -math.inf}), "column 'scores': attribute 'a' is -inf. Write null where a score is unknown."),
    (row(scores={"+1": 2.0}), "column 'scores': '+1' cannot name an attribute. Use a letter, then letters, digits"),
    (row(scores={"a b": 2.0}), "column 'scores': 'a b' cannot name an attribute."),
    (row(levels={"a": 1.0}), "column 'levels': attribute 'a' holds 1.0, wanted an integer."),
    (row(levels={"a": False}), "column 'levels': attribute 'a' holds False, wanted an integer."),
    (row(levels=[1]), "column 'levels': holds a list, wanted an object {attribute: an integer}."),
    (row(target={"a": None}), "column 'target': attribute 'a' holds None, wanted an integer."),
    (row(target={"4": 4}), "column 'target': '4' cannot name an attribute."),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_check_names_the_column_and_the_remedy(bad: dict[str, Any], message: str) -> None:
    assert refusal(lambda: rows.check(bad, "log.jsonl:7")).startswith(f"log.jsonl:7: {message}")


def test_check_accepts_what_the_contract_allows() -> None:
    scores = {"a": 1, "b": 1.5, "c": None, "D_e-1": -2.0}
    rows.check(row(scores=scores, levels={"a": 0}, target={"a": 4}, anything=object()), "here")
    rows.check({name: value for name, value in row().items() if name != "scores"}, "here")
    rows.check(row(response=None), "here", answered=False)


def test_reading_adds_file_and_line(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", {"prompt": "Hi", "response": "Hello"}, {"prompt": "Hi", "response": ""})
    stream = rows.read(path)
    assert next(stream)["response"] == "Hello"
    assert refusal(lambda: next(stream)).startswith(f"{path}:2: column 'response': is blank.")
    path = put(tmp_path / "log.jsonl", {"prompt": "Hi", "response": 3})
    assert refusal(lambda: rows.read_rows(path)) == f"{path}:1: column 'response': holds a number, wanted a text."
    path = put(tmp_path / "log.jsonl", {"question": "Hi"})
    assert refusal(lambda: rows.read_rows(path)).startswith(f"{path}:1: columns question fit no known layout.")
    path.write_text('{"prompt": "Hi", "response": NaN}\n{"prompt"')
    assert refusal(lambda: rows.read_rows(path)).startswith(f"{path}:1: column 'response': holds a number")
    path.write_text('{"prompt"')
    assert refusal(lambda: rows.read_rows(path)).startswith(f"{path}:1:10: broken JSON (")
    path.write_text('{"prompt": "Hi", "response": "x", "quality": NaN}')
    assert refusal(lambda: rows.read_rows(path)).startswith(f"{path}:1: column 'scores': attribute 'quality' is nan.")


def test_skipped_rows_and_broken_lines_are_collected(tmp_path: Path) -> None:
    records = [{"prompt": "Hi", "response": text} for text in ("one", " ", "two")]
    path = put(tmp_path / "log.jsonl", *records, {"messages": "x"}, {"prompt": "Hi", "chosen": "yes", "rejected": ""})
    skipped: list[str] = []
    assert [r["response"] for r in rows.read(path, skipped=skipped)] == ["one", "two"]
    assert [message.split(": ")[0] for message in skipped] == [f"{path}:{n}" for n in (2, 4, 5)]
    with path.open("a") as file:
        file.write("{\n" + json.dumps(records[0]))
    skipped.clear()
    assert [r["response"] for r in rows.read(path, skipped=skipped)] == ["one", "two", "one"]
    assert skipped[-1].startswith(f"{path}:6:2: broken JSON")
    assert f"{path}:2: column 'response': is blank" in refusal(lambda: rows.read_rows(path))


def test_an_id_may_occur_once(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", row(id="a"), row(id="b"), row(id="a", response="Other"))
    found = refusal(lambda: rows.read_rows(path))
    assert found == f"{path}:3: column 'id': 'a' is also the id of {path}:1. Rename one of them."
    assert [r["id"] for r in rows.read(path, unique=False)] == ["a", "b", "a"]


def test_the_same_content_twice_gets_its_own_id(tmp_path: Path) -> None:
    record = {"prompt": "Hi", "response": "Hello"}
    path = put(tmp_path / "log.jsonl", record, record, {"prompt": "Hi", "response": "Bye"}, record)
    first, *others = [r["id"] for r in rows.read(path)]
    assert [others[0], others[2]] == [f"{first}-2", f"{first}-3"]
    copy = tmp_path / "copy.jsonl"
    rows.write_rows(rows.read(path), copy)
    assert [r["id"] for r in rows.read(copy)] == [first, *others]
    twice = tmp_path / "twice.jsonl"
    twice.write_bytes(path.read_bytes() * 2)
    assert len({r["id"] for r in rows.read(twice)}) == 8


def test_csv_cells_become_scores(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,response,quality,mood\nHi,Hello,4,sad\n5,6,,\nHi,Bye,3.5,glad\n")
    read = rows.read_rows(path)
    assert [r["scores"] for r in read] == [{"quality": 4.0}, {}, {"quality": 3.5}]
    assert [r.get("mood") for r in read] == ["sad", None, "glad"]
    assert (read[1]["prompt"][0]["content"], read[1]["response"]) == ("5", "6")


@pytest.mark.parametrize("column", ["quality", "zest"])
@pytest.mark.parametrize("cells", [["4", "", "n/a", "3"], ["n/a", "4", "", "3"]])
def test_words_in_a_column_of_numbers_are_unknown_scores_and_are_counted(
    tmp_path: Path, cells: list[str], column: str
) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"prompt,response,{column}\n" + "".join(f"Hi,Hello {i},{cell}\n" for i, cell in enumerate(cells)))
    tally = rows.Tally()
    found = list(rows.read(path, tally=tally))
    assert [row["scores"].get(column) for row in found] == [float(c) if c.isdigit() else None for c in cells]
    assert [row.get(column) for row in found if column in row] == ["n/a"]  # nothing is lost
    assert [*noted(tally)] == [f"unknown: 1 x '{column}', words such as 'n/a'; 2 rows hold a number."]
    records = [{"prompt": "Hi", "response": f"Hello {i}", column: int(c) if c.isdigit() else c or None}
               for i, c in enumerate(cells)]  # fmt: skip
    assert [row["scores"] for row in rows.read_rows(records)] == [row["scores"] for row in found]


@pytest.mark.parametrize("cells", [["moles", "1984", "rain", ""], ["1984", "moles", "rain", "12"]])
def test_numbers_in_a_column_of_words_are_no_scores(tmp_path: Path, cells: list[str]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,response,topic\n" + "".join(f"Hi,Hello {i},{cell}\n" for i, cell in enumerate(cells)))
    tally = rows.Tally()
    found = list(rows.read(path, tally=tally))
    assert [(row["scores"], row.get("topic", "")) for row in found] == [({}, cell) for cell in cells]
    filled = 2 + sum(cell.isdigit() for cell in cells)
    assert tally.not_scores == {"topic": f"words in 2 of {filled} rows"}
    assert [*noted(tally)] == [f"no scores: topic (words in 2 of {filled} rows). --map NAME=COLUMN makes one a score."]


def test_a_column_that_is_asked_for_is_a_score_wherever_it_is_a_number(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", *({"q": "Hi", "a": f"{i}", "zest": z} for i, z in enumerate(["hot", "mild", 3])))
    columns = {"prompt": "q", "response": "a", "zest": "zest"}
    assert [row["scores"] for row in rows.read_rows(path, columns=columns)] == [{}, {}, {"zest": 3.0}]


def test_prompts_from_text_prompt_columns_and_open_conversations(tmp_path: Path) -> None:
    text = tmp_path / "asked.txt"
    text.write_text("One\n\nTwo\nOne\n")
    made = list(rows.prompts(text))
    assert [r["prompt"] for r in made] == [[{"role": "user", "content": t}] for t in ("One", "Two", "One")]
    assert made[2]["id"] == f"{made[0]['id']}-2"
    talk = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    path = put(
        tmp_path / "log.jsonl",
        {"prompt": "Hi", "target": {"quality": 4}, "id": "a"},
        {"messages": talk[:1]},
        {"messages": talk},
        {"messages": talk[:2]},
        {"instruction": "Hi"},
        {"prompt": "Hi", "response": ""},
    )
    asked = list(rows.prompts(path))
    assert [len(r["prompt"]) for r in asked] == [1, 1, 3, 1, 1, 1]
    assert [r.get("response") for r in asked] == [None, None, None, "assistant", None, ""]
    assert asked[0]["target"] == {"quality": 4}
    assert "after_response" not in asked[2]
    assert len({r["id"] for r in asked}) == 6
    assert f"{path}:1: column 'response': is missing" in refusal(lambda: rows.read_rows(path))
    put(path, {"messages": [{"role": "system", "content": "x"}]})
    assert f"{path}:1: column 'prompt': ends with a turn of the system" in refusal(lambda: list(rows.prompts(path)))
    assert "no such file" in refusal(lambda: list(rows.prompts(tmp_path / "no.txt")))


def test_an_open_conversation_twice_is_two_prompts(tmp_path: Path) -> None:
    talk = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    path = put(tmp_path / "log.jsonl", {"messages": talk}, {"messages": talk})
    first, second = (r["id"] for r in rows.prompts(path))
    assert second == f"{first}-2"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_content_hash_is_of_the_content(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    rows.write_rows(ROWS, path)
    expected = rows.content_hash(ROWS)
    assert rows.content_hash(path) == rows.content_hash(str(path)) == expected
    assert rows.content_hash([dict(reversed(r.items())) for r in ROWS]) == expected
    assert rows.content_hash(ROWS[::-1]) != expected
    assert rows.content_hash([ROWS[0], {**ROWS[1], "response": "Other"}]) != expected


def test_split_is_by_prompt_and_stable() -> None:
    made = [
        row(id=f"{i}:{k}", prompt=[{"role": "user", "content": str(i)}], response=str(k))
        for i in range(2000)
        for k in range(3)
    ]
    sides: dict[str, set[str]] = {}
    for r in made:
        sides.setdefault(rows.prompt_key(r), set()).add(rows.split_of(r, 0.2, 1))
    assert len(sides) == 2000
    assert all(len(side) == 1 for side in sides.values())
    held_out = sum(side == {"test"} for side in sides.values())
    assert abs(held_out - 400) < 4 * math.sqrt(2000 * 0.2 * 0.8)  # four standard deviations
    assert [rows.split_of(r, 0.2, 1) for r in made] != [rows.split_of(r, 0.2, 2) for r in made]
    assert {rows.split_of(r, 0.0, 1) for r in made} == {"train"}
    assert {rows.split_of(r, 1.0, 1) for r in made} == {"test"}
    larger = {r["id"] for r in made if rows.split_of(r, 0.4, 1) == "test"}
    assert {r["id"] for r in made if rows.split_of(r, 0.2, 1) == "test"} < larger


@pytest.mark.parametrize(
    ("split", "side"),
    [("train", "train"), ("train_sft", "train"), ("Test", "test"), ("dev", "test"), ("valid_freq", "test")],
)
def test_split_column_is_respected(split: str, side: str) -> None:
    assert [rows.split_of(row(split=split), held_out, 0) for held_out in (0.0, 1.0)] == [side, side]


def test_unknown_split_is_refused() -> None:
    found = refusal(lambda: rows.check(row(split="fold3"), "rows.jsonl:7"))
    assert found == "rows.jsonl:7: column 'split': 'fold3' is neither train nor test. Rename the split."


READABLE = {
    "summeval": (1600, {"coherence", "consistency", "fluency", "relevance"}, 0),
    "nlg_novikova": (2460, {"informativeness", "naturalness", "quality"}, 0),
    "topical_chat_turns": (44312, {"turn_rating", "conversation_rating"}, 0),
    "pairs_finegrained_dev": (2 * 2616, {"preference"}, 0),
    "pairs_hh_harmless_test": (2 * (2312 - 8), {"preference"}, 8),  # 4 blank answers, 4 prompts that the model ends
    "pairs_llmbar": (2 * (1200 - 2), {"preference"}, 1),  # 1 blank answer, 1 pair of equal texts
    "steerlm_format_512": (512, {"helpfulness", "correctness", "coherence", "complexity", "verbosity"}, 0),
}


@cache  # one of them is large, and read by two tests
def real(name: str) -> tuple[list[rows.Row], list[str]]:
    """The rows of a file, and what was skipped."""
    skipped: list[str] = []
    return list(rows.read(SHARED / f"{name}.jsonl.gz", skipped=skipped)), skipped


@needs_shared
@pytest.mark.parametrize("name", READABLE)
def test_real_files(name: str) -> None:
    count, attributes, refused = READABLE[name]
    read, skipped = real(name)
    assert (len(read), len(skipped)) == (count, refused)
    assert len({r["id"] for r in read}) == count
    assert {attribute for r in read for attribute in r["scores"]} == attributes


@needs_shared
def test_real_topical_chat_keeps_its_words_and_splits() -> None:
    read, _ = real("topical_chat_turns")
    assert {"Happy", "Neutral", "Curious to dive deeper"} < {r["sentiment"] for r in read}
    assert sum("conversation_rating" not in r["scores"] for r in read) == 44312 - 44257
    assert Counter(rows.split_of(r, 0.0, 0) for r in read) == {"test": 44312}


@needs_shared
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emobank.jsonl.gz", ":1: column 'prompt': is empty. Write what was asked"),
        ("tinystories_sample.txt.gz", ": unknown suffix '.txt.gz'"),
    ],
)
def test_real_files_that_are_no_rows_say_what_to_do(name: str, message: str) -> None:
    assert refusal(lambda: rows.read_rows(SHARED / name)).startswith(f"{SHARED / name}{message}")


@needs_shared
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_real_rows_survive_every_format(tmp_path: Path, suffix: str) -> None:
    read = rows.read_rows(SHARED / "steerlm_format_512.jsonl.gz")
    rows.write_rows(read, tmp_path / f"rows{suffix}")
    assert rows.read_rows(tmp_path / f"rows{suffix}") == read


def test_what_was_written_is_read_back_blank_responses_and_strange_line_ends_included(tmp_path: Path) -> None:
    said = [{"prompt": [{"role": "user", "content": "a"}], "response": x} for x in ("", "a\u2028b\nc", "é")]
    rows.write_rows(said, tmp_path / "rows.jsonl")
    assert rows.read_back(tmp_path / "rows.jsonl") == said


def test_a_share_of_prompts_that_cannot_have_an_effect_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    note_once.cache_clear()
    row = {"id": "1", "prompt": [{"role": "user", "content": "Hi"}], "response": "Ho"}
    for held_out, split in ((0.4, ""), (SHARE, "train"), (copy.deepcopy(SHARE), "train"), (0.4, "train")):
        assert capsys.readouterr().err == ""
        split_of({**row, "split": split} if split else row, held_out, 0)
    said = capsys.readouterr().err
    assert said.count("--held-out 0.4 has no effect on rows that name their split") == 1
    split_of({**row, "split": "train"}, 0.1, 0)  # the default, by hand
    assert "--held-out 0.1 has no effect on rows that name their split" in capsys.readouterr().err
