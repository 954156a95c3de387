"""The time that a dry run foresees: tokens of all steps at the speed of one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer.config.training import TrainConfig
from steer.progress import duration
from steer.training import pace
from steer.training.command import train_command
from steer.training.pace import Pace


def planned(labels: Path, base: Path, folder: Path, **more: Any) -> dict[str, str]:
    """Lines of a dry run by their first word."""
    said = train_command(TrainConfig(str(labels), str(base), str(folder / "run"), dry_run=True, batch_size=16, **more))
    return {line.split()[0]: line for line in said.splitlines() if line.strip()}


def test_the_time_is_that_of_all_tokens_at_the_measured_speed(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "measured", lambda *_: Pace(tokens=100, forward=1.0, both=4.0))
    more: dict[str, Any] = {"attribute_dropout": 0.0, "condition_dropout": 0.0, "max_steps": 30}
    lines = planned(labels, base, tmp_path, **more)
    tokens, groups = (int(lines[name].split()[1].replace(",", "")) for name in ("tokens", "rows"))
    seconds = tokens / groups * 16 * 30 * 4.0 / 100
    assert f"about {duration(seconds)} for the steps, at 25 tokens/s: measured" in lines["time"]
    lines = planned(labels, base, tmp_path, method="dpo", max_steps=30)
    tokens = int(lines["tokens"].split()[1].replace(",", ""))
    assert f"{duration(tokens / 100)} before them for log-probs of the starting policy" in lines["time"]


@pytest.mark.parametrize(
    "more", [{"method": "dpo"}, {"method": "quark"}, {"adapter": "none"}, {"method": "pro"}, {"plain_layout": True}]
)
def test_one_pass_is_measured_for_every_kind_of_batch(
    more: dict[str, Any], labels: Path, base: Path, tmp_path: Path
) -> None:
    assert "measured on one forward and backward pass of" in planned(labels, base, tmp_path, **more)["time"]


def test_fresh_responses_are_not_foreseen(labels: Path, base: Path, tmp_path: Path) -> None:
    more = {"method": "remax", "scorer": "data_recipes.world_text:Gold"}
    assert "not estimated: fresh responses" in planned(labels, base, tmp_path, **more)["time"]
