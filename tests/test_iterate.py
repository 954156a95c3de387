"""Rounds: relabelled with what was obtained, merged with the logs, the same after a kill."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_recipes.world_text import Gold
from steer.comparison.comparison import Comparison
from steer.config.comparison import CompareConfig
from steer.config.iteration import IterateConfig
from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.evaluate import evaluate
from steer.generation.requests import with_room
from steer.iteration.command import iterate_command
from steer.iteration.fresh import above
from steer.iteration.goals import goals, pareto
from steer.iteration.iterate import iterate, training_of
from steer.iteration.pool import requantised
from steer.labelling.command import label_command
from steer.labelling.scorer import Scorer
from steer.models.card import Card
from steer.models.policy import load_policy
from steer.options import resolve
from steer.rows import prompt_key, read_rows
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import read_json, write_json
from steer.training.command import train_command

GOLD = "data_recipes.world_text:Gold"


@pytest.fixture(scope="module")
def policy(labels: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "policy"
    train_command(TrainConfig(str(labels), str(tiny), str(folder), adapter="none", learning_rate=1e-2, max_steps=40))
    return folder


def config(labels: Path, tiny: Path, policy: Path, output: Path) -> IterateConfig:
    return IterateConfig(
        str(labels),
        str(tiny),
        GOLD,
        str(output),
        str(policy),
        gold=GOLD,
        rounds=2,
        prompts_per_round=12,
        max_new_tokens=60,
        watch=10,
        guard=("off",),
    )


def at(output: Path, number: int) -> Path:
    """The folder of a round."""
    (found,) = output.glob(f"round-{number}-*")
    return found


@pytest.fixture(scope="module")
def rounds(labels: Path, tiny: Path, policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("rounds") / "rounds"
    iterate_command(config(labels, tiny, policy, output))
    return output


def test_no_more_prompts_are_read_than_are_asked(labels: Path, policy: Path) -> None:
    rows = read_rows(labels)[:9]
    left = iter(rows)
    assert with_room(load_policy(str(policy), device="meta"), left, most=3) == rows[:3]
    assert next(left) == rows[3]


def test_prompts_that_are_too_long_are_counted_and_not_asked(
    labels: Path, tiny: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One long prompt of the logs, which training passes over, used to end the rounds after round 0."""
    rows = read_rows(labels)[:100]
    for split in ("train", "test"):
        key = next(prompt_key(row) for row in rows if row["split"] == split)
        for row in (row for row in rows if prompt_key(row) == key):
            row["prompt"] = [{"role": "user", "content": "tell me about bees. " * 400}]
    replace(Labelled.read(labels), rows=rows).save(tmp_path / "long")
    setup = config(tmp_path / "long", tiny, policy, tmp_path / "out")
    setup = replace(setup, rounds=1, prompts_per_round=1000, watch=1000, max_new_tokens=8, any_form=True)
    plan = iterate_command(replace(setup, dry_run=True))
    assert "1 longer prompts are not asked" in capsys.readouterr().err
    iterate_command(setup)
    prompts = {split: {prompt_key(row) for row in rows if row["split"] == split} for split in ("train", "test")}
    assert f"({len(prompts['train']) - 1} prompts x 1)" in plan
    assert f"{len(prompts['test']) - 1} held-out prompts" in plan
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 0}
    comparison = Comparison(CompareConfig(str(tmp_path / "long"), str(tiny), "out", **how), tmp_path)
    assert len(comparison.examination.prompts) == len(prompts["test"]) - 1
    found = evaluate(str(policy), prompts=str(tmp_path / "long"), grid=0, resamples=20, max_new_tokens=4, **how)
    assert found.result["prompts"] == len(prompts["test"]) - 1


def test_fresh_rows_carry_the_levels_they_obtained_not_those_they_were_asked_for(rounds: Path, labels: Path) -> None:
    schema = Schema.load(labels / "schema.json")
    fresh = read_rows(at(rounds, 1) / "fresh.jsonl")
    obtained = [schema.levels(dict(zip(Gold.attributes, map(float, s)))) for s in Gold().score(fresh)]
    assert [{n: row["levels"][n] for n in schema.own} for row in fresh] == obtained
    assert any({n: row["levels"][n] for n in row["target"]} != row["target"] for row in fresh)


def test_every_round_adds_its_rows_to_all_earlier_ones(rounds: Path, labels: Path) -> None:
    counts = [len(read_rows(labels))] + [len(read_rows(at(rounds, i) / "rows")) for i in (1, 2)]
    fresh = [len(read_rows(at(rounds, i) / "fresh.jsonl")) for i in (1, 2)]
    assert counts == [counts[0], counts[0] + fresh[0], counts[0] + sum(fresh)]
    assert [f["rows"] for f in read_json(rounds / "done.json")["rounds"]] == counts


