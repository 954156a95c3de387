"""Several bases in one comparison, a likelihood stage in front of a method, and methods with targets of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_recipes import world_model
from steer.comparison.command import compare_command
from steer.comparison.comparison import ON_LOGS, Comparison
from steer.comparison.entry import Entry, cost
from steer.comparison.plan import planned
from steer.config.comparison import CompareConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.result import spread
from steer.iteration import round as one_round
from steer.iteration.rounds import Rounds
from steer.iteration.settings import IterateSettings
from steer.labelling.scorer import load_scorer
from steer.methods import METHODS
from steer.rows import read_back
from steer.rows.labelled import Labelled
from steer.run_folder import read_json, write_json

GOLD = "data_recipes.world_text:Gold"
STEPS = 4


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second base with other random weights."""
    folder = tmp_path_factory.mktemp("other")
    world_model.save(folder, seed=1, hidden_size=32, layers=2)
    return folder


@pytest.fixture(scope="module")
def done(labels: Path, tiny: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    (folder / "train.yaml").write_text(
        f"max_steps: {STEPS}\nlora_r: 4\nbatch_size: 4\nlearning_rate: 0.1\nwarmup_steps: 0\n"
    )
    compare_command(
        CompareConfig(
            str(labels),
            str(tiny),
            str(folder / "out"),
            base=(str(other),),
            method=("mle", "dpo:after=mle", "directional"),
            target=("best", "warmth=0"),
            gold=GOLD,
            num_prompts=6,
            grid=10,
            max_new_tokens=24,
            train=str(folder / "train.yaml"),
            resamples=30,
        )
    )
    return folder / "out"


def test_every_method_is_trained_once_on_every_base(done: Path, tiny: Path, other: Path) -> None:
    report = read_json(done / "report.json")
    assert report["failures"] == []
    assert report["seeds"] == 2
    assert {s["name"]: s["seeds"] for s in report["systems"]}["dpo:after=mle"] == 2
    for seed, model in enumerate((tiny, other)):
        for path in done.glob(f"runs/*-seed{seed}/policy/config.json"):
            found = read_json(path)
            assert (found["model"], found["seed"]) == (str(model), seed), path
    assert report["budget"]["model"] == f"{tiny}, {other}"
    assert "bootstrapped over prompts and 2 bases." in " ".join(report["notes"])
    differences = [s["difference"] for s in report["systems"] if s["difference"]]
    assert {d["verdict"] for d in differences} <= {
        "yes",
        "no",
        "not told apart",
        "-",
    }  # a few prompts that all differ alike
    assert any(d["least"] for d in differences)
    assert all(d["least"] is None or d["least"] > 0 for d in differences), "equal answers show no spread"


def test_distance_is_measured_from_the_base_of_the_repetition(done: Path) -> None:
    """What a base answered is 0 nats from it, on every base."""
    for seed in range(2):
        (answers,) = done.glob(f"runs/base-seed{seed}/answers.jsonl")
        assert all(row["logp"] == pytest.approx(row["ref_logp"], abs=1e-4) for row in read_back(answers))


def test_a_stage_in_front_is_gone_on_from_and_its_steps_are_counted(done: Path) -> None:
    took = {s["name"]: s["steps"] for s in read_json(done / "report.json")["systems"]}
    assert (took["mle"], took["dpo:after=mle"]) == (STEPS, 2 * STEPS)
    for seed in range(2):
        config = read_json(done / "runs" / f"dpo-after=mle-seed{seed}" / "policy" / "config.json")
        assert config["init"] == str(done / "runs" / f"mle-seed{seed}" / "policy")
    assert len(list(done.glob("runs/mle-seed*/policy"))) == 2, "trained once for both entries"


def test_weights_of_attributes_are_asked_for_at_best_only_and_have_no_dial(done: Path) -> None:
    report = read_json(done / "report.json")
    names = [s["name"] for s in report["systems"] if s["method"] == "directional"]
    assert names == ["directional @ best"]
    assert report["dials"] == []
    assert any(
        note.startswith("directional: its conditions are no levels of the attributes") for note in report["notes"]
    )


def test_one_repetition_speaks_of_its_prompts_only(labels: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("max_steps: 1\nlora_r: 2\nbatch_size: 4\n")
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 4, "grid": 0, "max_new_tokens": 4, "resamples": 20}
    how |= {"method": ("mle", "filtered", "rso"), "train": str(tmp_path / "train.yaml")}
    compare_command(CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), **how))
    report = read_json(tmp_path / "out" / "report.json")
    overs = {s["difference"]["over"] for s in report["systems"] if s["difference"]}
    assert overs == {"prompts only"}
    assert spread(1, 1) in report["notes"]
    assert ON_LOGS.format("rso") in report["notes"]
    assert sum("stand for those" in note for note in report["notes"]) == 1, "the others want no draws"
    assert "prompts only" in spread(1, 1)


