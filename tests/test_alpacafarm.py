"""AlpacaFarm (2305.14387): binary FeedME, binary reward conditioning, and the order of its Table 2 in the world."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import steer
from benchmarks.alpacafarm import PUBLISHED, Truth, answers, fixed, of_means, order, table
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

ROOT = Path(__file__).resolve().parents[1]


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
    assert replace(schema, minimum=1).best(("reward",)) == {"reward": 1}
    assert [schema["reward"].level(score) for score in (0.0, 1.0)] == [0, 1]
    assert {tuple(r["levels"]) for r in made} == {("reward",)}
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


def wins(rate: float, of: int = 100) -> np.ndarray[Any, Any]:
    """Whether each of so many prompts is won, this share of them, spread evenly."""
    return (np.arange(of) * rate % 1 + rate >= 1).astype(float)


def test_the_order_of_the_published_table_is_found_where_it_is_and_reversed_where_it_is_not() -> None:
    """Average ranks for what was published as equal: PPO and DPO."""
    rates = {name: rate / 100 for name, (_, rate) in PUBLISHED.items()}
    same = {name: wins(rate) for name, rate in rates.items()}
    methods = [*PUBLISHED]
    exact = spearmanr([same[m].mean() for m in methods], [rates[m] for m in methods]).statistic
    found = order([same] * 3, [0, 1, 2], methods)
    assert found.mean == pytest.approx(exact)
    assert found.mean > 0.95
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert order([{m: 1 - w for m, w in same.items()}] * 3, [0, 1, 2], methods).mean == pytest.approx(-exact)
    mixed = order([same, {m: 1 - w for m, w in same.items()}], [0, 1], methods)
    assert mixed.low < 0 < mixed.high, "two bases that disagree tell nothing"


def test_the_pages_say_how_the_win_rates_of_the_committed_table_are_ordered() -> None:
    root = Path(__file__).parents[1]
    lines = (root / "benchmarks" / "results" / "alpacafarm.md").read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1:-1] for line in lines if re.match(r"\| [A-Z]", line)]
    means = [{m: np.array([float(row[3].split()[0])]) for m, row in zip(PUBLISHED, cells)}]
    assert [float(row[1]) for row in cells] == [value for _, value in PUBLISHED.values()]
    found = [of_means(means, methods) for methods in (list(PUBLISHED), [m for m in PUBLISHED if m != "dpo"])]
    page = (root / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"{found[0]:.2f} for the win-rates of the table" in page
    assert f"0.70, 0.96] and {found[1]:.2f}**" in page
    assert f"Of the mean win-rates: {found[0]:.2f}; without DPO {found[1]:.2f}." in "\n".join(lines)


def test_the_table_has_win_rates_in_per_cent_and_what_they_are_above_those_of_sft() -> None:
    each = {name: wins(0.5 if name == "ppo" else 0.25) for name in PUBLISHED}
    lines = table([each, each], [0, 1], "best_of=64").splitlines()
    assert lines[2].startswith("| PPO | 46.8 | +10.1 | 50.0 [")
    assert "| 25.0 [" in lines[2]
    assert lines[4].startswith("| Best-of-n, best_of=64 | 45.0 | +8.3 | 25.0 [")
    assert lines[6].startswith("| SFT 10k | 36.7 | - | 25.0 [")
    assert lines[6].endswith("| - |")
    other = {name: 1 - w for name, w in each.items()}
    lines = table([each, other], [0, 1], "best_of=64").splitlines()
    assert "| 50.0 [0.0, 100.0] |" in lines[3], "bases that disagree leave any share, and no more than that"
    assert lines[2].endswith("| 0.0 [-100.0, 100.0] |")


def test_the_fixed_answer_is_the_better_logged_one_by_the_truth() -> None:
    asked = "tell me about bees for a short report."
    good, bad = (row(asked, text, 0.0) for text in ("bees give honey. bees have wings.", "maybe perhaps."))
    [best] = fixed([bad, good, {**bad, "id": "again"}]).values()
    assert best == good
    assert float(Truth().score([good])[0, 0]) > float(Truth().score([bad])[0, 0])


def test_a_method_without_answers_is_named(tmp_path: Path) -> None:
    for name in ("answers-none-best_of=4", "answers-none-best_of=16"):
        (tmp_path / "best-of" / "runs" / "prompted-seed0" / name).mkdir(parents=True)
        (tmp_path / "best-of" / "runs" / "prompted-seed0" / name / "answers.jsonl").touch()
    assert answers(tmp_path, "prompted", 0).parent.name == "answers-none-best_of=16"
    with pytest.raises(SystemExit, match="ppo with seed 0 has no answers; the report of its comparison says why"):
        answers(tmp_path, "ppo", 0)


@pytest.mark.slow
def test_the_published_table_is_made_again_at_toy_size(tmp_path: Path) -> None:
    """Two bases, every method of the table and the order of both; the same command goes on where it stopped."""
    script = ["bash", str(ROOT / "benchmarks" / "alpacafarm.sh"), str(tmp_path / "out"), "--toy"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    first = subprocess.run(script, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr[-2000:]
    lines = [line for line in first.stdout.splitlines() if line.startswith("|")]
    assert [line.split(" |")[0].strip("| ").split(",")[0] for line in lines[2:]] == [n for n, _ in PUBLISHED.values()]
    assert "2 bases, 2 repetitions, " in first.stdout
    assert re.search(r"Spearman of the two orders, mean over repetitions: -?[0-9.]+ \[", first.stdout)
    again = subprocess.run(script, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[2:] == first.stdout.splitlines()[2:]


@pytest.mark.parametrize("method", ["binary-reward-conditioning", "directional"])
def test_a_policy_with_conditions_of_its_own_is_judged_by_the_scorer_and_has_no_dial(
    method: str, labels: Path, tiny: Path, tmp_path: Path
) -> None:
    """Its schema describes its conditions: neither is the unit of the reward in it nor what a grid asks for."""
    steer.train(str(labels), model=str(tiny), method=method, max_steps=1, lora_r=2).save(tmp_path / "policy")
    logged = (("bees", "bees give honey."), ("owls", "thanks! maybe owls eat moths."))
    rows = [{"prompt": f"tell me about {x}.", "response": text, "split": "test"} for x, text in logged]
    found = steer.evaluate(
        {method: str(tmp_path / "policy")}, prompts=rows, gold="data_recipes.world_text:Gold", max_new_tokens=8, grid=4
    )
    assert not found.result["dials"]
    assert found.result["behaviour"]["names"] == ["helpfulness", "correctness", "verbosity", "warmth", "hedging"]
