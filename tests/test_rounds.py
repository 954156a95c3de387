"""What a round draws, filters, pools and refreshes; loops that are extended; every kind of method."""

from __future__ import annotations

import json
import os
import shutil
import signal
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_recipes.world_text import ATTRIBUTES, Gold
from steer.config.iteration import IterateConfig
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.iteration.command import iterate_command
from steer.iteration.fresh import anomaly, distinct, usable
from steer.iteration.goals import goals, preferred
from steer.iteration.pool import mixed
from steer.iteration.refresh import drift
from steer.labelling.command import fit_command, label_command
from steer.methods import spin
from steer.models.card import Card
from steer.rows import read, read_rows, write_rows
from steer.rows.command import data_command
from steer.rows.schema import Schema
from steer.run_folder import read_json
from steer.training.command import train_command

GOLD = "data_recipes.world_text:Gold"


def row(response: str, **more: object) -> dict[str, object]:
    return {"id": response, "prompt": [{"role": "user", "content": "why?"}], "response": response, **more}


@pytest.mark.parametrize(
    ("response", "what"),
    [
        ("bees give honey.", ""),
        ("so it is. so it is. so it is.", ""),  # short
        ("bees give <warmth>4 honey.", "with condition text"),
        ("warmth:3 bees give honey.", "with condition text"),
        ("bees give honey.<|im_end|>", "with chat markers"),
        ("bees give honey.\nUser: and cows?", "with chat markers"),
        ("the user: a bee.", ""),
        ("bees give hon\ufffdy.", "with broken characters"),
        ("bees give honey. " * 10, "running in circles"),
    ],
)
def test_malformed_responses_are_told_apart(response: str, what: str) -> None:
    assert anomaly(row(response), ("warmth",)) == what


def test_malformed_responses_are_counted_by_what_is_wrong() -> None:
    rows = [row("a b"), row(" \n"), row("c", finished=False), row("<warmth>d", finished=False), row("<warmth>e")]
    kept, lost = usable(rows, ("warmth",))
    assert [r["response"] for r in kept] == ["a b"]
    assert lost == {"blank": 1, "cut off": 2, "with condition text": 1}
    kept, lost = usable(rows, ("warmth",), any_form=True)
    assert [r["response"] for r in kept] == ["a b", "<warmth>e"]
    assert lost == {"blank": 1, "cut off": 2}


def test_equal_responses_to_a_prompt_are_kept_once() -> None:
    other = row("Bees give honey.") | {"prompt": [{"role": "user", "content": "what?"}]}
    rows = [row("Bees give honey."), row("bees  give honey."), row("cows give milk."), other]
    assert distinct(rows, [row("COWS give milk.")]) == [rows[0], other]


def test_responses_that_call_tools_are_not_blank_and_differ_by_their_calls() -> None:
    rows = [
        row("", id=str(i), tool_calls=[{"id": str(i), "function": {"name": "weigh", "arguments": {"n": n}}}])
        for i, n in enumerate((1, 1, 2))
    ]
    assert usable(rows, ("warmth",)) == (rows, {})
    assert distinct(rows) == [rows[0], rows[2]]


def test_a_mix_keeps_the_held_out_rows_and_a_share_of_the_others(labels: Path) -> None:
    every = read_rows(labels)
    held_out = {r["id"] for r in every if r["split"] != "train"}
    found = [{r["id"] for r in mixed(labels, share, 0)} for share in (0.0, 0.4, 0.7, 1.0)]
    assert found[0] == held_out
    assert found[0] < found[1] < found[2] < found[3] == {r["id"] for r in every}
    assert 0.3 < (len(found[1]) - len(held_out)) / (len(every) - len(held_out)) < 0.5


