"""Rows as Parquet: the rows of JSONL, in columns that other tools can read."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from test_growth import put

from steer.config.generation import GenerateConfig
from steer.config.labelling import LabelConfig
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.generation.command import generate_command
from steer.labelling.command import label_command
from steer.rows import content_hash, parquet, prompts, read, read_rows, write_rows
from steer.rows.command import data_command
from steer.rows.labelled import Labelled
from steer.run_folder import hashes

CALL = {"type": "function", "id": "1", "function": {"name": "weigh", "arguments": {"what": "moss", "in": None}}}
ROWS: list[dict[str, Any]] = [
    {
        "id": "called",
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weigh it.", "name": "Ann"},
            {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "A call."},
            {"role": "tool", "content": "3 g", "tool_call_id": "1"},
        ],
        "response": "3 g\u2028",
        "scores": {"quality": None, "helpful": 1.5},
        "raters": {"helpful": [1.0, None, 2.0]},
        "tools": [
            {"function": {"name": "weigh", "parameters": {"what": {"type": "string", "default": None}}}},
            {"b": 1},
        ],
        "chat_template_kwargs": {"depth": [1, {"a": None}]},
        "levels": {},
        "note": 1,
        "half": "cut \ud83d here",
        "large": 2**70,
        "many": [],
    },
    {
        "id": "thought",
        "prompt": [{"role": "user", "content": "Hi"}],
        "response": "Hello",
        "scores": {},
        "reasoning_content": "A greeting.",
        "levels": {},
        "note": 1.5,
        "half": "whole",
        "large": 2,
        "many": ["x", "y"],
        "ok": False,
        "count": 3,
        "share": 0.1,
        "lists": [[1], [], [2, 3]],
        "meta": {"k": None},
    },
]
TYPES = {
    "id": pyarrow.string(),
    "prompt": pyarrow.list_(
        pyarrow.struct(
            {
                n: pyarrow.string()
                for n in ("role", "content", "name", "tool_calls", "reasoning_content", "tool_call_id")
            }
        )
    ),
    "scores": pyarrow.struct({"helpful": pyarrow.float64()}),
    "raters": pyarrow.struct({"helpful": pyarrow.list_(pyarrow.float64())}),
    "ok": pyarrow.bool_(),
    "count": pyarrow.int64(),
    "share": pyarrow.float64(),
    "many": pyarrow.list_(pyarrow.string()),
    "lists": pyarrow.list_(pyarrow.list_(pyarrow.int64())),
    **{name: pyarrow.string() for name in ("tools", "chat_template_kwargs", "note", "half", "large", "meta")},
}


def without_unknown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "scores": {name: score for name, score in row["scores"].items() if score is not None}}


def test_rows_come_back_as_they_were_but_for_unknown_scores(tmp_path: Path) -> None:
    assert write_rows(iter(ROWS), tmp_path / "rows.parquet") == 2
    (tmp_path / "done.json").write_text('{"summary": ""}')
    back = read_rows(tmp_path)
    assert back == list(map(without_unknown, ROWS))
    assert json.dumps(back[0]["chat_template_kwargs"]) == json.dumps(ROWS[0]["chat_template_kwargs"])
    assert [type(row["note"]) for row in back] == [int, float]


def test_columns_have_types_that_other_tools_read(tmp_path: Path) -> None:
    write_rows(ROWS, tmp_path / "rows.parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / "rows.parquet")
    assert {name: schema.field(name).type for name in TYPES} == TYPES
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert json.loads(table[0]["tools"]) == ROWS[0]["tools"]
    assert json.loads(table[0]["prompt"][2]["tool_calls"]) == [CALL]


def test_the_library_of_data_sets_reads_all_parts(tmp_path: Path) -> None:
    import datasets

    data_command(
        DataConfig(put(tmp_path / "log.jsonl"), str(tmp_path / "data"), output_shards=3, output_format="parquet")
    )
    loaded = datasets.load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), data_files="*.parquet")
    assert loaded["train"]["id"] == [row["id"] for row in read(tmp_path / "data")]


@pytest.mark.parametrize("parts", [1, 3])
def test_either_form_gives_the_same_rows_to_every_stage(parts: int, tmp_path: Path) -> None:
    log, found = put(tmp_path / "log.jsonl"), []
    for form in ("jsonl", "parquet"):
        data, labels = tmp_path / form / "data", tmp_path / form / "labels"
        written: dict[str, Any] = {"output_shards": parts, "output_format": form}
        data_command(DataConfig(log, str(data), export=("trl-prompt-completion",), **written))
        label_command(LabelConfig(str(data), str(labels), scorer="countable:words", **written))
        assert {path.suffix for path in [*data.glob("rows*"), *labels.glob("rows*")]} == {f".{form}"}
        assert len(list(labels.glob("rows*"))) == parts
        labelled = Labelled.of(labels)
        labelled.require_labels()
        assert [row["prompt"] for row in prompts(labels)] == [row["prompt"] for row in labelled.rows]
        assert len(hashes(labels)) == parts + 1
        rows = [{name: value for name, value in row.items() if value is not None} for row in labelled.rows]
        exported = [*map(json.loads, (data / "trl-prompt-completion" / "train.jsonl").open(encoding="utf-8"))]
        found.append([content_hash(data), content_hash(labels), rows, labelled.schema, labelled.spec, exported])
    assert found[0] == found[1]


def test_drawn_rows_are_the_same_in_either_form(trained: Path, tmp_path: Path) -> None:
    rows = []
    for form in ("jsonl", "parquet"):
        config = GenerateConfig(str(trained), prompt=("tell me about bees.",), n=3, max_new_tokens=8)
        generate_command(
            GenerateConfig(**vars(config) | {"output": str(tmp_path / form / "drawn"), "output_format": form})
        )
        rows.append(read_rows(tmp_path / form / "drawn"))
    assert rows[0] == rows[1]
    assert (tmp_path / "parquet" / "drawn" / "rows.parquet").is_file()


def test_two_forms_in_a_folder_are_refused(tmp_path: Path) -> None:
    for form in ("jsonl", "parquet"):
        write_rows(ROWS, tmp_path / f"rows.{form}")
    with pytest.raises(SteerError, match="both as JSONL and as Parquet"):
        read_rows(tmp_path)


def test_rows_are_not_held_until_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BLOCK", 1 << 16)
    monkeypatch.setattr(parquet, "GROUP", 1 << 17)
    peaks, groups = [], []
    for count in (300, 3000):
        rows = ({"id": str(i), "prompt": [], "response": f"{i} word " * 300, "scores": {}} for i in range(count))
        before, path = pyarrow.default_memory_pool().max_memory(), tmp_path / f"{count}.parquet"
        tracemalloc.start()
        assert write_rows(rows, path) == count
        peaks.append(tracemalloc.get_traced_memory()[1] + pyarrow.default_memory_pool().max_memory() - before)
        tracemalloc.stop()
        groups.append(pyarrow.parquet.read_metadata(path).num_row_groups)
    assert peaks[1] - peaks[0] < 2700 * 1000  # a row has 2,400 bytes of text
    assert groups[1] > groups[0] > 1
