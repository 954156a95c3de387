"""Rows in object stores, by address: what a stage reads and writes there is what it reads and writes in folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from test_growth import RECORDS, put

from steer.addresses import is_address
from steer.config.labelling import LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.labelling.command import label_command
from steer.rows import read_rows
from steer.rows.command import data_command
from steer.training.command import train_command


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A store that lies in memory, and the cache of this machine."""
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_stages_read_and_write_at_addresses(form: str, scheme: str, bucket: Any, tmp_path: Path) -> None:
    root = "memory://bucket" if scheme == "memory" else f"file://{tmp_path}/store"
    log, store = put(tmp_path / "log.jsonl"), fsspec.filesystem(scheme)
    store.makedirs(f"{root}/logs")
    store.put(log, f"{root}/logs/log.jsonl")
    how: dict[str, Any] = {"output_shards": 2, "output_format": form}
    here = [str(tmp_path / name) for name in ("data", "labels")]
    data_command(DataConfig(log, here[0], **how))
    label_command(LabelConfig(here[0], here[1], scorer="countable:words", **how))
    said = data_command(DataConfig(f"{root}/logs/log.jsonl", f"{root}/data", **how))
    label_command(LabelConfig(f"{root}/data/", f"{root}/labels", scorer="countable:words", **how))
    assert said.endswith("held out.")
    for folder, name in zip(here, ("data", "labels")):
        there = {path.rsplit("/", 1)[-1]: store.cat_file(path) for path in store.ls(f"{root}/{name}", detail=False)}
        assert {path.name for path in Path(folder).iterdir() if path.is_file()} == there.keys()
        for path in Path(folder).glob("rows-*"):
            assert there[path.name] == path.read_bytes()
        if name == "labels":
            assert there["schema.json"] == (Path(folder) / "schema.json").read_bytes()


def test_what_changed_is_fetched_again_and_what_did_not_is_not(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "memory://bucket/log.jsonl"
    counts = []
    for number, records in enumerate((RECORDS, RECORDS, RECORDS[:1])):
        if number != 1:
            bucket.put(put(tmp_path / "log.jsonl", records), address)
        data_command(DataConfig(address, str(tmp_path / str(number))))
        counts.append((len(read_rows(tmp_path / str(number))), capsys.readouterr().err.count("fetch ")))
    assert counts == [(7, 1), (7, 0), (1, 1)]


def test_a_finished_output_is_not_made_again(bucket: Any, tmp_path: Path) -> None:
    config = DataConfig(put(tmp_path / "log.jsonl"), "memory://bucket/data")
    first = data_command(config)
    bucket.rm("/bucket/data/rows.jsonl")
    assert data_command(config) == first
    assert bucket.exists("/bucket/data/rows.jsonl"), "but sent again"


def test_shards_of_a_store_meet_in_the_cache(bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how: dict[str, Any] = {"scorer": "countable:words", "shard_size": 2, "min_support": 1}
    label_command(LabelConfig(log := put(tmp_path / "log.jsonl"), str(tmp_path / "one"), **how))
    for shard in ("1/2", "2/2"):
        assert not bucket.exists("/bucket/labels/done.json")
        label_command(LabelConfig(log, "memory://bucket/labels", shard=shard, **how))
        assert f"the shards meet in {tmp_path / 'cache' / 'outputs'}" in capsys.readouterr().err
    assert bucket.cat_file("/bucket/labels/rows.jsonl") == (tmp_path / "one" / "rows.jsonl").read_bytes()


def test_addresses_that_cannot_be_used_are_said(bucket: Any, tmp_path: Path) -> None:
    log = put(tmp_path / "log.jsonl")
    for source, problem in (("memory://bucket/no.jsonl", "no such file"), ("nowhere://x/y", "cannot be opened")):
        with pytest.raises(SteerError, match=f"{source}: {problem}"):
            data_command(DataConfig(source, str(tmp_path / "out")))
    with pytest.raises(SteerError, match="only rows are written to a store"):
        train_command(TrainConfig(log, "model", "memory://bucket/policy"))
    assert not (tmp_path / "out").exists()
    assert [is_address(text) for text in ("s3://a/b", "hf:a/b", "C:/x", "-", "a://", 3)] == [True, *[False] * 5]
