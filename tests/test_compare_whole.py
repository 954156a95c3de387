"""The whole field at toy size: every entry of the full suite is tuned, run and judged, with frontiers and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer.comparison.command import compare_command
from steer.comparison.entry import unique
from steer.comparison.settings import SUITES
from steer.config.comparison import CompareConfig
from steer.run_folder import read_json

TOLD = {"prompted", "few-shot"}  # the toy base has no chat template, so nothing can be told in words


@pytest.mark.slow
def test_the_full_suite_is_tuned_run_and_judged(labels: Path, trained: Path, tmp_path: Path) -> None:
    methods = tuple(spec.replace("prompts_per_round=500", "prompts_per_round=12") for spec in SUITES["full"]["method"])
    methods = tuple(spec.replace("rest-em:", "rest-em:threshold=-9,") for spec in methods)  # the toy draws nothing good
    (tmp_path / "train.yaml").write_text("max_steps: 2\nlora_r: 2\nbatch_size: 4\nlearning_rate: 1e-3\n")
    how: dict[str, Any] = {"gold": "data_recipes.world_text:Gold", "num_prompts": 6, "grid": 12, "max_new_tokens": 60}
    how |= {"method": methods, "tune": 2, "tune_prompts": 6, "resamples": 50, "train": str(tmp_path / "train.yaml")}
    compare_command(CompareConfig(str(labels), str(trained), str(tmp_path / "out"), **how))
    report = read_json(tmp_path / "out" / "report.json")
    lost = {f["name"]: f["error"] for f in report["failures"]}
    assert {name.partition(":")[0] for name in lost} <= TOLD, lost
    run = {s["name"].partition(":")[0].partition(" @")[0] for s in report["systems"]}
    assert run >= {e.method for e in unique(methods)} - TOLD
    assert {"logs", "base"} <= run
    tuned = {e["name"]: e for e in report["tuning"]["entries"]}
    assert {e["runs"] for e in tuned.values()} == {2}
    assert {n.partition(":")[0] for n in tuned} == {e.method for e in unique(methods) if not e.untrained}
    differences = [s["difference"] for s in report["systems"] if s["difference"]]
    assert len(differences) > len(methods)
    assert {d["verdict"] for d in differences} <= {"yes", "no", "not told apart", "-"}
    families = {f["name"]: f for f in report["frontiers"]["families"]}
    assert (families["rwr"]["points"], families["raft:after=mle"]["points"]) == (3, 3)
    assert {*families["rwr"]["volumes"], "seconds"} == {"kl", "words", "seconds", "tokens", "answer_tokens"}
    assert report["choices"]