def test_the_support_is_counted_anew(rounds: Path, labels: Path) -> None:
    before, after = (Schema.load(p / "schema.json") for p in (labels, at(rounds, 2) / "rows"))
    fresh = sum(len(read_rows(at(rounds, i) / "fresh.jsonl")) for i in (1, 2))
    assert sum(after.cells.values()) == sum(before.cells.values()) + fresh
    assert [a.edges for a in after.attributes] == [a.edges for a in before.attributes]


def test_goals_are_supported_and_good(labels: Path) -> None:
    schema = Schema.load(labels / "schema.json")
    names = schema.own[:3]
    aims = goals(schema, names, 400, 0.5, 0)
    best = schema.best(names)
    assert 0.4 < sum(aim == best for aim in aims) / 400 < 0.75
    supported = schema.supported(names)
    assert all(tuple(aim.values()) in supported for aim in aims)
    values = sorted((schema.value(dict(zip(names, c))) for c in supported), reverse=True)
    assert min(schema.value(aim) for aim in aims) >= values[max(0, len(values) // 10 - 1)]


def test_pareto_goals_are_beaten_by_none(labels: Path) -> None:
    schema = Schema.load(labels / "schema.json")
    names = ("helpfulness", "verbosity", "hedging")
    # hedging is better when lower, verbosity is neither
    front = pareto(schema, names, [(4, 0, 2), (4, 3, 2), (3, 1, 0), (3, 1, 1), (2, 0, 0), (0, 4, 4)])
    assert front == [(4, 0, 2), (4, 3, 2), (3, 1, 0)]
    aims = goals(schema, names, 200, 0.0, 0, "pareto")
    cells = schema.supported(names)
    assert {tuple(a.values()) for a in aims} == set(pareto(schema, names, list(cells)))
    assert {tuple(a.values()) for a in goals(schema, names, 4000, 0.0, 0, "support")} == set(cells)


def test_a_response_is_kept_for_any_good_score() -> None:
    logs = np.arange(11.0)[:, None].repeat(3, 1)
    scores = np.array([[8.0, 5.0, 5.0], [7.0, 5.0, 5.0], [0.0, 2.0, 5.0], [0.0, 9.0, 10.0]])
    assert above(scores, logs, (1, -1, 0), 0.7).tolist() == [True, False, True, False]


def test_what_is_not_above_the_logs_is_left_out(
    labels: Path, tiny: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = replace(
        config(labels, tiny, policy, tmp_path / "rounds"),
        rounds=1,
        prompts_per_round=60,
        keep_above=0.7,
        goals="pareto",
    )
    iterate_command(how)
    fresh = read_rows(at(tmp_path / "rounds", 1) / "fresh.jsonl")
    logs = [r for r in read_rows(labels) if r["split"] == "train"]
    signs = np.array([1, 1, 0, 1, -1])
    edges = np.quantile(Gold().score(logs) * signs, 0.7, axis=0)
    assert all(((Gold().score([r])[0] * signs > edges) & (signs != 0)).any() for r in fresh)
    lost = re.findall(r"(\d+) dropped(?:: \d+| by --keep-above)", capsys.readouterr().err)
    assert len(lost) == 2
    assert sum(map(int, lost)) == 60 - len(fresh)


def test_a_scorer_that_lacks_an_attribute_is_refused(labels: Path, tiny: Path, policy: Path, tmp_path: Path) -> None:
    people = r"scorer human: people rated the logs, nobody rates new responses\. Fit one: .*, then --{} SCORER\."
    lacking = r"does not score .*, as the rows are labelled\. Fit it on these attributes, or label again with it\."
    scorers: dict[str, Any]
    for scorers, message in (
        ({"scorer": "countable:words"}, lacking),
        ({"scorer": "human"}, people.format("scorer")),
        ({"scorer": GOLD, "gold": "human"}, people.format("gold")),
    ):
        wrong = IterateConfig(str(labels), str(tiny), output=str(tmp_path / "out"), policy=str(policy), **scorers)
        with pytest.raises(SteerError, match=message):
            iterate_command(wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "pool"),
    [
        ("raft", "last"),
        ("rejection", "rounds"),
        ("dpo", "all"),
        pytest.param("rrhf", "all", marks=pytest.mark.slow),
        pytest.param("mle", "all", marks=pytest.mark.slow),
    ],
)
def test_other_methods_draw_as_they_are_and_train_on_their_pool(
    method: str, pool: str, labels: Path, tiny: Path, policy: Path, tmp_path: Path
) -> None:
    """The first responses come from a policy, later ones from the round before; no target is printed."""
    start = tmp_path / "start"
    shutil.copytree(policy, start)
    card = read_json(start / "steer.json")  # a policy that speaks the world's language, and is not conditioned
    (start / "steer.json").write_text(json.dumps(card | {"attributes": [], "method": "mle"}))
    output = tmp_path / "rounds"
    said = iterate_command(
        IterateConfig(
            str(labels),
            str(tiny),
            GOLD,
            str(output),
            str(start),
            method=method,
            n=12,
            prompts_per_round=20,
            max_new_tokens=60,
            watch=10,
            guard=("off",),
        )
    )
    assert "at best" not in said
    fresh = [read_rows(at(output, i) / "fresh.jsonl") for i in (1, 2)]
    assert all(row["target"] == {} and row["response"] for rows in fresh for row in rows)
    assert len({row["group"] for row in fresh[0]}) < len(fresh[0])
    seen = [{row["id"] for row in read_rows(at(output, i) / "rows")} for i in (1, 2)]
    logs, one, two = ({row["id"] for row in rows} for rows in (read_rows(labels), *fresh))
    assert seen == {"all": [logs | one, logs | one | two], "rounds": [one, one | two], "last": [one, two]}[pool]
    assert read_json(at(output, 2) / "policy" / "steer.json")["method"] == method


def test_a_steered_method_needs_a_policy_that_reads_targets(labels: Path, tiny: Path, tmp_path: Path) -> None:
    wrong = IterateConfig(str(labels), str(tiny), GOLD, str(tmp_path / "out"), method="conditional")
    with pytest.raises(SteerError, match=r"'conditional' draws at targets, so it needs --policy"):
        iterate_command(wrong)
    with pytest.raises(SteerError, match=r"'remax' draws fresh responses at every step by itself\. Use .steer train"):
        iterate_command(IterateConfig(str(labels), str(tiny), GOLD, str(tmp_path / "out"), method="remax"))
    for method in ("raft", "rejection", "expert-iteration"):
        with pytest.raises(SteerError, match=rf"'{method}' chooses among a prompt's responses\. Raise --n"):
            iterate_command(IterateConfig(str(labels), str(tiny), GOLD, str(tmp_path / "out"), method=method))
    with pytest.raises(SteerError, match="unknown method 'rraft'; did you mean 'raft'"):
        iterate_command(IterateConfig(str(labels), str(tiny), GOLD, str(tmp_path / "out"), method="rraft"))
    assert not (tmp_path / "out").exists()


def test_a_policy_of_other_attributes_is_refused(labels: Path, tiny: Path, policy: Path, tmp_path: Path) -> None:
    names = Card.load(policy).attributes
    how = {"scorer": "countable:words", "bins": "quantile", "lower": ("words",)}
    label_command(LabelConfig(str(labels), str(tmp_path / "labels"), **how))  # type: ignore[arg-type]
    plain = config(tmp_path / "labels", tiny, policy, tmp_path / "out")
    asked = replace(plain, scorer="countable:words", gold="", method="rwr")
    wanted = (
        rf"^--policy .*: is conditioned on {', '.join(names)}, of which .* has no levels\. Name one that was trained"
    )
    with pytest.raises(SteerError, match=wanted):
        iterate_command(asked)
    assert not (tmp_path / "out").exists()


def test_relative_levels_are_quantiles_of_the_pool_of_the_round(
    labels: Path, tiny: Path, policy: Path, tmp_path: Path
) -> None:
    output = tmp_path / "rounds"
    plain = config(labels, tiny, policy, output)
    iterate_command(replace(plain, relative_levels=True))
    for number in (1, 2):
        folder = at(output, number)
        schema, rows = Schema.load(folder / "rows" / "schema.json"), read_rows(folder / "rows")
        train_command = [row for row in rows if row["split"] == "train"]
        for name in schema.own:
            scores = sorted(row["predicted"][name] for row in train_command)
            edges = schema[name].edges
            assert len(edges) <= 4
            assert all(row["levels"][name] == sum(row["predicted"][name] >= e for e in edges) for row in rows)
            assert schema[name].counts == tuple(
                sum(row["levels"][name] == i for row in train_command) for i in range(len(edges) + 1)
            )
            assert scores[0] < edges[0] <= scores[-1]
        card = Card.load(folder / "policy")
        assert card.schema is not None
        assert card.schema.to_json() == schema.to_json()
        fresh = read_rows(folder / "fresh.jsonl")
        assert all(row["target"] == {} and "likelihood" not in row for row in fresh), "asked on another scale"
    first = (at(output, 2) / "held-out" / "parts" / "00000.jsonl").read_text().split("\n", 1)[0]
    assert json.loads(first)["target"] == schema.best(card.attributes)


def test_a_pool_of_quantiles_takes_rows_that_were_asked_for_levels_it_lacks(labels: Path) -> None:
    """Ten native levels become five quantiles at most."""
    rows, schema = read_rows(labels), Labelled.without_rows(str(labels)).schema
    scorer = Scorer(rows[0]["scorer"], schema.own)
    asked = [{**row, "target": {schema.own[0]: 9}} for row in rows]
    made, quantiles = requantised(asked, schema, scorer)
    assert all(row["target"] == {} for row in made)
    assert [row["levels"] for row in made] == [row["levels"] for row in requantised(rows, schema, scorer)[0]]
    assert len(quantiles[schema.own[0]].edges) <= 4


def test_another_pool_is_another_loop(rounds: Path, labels: Path, tiny: Path, policy: Path) -> None:
    with pytest.raises(SteerError, match=r"other settings \(pool\)"):
        iterate_command(replace(config(labels, tiny, policy, rounds), pool="last"))


def test_rounds_of_a_version_with_another_default_go_on_with_the_settings_that_they_began_with(
    rounds: Path, labels: Path, tiny: Path, policy: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(rounds, old, symlinks=True)
    (old / "done.json").unlink()
    write_json(old / "config.json", read_json(old / "config.json") | {"start_from": "base"})
    how = config(labels, tiny, policy, old)
    advice = rf"other settings \(start_from\)\. .* give --config {old}/config\.json instead\.$"
    with pytest.raises(SteerError, match=advice):
        iterate_command(how)
    times = {path: path.stat().st_mtime_ns for path in old.glob("round-*/**/*") if path.is_file()}
    iterate_command(resolve(IterateConfig, {"rows": how.rows, "output": how.output}, f"{old}/config.json"))
    assert times == {path: path.stat().st_mtime_ns for path in old.glob("round-*/**/*") if path.is_file()}
    done = [read_json(at / "done.json") for at in (rounds, old)]
    assert done[0]["rounds"] == done[1]["rounds"]


def test_relative_levels_of_two_scorers_are_refused(labels: Path, tiny: Path, policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "labels"
    shutil.copytree(labels, other)
    text = (other / "rows.jsonl").read_text()
    (other / "rows.jsonl").write_text(text.replace(read_rows(labels)[0]["scorer"], "linear:other"))
    with pytest.raises(SteerError, match=r"--relative-levels: row '.*' was labelled by linear:other, fresh ones by"):
        iterate_command(replace(config(other, tiny, policy, tmp_path / "rounds"), relative_levels=True))


def test_settings_of_the_train_file_hold_for_its_own_method(labels: Path, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"method": "rwr", "set": ["beta=0.5"], "max_steps": 3}))
    plain = IterateConfig(str(labels), str(tiny), GOLD, str(tmp_path / "out"), train=str(file))

    def chosen(**more: object) -> tuple[str, ...]:
        return training_of(plain.rows, plain.model, "", replace(plain, **more)).set  # type: ignore[arg-type]

    assert chosen() == chosen(method="rwr") == ("beta=0.5",)
    assert chosen(method="mle") == ()
    assert chosen(set=("beta=2",)) == ("beta=2",)


def test_the_command_is_a_doorway_on_iterate(labels: Path, tiny: Path, tmp_path: Path) -> None:
    train = {"method": "mle", "max_steps": 2, "lora_r": 2}
    (tmp_path / "train.json").write_text(json.dumps(train))
    settings: dict[str, Any] = {"rounds": 1, "prompts_per_round": 12, "watch": 4, "max_new_tokens": 60}
    settings |= {"gold": GOLD, "guard": ("off",), "any_form": True, "seed": 1}
    out = tmp_path / "out"
    iterate_command(
        IterateConfig(str(labels), str(tiny), GOLD, str(out), train=str(tmp_path / "train.json"), **settings)
    )
    iteration = iterate(Labelled.read(labels), model=str(tiny), scorer=GOLD, train=train, **settings)
    done = read_json(out / "done.json")
    named = [{**facts, "folder": ""} for facts in done["rounds"]]
    assert [{**facts, "folder": ""} for facts in iteration.rounds] == named
    assert (iteration.kept, iteration.stopped) == (done["kept"], done["stopped"])
    weights = dict(iteration.policy.model.named_parameters())
    for name, value in load_policy(done["policy"]).model.named_parameters():
        assert torch.equal(value, weights[name]), name
