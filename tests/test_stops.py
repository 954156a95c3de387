"""`steer iterate` from start to end: a held-out scorer that falls stops it, and the best round is what stays."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
from safetensors.torch import load_file

from data_recipes.world_text import ATTRIBUTES
from steer.config.export import ExportConfig
from steer.config.iteration import IterateConfig
from steer.export.command import export_command
from steer.iteration.command import iterate_command
from steer.run_folder import read_json

ROUNDS = 4


class Watching:
    """Gold that goes as `means` says, a round at a time, whatever the policy writes; prompts differ, and chance is."""

    attributes = ATTRIBUTES
    identity = "watching"  # whatever means are left
    means: ClassVar[list[float]] = []

    def score(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        mean = self.means.pop(0) if len(rows) < 100 else 0.0  # as many are the logs
        scores = np.zeros((len(rows), len(ATTRIBUTES)))
        for i, row in enumerate(rows):
            prompt, chance = (crc32(text.encode()) % 1000 / 1000 for text in (str(row["prompt"]), f"{mean} {i}"))
            scores[i, 0] = mean + 2 * prompt + 0.2 * chance
        return scores


def loop(labels: Path, trained: Path, folder: Path, means: list[float]) -> str:
    """What a loop of four rounds says whose gold has these means."""
    (folder / "train.json").write_text(json.dumps({"adapter": "none", "learning_rate": 1e-3, "max_steps": 2}))
    Watching.means[:] = means
    how: dict[str, Any] = {"prompts_per_round": 8, "max_new_tokens": 60, "train": str(folder / "train.json")}
    how |= {"gold": f"{__name__}:Watching", "rounds": ROUNDS, "method": "conditional"}
    # Only gold: what a model of two layers writes runs into the guards of its form.
    guard = ("kl=0", "length=0", "distinct=0", "repeated=0", "leaked=0", "unfinished=0")
    scorer = "data_recipes.world_text:Gold"
    return iterate_command(
        IterateConfig(
            str(labels), str(trained / "model"), scorer, str(folder / "out"), str(trained), guard=guard, **how
        )
    )


def weights(folder: Path) -> dict[str, Any]:
    return dict(load_file(next(folder.rglob("model.safetensors"))))


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def test_a_fall_of_gold_ends_the_loop_and_the_best_round_is_kept_and_exported(
    labels: Path, trained: Path, tmp_path: Path
) -> None:
    said = loop(labels, trained, tmp_path, [0.0, 1.0, 0.2])
    out = tmp_path / "out"
    done = read_json(out / "done.json")
    folders = [out / f["folder"] for f in done["rounds"]]
    assert [f["round"] for f in done["rounds"]] == [0, 1, 2]
    assert not list(out.glob("round-3-*"))
    best, last = (np.array(read_json(f / "watched.json")["rewards"]["gold"]) for f in folders[1:])
    assert done["stopped"].startswith(f"gold fell by {(best - last).mean():.2f} sd from round 1, more than the ")
    assert f"Stopped after round 2: {done['stopped']}." in said
    kept = f"Kept round 1, with the highest gold reward of the rounds before on held-out prompts: {out / 'policy'}"
    assert said.splitlines()[-3:] == [
        kept,
        "Training took 4 optimizer steps in 2 rounds, each from the base.",
        f"Report: {out / 'report.html'}",
    ]
    report = read_json(out / "report.json")["iterate"]
    assert (report["kept"], report["stopped"], report["rounds"]) == (1, done["stopped"], done["rounds"])
    for page in ("report.html", "report.md"):
        shown = unescape((out / page).read_text()).replace("\u00a0", " ")
        assert f"Stopped after round 2: {done['stopped']}." in shown
        assert kept in shown
    assert (done["kept"], done["policy"]) == (1, str(folders[1] / "policy"))
    assert (out / "policy").resolve() == (folders[1] / "policy").resolve()
    export_command(ExportConfig(str(out / "policy"), str(tmp_path / "exported")))
    one, two = (weights(f / "policy") for f in folders[1:])
    assert equal(weights(tmp_path / "exported"), one)
    assert not equal(one, two)
    assert loop(labels, trained, tmp_path, []) == said  # it is done, and nobody is asked again


def test_a_loop_whose_gold_does_not_fall_goes_on_to_its_end(labels: Path, trained: Path, tmp_path: Path) -> None:
    said = loop(labels, trained, tmp_path, [0.0, 0.6, 1.2, 1.8, 2.4])
    done = read_json(tmp_path / "out" / "done.json")
    assert len(re.findall(r"(?m)^round \d: ", said)) == ROUNDS + 1
    assert f"Ended after {ROUNDS} of {ROUNDS} rounds: no guard stopped the rounds." in said
    assert "Stopped" not in said
    assert (done["stopped"], done["kept"]) == ("", ROUNDS)
    assert not Watching.means  # every round was watched once
