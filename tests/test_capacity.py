"""The arithmetic of capacity: every stage with a model by its formula, and the page as the script prints it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.capacity import Measured, asked, computed, table, works

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_page_holds_what_the_script_computes() -> None:
    command = re.search(r"\$ python benchmarks/capacity\.py (.*)", PAGE)
    assert command
    lines = [line for line in PAGE.splitlines() if re.search(r"\| (tokens read.*|GPU hours) \|", line)]
    assert lines == list(computed(asked(command[1].split())))


def test_drawing_reads_a_prompt_once_and_goes_token_by_token() -> None:
    command = (
        "--peak 1e15 --mfu .4 --decode-mfu .05 --parameters 8e9 --prompt 200 --response 100 --responses 4 --draws 3"
    )
    options = asked(f"{command} --rows 1000".split())
    hours = 2 * 8e9 * 250 * (200 / 0.4 + 3 * 100 / 0.05) / 1e15 / 3600  # 1,000 rows of 250 prompts
    [line] = (line for line in computed(options) if line.startswith("| generate | GPU hours |"))
    assert float(line.split("|")[3]) == pytest.approx(hours, rel=0.05)


def test_a_round_is_its_stages_on_logs_and_draws() -> None:
    options = asked(["--peak", "1e15", "--mfu", "0.4", "--draws", "4", "--watch", "0"])  # two draws for each row
    [draws], [scores] = (works(options, 1000)["generate"], works(options, 2000)["label, fitted"])
    assert works(options, 1000)["iterate, a round"][:3] == [draws, scores, *works(options, 3000)["train, LoRA"]]


def test_memory_breaks_first_where_a_logged_row_takes_most_of_it() -> None:
    command = "--peak 1e15 --mfu .4 --rows 1e6 --responses 4 --draws 8 --memory 100"
    options = asked(command.split())
    held = {"train": 500.0, "iterate": 400.0, "compare": 700.0, "prompts": 600.0, "drawn": 3000.0, "dicts": 5000.0}
    disk = {"data": 1.0, "label": 1.0, "rows of train": 1.0}
    lines = list(table(options, Measured({"data": 1.0, "label": 1.0}, disk, held)))
    a_row = {"generate": 8 * 600 / 4, "iterate": 400 + 8 * 3000 / 4, "compare": 700.0}  # GB for 1e9, in bytes
    for name, bytes_ in a_row.items():
        [line] = (line for line in lines if line.startswith(f"| {name} | GB in the command |"))
        assert float(line.split("|")[3]) == pytest.approx(1e6 * bytes_ / 1e9, abs=0.05)
    assert f"first that of `iterate`: a machine with 100 GB ends at about {100e9 / 6400:.1e} logged rows" in lines[-1]
    assert f"`compare` at {100e9 / 700:.1e}, `train` at {100e9 / 500:.1e}" in lines[-1]
