"""Many rows: read once, never held, and the same bytes as by the longer way."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest

from benchmarks.rows import same
from steer.config.labelling import LabelConfig
from steer.config.rows import DataConfig
from steer.errors import SteerError
from steer.labelling.command import label_command
from steer.labelling.stored import StoredRows
from steer.rows import Tally, read, read_rows, split_of, write_rows
from steer.rows.binning import _quantile, described, fitted
from steer.rows.command import data_command
from steer.rows.labelled import Labelled
from steer.rows.schema import REWARD
from steer.rows.table import Table
from steer.run_folder import fingerprint

RECORDS: list[dict[str, Any]] = [
    {"prompt": "What is a frog?", "response": "An animal. It jumps!", "helpfulness": 4, "num_tokens": 6},
    {"prompt": "What is a frog?", "response": "An animal. It jumps!", "helpfulness": 3, "num_tokens": 6},
    {"prompt": "Cut emoji", "response": "whole", "helpfulness": 1.5, "note": "half \ud83d of one"},
    {
        "messages": [{"role": "user", "content": "Hi\u2028there"}, {"role": "assistant", "content": "Hello?"}],
        "ok": True,
    },
    {"prompt": "Which?", "chosen": "This one.", "rejected": "<think>\nhm\n</think>That one."},
    {
        "prompt": "Which?",
        "response": "Neither.",
        "helpfulness": 2,
        "system": "Be brief.",
        "finish_reason": "length",
    },
]


def put(path: Path, records: list[dict[str, Any]] = RECORDS) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def test_data_writes_the_rows_that_reading_gives(tmp_path: Path) -> None:
    config = DataConfig(put(tmp_path / "log.jsonl"), str(tmp_path / "data"))
    data_command(config)
    write_rows(({**row, "split": split_of(row, 0.1, 0)} for row in read(config.source)), tmp_path / "read.jsonl")
    assert (tmp_path / "data" / "rows.jsonl").read_bytes() == (tmp_path / "read.jsonl").read_bytes()


@pytest.mark.parametrize(
    "more", [{"merge_raters": True}, {"duplicates": "exact"}, {"mix": ("MORE",), "weight": ("1", "1")}]
)
def test_rows_that_are_decoded_again_are_the_same(more: dict[str, Any], tmp_path: Path) -> None:
    other = put(tmp_path / "more.jsonl", [{"prompt": f"p{i}", "response": "r", "helpfulness": i} for i in range(9)])
    more = {name: (other,) if value == ("MORE",) else value for name, value in more.items()}
    config = DataConfig(put(tmp_path / "log.jsonl"), str(tmp_path / "data"), **more)
    data_command(config)
    data_command(replace(config, output=str(tmp_path / "plain"), merge_raters=False, duplicates="keep", weight=()))
    every = {row["id"]: row for row in map(json.loads, (tmp_path / "plain" / "rows.jsonl").open(encoding="utf-8"))}
    rows = [json.loads(line) for line in (tmp_path / "data" / "rows.jsonl").open(encoding="utf-8")]
    assert 0 < len(rows) <= len(every)
    for row in rows:
        same = every[row["id"]]
        assert list(row) == [*same, *(["raters"] if "raters" in row and "raters" not in same else [])]
        assert all(row[name] == same[name] for name in row if name not in ("scores", "raters"))


def test_nothing_is_left_beside_the_output(tmp_path: Path) -> None:
    log = put(tmp_path / "log.jsonl")
    data_command(DataConfig(log, str(tmp_path / "data")))
    label_command(LabelConfig(str(tmp_path / "data"), str(tmp_path / "labels"), scorer="countable:words"))
    with pytest.raises(SteerError):
        data_command(DataConfig(put(tmp_path / "bad.jsonl", [*RECORDS, {"prompt": 1}]), str(tmp_path / "no")))
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "bad.jsonl", "data", "labels"}


def test_stored_rows_are_read_once(tmp_path: Path) -> None:
    path = Path(put(tmp_path / "log.jsonl"))
    rows = StoredRows(str(path), str(tmp_path / "out"))
    first = list(rows)
    path.unlink()
    one, other = iter(rows), iter(rows)  # at the same time
    assert [next(it) for _ in first for it in (one, other)] == [row for row in first for _ in "ab"]


def test_data_holds_no_texts(tmp_path: Path) -> None:
    peaks = []
    for count in (300, 3000):
        record = {"response": "word " * 400, "helpfulness": 1}
        log = put(tmp_path / f"{count}.jsonl", [{"prompt": f"prompt {i}", **record} for i in range(count)])
        tracemalloc.start()
        data_command(DataConfig(log, str(tmp_path / f"data{count}")))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2700 * 600  # a row has 2,000 bytes of text


def test_label_holds_few_bytes_of_a_row_whatever_is_counted() -> None:
    rng, peaks = np.random.default_rng(0), []
    for count in (100_000, 300_000):
        scores = rng.random((count, 8))
        with TemporaryFile() as file:
            table = Table(file, 8)
            table.add(scores)
            names = [f"good{i}" for i in range(8)]
            del scores
            tracemalloc.start()
            fitted(described(names, table), table, bins="quantile", levels=2)  # few joint levels
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 200_000 * 30  # two columns of 8 bytes and a few masks: eight columns would be 64


def test_levels_of_a_table_are_those_of_its_scores_in_memory() -> None:
    rng = np.random.default_rng(1)
    scores = np.column_stack([rng.normal(size=70_000), np.round(rng.random(70_000), 2), rng.integers(0, 4, 70_000)])
    scores[rng.random(scores.shape) < 0.1] = math.nan
    kept, names = rng.random(70_000) < 0.8, ("quality", "toxicity", "words")
    table = Table(io.BytesIO(), 3, kept=kept)
    for first in range(0, 70_000, 999):
        table.add(scores[first : first + 999])
    for bins in ("native", "uniform", "quantile"):
        found = fitted(described(names, table), table, bins=bins)
        assert found == fitted(described(names, scores[kept]), scores[kept], bins=bins)


def test_edges_are_quantiles_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    for count in (1, 2, 3, 10, 101, 1000):
        for values in (rng.normal(size=count), np.round(rng.random(count), 1), np.full(count, 0.1)):
            for share in (0.5, 1 / 3, 0.25, 0.2, 1 / 7):
                assert _quantile(np.sort(values), share) == np.quantile(values, share)


def test_counted_levels_are_those_of_every_row() -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(500, 3)), 1)
    scores[rng.random((500, 3)) < 0.1] = math.nan
    schema = fitted(described(("quality", "toxicity", "words"), scores), scores)
    cells: Counter[tuple[int | None, ...]] = Counter()
    for line in scores.tolist():
        known = {name: s for name, s in zip(schema.own, line) if not math.isnan(s)}
        if (reward := schema.reward(known)) is not None:
            known[REWARD] = reward
        levels = schema.levels(known)
        cells[tuple(levels.get(name) for name in schema.names)] += 1
    assert schema.cells == cells


def test_a_cell_that_is_no_number_is_no_score(tmp_path: Path) -> None:
    cells = {
        "TRUE": 1.0,
        " no": 0.0,
        "+.5": 0.5,
        "-3": -3.0,
        "4 %": 4.0,
        "": None,
        "four": None,
        "nope": None,
        "1,234": None,
    }
    for i, (cell, score) in enumerate(cells.items()):
        path = put(tmp_path / f"{i}.jsonl", [{"prompt": "p", "response": "r", "rating": cell}])
        assert next(read(path, tally=Tally()))["scores"].get("rating") == score


def test_parts_hold_the_rows_of_one_file(tmp_path: Path) -> None:
    log = put(tmp_path / "log.jsonl", [{"prompt": f"p{i}", "response": "a b " * i + "."} for i in range(1, 11)])
    made: list[list[Any]] = []
    for parts in (1, 4):
        data, labels = str(tmp_path / f"data{parts}"), tmp_path / f"labels{parts}"
        data_command(DataConfig(log, data, output_shards=parts, export=("trl-prompt-completion",)))
        label_command(LabelConfig(data, str(labels), scorer="countable:words", output_shards=parts))
        names = ["rows.jsonl"] if parts == 1 else [f"rows-0000{i}-of-00004.jsonl" for i in range(4)]
        assert sorted(path.name for path in labels.glob("rows*")) == names
        made.append([b"".join((Path(folder) / name).read_bytes() for name in names) for folder in (data, labels)])
        exported = Path(data) / "trl-prompt-completion" / "train.jsonl"
        made[-1] += [read_rows(labels), Labelled.of(labels), exported.read_bytes()]
    assert made[0][:3] == made[1][:3]
    assert made[0][3].rows == made[1][3].rows
    assert made[0][3].schema == made[1][3].schema
    assert made[0][4] == made[1][4]
    sizes = [(tmp_path / "labels4" / f"rows-0000{i}-of-00004.jsonl").read_bytes().count(b"\n") for i in range(4)]
    assert sizes == [3, 3, 3, 1]


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    data_command(DataConfig(put(tmp_path / "log.jsonl"), str(tmp_path / "data"), output_shards=3))
    (tmp_path / "data" / "rows-00001-of-00003.jsonl").unlink()
    for read_it in (lambda: read_rows(tmp_path / "data"), lambda: fingerprint(tmp_path / "data")):
        with pytest.raises(SteerError, match="has no rows-00001-of-00003"):
            read_it()


def test_other_rows_change_the_fingerprint_of_parts(tmp_path: Path) -> None:
    data_command(DataConfig(put(tmp_path / "log.jsonl"), str(tmp_path / "data"), output_shards=3))
    before = fingerprint(tmp_path / "data")
    last = tmp_path / "data" / "rows-00002-of-00003.jsonl"
    last.write_bytes(last.read_bytes().replace(b"Neither", b"No"))
    assert fingerprint(tmp_path / "data") != before


def test_the_benchmark_ends_where_two_numbers_of_processes_write_other_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "rows.jsonl").write_text("{}\n")
        (tmp_path / name / "data" / "config.json").write_text(name)  # names its own folder
    by = {1: tmp_path / "one", 2: tmp_path / "two"}
    assert "the 1 files by 1 and 2 processes have equal bytes" in same(by, 10)
    (tmp_path / "two" / "data" / "rows.jsonl").write_text("{} \n")
    with pytest.raises(SystemExit, match=r"data/rows\.jsonl by 1 and 2 processes differ"):
        same(by, 10)
