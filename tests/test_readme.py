"""What the pages tell a newcomer to type runs from an empty folder: blocks of bash and Python, and the notebook."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from test_docs import PAGES, WHOLE, page

from steer.cli import main
from steer.rows import read_rows

# Names that need a network, and how long the pages train, in a test.
HUB_ROWS, HUB_MODEL = "hf:nvidia/HelpSteer2#validation", "HuggingFaceTB/SmolLM2-135M-Instruct"
SHORTER = {
    "max_steps=200": "max_steps=3",
    "--max-steps 200": "--max-steps 3",
    "prompts=labelled, scorer": "prompts=labelled, grid=50, num_prompts=20, max_new_tokens=40, resamples=100, scorer",
}


def test_the_two_commands_stand_at_the_top() -> None:
    text = page("README.md")
    first = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]
    assert text.index("make demo") < 700
    assert len(text.splitlines()) <= 150


@pytest.fixture
def empty(labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Work in an empty folder; return what stands for names of the hub: rows in HelpSteer's layout, a tiny model."""
    lines = []
    for row in read_rows(labels):
        good, long = row["levels"]["helpfulness"], row["levels"]["verbosity"]
        scores = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity"), good) | {"verbosity": long}
        lines.append({"prompt": row["prompt"][-1]["content"], "response": row["response"], **scores})
    rows = tmp_path / "hub" / "helpsteer.jsonl"
    rows.parent.mkdir()
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return {HUB_ROWS: str(rows), HUB_MODEL: str(base), **SHORTER}


def blocks(text: str, language: str, names: dict[str, str]) -> str:
    """All blocks of a language on a page, one after the other, with `names` for what a test lacks."""
    found = "\n".join(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL))
    for name, local in names.items():
        found = found.replace(name, local)
    return "\n".join(line for line in found.splitlines() if not line.startswith("make "))


BASH, PYTHON = ([path for path in PAGES if f"```{name}\n" in path.read_text()] for name in ("bash", "python"))


@pytest.mark.parametrize("path", BASH, ids=lambda path: path.name)
def test_every_command_runs_from_an_empty_folder(
    path: Path, empty: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in blocks(path.read_text(encoding="utf-8"), "bash", empty).splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "steer"
        monkeypatch.setattr(sys, "argv", words)
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        assert not code, f"{line}\n{capsys.readouterr().err}"


@pytest.mark.skipif(not WHOLE, reason="the Python API is not there yet")
@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_every_line_of_python_runs_from_an_empty_folder(path: Path, empty: dict[str, str]) -> None:
    exec(compile(blocks(path.read_text(encoding="utf-8"), "python", empty), path.name, "exec"), {})


def cells() -> list[str]:
    """The code cells of the notebook."""
    notebook = json.loads(page("examples/quickstart.ipynb"))
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook_runs_from_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for cell in cells():
        exec(compile(cell, "quickstart.ipynb", "exec"), space)
    dial = space["evaluation"].dial
    assert dial
