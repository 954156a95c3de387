"""`compare` as a function: what the command does, in a folder or without one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steer.comparison.command import compare_command
from steer.comparison.compare import compare
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.progress import Step
from steer.rows.labelled import Labelled
from steer.run_folder import read_json

GOLD = "data_recipes.world_text:Gold"


def test_the_command_is_a_doorway_on_compare(labels: Path, tiny: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.yaml"
    train.write_text("lora_r: 2\nbatch_size: 4\n")
    settings: dict[str, Any] = {"num_prompts": 4, "grid": 4, "max_new_tokens": 4, "resamples": 20, "max_steps": 1}
    settings |= {"gold": GOLD, "train": str(train)}
    methods = ("mle", "conditional")
    compare_command(CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), method=methods, **settings))
    found = compare(Labelled.read(labels), model=str(tiny), methods=methods, folder=tmp_path / "api", **settings)
    by_command, by_call = (read_json(tmp_path / x / "report.json") for x in ("out", "api/comparison"))
    differing = {key for key in by_command if by_command[key] != by_call[key]}
    assert differing <= {"command", "commands", "hashes", "seconds"}
    assert by_call["budget"]["steps"] == 1
    assert "conditional" in found.table
    assert found.dial == by_call["dials"][0]["result"]
    done = (tmp_path / "out/done.json").read_bytes()
    again = compare(str(labels), model=str(tiny), methods=methods, folder=tmp_path / "out", **settings)
    assert again.table == found.table
    assert (tmp_path / "out/done.json").read_bytes() == done  # a finished comparison stays finished


def test_runs_that_were_done_before_take_no_part_in_the_time_left(
    labels: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back in a second, they would promise that those that are left take as long."""
    (tmp_path / "train.yaml").write_text("lora_r: 2\nbatch_size: 4\n")
    how: dict[str, Any] = {"gold": GOLD, "train": str(tmp_path / "train.yaml"), "max_steps": 1, "max_new_tokens": 4}
    how |= {"method": ("mle", "filtered"), "num_prompts": 4, "grid": 0, "resamples": 20}
    counted: list[tuple[str, int]] = []

    def counting(when: str) -> Callable[..., None]:
        return lambda step, n=1: counted.append((when, n)) if step.unit == "runs" else None

    monkeypatch.setattr(Step, "resume", counting("before"))
    monkeypatch.setattr(Step, "update", counting("now"))
    config = CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), **how)
    compare_command(config)
    assert counted == [("now", 1)] * 2
    counted.clear()
    (tmp_path / "out" / "done.json").unlink()
    (filtered,) = (tmp_path / "out" / "runs").glob("filtered*")
    shutil.rmtree(filtered)
    compare_command(config)
    assert counted == [("before", 1), ("now", 1)]


def test_an_unknown_setting_is_named(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="unknown setting 'num_prompt'; did you mean 'num_prompts'"):
        compare(str(labels), model="model", folder=tmp_path / "out", num_prompt=3)
    assert not (tmp_path / "out").exists()
