"""Rows that are read by the piece: wherever a piece ends and whoever works on it, the same bytes and messages."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steer import parts
from steer.config.labelling import LabelConfig
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.labelling.command import label_command
from steer.rows import pieces, read, split_of
from steer.rows.command import data_command
from steer.rows.survey import Survey

Records = list[dict[str, Any] | str]


BAD: Records = ["{broken", {"prompt": 1, "response": "r"}, "[1]"]


def mixed() -> Records:
    """Records of several layouts, of which some repeat others, hold no scores, or cannot be used."""
    records: Records = []
    for i in range(12):
        said = [{"role": "user", "content": f"Hi {i}"}, {"role": "assistant", "content": f"Hello {i % 5}."}]
        more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "That is all."}]
        records += [
            {"prompt": f"p{i % 5}", "response": f"r{i % 4}", "quality": i % 3, "views": 10 * i, "mood": "good"},
            {"prompt": f"Which {i}?", "chosen": "This.", "rejected": "That." if i % 4 else "This."},
            {"messages": [*said, *more], "quality": None if i % 2 else 2.5},
            {
                "prompt": "p",
                "response": f"<think>hm</think>r{i}",
                "system": "Brief.",
                "quality": "n/a" if i == 5 else 1,
            },
        ]
    records[20:20] = BAD
    return [*records, {"prompt": "p", "response": " "}]


def ids(second: int = 30, count: int = 40) -> Records:
    """Records with ids, of which the second of the two that are alike stands at a place."""
    rows = [{"id": f"own{i}", "prompt": f"p{i}", "response": "r", "split": "train"} for i in range(count)]
    rows[second]["id"] = "own3"
    return [*rows]


def percent(count: int = 40) -> Records:
    return [{"prompt": f"p{i}", "response": "r", "rating": f"{i}%" if i < 25 else i} for i in range(count)]


def voted(count: int = 40) -> Records:
    """Comparisons whose first votes are words, and later ones numbers that mean what all of them together say."""
    pair = {"response_a": "one", "response_b": "two"}
    return [{"prompt": f"p{i}", **pair, "preference": "a" if i < 15 else i % 3} for i in range(count)]


CASES: dict[str, tuple[Callable[[], Records], dict[str, Any]]] = {
    "mixed": (mixed, {"bad": "skip", "turns": "all"}),
    "near": (mixed, {"bad": "skip", "duplicates": "near", "held_out": 0.5}),
    "raters": (mixed, {"bad": "skip", "merge_raters": True}),
    "range": (mixed, {"bad": "skip", "range": ("quality=0:1",)}),
    "broken": (mixed, {}),
    "limited": (mixed, {"limit": 9}),
    "ids": (ids, {}),
    "ids, skipped": (ids, {"bad": "skip", "held_out": 0.3}),
    "percent": (percent, {}),
    "percent, skipped": (percent, {"bad": "skip"}),
    "votes": (voted, {}),
}


def put(path: Path, records: Records) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return str(path)


def result(config: DataConfig) -> tuple[str, dict[str, bytes]]:
    """Return what `steer data` says, and the files that it writes."""
    try:
        said = data_command(config)
    except SteerError as error:
        said = str(error)
    files = {path.name: path.read_bytes() for path in Path(config.output).glob("*") if path.name != "config.json"}
    return said, files


@pytest.mark.parametrize("name", CASES)
def test_where_a_piece_ends_changes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, more = CASES[name]
    config = DataConfig(put(tmp_path / "log.jsonl", records()), str(tmp_path / "one"), **more)
    monkeypatch.setattr(pieces, "MOST", 1)
    one = result(config)
    for most in (2, 7, 500):
        monkeypatch.setattr(pieces, "MOST", most)
        assert result(replace(config, output=str(tmp_path / str(most)))) == one


@pytest.mark.parametrize("name", ["mixed", "near", "limited", "ids, skipped", "percent, skipped", "votes"])
def test_other_processes_give_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records, more = CASES[name]
    config = DataConfig(put(tmp_path / "log.jsonl", records()), str(tmp_path / "one"), **more)
    one = result(config)
    capsys.readouterr()
    monkeypatch.setattr(pieces, "MOST", 4)
    monkeypatch.setattr(parts, "FIRST", 2)
    started = started_processes(monkeypatch)
    assert result(replace(config, output=str(tmp_path / "two"), num_proc=2)) == one
    assert bool(started) == (name != "limited")
    notes = [line for line in capsys.readouterr().err.splitlines() if "one process" in line]
    reasons = {"percent": "column 'rating' is written in two ways", "votes": "its votes are numbers"}
    reason = reasons.get(name.partition(",")[0])
    assert notes == ([f"steer: --num-proc: the rows were read by one process, for {reason}."] if reason else [])


@pytest.mark.parametrize("name", ["mixed", "ids", "votes", "targets"])
def test_labels_of_other_processes_are_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records: Records = {"mixed": lambda: [r for r in mixed()[:-1] if r not in BAD], "ids": ids, "votes": voted}.get(
        name, targeted
    )()
    source = put(tmp_path / "log.jsonl", records)
    config = LabelConfig(source, str(tmp_path / "one"), scorer="countable:words", min_support=1, shard_size=9)

    def labelled(config: LabelConfig) -> tuple[str, list[bytes]]:
        try:
            said = label_command(config)
        except SteerError as error:
            return str(error), []
        return said, [(Path(config.output) / file).read_bytes() for file in ("rows.jsonl", "schema.json")]

    one = labelled(config)
    capsys.readouterr()
    monkeypatch.setattr(pieces, "MOST", 4)
    monkeypatch.setattr(parts, "FIRST", 2)
    assert labelled(replace(config, output=str(tmp_path / "two"), num_proc=2)) == one
    assert ("read by one process, for its votes are numbers" in capsys.readouterr().err) == (name == "votes")


def targeted() -> Records:
    """Rows with a target that no level is, of which the first has an id that is made from its content."""
    rows: Records = [{"prompt": "p", "response": "r", "scores": {}, "split": "train"} for _ in range(30)]
    return [*rows, *({**row, "target": {"words": 9}} for row in rows[:9] if isinstance(row, dict))]


def started_processes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets what is said of the processes that are started from now on."""
    started, really = [], pieces.in_order

    def in_order(todo: Any, work: Any, start: Any, workers: int, done: str) -> Any:
        started.extend([done] if workers > 1 else [])
        return really(todo, work, start, workers, done)

    monkeypatch.setattr(pieces, "in_order", in_order)
    return started


