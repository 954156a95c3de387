"""A whole session on the command line: every command says one thing, twice the same.

On standard error training says which layers get adapters, and nothing else is said there.
"""

import json
import sys
from pathlib import Path

import pytest

from steer.cli import main


def test_a_session(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def steer(command: str) -> str:
        monkeypatch.setattr(sys, "argv", ["steer", *command.split()])
        capfd.readouterr()
        main()
        said = capfd.readouterr()
        notes = [line for line in said.err.splitlines() if not line.startswith("steer: adapters on 14 layers (")]
        assert not notes, command
        return said.out

    monkeypatch.chdir(tmp_path)
    commands = [
        "data world --size 60 --rated 1 --output logs",
        "fit logs --output scorer",
        "label logs --scorer scorer --min-support 2 --output labels",
        f"train labels --model {tiny} --attribute verbosity --template tags --learning-rate 2e-4 --max-steps 2 "
        "--output policy",
        "generate policy --input labels --split test --target none --temperature 1 --top-p 1 --max-new-tokens 8 "
        "--output answers",
    ]
    first = [steer(command) for command in commands]
    for command, said in zip(commands, first):
        name, output = command.split()[0], Path(command.split()[-1])
        assert json.loads((output / "done.json").read_text())["summary"] == said.removesuffix("\n")
        assert said.splitlines()[-1].startswith("conditional: " if name == "train" else name)
        assert not list(output.rglob("*.tmp"))
    # Each is done, so it says the same again and touches nothing.
    times = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    assert [steer(command) for command in commands] == first
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()} == times
    # The policy steers, and its config can be passed back.
    assert steer(
        "generate policy --prompt hi --target verbosity=2 --temperature 1 --top-p 1 --max-new-tokens 4"
    ).startswith("> hi\n[verbosity=2]")
    steer("train --config policy/config.json --output again")
    assert Path("again/config.json").read_text() == Path("policy/config.json").read_text()