def test_goals_of_preferences_are_the_best_for_them(labels: Path) -> None:
    schema = Schema.load(labels / "schema.json")
    names = ("helpfulness", "warmth", "hedging")
    cells = [(4, 0, 0), (0, 4, 0), (2, 2, 0), (4, 4, 4)]
    assert preferred(schema, names, cells, [{"helpfulness": 1.0, "hedging": -2.0}]) == [(4, 0, 0)]
    assert preferred(schema, names, cells, [{"warmth": 1.0, "hedging": -2.0}, {"warmth": 1.0, "helpfulness": 1.0}]) == [
        (0, 4, 0),
        (4, 4, 4),
    ]
    schema = replace(schema, cells={(h, c, 2, w, x, 0): 9 for h, c, w, x in ((4, 1, 0, 4), (1, 4, 3, 4), (2, 2, 4, 2))})
    drawn = [tuple(aim.values()) for aim in goals(schema, schema.own, 500, 0.0, 0, "weights")]
    assert set(drawn) == {(4, 1, 2, 0, 4), (1, 4, 2, 3, 4), (2, 2, 2, 4, 2)}
    kindly = goals(schema, schema.own, 50, 0.0, 0, "weights", {"warmth": 1.0, "hedging": -0.1})
    assert {tuple(aim.values()) for aim in kindly} == {(2, 2, 2, 4, 2)}
    assert all(aim == schema.best(names) for aim in goals(schema, names, 50, 0.0, 0, "best"))


def test_drift_is_the_error_of_the_scorer_per_attribute() -> None:
    scores = np.array([[1.0, 0.0], [2.0, 1.0], [4.0, 5.0], [9.0, np.nan]])
    rated = np.array([[2.0, 0.0], [3.0, 1.0], [3.0, 5.0], [np.nan, 1.0]])
    assert drift(scores, rated, ("a", "b")) == {
        "a": {"mae": 1.0, "bias": round(-1 / 3, 4), "spearman": pytest.approx(0.866, abs=1e-3)},
        "b": {"mae": 0.0, "bias": 0.0, "spearman": 1.0},
    }


