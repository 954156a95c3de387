"""Labelling: killed at any moment, in several processes, in little memory, by any function, and by what it reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import alive, until

from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.labelling.command import label_command
from steer.labelling.scorer import load_scorer
from steer.rows import read_rows, write_rows
from steer.rows.schema import Schema

OWN = """
import os, signal

class Halting:
    attributes = ("words", "characters")

    def score(self, rows):
        if int(rows[0]["id"][1:]) >= int(os.environ.get("HALT", "1000")):
            signal.pause()
        with open(os.environ["SCORED"], "a") as file:
            file.writelines(row["id"] + chr(10) for row in rows)
        return [[len(row["response"].split()), len(row["response"])] for row in rows]

def dots(row):
    return row["response"].count(".") if row["response"] else None

def both(row):
    return {"commas": row["response"].count(",")}

both.attributes = ("commas", "sighs")

def unnamed(row):
    return {"commas": 1}

def words(row):
    return "many"

class Flat:
    attributes = ("a", "b")

    def score(self, rows):
        return [1.0 for row in rows]

nothing = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of the user's."""
    (tmp_path / "own_scorers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "own_scorers", raising=False)
    monkeypatch.setenv("SCORED", str(tmp_path / "scored.txt"))
    return tmp_path


def rows_of(count: int, response: Callable[[int], str]) -> list[dict[str, Any]]:
    said = [{"role": "user", "content": "say something"}]
    rows = ({"id": f"r{i}", "prompt": said, "response": response(i), "scores": {}} for i in range(count))
    return [{**row, "split": "train"} for row in rows]


def bytes_of(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "rows.jsonl").read_bytes(), (folder / "schema.json").read_bytes()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_killed_and_run_again_gives_the_same_bytes_and_scores_nothing_twice(processes: str, own: Path) -> None:
    write_rows(rows_of(600, lambda i: f"{'word ' * (i % 9)}end."), own / "rows.jsonl")
    words = ["label", "rows.jsonl", "--scorer", "own_scorers:Halting", "--shard-size", "20", "--min-support", "1"]
    words += ["--num-proc", processes, "--output"]
    subprocess.run([sys.executable, "-m", "steer", *words, "whole"], check=True, capture_output=True)
    (own / "scored.txt").unlink()
    halts = {**os.environ, "HALT": "100"}
    killed = subprocess.Popen([sys.executable, "-m", "steer", *words, "killed"], env=halts, start_new_session=True)
    parts = own / "killed" / "parts"
    kept = {f"{i:05d}.npy" for i in range(5)}
    until(lambda: kept <= {path.name for path in parts.glob("*")})
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    until(lambda: not any(alive(int(pid)) for pid in children))  # those that scored end with it
    assert {path.name for path in parts.glob("*.npy")} == kept
    assert not (own / "killed" / "rows.jsonl").exists()
    (own / "scored.txt").unlink()
    subprocess.run([sys.executable, "-m", "steer", *words, "killed"], check=True, capture_output=True)
    assert bytes_of(own / "killed") == bytes_of(own / "whole")
    scored = (own / "scored.txt").read_text().split()
    assert sorted(scored) == sorted(f"r{i}" for i in range(600) if f"{i // 20:05d}.npy" not in kept)


def test_a_damaged_part_is_named(own: Path) -> None:
    write_rows(rows_of(40, lambda i: f"{'word ' * (i % 9)}end."), own / "rows.jsonl")
    config = LabelConfig("rows.jsonl", "out", scorer="countable:words", shard_size=20, min_support=1)
    label_command(config)
    (own / "out" / "done.json").unlink()
    (own / "out" / "parts" / "00001.npy").write_bytes(b"x")
    with pytest.raises(SteerError, match=r"00001.npy: cannot be read .* Remove it and run the same command again"):
        label_command(config)


@pytest.mark.parametrize("processes", [1, 2])
def test_rows_are_streamed(processes: int, own: Path) -> None:
    with (own / "rows.jsonl").open("w") as file:
        for i in range(400):
            file.write(json.dumps({"prompt": f"p{i}", "response": f"{'word ' * (i % 9)}{'x' * 40_000}"}) + "\n")
    config = LabelConfig("rows.jsonl", "out", scorer="countable:words", shard_size=10, num_proc=processes)
    tracemalloc.start()
    try:
        label_command(replace(config, limit=60, num_proc=1, output="small"))  # imports what stays
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        label_command(config)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 10e6 < (own / "rows.jsonl").stat().st_size - 6e6  # a few rows for each process, whatever the file


def test_a_function_of_a_row_is_a_scorer(own: Path) -> None:
    write_rows(rows_of(30, lambda i: "a. " * (i % 3 + 1)), own / "rows.jsonl")
    label_command(LabelConfig("rows.jsonl", "out", scorer="own_scorers:dots", min_support=1))
    assert [row["predicted"] for row in read_rows("out")][:3] == [{"dots": 1.0}, {"dots": 2.0}, {"dots": 3.0}]
    scorer = load_scorer("own_scorers:both")
    found = scorer.score(rows_of(2, lambda i: "a, b, c"), scorer.attributes)
    assert scorer.attributes == ("commas", "sighs")
    assert found[:, 0].tolist() == [2, 2]
    assert np.isnan(found[:, 1]).all()
    for name, message in (
        ("unnamed", r"gives several scores. Name them: unnamed.attributes = \('commas',\)"),
        ("words", "gives what is no number"),
        ("Flat", r"`score` gives \[1\] for \[1, 2\] rows and attributes"),
    ):
        with pytest.raises(SteerError, match=message):
            load_scorer(f"own_scorers:{name}").score(rows_of(1, str), (name,))
    with pytest.raises(SteerError, match="no function of a row"):
        load_scorer("own_scorers:nothing")


def test_a_model_gives_the_same_bytes_with_any_number_of_threads_and_processes(tiny: Path, own: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2).save_pretrained("classifier")
    AutoTokenizer.from_pretrained(tiny).save_pretrained("classifier")
    words = ["tell", "me", "about", "homes", "for", "my", "big", "garden", "and", "the", "dog"]
    rng = np.random.default_rng(0)
    write_rows(rows_of(300, lambda i: " ".join(rng.choice(words, rng.integers(1, 40)))), own / "rows.jsonl")
    config = LabelConfig("rows.jsonl", "one", scorer="classifier:classifier", shard_size=70, min_support=1)
    label_command(config)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        label_command(replace(config, output="three"))
        label_command(replace(config, output="two", num_proc=2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for other in ("three", "two"):
        assert bytes_of(own / other) == bytes_of(own / "one")
        for part in ("00000.npy", "00004.npy"):
            assert (own / other / "parts" / part).read_bytes() == (own / "one" / "parts" / part).read_bytes()


def test_edges_can_be_given(own: Path) -> None:
    write_rows(rows_of(40, lambda i: "word " * (i % 8 + 1)), own / "rows.jsonl")
    config = LabelConfig("rows.jsonl", "out", scorer="countable:words", edges=("words=3,6.5",), min_support=1)
    said = label_command(config)
    assert "words  0 = below 3: 10  1 = 3 to below 6.5: 20  2 = 6.5 or more: 10" in said
    assert [row["levels"]["words"] for row in read_rows("out")][:8] == [0, 0, 1, 1, 1, 1, 2, 2]
    for edges, message in (
        ("word=3", "did you mean 'words'"),
        ("words=3,3", "in rising order"),
        ("words=", "in rising order"),
        ("words=a", "in rising order"),
        ("words=nan", "in rising order"),
    ):
        with pytest.raises(SteerError, match=message):
            label_command(replace(config, output="other", edges=(edges,)))
    schema: dict[str, Any] = {"output": "other", "schema": "out/schema.json"}
    with pytest.raises(SteerError, match="--edges: levels and directions are those of --schema"):
        label_command(replace(config, **schema))
    for flag in ("higher", "lower", "neither"):
        with pytest.raises(SteerError, match=f"--{flag}: levels and directions are those of --schema"):
            label_command(replace(config, **schema, edges=(), **{flag: ("words",)}))
    assert not (own / "other").exists()


def test_the_counts_of_an_earlier_schema_are_not_those_of_the_rows(own: Path) -> None:
    write_rows(rows_of(40, lambda i: "word " * (i % 8 + 1)), own / "rows.jsonl")
    config = LabelConfig("rows.jsonl", "out", scorer="countable:words", levels=2, min_support=1)
    assert label_command(config).startswith("levels and support of the rows for training:\nwords ")
    said = label_command(replace(config, output="few", schema="out/schema.json", limit=6))
    assert said.startswith("levels and support of out/schema.json:\nwords ")


def test_a_schema_whose_directions_no_reward_was_measured_for_is_refused(own: Path) -> None:
    write_rows(rows_of(40, lambda i: "word " * (i % 8 + 1)), own / "rows.jsonl")
    config = LabelConfig("rows.jsonl", "out", scorer="countable:words", min_support=1)
    for name, higher, turn in (("neither", (), (1, 1.0)), ("better", ("words",), (0, 0.0))):
        label_command(replace(config, output=name, higher=higher))
        path = own / name / "schema.json"
        label_command(replace(config, output=f"{name} again", schema=str(path)))
        Schema.load(path).turned({"words": turn}).save(path)
        with pytest.raises(SteerError, match="its directions changed after its reward was measured"):
            label_command(replace(config, output="other", schema=str(path)))