def _timeless(value: Any) -> Any:
    """Return a report without what the clock says, at any depth."""
    if isinstance(value, dict):
        clock = ("seconds", "created", "command", "commands")
        return {key: _timeless(inner) for key, inner in value.items() if key not in clock}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def test_equal_runs_report_the_same_but_for_the_clock(labels: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("max_steps: 1\nlora_r: 2\nbatch_size: 4\n")
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 4, "grid": 0, "max_new_tokens": 4, "resamples": 20}
    how |= {"method": ("mle", "raft:rounds=1,n=2,prompts_per_round=3"), "train": str(tmp_path / "train.yaml")}
    found, said = [], []
    for name in ("one", "two"):
        said.append(
            compare_command(CompareConfig(str(labels), str(tiny), str(tmp_path / name), **how)).replace(name, "")
        )
        report = read_json(tmp_path / name / "report.json")
        assert "mle" in report["seconds"]
        found.append(_timeless(report))
    assert found[0] == found[1]
    assert said[0] == said[1]


def test_a_base_is_not_given_twice(labels: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="base is given twice"):
        compare_command(CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), base=(str(tiny),)))
    assert not (tmp_path / "out").exists()


def test_bases_take_turns_over_the_seeds(labels: Path, tmp_path: Path) -> None:
    shared = Comparison(CompareConfig(str(labels), "a", str(tmp_path), base=("b", "c"), seeds=2), tmp_path)
    assert [shared.model(seed) for seed in shared.seeds] == ["a", "b", "c", "a", "b", "c"]


def test_a_stage_in_front_is_read_from_the_entry() -> None:
    entry = Entry.of("dpo:after=mle,beta=0.5")
    assert (entry.after, entry.settings) == ("mle", ("beta=0.5",))
    assert entry.front == Entry.of("mle")
    settings = TrainConfig("rows", "model", "out", learning_rate=4e-3)
    assert entry.front.settings_from(settings).learning_rate == 4e-3
    assert entry.settings_from(settings).learning_rate == pytest.approx(4e-3 * METHODS["dpo"].rate)
    quark = Entry.of("quark:prompts_per_round=9")
    assert quark.iterate is not None
    assert (quark.iterate.rounds, quark.iterate.prompts_per_round) == (2, 9), "Quark is its rounds"
    assert quark.front == quark.start
    assert quark.start.iterate is None
    assert Entry.of("quark:rounds=3").iterate.rounds == 3  # type: ignore[union-attr]
    assert Entry.of("quark:template=steerlm,after=conditional").front == Entry.of("conditional:template=steerlm")
    assert Entry.of("mle").front is None
    assert Entry.of("conditional:rounds=1").front == Entry.of("conditional")
    for spec, told in (
        ("dpo:after=conditional", "Use after=mle"),
        ("dpo:after=remax", "Use after=mle"),
        ("dpo:after=dpo", "Use after=mle"),
        ("directional:after=conditional", "Use after=mle"),
        ("steerlm2:after=dpo", "Use after=conditional"),
        ("dpo:after=mel", "did you mean"),
        ("raft:start_from=last", "there is no rounds="),
        ("raft:rounds=1,start_from=first", "unknown 'first'"),
    ):
        with pytest.raises(SteerError, match=told):
            Entry.of(spec)