@pytest.fixture(scope="module")
def world(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs, a scorer fitted on their ratings, labels, and policies that write sentences of the world."""
    folder = tmp_path_factory.mktemp("rounds")
    data_command(DataConfig("world", str(folder / "logs"), size=300, seed=1))
    fit_command(FitConfig(str(folder / "logs"), str(folder / "scorer")))
    label_command(
        LabelConfig(str(folder / "logs"), str(folder / "labels"), scorer=str(folder / "scorer"), min_support=1)
    )
    how = {"adapter": "none", "learning_rate": 1e-2, "max_steps": 60}
    train_command(TrainConfig(str(folder / "labels"), str(tiny), str(folder / "base"), method="mle", **how))
    (folder / "train.json").write_text(json.dumps({"learning_rate": 1e-3, "max_steps": 4}))
    base = str(folder / "base" / "model")
    for name, method in (("policy", "conditional"), ("directional", "directional")):
        train_command(
            TrainConfig(
                str(folder / "labels"), base, str(folder / name), method=method, learning_rate=1e-2, max_steps=20
            )
        )
    return folder


def config(
    world: Path, output: Path, method: str = "conditional", policy: str = "policy", **more: object
) -> IterateConfig:
    how = IterateConfig(
        str(world / "labels"),
        str(world / "base" / "model"),
        str(world / "scorer"),
        str(output),
        str(world / policy) if policy else "",
        method=method,
        train=str(world / "train.json"),
        guard=("off",),
        rounds=1,
        prompts_per_round=16,
        watch=10,
        max_new_tokens=80,
        temperature=0.7,
    )
    return replace(how, **more)  # type: ignore[arg-type]


def at(output: Path, number: int) -> Path:
    (found,) = output.glob(f"round-{number}-*")
    return found


def test_a_scorer_is_refreshed_with_ratings_of_fresh_responses_and_all_rows_carry_its_scores(
    world: Path, tmp_path: Path
) -> None:
    how = config(world, tmp_path / "out", annotator=GOLD, gold=GOLD, ratings=6, rounds=2)
    said = iterate_command(how)
    ids = [read_json(world / "labels" / "done.json")["scorer"]]
    rated = 0
    for number in (1, 2):
        folder = at(tmp_path / "out", number)
        rows = read_rows(folder / "rated.jsonl")
        assert 1 <= len(rows) <= 6
        assert [[r["scores"][n] for n in ATTRIBUTES] for r in rows] == Gold().score(rows).tolist()
        rated += len(rows)
        known = sum(any(s is not None for s in r["scores"].values()) for r in read_rows(world / "logs"))
        joined = [r for r in read(folder / "ratings") if any(s is not None for s in r["scores"].values())]
        assert len(joined) == known + rated
        scorers = {r["scorer"] for r in read(folder / "rows")}
        assert len(scorers) == 1
        assert not scorers & set(ids)
        ids += scorers
    facts = read_json(tmp_path / "out" / "done.json")["rounds"]
    assert [bool(f["drift"]) for f in facts] == [False, True, True]
    assert set(facts[1]["drift"]) == set(ATTRIBUTES)
    assert "mean error of the scorer before it was refitted: helpfulness" in said
    with pytest.raises(SteerError, match=r'must be a folder of "steer fit"'):
        iterate_command(replace(how, scorer=GOLD, output=str(tmp_path / "other")))
    with pytest.raises(SteerError, match="so --gold must say which is best"):
        iterate_command(replace(how, gold="", output=str(tmp_path / "other")))


def test_a_loop_can_be_extended_and_keeps_the_rounds_it_has(world: Path, tmp_path: Path) -> None:
    how = config(world, tmp_path / "out", method="mle", policy="", gold=GOLD)
    iterate_command(how)
    first = at(tmp_path / "out", 1)
    times = {p: p.stat().st_mtime_ns for p in first.rglob("*") if p.is_file()}
    assert "round 1" in iterate_command(how)  # done: said again
    iterate_command(replace(how, rounds=2, guard=("gold=0",)))
    assert {p: p.stat().st_mtime_ns for p in first.rglob("*") if p.is_file()} == times
    done = read_json(tmp_path / "out" / "done.json")
    assert [f["round"] for f in done["rounds"]] == [0, 1, 2]
    assert [f["folder"] for f in done["rounds"]][1] == first.name
    with pytest.raises(SteerError, match=r"other settings \(prompts_per_round\)"):
        iterate_command(replace(how, prompts_per_round=3))
    again = replace(how, prompts_per_round=3, output=str(tmp_path / "other"))
    iterate_command(again)
    assert at(tmp_path / "other", 1).name != first.name  # what follows from something else has another name


def test_training_settings_that_change_make_another_loop(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text((world / "train.json").read_text())
    how = config(world, tmp_path / "out", method="mle", policy="", train=str(file))
    iterate_command(how)
    file.write_text(json.dumps(read_json(file) | {"max_steps": 5}))
    with pytest.raises(SteerError, match=r"other settings \(inputs\.training\)"):
        iterate_command(how)


def test_the_best_round_is_kept_and_a_link_leads_to_it(world: Path, tmp_path: Path) -> None:
    """A limit that every round breaks stops the loop after the first, and what it started from is kept."""
    how = config(world, tmp_path / "out", method="mle", policy="policy", gold=GOLD, rounds=2, guard=("off",))
    said = iterate_command(how)
    done = read_json(tmp_path / "out" / "done.json")
    means = [f["gold"]["mean"] for f in done["rounds"]]
    assert done["kept"] == int(np.argmax(means))
    link = tmp_path / "out" / "policy"
    assert f"Kept round {done['kept']}, with the highest gold reward" in said
    if done["kept"]:
        assert not os.path.isabs(os.readlink(link))
        assert link.resolve() == (at(tmp_path / "out", done["kept"]) / "policy").resolve()
        assert Card.load(link).method == "mle"
    shape = ("gold=0", "kl=1e-9", "length=0", "distinct=0", "repeated=0", "leaked=0", "unfinished=0")
    assert "Stopped" not in iterate_command(
        replace(how, guard=shape)
    )  # it was as far from its base before the first round
    (tmp_path / "train.json").write_text(json.dumps({"learning_rate": 2e-2, "max_steps": 40}))
    how = replace(how, policy="", output=str(tmp_path / "base"), train=str(tmp_path / "train.json"))
    how = replace(how, method="filtered", set=("keep=0.05",))  # learns a dozen rows by heart
    link = tmp_path / "base" / "policy"
    stopped = iterate_command(replace(how, guard=shape))
    assert "Stopped after round 1: the KL from the base is" in stopped
    done = read_json(tmp_path / "base" / "done.json")
    assert done["stopped"].startswith("the KL")
    assert done["kept"] == 0
    assert not link.exists()
    assert [f["round"] for f in done["rounds"]] == [0, 1]


@pytest.mark.parametrize(
    ("method", "policy", "more"),
    [
        ("quark", "policy", {"relative_levels": True, "explore": 1.0}),
        ("steerlm2", "policy", {"n": 3, "goals": "weights", "temperature": 1.0}),
        ("directional", "directional", {"n": 3, "goals": "pareto"}),
        ("reward-augmented", "policy", {"n": 2}),
        ("binary-reward-conditioning", "policy", {"n": 2}),
        ("coh", "policy", {"n": 2}),
        ("rso", "", {"n": 4, "dedupe": True}),
        ("raft", "", {"n": 4, "pool": "all", "log_share": 0.2}),
        ("spin", "", {}),
        ("bond", "", {"n": 4, "temperature": 1.0}),
        ("rest-em", "", {"n": 2, "set": ("threshold=-2",)}),
    ],
)
def test_every_kind_of_method_goes_round(
    method: str, policy: str, more: dict[str, object], world: Path, tmp_path: Path
) -> None:
    iterate_command(config(world, tmp_path / "out", method, policy, **more))
    folder = at(tmp_path / "out", 1)
    card, fresh = Card.load(folder / "policy"), read_rows(folder / "fresh.jsonl")
    assert card.method == method
    steps = read_json(folder / "policy" / "done.json")["steps"]
    last = method in ("steerlm2", "rso", "spin", "bond")  # they compare with the policy that drew
    start = "the weights of the round before" if last else "the base"
    said = f"Training took {steps} optimizer steps in 1 round, each from {start}."
    assert said in read_json(tmp_path / "out" / "done.json")["summary"]
    assert all(r["response"].strip() and r["scorer"].startswith("linear:") for r in fresh)
    if (
        method == "steerlm2"
    ):  # candidates that are weighed together were drawn at one target, by the policy they start from
        by_prompt: dict[str, set[str]] = {}
        for r in fresh:
            by_prompt.setdefault(r["group"], set()).add(json.dumps(r["target"]))
        assert {len(x) for x in by_prompt.values()} == {1}
        assert read_json(folder / "policy" / "config.json")["init"] == str(world / "policy")
        assert {r["id"] for r in read(folder / "rows")} == {r["id"] for r in fresh}
    if method in ("rso", "bond", "rest-em"):  # its proposal is the policy itself: candidates of the round alone
        assert {r["id"] for r in read(folder / "rows")} == {r["id"] for r in fresh}
    if method == "spin":  # every fresh response that differs from the logged one is below it
        pairs = spin.groups(read_rows(folder / "rows"), spin.Settings())
        assert 0 < len(pairs) <= len(fresh)
        assert {g.rows[1]["id"] for g in pairs} <= {r["id"] for r in fresh}
        assert not {g.rows[0]["id"] for g in pairs} & {r["id"] for r in fresh}
    if method == "raft":
        logs = sum(r["split"] == "train" for r in read(world / "labels"))
        mixed_in = sum(r["split"] == "train" for r in read(folder / "rows")) - len(fresh)
        assert 0 < mixed_in < 0.4 * logs


def test_what_cannot_go_round_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="'steerlm2' weighs a prompt's responses together"):
        iterate_command(config(world, tmp_path / "out", "steerlm2"))
    with pytest.raises(SteerError, match=r"'rso' chooses among a prompt's responses\. Raise --n"):
        iterate_command(config(world, tmp_path / "out", "rso"))
    for more in ({"start_from": "base"}, {"pool": "all"}):
        with pytest.raises(SteerError, match=r"'bond' compares with the policy that drew, so every round .* out\."):
            iterate_command(config(world, tmp_path / "out", "bond", n=4, **more))
    with pytest.raises(SteerError, match=r"'quark' asks for the best quantile .* Add --relative-levels --explore 1\."):
        iterate_command(config(world, tmp_path / "out", "quark", "policy"))
    with pytest.raises(SteerError, match=r"'quark' .* and for nothing else"):
        iterate_command(config(world, tmp_path / "out", "quark", "policy", relative_levels=True))
    for method, policy in (("bond", ""), ("steerlm2", "policy")):
        for name, value in (("temperature", 0.7), ("dedupe", True), ("keep_above", 0.5)):
            with pytest.raises(SteerError, match=rf"'{method}' reads from .* temperature 1\. Leave {name} out\."):
                iterate_command(
                    config(world, tmp_path / "out", method, policy, n=4, **{"temperature": 1.0, name: value})
                )
    with pytest.raises(SteerError, match="--weights: are for --goals weights"):
        iterate_command(config(world, tmp_path / "out", weights="warmth=1"))
    with pytest.raises(SteerError, match="unknown attribute 'warmht'"):
        iterate_command(config(world, tmp_path / "out", weights="warmht=1", goals="weights"))
    every = ("helpfulness", "correctness", "verbosity", "warmth", "hedging")
    label_command(LabelConfig(str(world / "logs"), str(tmp_path / "neither"), scorer=GOLD, neither=every))
    with pytest.raises(SteerError, match="none of its attributes has a better end, so no round is better"):
        iterate_command(config(world, tmp_path / "out", "mle", rows=str(tmp_path / "neither")))
    label_command(LabelConfig(str(world / "logs"), str(tmp_path / "all"), scorer=GOLD))
    rows = [r | {"split": "train"} for r in read_rows(tmp_path / "all")]
    write_rows(rows, tmp_path / "all" / "rows.jsonl")
    with pytest.raises(SteerError, match="has no held-out prompts to watch"):
        iterate_command(config(world, tmp_path / "out", rows=str(tmp_path / "all")))
    with pytest.raises(SteerError, match="--guard: unknown setting 'lenght'"):
        iterate_command(config(world, tmp_path / "out", guard=("lenght=0",)))
    assert not (tmp_path / "out").exists()


WRITES = (2, 3, 5, 4, 9, 7, 14, 11)  # at which one is killed; fitting a scorer has ten, and starts anew each time
KEPT = ("rows.jsonl", "fresh.jsonl", "rated.jsonl", "watched.json", "schema.json", "drift.json")


def killed(config: IterateConfig, write: int, before: bool) -> bool:
    """Run the loop in a process of its own that is killed at that write to disk; whether it was."""
    child = os.fork()
    if child == 0:
        replace_, count = os.replace, 0

        def counted(old: Any, new: Any) -> None:
            nonlocal count
            count += 1
            if count == write and before:
                os.kill(os.getpid(), signal.SIGKILL)
            replace_(old, new)
            if count == write:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = counted
        try:
            iterate_command(config)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a loop leaves but how long it took: figures, rows, weights."""
    found: dict[str, Any] = {"done": read_json(folder / "done.json")["rounds"]}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in KEPT or path.suffix == ".safetensors":
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    "more",
    [
        {"rounds": 2},
        pytest.param({"rounds": 2, "method": "spin", "policy": ""}, marks=pytest.mark.slow, id="spin"),
        pytest.param(
            {"rounds": 2, "method": "bond", "policy": "", "n": 4, "temperature": 1.0},
            marks=pytest.mark.slow,
            id="bond",
        ),
        pytest.param(
            {"rounds": 2, "method": "rest-em", "policy": "", "n": 2, "set": ("threshold=-2",)},
            marks=pytest.mark.slow,
            id="rest-em",
        ),
        pytest.param(
            {"annotator": GOLD, "ratings": 6, "relative_levels": True, "dedupe": True, "n": 2}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_loop_that_is_killed_at_many_points_ends_the_same(more: dict[str, Any], world: Path, tmp_path: Path) -> None:
    """Before its second write, after its third, ..., over and over until it comes to its end.

    Two writes of every start are those of config.json, so this meets every stage of every round.
    """
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"learning_rate": 1e-3, "max_steps": 4, "save_steps": 2}))
    how = config(world, tmp_path / "out", gold=GOLD, train=str(file), **more)
    iterate_command(how)
    whole, kills = outcome(tmp_path / "out"), 0
    shutil.rmtree(tmp_path / "out")  # in its place, because the identity of a scorer names the rows it was fitted on
    while killed(how, WRITES[kills % len(WRITES)], before=kills % 2 == 0):
        kills += 1
        assert kills < 60
    assert kills > 5
    assert outcome(tmp_path / "out") == whole