def test_rows_are_those_that_are_read_one_by_one(tmp_path: Path) -> None:
    skipped: list[str] = []
    config = DataConfig(put(tmp_path / "log.jsonl", mixed()), str(tmp_path / "out"), bad="skip")
    data_command(config)
    rows = [{**row, "split": split_of(row, 0.1, 0)} for row in read(config.source, skipped=skipped)]
    lines = (tmp_path / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == [json.dumps(row, ensure_ascii=False) for row in rows]
    left_out = [json.loads(line)["why"] for line in (tmp_path / "out" / "left_out.jsonl").open()]
    assert left_out[: len(skipped)] == skipped
    assert [line.partition("log.jsonl:")[2][:2] for line in skipped] == ["21", "22", "23", "52"]


def test_places_of_errors_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST", 4)
    monkeypatch.setattr(parts, "FIRST", 1)
    for records, message in (
        (ids(), r"log.jsonl:31: column 'id': 'own3' is also the id of .*log.jsonl:4\. Rename one of them"),
        ([*ids()[:30], {"prompt": "p", "response": 3}], r"log.jsonl:31: column 'response'.*--bad skip"),
        ([*ids(29), "{"], r"log.jsonl:30: column 'id'"),  # comes before the line that is broken
        ([*ids()[:30], "{"], r"log.jsonl:31:2: broken JSON"),
        (percent(), r"log.jsonl:26: column 'rating': holds 25, but a percentage at .*log.jsonl:1\."),
    ):
        config = DataConfig(put(tmp_path / "log.jsonl", records), str(tmp_path / "out"), num_proc=2)
        with pytest.raises(SteerError, match=message):
            data_command(config)


def test_sources_give_ids_that_occur_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (put(tmp_path / f"{i}.jsonl", ids(0, 20)) for i in range(2))
    monkeypatch.setattr(pieces, "MOST", 4)
    monkeypatch.setattr(parts, "FIRST", 1)
    config = DataConfig(one, str(tmp_path / "out"), mix=(other,), bad="skip", num_proc=2)
    data_command(config)
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").open()]
    names = ["own3", *(f"own{i}" for i in range(1, 20) if i != 3)]
    assert [row["id"] for row in rows] == [*names, *(f"{name}@2" for name in names)]


def test_a_process_that_dies_ends_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST", 1)
    monkeypatch.setattr(parts, "FIRST", 1)
    really = Survey.add

    def add(survey: Survey, source: str, piece: pieces.Piece) -> None:
        for child in multiprocessing.active_children():
            child.kill()
        really(survey, source, piece)

    monkeypatch.setattr(Survey, "add", add)
    config = DataConfig(put(tmp_path / "log.jsonl", ids(0, 200)[1:]), str(tmp_path / "out"), num_proc=2)
    with pytest.raises(SteerError, match=r"a process that read rows has died\. Lower --num-proc if memory ran out"):
        data_command(config)
    assert os.listdir(tmp_path) == ["log.jsonl"]
