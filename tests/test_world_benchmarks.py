"""Benchmarks on the folder of `steer world`: what rewarded soups reach, and what flipped votes cost."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import flips, soups
from data_recipes.world_text import ATTRIBUTES, gold
from steer.config.labelling import FitConfig
from steer.labelling.command import fit_command
from steer.rows.labelled import Labelled
from steer.run_folder import read_json, slug
from steer.training.loop import Loop

ROOT = Path(__file__).resolve().parents[1]
MADE = [f"soup, {share:g} for warmth" for share in (0, 0.25, 0.5, 0.75, 1)]


@pytest.fixture(scope="module")
def world(labels: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What benchmarks read of a folder of `steer world --bases 2`; the second base has smaller weights."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "logs").symlink_to(labels.parent / "logs")
    (folder / "labels").symlink_to(labels)
    for name, factor in (("base", 1.0), ("base-1", 0.9)):
        weights = shutil.copytree(trained / "model", folder / name / "model") / "model.safetensors"
        save_file({n: factor * x for n, x in load_file(weights).items()}, weights, metadata={"format": "pt"})
    fit_command(FitConfig(str(folder / "logs"), str(folder / "scorer")))
    return folder


@contextmanager
def stopped_after(steps: int) -> Iterator[None]:
    """Stop what trains in the block after so many steps of all its runs together."""

    def step(self: Loop, *inputs: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(self, *inputs)

    whole, left = Loop._step, iter(range(steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            yield


def written(out: Path) -> dict[str, int]:
    """When each policy was written."""
    files = out.rglob("adapter_model.safetensors")
    return {str(path.parent.relative_to(out)): path.stat().st_mtime_ns for path in files}


def added(policy: Path) -> torch.Tensor:
    """What a policy adds to the weights of its base, alpha / r B A of all layers in one vector."""
    config, state = read_json(policy / "adapter_config.json"), load_file(policy / "adapter_model.safetensors")
    names = sorted(name for name in state if ".lora_A." in name)
    parts = [state[name.replace(".lora_A.", ".lora_B.")].double() @ state[name].double() for name in names]
    return config["lora_alpha"] / config["r"] * torch.cat([part.ravel() for part in parts])


def cells(text: str) -> dict[str, list[str]]:
    """Cells of a Markdown table by the first of each line, without its head."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines[2:]}


def test_the_line_lies_between_the_ingredients_by_the_share_of_warmth() -> None:
    """Intervals do not matter to it, and the logs have no KL."""
    means = {"logs": (1.5, 2.0), MADE[0]: (3.0, 2.0), **dict.fromkeys(MADE[1:4], (2.5, 3.0)), MADE[4]: (1.0, 3.2)}
    described = [
        {
            "name": name,
            "attributes": {n: {"mean": x, "low": None, "high": None} for n, x in zip(soups.WANTED, pair)},
            "kl": None if name == "logs" else {"mean": 1.25, "low": 1.0, "high": 1.5},
        }
        for name, pair in means.items()
    ]
    described[2]["attributes"]["warmth"] |= {"low": 2.9, "high": 3.1}
    found = cells(soups.table({"systems": described}))
    assert list(found) == list(means)
    assert found["logs"] == ["1.50", "-", "2.00", "-", "-"]
    assert found[MADE[0]] == ["3.00", "3.00", "2.00", "2.00", "1.25"]
    quarter = [0.75 * 3.0 + 0.25 * 1.0, 0.75 * 2.0 + 0.25 * 3.2]
    assert found[MADE[1]] == ["2.50", f"{quarter[0]:.2f}", "3.00 [2.90, 3.10]", f"{quarter[1]:.2f}", "1.25"]
    assert [found[MADE[3]][i] for i in (1, 3)] == [
        f"{x:.2f}" for x in (0.25 * 3.0 + 0.75 * 1.0, 0.25 * 2.0 + 0.75 * 3.2)
    ]
    assert [found[MADE[4]][i] for i in (1, 3)] == ["1.00", "3.20"]


def test_a_reward_of_soups_leaves_out_every_attribute_that_it_does_not_name() -> None:
    kept = {reward: {*ATTRIBUTES} - {*neither} for reward, neither in soups.REWARDS.items()}
    assert kept == {"helpfulness": {"helpfulness"}, "warmth": {"warmth"}, "both": {"helpfulness", "warmth"}}


