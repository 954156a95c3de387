"""The configs of examples/just_eval, helpsteer2 and machines, each on a tiny model in place of the one they name."""

from __future__ import annotations

import gzip
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attribute_models import documents
from steer.comparison.command import compare_command
from steer.config.comparison import CompareConfig
from steer.config.iteration import IterateConfig
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.iteration.iterate import prepare_rounds
from steer.labelling.command import fit_command, label_command
from steer.options import resolve
from steer.rows import read_rows
from steer.rows.command import data_command
from steer.training.command import train_command

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MACHINES = ("laptop", "gpu24", "gpus8")


def settings(machine: str, stage: str) -> str:
    """The path of a config."""
    return str(EXAMPLES / "machines" / machine / f"{stage}.yaml")


@pytest.fixture(scope="module")
def just_eval(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scorer and labels of the recipe on some real rows."""
    out = tmp_path_factory.mktemp("just_eval")
    rated, logs = (shared / "data" / f"just_eval_{name}.jsonl.gz" for name in ("rated", "outputs"))
    data = {"source": str(logs), "output": str(out / "logs")}
    data_command(resolve(DataConfig, data, str(EXAMPLES / "just_eval" / "data.yaml")))
    short = [sys.executable, str(EXAMPLES / "short_rows.py"), str(out / "logs"), str(out / "logs.jsonl"), "--rows=300"]
    assert " rows in, 30" in subprocess.run(short, check=True, capture_output=True, text=True).stdout
    fit = {"rows": str(rated), "output": str(out / "scorer")}
    fit_command(resolve(FitConfig, fit, str(EXAMPLES / "just_eval" / "fit.yaml")))
    label = {"rows": str(out / "logs.jsonl"), "output": str(out / "labels"), "scorer": str(out / "scorer")}
    label_command(resolve(LabelConfig, label, str(EXAMPLES / "just_eval" / "label.yaml")))
    return out


def test_rows_for_a_laptop_are_short_and_have_several_answers(just_eval: Path) -> None:
    rows = read_rows(just_eval / "logs.jsonl")
    assert max(len(row["response"].split()) for row in rows) <= 80
    assert max(len(row["response"]) for row in rows) <= 480
    assert len({str(row["prompt"]) for row in rows}) < len(rows) / 1.5


@pytest.mark.parametrize("machine", MACHINES)
def test_training_and_comparison_of_a_machine_can_be_planned(
    machine: str, just_eval: Path, base: Path, tmp_path: Path
) -> None:
    rows: dict[str, Any] = {"rows": str(just_eval / "labels"), "model": str(base), "output": str(tmp_path / "out")}
    plan = train_command(resolve(TrainConfig, {**rows, "dry_run": True}, settings(machine, "train")))
    assert plan.startswith(f"Plan: conditional from {base}")
    more = {"scorer": str(just_eval / "scorer"), "train": settings(machine, "train"), "dry_run": True}
    plan = compare_command(resolve(CompareConfig, rows | more, settings(machine, "compare")))
    assert plan.startswith("6 entries on "), "best of n is one of mle"
    assert "Nothing was done or written" in plan
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("machine", MACHINES)
def test_rounds_of_a_machine_can_be_planned(machine: str, trained: Path, labels: Path, base: Path) -> None:
    flags = {"rows": str(labels), "model": str(base), "scorer": "data_recipes.world_text:Gold", "output": "unused"}
    flags |= {"policy": str(trained), "train": settings(machine, "train")}
    config = resolve(IterateConfig, flags, settings(machine, "iterate"))
    rounds = prepare_rounds(config.rows, config.model, config.scorer, config.policy, Path(config.output), config)
    assert rounds.training.method == "conditional"
    assert not Path("unused").exists()


@pytest.mark.parametrize(("config", "stage"), [(IterateConfig, "iterate"), (CompareConfig, "compare")])
def test_eight_gpus_all_train_and_draw(config: Any, stage: str) -> None:
    flags = {"rows": "rows", "model": "model", "scorer": "scorer", "output": "out"}
    read = resolve(config, flags, settings("gpus8", stage))
    assert read.launch.endswith("--nproc_per_node 8")
    assert read.num_proc == 8


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_names_its_model_on_the_first_level(machine: str) -> None:
    assert "/" in documents.read(settings(machine, "train"))["model"], "run.sh reads it there"


def test_helpsteer2_is_read_by_its_columns(tmp_path: Path) -> None:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    answers = [
        {"prompt": f"Question {i // 2}?", "response": "word " * (i % 7 + 1), **dict.fromkeys(names, i % 5)}
        for i in range(60)
    ]
    rows = tmp_path / "rows.jsonl.gz"
    with gzip.open(rows, "wt") as file:
        file.writelines(json.dumps(answer) + "\n" for answer in answers)
    folder = EXAMPLES / "helpsteer2"
    own = {"rows": str(rows), "output": str(tmp_path / "scorer")}
    said = fit_command(resolve(FitConfig, own, str(folder / "fit.yaml")))
    assert "fit linear: 60 rows in" in said
    own = {"rows": str(rows), "output": str(tmp_path / "labels"), "scorer": str(tmp_path / "scorer")}
    label_command(resolve(LabelConfig, own, str(folder / "label.yaml")))
    assert {*read_rows(tmp_path / "labels")[0]["levels"]} >= {"helpfulness", "complexity", "verbosity"}


def test_rows_that_are_drawn_keep_all_answers_of_a_prompt() -> None:
    some = runpy.run_path(str(EXAMPLES / "short_rows.py"))["some"]
    rows = [{"prompt": str(i // 3), "id": i} for i in range(30)]
    taken = some(rows, 10)
    assert len(taken) == 12
    assert all(sum(r["prompt"] == row["prompt"] for r in taken) == 3 for row in taken)