def test_what_weighs_draws_of_a_policy_goes_one_round_on_from_a_conditional_one() -> None:
    entry = Entry.of("steerlm2")
    assert entry.iterate == IterateSettings(rounds=1, n=8)
    assert entry.front == Entry.of("conditional")
    assert cost(entry, TrainConfig("rows", "model", "out", max_new_tokens=10), 5000).responses == 8000


def test_a_plan_counts_the_stage_in_front(labels: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("max_steps: 20\n")
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 6, "grid": 0, "train": str(tmp_path / "train.yaml")}
    shared = Comparison(CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), **how), tmp_path)
    lines = planned(shared, {Entry.of(s): "" for s in ("dpo", "dpo:after=mle", "raft:after=mle,rounds=2")}).splitlines()
    assert [line.split(":")[-1].split(" steps")[0].strip() for line in lines[1:4]] == ["20", "40", "60"]


def of_rounds(labels: Path, folder: Path, policy: str, *, adapter: str, method: str, start: str) -> Rounds:
    """Rounds on fresh responses alone, from a policy or (empty) the base."""
    training = TrainConfig(str(labels), "base", "-", method, adapter=adapter)
    settings = IterateSettings(start_from=start, pool="last")
    return Rounds(
        rows=str(labels),
        model="base",
        policy=policy,
        scorer=GOLD,
        root=folder,
        settings=settings,
        training=training,
        schema=Labelled.without_rows(str(labels)).schema,
        scorers={"scorer": load_scorer(GOLD)},
        key="",
    )


@pytest.fixture
def seen(labels: Path, monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The trainings that rounds ask for: none is done, and what a round draws are the labels."""
    asked: list[TrainConfig] = []
    monkeypatch.setattr(one_round, "fresh_rows", lambda rounds, number: labels)
    monkeypatch.setattr(one_round, "train_by", lambda launch, config: asked.append(config) or "")
    return asked


@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("start", ["base", "last"])
def test_rounds_start_from_the_base_or_from_the_weights_of_the_round_before(
    start: str, adapter: str, labels: Path, trained: Path, tmp_path: Path, seen: list[TrainConfig]
) -> None:
    rounds = of_rounds(labels, tmp_path, str(trained), adapter=adapter, method="conditional", start=start)
    for number in (1, 2):
        one_round.run_round(rounds, number)
        write_json(rounds.folder(number) / "policy" / "steer.json", {})
    before = [str(trained), str(rounds.folder(1) / "policy")]  # the first round goes on from --policy
    told = {
        ("base", "lora"): [("base", ""), ("base", "")],
        ("base", "none"): [("base", ""), ("base", "")],
        ("last", "lora"): [("base", where) for where in before],
        ("last", "none"): [(where, "") for where in before],  # all weights: the policy itself is the model
    }
    assert [(s.model, s.init) for s in seen] == told[start, adapter]


@pytest.mark.parametrize("method", ["bond", "rebel", "rso", "spin", "sppo", "dpo", "rest-em"])
def test_what_compares_with_the_policy_that_drew_starts_every_round_from_it(
    method: str, labels: Path, tmp_path: Path, seen: list[TrainConfig]
) -> None:
    rounds = of_rounds(labels, tmp_path, "", adapter="lora", method=method, start="")
    for number in (1, 2, 3):
        one_round.run_round(rounds, number)
        write_json(rounds.folder(number) / "policy" / "steer.json", {})
    drew = ["", *(str(rounds.folder(number) / "policy") for number in (1, 2))]
    assert [s.init for s in seen] == (["", "", ""] if method in ("dpo", "rest-em") else drew)


def test_the_first_round_without_a_policy_starts_from_the_base(
    labels: Path, trained: Path, tmp_path: Path, seen: list[TrainConfig]
) -> None:
    rounds = of_rounds(labels, tmp_path, "", adapter="lora", method="raft", start="last")
    one_round.run_round(rounds, 1)
    model = str(trained)  # a base that is a policy with weights of its own
    own = replace(rounds, root=tmp_path / "own", model=model, training=replace(rounds.training, model=model))
    one_round.run_round(own, 1)
    assert [(s.model, s.init) for s in seen] == [("base", ""), (model, "")]
