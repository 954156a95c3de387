"""Rounds: relabelled with what was obtained, merged with the logs, the same after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_recipes.world_text import Gold
from steer.config import IterateConfig, TrainConfig
from steer.errors import SteerError
from steer.iterate import goals, iterate
from steer.rows import read_all
from steer.run import read_json
from steer.schema import AttributeSchema
from steer.train import train

GOLD = "data_recipes.world_text:Gold"


@pytest.fixture(scope="module")
def policy(labels: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "policy"
    train(TrainConfig(str(labels), str(tiny), str(folder), adapter="none", learning_rate=1e-2, max_steps=40))
    return folder


def config(labels: Path, tiny: Path, policy: Path, output: Path) -> IterateConfig:
    return IterateConfig(
        str(labels), str(tiny), str(policy), GOLD, str(output), gold=GOLD, rounds=2, prompts=12, max_new_tokens=60
    )


@pytest.fixture(scope="module")
def rounds(labels: Path, tiny: Path, policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("rounds") / "rounds"
    iterate(config(labels, tiny, policy, output))
    return output


def test_fresh_rows_carry_the_levels_they_obtained_not_those_they_were_asked_for(rounds: Path, labels: Path) -> None:
    schema = AttributeSchema.load(labels / "schema.json")
    fresh = read_all(rounds / "round-1" / "fresh.jsonl")
    obtained = [schema.levels(dict(zip(Gold.attributes, map(float, s)))) for s in Gold().score(fresh)]
    assert [{n: row["levels"][n] for n in schema.own} for row in fresh] == obtained
    assert any({n: row["levels"][n] for n in row["target"]} != row["target"] for row in fresh)


def test_every_round_adds_its_rows_to_all_earlier_ones(rounds: Path, labels: Path) -> None:
    counts = [len(read_all(labels))] + [len(read_all(rounds / f"round-{i}" / "rows")) for i in (1, 2)]
    fresh = [len(read_all(rounds / f"round-{i}" / "fresh.jsonl")) for i in (1, 2)]
    assert counts == [counts[0], counts[0] + fresh[0], counts[0] + sum(fresh)]
    assert [f["rows"] for f in read_json(rounds / "done.json")["rounds"]] == counts


def test_the_support_is_counted_anew(rounds: Path, labels: Path) -> None:
    before, after = (AttributeSchema.load(p / "schema.json") for p in (labels, rounds / "round-2" / "rows"))
    fresh = sum(len(read_all(rounds / f"round-{i}" / "fresh.jsonl")) for i in (1, 2))
    assert sum(after.cells.values()) == sum(before.cells.values()) + fresh
    assert [a.edges for a in after.attributes] == [a.edges for a in before.attributes]


@pytest.mark.parametrize("lost", ["round-2/policy", "round-2/fresh.jsonl", "round-1"])
def test_a_killed_loop_ends_the_same(
    lost: str, rounds: Path, labels: Path, tiny: Path, policy: Path, tmp_path: Path
) -> None:
    again = tmp_path / "rounds"
    shutil.copytree(rounds, again)
    (again / "done.json").unlink()
    if lost == "round-1":
        shutil.rmtree(again / "round-2")
        (again / "round-1" / "policy" / "done.json").unlink()
        (again / "round-1" / "rows" / "schema.json").unlink()
    elif lost.endswith("policy"):
        (again / lost / "done.json").unlink()
    else:
        shutil.rmtree(again / "round-2" / "policy")
        shutil.rmtree(again / "round-2" / "rows")
        (again / lost).unlink()
    # The copy stands elsewhere, so the folders that its stages name must too.
    for path in again.rglob("config.json"):
        path.write_text(path.read_text().replace(str(rounds), str(again)))
    iterate(config(labels, tiny, policy, again))
    one, two = (json.loads((p / "done.json").read_text())["rounds"] for p in (rounds, again))
    assert one == two
    assert (rounds / "round-2" / "rows" / "rows.jsonl").read_bytes() == (
        again / "round-2" / "rows" / "rows.jsonl"
    ).read_bytes()


def test_goals_are_supported_and_good(labels: Path) -> None:
    schema = AttributeSchema.load(labels / "schema.json")
    names = schema.own[:3]
    aims = goals(schema, names, 400, 0.5, 0)
    best = schema.best(names)
    assert 0.4 < sum(aim == best for aim in aims) / 400 < 0.75
    supported = schema.supported(names)
    assert all(tuple(aim.values()) in supported for aim in aims)
    values = sorted((schema.value(dict(zip(names, c))) for c in supported), reverse=True)
    assert min(schema.value(aim) for aim in aims) >= values[max(0, len(values) // 10 - 1)]


def test_a_scorer_that_lacks_an_attribute_is_refused(labels: Path, tiny: Path, policy: Path, tmp_path: Path) -> None:
    wrong = IterateConfig(str(labels), str(tiny), str(policy), "countable:words", str(tmp_path / "out"))
    with pytest.raises(SteerError, match="does not score"):
        iterate(wrong)
    assert not (tmp_path / "out").exists()
