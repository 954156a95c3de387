"""Labelled rows as a value, and rows read from memory as from disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.rows import read_rows, split_of, write_rows
from steer.rows.command import data_command
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema

PAIRS = [{"prompt": f"Say {i}.", "completion": f"{i}", "quality": i % 3} for i in range(6)]


def test_labelled_rows_are_what_label_wrote(labels: Path) -> None:
    labelled = Labelled.read(labels)
    assert labelled.rows == read_rows(labels)
    assert labelled.schema == Schema.load(labels / "schema.json")
    assert labelled.scorer
    assert labelled.support == labelled.schema.supported(labelled.schema.own)
    assert [r["id"] for r in labelled.training(0.1, 0)] == [r["id"] for r in labelled.rows if r["split"] == "train"]
    assert labelled.training(0.1, 0, 3) == labelled.training(0.1, 0)[:3]
    assert len(labelled.held_out(0.1, 0)) + len(labelled.training(0.1, 0)) == len(labelled.rows)


def test_labelled_rows_are_saved_and_read_back(labels: Path, tmp_path: Path) -> None:
    labelled = Labelled.read(labels)
    labelled.save(tmp_path / "copy")
    copy = Labelled.read(tmp_path / "copy")
    assert (copy.rows, copy.schema, copy.scorer, copy.spec) == (
        labelled.rows,
        labelled.schema,
        labelled.scorer,
        labelled.spec,
    )
    assert (tmp_path / "copy" / "rows.jsonl").read_bytes() == (labels / "rows.jsonl").read_bytes()


def test_a_dataset_of_labelled_rows_gives_the_same_rows(labels: Path) -> None:
    rows = read_rows(labels)[:20]
    again = read_rows(Labelled(rows).to_dataset())
    assert [{n: v for n, v in row.items() if v is not None} for row in again] == [
        {n: v for n, v in row.items() if v is not None} for row in rows
    ]


def test_rows_in_memory_are_read_as_rows_on_disk(tmp_path: Path) -> None:
    from datasets import Dataset

    write_rows(PAIRS, tmp_path / "pairs.jsonl")
    rows = read_rows(tmp_path / "pairs.jsonl")
    assert rows == read_rows(PAIRS) == read_rows(Dataset.from_list(PAIRS)) == read_rows(iter(PAIRS))
    assert rows == read_rows([{**pair, "quality": np.float32(pair["quality"])} for pair in PAIRS])
    assert rows[:2] == read_rows(PAIRS, limit=2)
    assert rows[1]["scores"] == {"quality": 1.0}


def test_a_broken_row_in_memory_is_named() -> None:
    with pytest.raises(SteerError, match=r"rows: row 7: column 'response': is blank"):
        read_rows([*PAIRS, {"prompt": "?", "completion": " "}])
    with pytest.raises(SteerError, match=r"rows: row 1: is str, wanted a dict"):
        read_rows(["text"])  # type: ignore[list-item]
    with pytest.raises(SteerError, match=r"outside 0 to 1"):
        read_rows(PAIRS, ranges={"quality": (0, 1)})


def test_rows_without_labels_are_refused_where_levels_are_wanted(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=r"rows: has no schema.json beside it"):
        Labelled.of(PAIRS).require_levels()
    assert len(Labelled.of(PAIRS).training(0.5)) == sum(split_of(row, 0.5, 0) == "train" for row in read_rows(PAIRS))
    with pytest.raises(SteerError, match=r"all 6 rows are held out"):
        Labelled.of(PAIRS).training(1.0)
    shutil.copytree(labels, tmp_path / "labels")
    rows = [{name: value for name, value in row.items() if name != "levels"} for row in read_rows(labels)]
    write_rows(rows, tmp_path / "labels" / "rows.jsonl")
    with pytest.raises(SteerError, match=r"has no levels or no split"):
        Labelled.read(tmp_path / "labels")


def test_rows_that_steer_wrote_are_read_back_as_they_are(labels: Path, tmp_path: Path) -> None:
    rows = [{**row, "truncated": True, "label": "good", "system": "Be brief, please."} for row in read_rows(labels)]
    shutil.copytree(labels, tmp_path / "labels")
    write_rows(rows, tmp_path / "labels" / "rows.jsonl")
    assert read_rows(tmp_path / "labels") == read_rows(tmp_path / "labels" / "rows.jsonl") == rows
    foreign = tmp_path / "foreign.jsonl"  # elsewhere the same columns mean what they mean in everybody's files
    write_rows(rows, foreign)
    (first, *_) = read_rows(foreign)
    assert (first["finished"], first["label"], first["prompt"][0]["role"]) == (False, True, "system")


def test_edited_rows_of_a_run_are_checked_as_any_others(labels: Path, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path / "labels")
    (first, second, *_) = read_rows(labels)
    path = tmp_path / "labels" / "rows.jsonl"
    for edited, message in [
        ({**first, "response": " "}, "column 'response': is blank"),
        ({**first, "prompt": []}, "column 'prompt': is empty"),
        ({**first, "prompt": [{"role": "user", "content": 3}]}, "wanted a text"),
        ({**first, "levels": {"helpfulness": -1}}, "the lowest level is 0"),
        ({**first, "id": second["id"]}, "Rename one of them"),
        ({**first, "split": "spare"}, "neither train nor test"),
    ]:
        write_rows([second, edited], path)
        with pytest.raises(SteerError, match=message):
            read_rows(tmp_path / "labels")
    write_rows([{**first, "prompt": "One text", "scores": {"helpfulness": True}}], path)
    (row,) = read_rows(tmp_path / "labels")
    assert (row["prompt"], row["scores"]) == ([{"role": "user", "content": "One text"}], {"helpfulness": 1.0})


def test_the_command_is_a_doorway_on_read_rows(tmp_path: Path) -> None:
    source, output = tmp_path / "pairs.jsonl", tmp_path / "run"
    write_rows(PAIRS, source)
    data_command(DataConfig(source=str(source), output=str(output), held_out=0.5))
    rows = read_rows(PAIRS)
    assert read_rows(output) == [{**row, "split": split_of(row, 0.5, 0)} for row in rows]
