"""Real input from the folder beside the repository: ratings by people, stories, and a model that writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from steer.config.labelling import FitConfig, LabelConfig
from steer.config.training import TrainConfig
from steer.generation.engines import respond
from steer.generation.generate import held_out_prompts
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.labelling.command import fit_command, label_command
from steer.models.policy import load_policy
from steer.rows import read_rows
from steer.run_folder import read_json
from steer.training.command import train_command

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize(("name", "floor"), [("nlg_novikova", 0.25), ("summeval", 0.2)])
def test_human_ratings_are_fitted_and_label_every_row(name: str, floor: float, shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / f"{name}.jsonl.gz"
    said = fit_command(FitConfig(str(source), str(tmp_path / "scorer")))
    report = read_json(tmp_path / "scorer" / "done.json")["report"]
    assert all(figures["spearman"] > floor for figures in report)
    assert all(figures["attribute"] in said for figures in report)
    label_command(LabelConfig(str(source), str(tmp_path / "labels"), scorer=str(tmp_path / "scorer")))
    rows = read_rows(tmp_path / "labels")
    assert len(rows) == read_json(tmp_path / "labels" / "done.json")["rows"]
    for row in rows:
        assert set(row["predicted"]) == set(row["scores"]) == set(row["levels"]) - {"reward"}


@pytest.fixture
def stories(shared: Path, tmp_path: Path) -> Path:
    """Labelled paragraphs of TinyStories."""
    source, rows = shared / "data" / "tinystories_sample.txt.gz", tmp_path / "stories.jsonl"
    subprocess.run([sys.executable, EXAMPLES / "stories.py", source, rows], check=True)
    scorer = "countable:words,dialogue_share"
    label_command(LabelConfig(str(rows), str(tmp_path / "labels"), scorer=scorer, bins="quantile", levels=3))
    return tmp_path / "labels"


def test_a_real_model_learns_from_stories_and_answers_at_targets(stories: Path, shared: Path, tmp_path: Path) -> None:
    """A short run: the loss falls, the responses are text of the stories' kind, and end."""
    model = tmp_path / "model"
    subprocess.run([sys.executable, EXAMPLES / "story_model.py", shared / "models" / "stories260K", model], check=True)
    config = TrainConfig(
        str(stories),
        str(model),
        str(tmp_path / "policy"),
        learning_rate=1e-2,
        max_length=200,
        max_steps=30,
        logging_steps=1,
    )
    train_command(config)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "policy" / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    policy = load_policy(str(tmp_path / "policy"))
    prompts = held_out_prompts(str(stories), 0.1, 0, 8)
    drawn = respond(policy, [Request(p, {"words": 0}) for p in prompts], Sampling(max_new_tokens=150))
    assert sum(r.finished for r in drawn) >= 4
    assert all("<words>" not in r.text for r in drawn)


@pytest.mark.slow
def test_the_example_steers_length_and_dialogue(shared: Path, tmp_path: Path) -> None:
    """The whole example, as a user runs it: asked for more, the stories have more."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        [
            "bash",
            EXAMPLES / "steer_stories.sh",
            shared / "models/stories260K",
            shared / "data/tinystories_sample.txt.gz",
        ],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PATH": path},
    )
    means = {
        name: {a: sum(r["predicted"][a] for r in rows) / len(rows) for a in ("words", "dialogue_share")}
        for name in ("words=0", "words=2", "dialogue_share=low", "dialogue_share=high")
        if (rows := read_rows(tmp_path / "stories" / f"{name}-obtained"))
    }
    assert means["words=2"]["words"] > 2 * means["words=0"]["words"]
    assert means["dialogue_share=high"]["dialogue_share"] > 1.3 * means["dialogue_share=low"]["dialogue_share"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "inputs", "methods"),
    [
        ("just_eval", ("just_eval_rated", "just_eval_outputs"), "mle kto:after=mle conditional"),
        ("preferences", ("pairs_cragc25", "cragc25"), "mle mle:best_of=2 kto:after=mle"),
    ],
)
def test_a_comparison_on_real_logs_runs_at_toy_size(
    script: str, inputs: tuple[str, ...], methods: str, shared: Path, tmp_path: Path
) -> None:
    """Every method is judged by a scorer of other prompts; the same command goes on where it stopped."""
    model = tmp_path / "model"
    subprocess.run([sys.executable, EXAMPLES / "story_model.py", shared / "models" / "stories260K", model], check=True)
    files = [str(shared / "data" / f"{name}.jsonl.gz") for name in inputs]
    command = ["bash", str(EXAMPLES.parent / "benchmarks" / f"{script}.sh"), str(model), *files, str(tmp_path / "out")]
    size = {"STEPS": "2", "PROMPTS": "4", "ROWS": "300", "LENGTH": "500", "METHODS": methods}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = partial(subprocess.run, command, env={**os.environ, **size, "PATH": path}, capture_output=True, text=True)
    first = run(check=False)
    assert first.returncode == 0, first.stderr[-2000:]
    report = read_json(tmp_path / "out" / "compared" / "report.json")
    names = {system["name"].split(" @ ")[0] for system in report["systems"]}
    assert {*methods.split(), "base", "logs"} <= names
    assert all(system["gold"]["mean"] is not None for system in report["systems"])
    assert not report["failures"]
    run(check=True)
    assert read_json(tmp_path / "out" / "compared" / "report.json")["systems"] == report["systems"]
