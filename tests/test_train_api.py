"""`train` as a function: the command is a doorway on it, and a folder is resumed and never taken for another's."""

from pathlib import Path

import pytest

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.rows.labelled import Labelled
from steer.training.command import train_command
from steer.training.train import train


def test_the_command_is_a_doorway_on_train(labels: Path, base: Path, tmp_path: Path) -> None:
    command, function = tmp_path / "command", tmp_path / "function"
    train_command(TrainConfig(str(labels), str(base), str(command), max_steps=2))
    policy = train(Labelled.read(labels), model=str(base), folder=function, max_steps=2)
    for name in ("adapter_model.safetensors", "steer.json"):
        assert (function / name).read_bytes() == (command / name).read_bytes()
    assert policy.schema == Labelled.read(labels).schema
    assert policy.facts["steps"] == 2
    again = train(labels, model=str(base), folder=function, max_steps=2)  # is done, so it is loaded
    assert again.facts == policy.facts
    with pytest.raises(
        SteerError, match=r"function: holds a run with other settings \(max_steps\)\. Choose another folder"
    ):
        train(labels, model=str(base), folder=function, max_steps=3)
    train(labels, model=str(base), max_steps=2).save(tmp_path / "saved")
    saved = tmp_path / "saved" / "adapter_model.safetensors"
    assert saved.read_bytes() == (command / saved.name).read_bytes()
