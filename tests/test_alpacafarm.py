"""What AlpacaFarm (2305.14387) names: binary FeedME and binary reward conditioning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steer.comparison.command import compare_command
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.methods import METHODS, binary_reward_conditioning, feedme
from steer.methods.base import Candidates
from steer.rows import Row
from steer.rows.labelled import Labelled
from steer.rows.schema import Attribute, Schema
from steer.run_folder import read_json
from steer.training.prepare import conditioned, grouped
from steer.training.settings import TrainSettings


def row(prompt: str, response: str, reward: float, group: str = "", **more: Any) -> Row:
    """A rewarded row; with a group, its reward is a preference inside of it."""
    scores = {"scores": {"preference": reward}, "group": group} if group else {}
    turns = [{"role": "user", "content": prompt}]
    return (
        {"id": f"{prompt} {response} {group}", "prompt": turns, "response": response, "reward": reward} | scores | more
    )


PAIRS = [
    *(row("p", *each) for each in (("a", 1.0, "1"), ("b", 0.0, "1"), ("c", 0.0, "2"), ("a", 1.0, "2"))),
    *(row("q", *each) for each in (("d", 1.0, "3"), ("e", 0.0, "3"), ("d", 0.0, "4"), ("f", 1.0, "4"))),
]
SCORED = [row("p", "a", 0.5), row("p", "b", 2.0), row("p", "c", -1.0), row("q", "d", 1.0), row("q", "e", 1.0)]
HELP = Schema((Attribute("help", 0, 4, edges=(2.0,), shown=("0", "1"), centres=(1.0, 3.0), counts=(1, 1)),))


def texts(rows: list[Row]) -> list[str]:
    return [r["response"] for r in rows]


def test_feedme_learns_the_chosen_response_of_every_pair() -> None:
    found = [group.rows[0] for group in feedme.groups(PAIRS)]
    assert texts(found) == ["a", "a", "d", "f"], "once for each comparison that it won"
    assert texts([group.rows[0] for group in feedme.groups(SCORED)]) == ["b"], "of equal ones nothing was chosen"
    with pytest.raises(SteerError, match="no prompt has two responses with different rewards"):
        feedme.groups(SCORED[2:])


def test_the_loss_of_both_is_likelihood() -> None:
    logps = torch.tensor([[[-1.0, -2.0, 9.0]]])
    c = Candidates(torch.tensor([[[True, True, False]]]), torch.zeros(1, 1))
    for name in ("feedme", "binary-reward-conditioning"):
        assert float(METHODS[name].total(logps, c, METHODS[name].settings())) == 3.0


def test_chosen_and_rejected_are_the_condition_whatever_levels_the_rows_have() -> None:
    rows = [{**r, "levels": {"help": 1}} for r in PAIRS]
    made, schema = binary_reward_conditioning.binary(rows, HELP, binary_reward_conditioning.Settings())
    levels = sorted((r["response"], r["levels"]["reward"]) for r in made)
    assert levels == [("a", 1), ("a", 1), ("b", 0), ("c", 0), ("d", 0), ("d", 1), ("e", 0), ("f", 1)]
    assert (schema.names, schema.cells) == (("reward",), {(1,): 4, (0,): 4})
    assert schema.minimum == HELP.minimum
    every = binary_reward_conditioning.Settings(pairing="all")
    levels = [(r["response"], r["levels"]["reward"]) for r in binary_reward_conditioning.binary(SCORED, HELP, every)[0]]
    assert sorted(levels) == [("a", 0), ("a", 1), ("b", 1), ("b", 1), ("c", 0), ("c", 0)]


def test_training_reads_the_condition_though_the_rows_have_no_such_attribute() -> None:
    """The conditions of a run are those of the rows' attributes, and here the method brings its own."""
    method, options = METHODS["binary-reward-conditioning"], TrainSettings(template="tags")
    labelled = Labelled([{**r, "levels": {"help": 1}, "split": "train"} for r in PAIRS], HELP)
    made = conditioned(labelled, method, options)
    _, groups, made = grouped(labelled.rows, method, method.settings(), made, "here")
    assert made is not None
    assert made.names == ("reward",)
    assert {(g.rows[0]["response"], made.text(g.rows[0]["levels"])) for g in groups} >= {
        ("b", "<reward>0\n"),
        ("f", "<reward>1\n"),
    }


def test_both_are_entries_of_a_comparison(labels: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("max_steps: 1\nlora_r: 2\nbatch_size: 4\n")
    how: dict[str, Any] = {"gold": "data_recipes.world_text:Gold", "num_prompts": 4, "grid": 8, "max_new_tokens": 4}
    how |= {"method": ("feedme:after=mle", "binary-reward-conditioning"), "train": str(tmp_path / "train.yaml")}
    how |= {"target": ("best", "warmth=0"), "resamples": 20}
    compare_command(CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), **how))
    report = read_json(tmp_path / "out" / "report.json")
    names = {s["name"] for s in report["systems"]}
    assert names == {"logs", "base", "feedme:after=mle", "binary-reward-conditioning @ best"}
    assert not report["failures"]
    assert any(note.startswith("binary-reward-conditioning: its conditions are no levels") for note in report["notes"])
    answers = tmp_path / "out" / "runs" / "binary-reward-conditioning-seed0" / "answers-best" / "answers.jsonl"
    assert '"target": {"reward": 1}' in answers.read_text(), "drawn at the upper level"
