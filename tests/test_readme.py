"""The README: its commands run from an empty folder, its tables equal the code."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from steer.cli import cli, main
from steer.conditioning.condition import TEMPLATES
from steer.methods import METHODS
from steer.rows import Row

README = Path(__file__).resolve().parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def table(head: str) -> dict[str, list[str]]:
    """A README table by its first line: first cell -> the other cells."""
    at = TEXT.index(head)
    lines = TEXT[at:].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def blocks() -> list[str]:
    """All bash blocks but the one with the two set-up commands."""
    return [b for b in re.findall(r"```bash\n(.*?)```", TEXT, re.S) if "make " not in b]


def test_the_two_commands_stand_at_the_top() -> None:
    first = re.findall(r"```bash\n(.*?)```", TEXT, re.S)[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]
    assert TEXT.index("make demo") < 700


def test_every_command_runs_from_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in "".join(blocks()).splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "steer"
        monkeypatch.setattr(sys, "argv", words)
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        assert not code, f"{line}\n{capsys.readouterr().err}"
    assert (tmp_path / "comparison" / "report.html").is_file()


def test_the_table_of_methods_equals_the_code() -> None:
    rows = table("| method | condition |")
    assert list(rows) == list(METHODS)
    for name, (condition, _, settings) in rows.items():
        assert condition == ("yes" if METHODS[name].conditioned else "no")
        told = dict(part.strip("` ").split("=") for part in settings.split(",") if part.strip())
        assert told == {f.name: str(f.default) for f in fields(METHODS[name].settings)}


def test_the_table_of_stages_equals_the_commands() -> None:
    assert {name.removeprefix("steer ") for name in table("| stage | reads |")} == set(cli.commands)


def test_the_table_of_templates_equals_the_code() -> None:
    assert list(table("| template | what the model reads |")) == list(TEMPLATES)


def test_the_columns_of_a_labelled_row_are_told(labelled_row: Row) -> None:
    told = {name.strip("` ") for cell in table("| column | meaning |") for name in cell.split(",")}
    assert set(labelled_row) - {"annotator"} <= told


@pytest.fixture
def labelled_row(tmp_path: Path) -> Row:
    from steer.config import DataConfig, LabelConfig
    from steer.labelling.label import label_command
    from steer.rows import read
    from steer.rows.command import data_command

    data_command(DataConfig("world", str(tmp_path / "logs"), size=50))
    label_command(LabelConfig(str(tmp_path / "logs"), str(tmp_path / "labels"), scorer="human"))
    return next(read(tmp_path / "labels"))