def test_the_page_has_the_committed_table_of_soups_and_what_it_says_of_it() -> None:
    committed = (ROOT / "benchmarks" / "results" / "soups.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert "\n".join(line for line in committed.splitlines() if line.startswith("|")) in page
    found = cells(committed)
    assert list(found) == ["logs", "mle", "dpo for both", *MADE]
    for i in (0, 2):
        mean, line = ([float(found[name][j].split()[0]) for name in MADE] for j in (i, i + 1))
        assert line == pytest.approx([mean[0] + k / 4 * (mean[4] - mean[0]) for k in range(5)], abs=0.011)
        assert all(x > y for x, y in zip(mean[1:4], line[1:4])), "the page says that every soup is above the line"


def test_votes_differ_where_they_are_flipped_and_nowhere_else(labels: Path, tmp_path: Path) -> None:
    """Whoever learns from them learns that the rejected answer was better; asked again, the pool is not."""
    (tmp_path / "logs").symlink_to(labels.parent / "logs")
    places = [flips.votes(tmp_path, tmp_path, share) for share in (0.25, 0.0)]
    files = [tmp_path / f"votes-{share}" / "rows.jsonl" for share in ("0.25", "0")]
    wrong, plain = ({(p := json.loads(line))["id"]: p for line in f.read_text().splitlines()} for f in files)
    assert wrong.keys() == plain.keys()
    assert [wrong[key]["flipped"] for key in wrong] == [wrong[key]["chosen"] != plain[key]["chosen"] for key in wrong]
    assert not any(pair["flipped"] for pair in plain.values())
    assert not any(pair["flipped"] for pair in wrong.values() if pair["split"] == "test")
    training = [pair["flipped"] for pair in wrong.values() if pair["split"] == "train"]
    assert abs(sum(training) / len(training) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(training))
    for place, pairs in zip(places, (wrong, plain)):
        better = {row["group"]: row["response"] for row in Labelled.read(str(place)).rows if row["reward"] > 0}
        assert sorted(better.values()) == sorted(pair["chosen"][0]["content"] for pair in pairs.values())
    times = [path.stat().st_mtime_ns for path in (*files, *(place / "rows.jsonl" for place in places))]
    assert [flips.votes(tmp_path, tmp_path, share) for share in (0.25, 0.0)] == places
    assert [path.stat().st_mtime_ns for path in (*files, *(place / "rows.jsonl" for place in places))] == times


@pytest.mark.slow
def test_soups_are_made_and_tabled_at_toy_size(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two bases; stopped while it trains for warmth on the first, the same command goes on."""
    monkeypatch.setattr(soups, "FIRST", 2)
    monkeypatch.setattr(soups, "STEPS", 4)
    out = tmp_path / "out"
    with stopped_after(2 + 4 + 1):
        soups.main(world, out)
    before = written(out)
    assert before.keys() == {"base/mle", "base/helpfulness"}
    soups.main(world, out)
    first = capsys.readouterr().out
    after = written(out)
    assert after.items() >= before.items(), "what was finished is trained again"
    assert len(after) == 2 * (4 + 5)
    soups.main(world, out)
    assert written(out) == after
    assert capsys.readouterr().out.partition("\n\n")[2] == first.partition("\n\n")[2]

    for base in ("base", "base-1"):
        one, other, start = (added(out / base / name) for name in ("helpfulness", "warmth", "mle"))
        assert min(float((x - start).norm()) for x in (one, other)) > 1e-3 * float(start.norm())
        assert float((one - other).norm()) > 1e-3 * float(start.norm())
        for share in (0, 0.25, 0.5, 0.75, 1):
            wanted = (1 - share) * one + share * other
            assert torch.allclose(added(out / base / f"soup-{share:g}"), wanted, rtol=0, atol=1e-6)
    for reward in ("helpfulness", "warmth"):
        rows = Labelled.read(str(out / f"labels-{reward}")).rows
        scored = {
            n: np.corrcoef([r["reward"] for r in rows], [r["predicted"][n] for r in rows])[0, 1] for n in ATTRIBUTES
        }
        assert {n for n, found in scored.items() if found > 0.999} == {reward}

    assert "; 2 bases.\n" in first
    found = cells(first)
    assert list(found) == ["logs", "mle", "dpo for both", *MADE]
    for name in list(found)[1:]:
        files = [out / "report" / "runs" / f"{slug(name)}-seed{i}" / "answers-plain" / "answers.jsonl" for i in (0, 1)]
        answers = [[json.loads(line) for line in path.read_text().splitlines()] for path in files]
        scores = np.mean([[gold(a["prompt"][-1]["content"], a["response"]) for a in each] for each in answers], (0, 1))
        for cell, attribute in ((0, "helpfulness"), (2, "warmth")):
            assert float(found[name][cell].split()[0]) == pytest.approx(scores[ATTRIBUTES.index(attribute)], abs=0.0051)
    for i in (0, 2):
        ends = [float(found[name][i].split()[0]) for name in (MADE[0], MADE[4])]
        for k, name in enumerate(MADE):
            assert float(found[name][i + 1]) == pytest.approx(ends[0] + k / 4 * (ends[1] - ends[0]), abs=0.0101)


@pytest.mark.slow
def test_arms_of_flipped_votes_are_trained_and_judged_at_toy_size(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped while it trains, the same command goes on; more seeds train only what they add, at the chosen rates."""
    monkeypatch.setattr(flips, "HOW", flips.HOW | {"max_steps": 4})
    out = tmp_path / "out"
    with stopped_after(4 + 4 + 1):
        flips.main(world, out, 1)
    before = written(out)
    assert before.keys() == {"mle", "dpo-0-0-0"}
    flips.main(world, out, 1)
    first, one = capsys.readouterr().out, written(out)
    assert one.items() >= before.items(), "what was finished is trained again"
    assert one.keys() == {"mle", *(f"dpo-{arm}-{rate}-0" for arm in range(4) for rate in range(len(flips.RATES)))}
    flips.main(world, out, 1)
    assert written(out) == one
    assert capsys.readouterr().out.splitlines()[:-1] == first.splitlines()[:-1]  # its last line has a date
    flips.main(world, out, 2)
    second, both = capsys.readouterr().out, written(out)
    assert both.items() >= one.items()
    best = []
    for arm in range(4):
        proxy = {s["name"]: s["proxy"]["mean"] for s in read_json(out / f"tried-{arm}" / "report.json")["systems"]}
        best.append(max(range(len(flips.RATES)), key=lambda i: proxy[f"rate {flips.RATES[i]:.3g}"]))
    assert both.keys() - one.keys() == {f"dpo-{arm}-{rate}-1" for arm, rate in enumerate(best)}

    asked = {name: read_json(out / name / "config.json") for name in both if name != "mle"}
    for name, config in asked.items():
        arm, rate, seed = (int(x) for x in name.split("-")[1:])
        assert (config["learning_rate"], config["seed"]) == (flips.RATES[rate], seed)
        learned = [("labels-0.25", [])] + [("labels-0.25", ["flips=0.25", *more]) for more in ([], ["robust=true"])]
        assert (Path(config["rows"]).name, config["set"]) == [*learned, ("labels-0", [])][arm]
    own = ("rows", "set", "seed", "inputs", "learning_rate")
    assert len({json.dumps({k: v for k, v in config.items() if k not in own}) for config in asked.values()}) == 1
    assert {read_json(out / name / "done.json")["steps"] for name in asked} == {4}
    moved = {name: added(out / name) - added(out / "mle") for name in asked}
    assert min(float(x.norm()) for x in moved.values()) > 0
    for name, x in moved.items():
        near = [other for other, y in moved.items() if float((x - y).norm()) <= 1e-3 * float(x.norm())]
        assert near == [name], f"{name} is trained as {near} are"

    for text, seeds in ((first, 1), (second, 2)):
        report = read_json(out / f"report-{seeds}" / "report.json")
        names = ["dpo", "dpo:flips 0.25 (cDPO)", "dpo:flips 0.25,robust true (rDPO)", "dpo, no vote flipped", "mle"]
        assert {s["name"] for s in report["systems"]} == {"logs", *names}
        assert report["baseline"] == "dpo"
        lines = {name: [line for line in text.splitlines() if line.startswith(f"{name}  ")] for name in names}
        assert {len(found) for found in lines.values()} == {1}
        for system in report["systems"]:
            if system["name"] in names:
                assert f" {system['gold']['mean']:.2f} " in lines[system["name"]][0].replace("+", "")
        told = [int(count) for count in re.findall(r"^annotate: .* \((\d+) votes flipped", text, re.MULTILINE)]
        rows = [json.loads(line) for line in (out / "votes-0.25" / "rows.jsonl").read_text().splitlines()]
        assert len(told) == 2
        assert told[0] >= sum(row["flipped"] for row in rows) > told[1] == 0  # a flipped tie is no pair
