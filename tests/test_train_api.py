"""`train` as a function: the command is a doorway on it, and a folder is resumed and never taken for another's."""

from pathlib import Path

import pytest

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.sources import contestants
from steer.generation.generate import generate
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


def test_policies_of_one_base_are_told_apart_and_a_trained_one_from_none_that_is_loaded(
    labels: Path, base: Path, tmp_path: Path
) -> None:
    short = {"max_new_tokens": 2, "allow_unsupported": True}
    kept = train(labels, model=str(base), folder=tmp_path / "kept", max_steps=1)
    rows = generate(kept, "Why?", folder=tmp_path / "answers", **short)
    loaded = train(labels, model=str(base), folder=tmp_path / "kept", max_steps=1)
    assert generate(loaded, "Why?", folder=tmp_path / "answers", **short) == rows  # goes on with it
    first, second, same = (train(labels, model=str(base), max_steps=n) for n in (1, 2, 1))
    assert len({first.identity, second.identity, kept.identity}) == 3
    assert same.identity == first.identity
    assert next(iter(contestants(first))).identity == first.identity
    generate(first, "Why?", folder=tmp_path / "firsts", **short)
    with pytest.raises(SteerError, match=r"holds a run with other settings \(inputs\."):
        generate(second, "Why?", folder=tmp_path / "firsts", **short)
