"""`steer evaluate`: policies and responses of any origin in one report, in the forms of other tools too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from steer.config.evaluation import EvaluateConfig
from steer.config.generation import GenerateConfig
from steer.errors import SteerError
from steer.evaluation.command import evaluate_command
from steer.evaluation.evaluate import evaluate, repetitions
from steer.evaluation.examination import Examination
from steer.evaluation.result import spread
from steer.evaluation.settings import EvaluateSettings
from steer.evaluation.sources import Contestant
from steer.evaluation.systems import NO_BASE
from steer.generation.command import generate_command
from steer.generation.generate import generate
from steer.labelling.label import label
from steer.models.policy import Policy, load_policy
from steer.report.dials import LEVELS
from steer.rows import read_rows
from steer.rows.labelled import Labelled
from steer.run_folder import read_json
from steer.training.train import train

GOLD = "data_recipes.world_text:Gold"
SMALL: dict[str, Any] = {"resamples": 60, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def evaluated(labels: Path, trained: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain model beside a conditional policy, with everything that there is."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    pool = out.parent / "pool.yaml"
    pool.write_text(f"gold: {GOLD}\n")
    evaluate_command(
        EvaluateConfig(
            (f"plain={base}", f"steered={trained}"),
            str(out),
            str(labels),
            GOLD,
            annotator=(f"simulated:{pool}", GOLD),
            target=("best", "verbosity=0"),
            num_prompts=12,
            n=2,
            grid=40,
            controls=True,
            reference=str(base),
            export=("alpaca-eval", "lm-eval"),
            **SMALL,
        )
    )
    return out


def test_the_report_holds_every_system_and_figure(evaluated: Path) -> None:
    report = read_json(evaluated / "report.json")
    names = ["logs", "plain", "steered @ best", "steered @ verbosity=0", "steered @ random"]
    assert [s["name"] for s in report["systems"]] == names
    assert report["baseline"] == "plain"
    assert [d["name"] for d in report["dials"]] == ["steered"]
    assert report["dials"][0]["result"]["n"] == 40
    plain, best = report["systems"][1:3]
    assert plain["generated"] == best["generated"] == 24
    assert plain["unique"] is not None
    assert plain["kl"]["mean"] == pytest.approx(0, abs=1e-4) if plain["kl"] else True
    assert best["kl"]["mean"] > 0
    assert best["difference"]["p"] is None  # one seed
    assert 0 < best["difference"]["p_prompts"] <= best["difference"]["p_holm"] <= 1
    assert {p.name for p in evaluated.glob("report.*")} == {"report.json", "report.md", "report.html"}
    assert report["prompt_only"]["rows"] > 200


def test_annotators_rank_all_systems(evaluated: Path) -> None:
    found = read_json(evaluated / "report.json")["win_rates"]
    assert found["baseline"] == "plain"
    assert [len(a["systems"]) for a in found["annotators"]] == [4, 4]
    assert all(a["comparisons"] + a["alike"] == 24 * 6 for a in found["annotators"])
    assert found["annotators"][1]["turned"] is None  # scores do not depend on the order
    assert all(0 <= s["win_rate"]["mean"] <= 1 for a in found["annotators"] for s in a["systems"][1:])
    assert len(found["agreement"]) == 1


def test_a_second_run_is_read_back(evaluated: Path) -> None:
    config = EvaluateConfig(**read_config(evaluated))
    before = (evaluated / "report.html").stat().st_mtime_ns
    assert "evaluate: 4 systems" in evaluate_command(config)
    assert (evaluated / "report.html").stat().st_mtime_ns == before


def read_config(folder: Path) -> dict[str, Any]:
    """The flags that a run was given."""
    held = {k: v for k, v in read_json(folder / "config.json").items() if k != "inputs"}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in held.items()} | {"output": str(folder)}


def test_alpaca_eval_files_are_written_and_read_back_to_the_same_rewards(evaluated: Path, tmp_path: Path) -> None:
    files = sorted((evaluated / "alpaca-eval").glob("*.json"))
    written = json.loads(files[0].read_text())
    assert set(written[0]) == {"instruction", "output", "generator"}
    evaluate_command(EvaluateConfig(tuple(map(str, files)), str(tmp_path / "out"), gold=GOLD, **SMALL))
    first, again = (read_json(p / "report.json") for p in (evaluated, tmp_path / "out"))
    raw = {s["name"]: s["attributes"]["verbosity"]["mean"] for s in first["systems"]}
    assert {s["name"]: s["attributes"]["verbosity"]["mean"] for s in again["systems"]} == pytest.approx(
        {name: value for name, value in raw.items() if name != "logs"}
    )
    assert all(s["kl"] is None for s in again["systems"])
    assert "all responses that are evaluated" in again["notes"][0]


def test_votes_are_written_as_alpaca_eval_does_and_read_back_to_the_same_win_rates(
    evaluated: Path, tmp_path: Path
) -> None:
    first = read_json(evaluated / "report.json")["win_rates"]
    files = sorted((evaluated / "annotations").glob("*/annotations.json"))
    assert len(files) == 2  # a pool and gold
    said = read_json(next(f for f in files if "Gold" in f.parent.name and "simulated" not in f.parent.name))
    columns = ["instruction", "output_1", "generator_1", "output_2", "generator_2", "annotator", "preference"]
    assert all(list(line) == columns for line in said)
    assert {line["generator_1"] for line in said} == {"plain"}
    assert {line["annotator"] for line in said} == {GOLD}
    assert {line["preference"] for line in said} <= {1.0, 1.5, 2.0}
    rates = {s["name"]: s["win_rate"]["mean"] for s in first["annotators"][1]["systems"][1:]}
    for name, rate in rates.items():  # AlpacaEval's own way to count
        assert rate == pytest.approx(sum(x["preference"] - 1 for x in said if x["generator_2"] == name) / 24)
    outputs = sorted((evaluated / "alpaca-eval").glob("*.json"))  # the baseline's comes first
    votes = tuple(f"votes:{f}" for f in files)
    paths = tuple(map(str, outputs))
    evaluate_command(
        EvaluateConfig(paths, str(tmp_path / "out"), gold=GOLD, annotator=votes, pairs="baseline", **SMALL)
    )
    again = read_json(tmp_path / "out" / "report.json")["win_rates"]
    by_name = {a["annotator"]: a["systems"] for a in again["annotators"]}
    assert all(a["unanswered"] == 0 for a in again["annotators"])
    (gold,) = [v for k, v in by_name.items() if "simulated" not in k]
    assert {s["name"]: s["win_rate"]["mean"] for s in gold[1:]} == pytest.approx(rates)


def test_an_empty_answer_counts_as_an_answer(tmp_path: Path) -> None:
    for name, outputs in (("mute", ["", ""]), ("talker", ["yes it is!", "no!"])):
        rows = [{"instruction": f"q{i}", "output": o, "generator": name} for i, o in enumerate(outputs)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    paths = tuple(str(tmp_path / f"{name}.json") for name in ("mute", "talker"))
    gold = "countable:exclamation_share"
    evaluate_command(EvaluateConfig(paths, str(tmp_path / "out"), gold=gold, annotator=(gold,), **SMALL))
    report = read_json(tmp_path / "out" / "report.json")
    assert [s["name"] for s in report["systems"]] == ["mute", "talker"]
    assert report["win_rates"]["annotators"][0]["systems"][1]["win_rate"]["mean"] == 1


def test_a_file_with_several_generators_holds_several_systems(tmp_path: Path) -> None:
    rows = [{"instruction": f"q{i}", "output": "so" + "!" * k, "generator": f"g{k}"} for i in range(8) for k in (0, 2)]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    gold = "countable:exclamation_share"
    evaluate_command(EvaluateConfig((str(tmp_path / "all.json"),), str(tmp_path / "out"), gold=gold, **SMALL))
    report = read_json(tmp_path / "out" / "report.json")
    assert [(s["name"], s["seeds"], s["generated"]) for s in report["systems"]] == [("g0", 1, 8), ("g2", 1, 8)]
    assert report["win_rates"]["annotators"][0]["systems"][1]["win_rate"]["mean"] == 1
    assert report["proxy"] == "not named"  # nobody trained on anything, as far as one knows
    assert not report["gold_is_proxy"]
    assert report["systems"][0]["proxy"]["mean"] is None


def test_systems_that_share_no_prompt_are_not_compared(tmp_path: Path) -> None:
    for name in ("one", "two"):
        rows = [{"instruction": f"{name} {i}", "output": "yes! " * (i % 3)} for i in range(9)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    paths = tuple(str(tmp_path / f"{name}.json") for name in ("one", "two"))
    evaluate_command(EvaluateConfig(paths, str(tmp_path / "out"), gold="countable:exclamation_share", **SMALL))
    report = read_json(tmp_path / "out" / "report.json")
    assert [s["difference"] for s in report["systems"]] == [None, None]
    assert report["win_rates"]["annotators"][0]["comparisons"] == 0
    assert "no difference is claimed" in (tmp_path / "out" / "report.md").read_text()


def test_a_scorer_without_a_better_end_ranks_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "q", "output": "one two"}] * 2))
    path = str(tmp_path / "a.json")
    evaluate_command(EvaluateConfig((path, f"b={path}"), str(tmp_path / "out"), gold="countable:words", **SMALL))
    assert read_json(tmp_path / "out" / "report.json")["win_rates"] is None


def test_the_task_for_lm_eval_scores_as_gold_does(evaluated: Path) -> None:
    folder = evaluated / "lm-eval"
    text = (folder / "steer.yaml").read_text().replace("!function ", "")
    task = yaml.safe_load(text)
    prompts = [json.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()]
    assert len(prompts) == 12
    assert "{{instruction}}" in task["doc_to_text"]
    names = {m["metric"] for m in task["metric_list"]}
    code = "import json, steer_scores as s; d = json.loads(open('prompts.jsonl').readline()); "
    code += "print(json.dumps(s.process_results(d, ['cats are small. they eat fish.'])))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == names


def test_rows_of_generate_have_a_dial(labels: Path, trained: Path, tmp_path: Path) -> None:
    ask = GenerateConfig(
        str(trained), input=str(labels), split="test", limit=10, target=("verbosity=0", "verbosity=4"),
        output=str(tmp_path / "drawn"), max_new_tokens=24, allow_unsupported=True,
    )  # fmt: skip
    generate_command(ask)
    evaluate_command(EvaluateConfig((str(tmp_path / "drawn"),), str(tmp_path / "out"), str(labels), GOLD, **SMALL))
    report = read_json(tmp_path / "out" / "report.json")
    assert [s["name"] for s in report["systems"]] == ["logs", "drawn @ verbosity=0", "drawn @ verbosity=4"]
    (dial,) = report["dials"]
    assert [m["target"] for m in dial["result"]["attributes"]["verbosity"]["means"]] == [0, 4]
    assert dial["result"]["n"] == len(read_rows(tmp_path / "drawn"))


def test_rows_of_which_none_has_all_attributes_train_a_policy_that_says_so(
    labels: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": row["prompt"], "response": row["response"], "scores": {name: row["predicted"][name]}}
        for row, name in zip(read_rows(labels), cycle(("verbosity", "warmth")))
    ]
    labelled = label(rows)
    capsys.readouterr()
    few = r"no combination of verbosity, warmth occurs in 5 rows\. Ask for fewer attributes, such as --target \w+=\d"
    policy = train(labelled, model=str(tiny), adapter="none", max_steps=1)
    assert re.search(few, capsys.readouterr().err)
    assert {row["target"] == {} for row in generate(policy, ["hi"], max_new_tokens=4)} == {True}
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 4, **SMALL}
    with pytest.raises(SteerError, match=few):
        evaluate(policy, prompts=labelled, **how)
    found = evaluate(policy, prompts=labelled, target="verbosity=low", **how)
    assert found.dial == {}
    assert re.search(f"has no dial, for {few}", capsys.readouterr().err)


def test_one_name_twice_is_two_seeds(labels: Path, base: Path, trained: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(
        (f"a={base}", f"a={base}"), str(tmp_path / "out"), str(labels), GOLD, num_prompts=5, grid=0, **SMALL
    )
    evaluate_command(config)
    report = read_json(tmp_path / "out" / "report.json")
    assert [(s["name"], s["seeds"]) for s in report["systems"]] == [("logs", 1), ("a", 2)]


def test_policies_are_repetitions_of_the_base_that_they_were_trained_from() -> None:
    """Whatever their order, equal seeds are on one base; a model as it comes and given responses are on none."""

    def trained_from(name: str, base: str, revision: str = "") -> Contestant:
        card = SimpleNamespace(base=base, base_hash="", base_revision=revision)
        return Contestant(name, 0, policy=cast(Policy, SimpleNamespace(card=card)))

    a, b = ([trained_from(name, base) for base in bases] for name, bases in (("a", "PQPQ"), ("b", "QPQ")))
    rows = [Contestant("logs", seed, rows=[]) for seed in range(2)]
    found = repetitions([*a, *b, *rows])
    assert found[:4] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert found[4:7] == [(1, 1), (0, 0), (3, 1)]
    assert found[7:] == [(0, NO_BASE), (2, NO_BASE)]
    assert repetitions([*rows, *rows]) == [(i, NO_BASE) for i in range(4)]
    assert repetitions([trained_from("a", "P", commit) for commit in "xyx"]) == [(0, 0), (1, 1), (2, 0)]


def test_an_interval_over_policies_of_several_bases_is_over_the_bases(
    labels: Path, base: Path, trained: Path, tmp_path: Path
) -> None:
    """Three of one base and one of another are two repetitions; the report says so."""
    other = shutil.copytree(trained, tmp_path / "other")
    card = read_json(other / "steer.json")
    (other / "steer.json").write_text(json.dumps(card | {"base_hash": "another"}))
    how: dict[str, Any] = {"num_prompts": 5, "grid": 0, "target": ("best",), **SMALL}
    systems = (f"m={base}", *[f"a={path}" for path in (trained, trained, trained, other)])
    evaluate_command(EvaluateConfig(systems, str(tmp_path / "out"), str(labels), GOLD, **how))
    report = read_json(tmp_path / "out" / "report.json")
    assert spread(4, 2) in report["notes"]
    [told] = [s["difference"] for s in report["systems"] if s["difference"]]
    assert told["over"] == "prompts and seeds"
    assert told["errors"][-1][1] == 1, "two bases have one degree of freedom, whatever their seeds"


def test_what_is_missing_is_named(base: Path, labels: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for config, said in (
        (EvaluateConfig((str(base),), out, gold=GOLD), "--rows is missing"),
        (EvaluateConfig((str(labels),), out), "--gold is missing"),
        (EvaluateConfig((str(labels),), out, gold="human"), "then --gold SCORER"),
        (EvaluateConfig((str(labels),), out, gold=GOLD, export=("alpaca",)), "did you mean 'alpaca-eval'"),
    ):
        with pytest.raises(SteerError, match=said):
            evaluate_command(config)
    assert not Path(out).exists()


def test_a_run_on_votes_alone_needs_no_gold_and_prints_win_rates(tmp_path: Path) -> None:
    for name, text in (("base", "x"), ("a", "y")):
        lines = [{"instruction": f"q{i}", "output": f"{text}{i}", "generator": name} for i in range(10)]
        (tmp_path / f"{name}.json").write_text(json.dumps(lines))
    votes = [
        {"instruction": f"q{i}", "output_1": f"x{i}", "output_2": f"y{i}", "preference": 2.0 - (i > 7)}
        for i in range(10)
    ]
    (tmp_path / "v.json").write_text(json.dumps(votes))
    systems = (str(tmp_path / "base.json"), str(tmp_path / "a.json"))
    config = EvaluateConfig(systems, str(tmp_path / "out"), annotator=(f"votes:{tmp_path / 'v.json'}",))
    text = evaluate_command(config)
    assert "a: 80.0 [" in text
    assert "8/0/2 won/tied/lost" in text
    assert "answered" not in text
    report = (tmp_path / "out" / "report.md").read_text()
    assert "10 comparisons" in report
    (tmp_path / "v.json").write_text(json.dumps(votes[:8]))
    text = evaluate_command(replace(config, output=str(tmp_path / "less")))
    assert "answered 8 of 10 comparisons (80.0 %)" in text
    report = (tmp_path / "less" / "report.md").read_text()
    assert "2 unanswered and excluded" in report
    assert "**100.0" not in report  # nothing is bold
    with pytest.raises(SteerError, match="--gold is missing"):
        evaluate_command(EvaluateConfig(systems, str(tmp_path / "none")))


def test_the_command_is_a_doorway_on_evaluate(labels: Path, trained: Path, base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_prompts": 6, "grid": 10, **SMALL}
    systems = (f"plain={base}", f"steered={trained}")
    evaluate_command(EvaluateConfig(systems, str(tmp_path / "out"), str(labels), GOLD, **settings))
    by_command = read_json(tmp_path / "out" / "report.json")
    policies = {"plain": load_policy(str(base)), "steered": load_policy(str(trained))}
    folder = tmp_path / "api"
    found = evaluate(policies, prompts=Labelled.read(labels), gold=GOLD, folder=folder, **settings)
    by_call = read_json(folder / "report.json")
    differing = {key for key in by_command if by_command[key] != by_call[key]}
    assert differing <= {"command", "commands", "hashes", "seconds"}
    assert found.dial == by_call["dials"][0]["result"]
    assert "steered @ best" in found.table
    assert f"\nsteered: mean level obtained per level asked; {LEVELS}\nAsked " in found.table
    for name, attribute in found.dial["attributes"].items():
        (line,) = [line for line in found.table.splitlines() if line.startswith(f"{name} ")]
        assert f" {attribute['means'][0]['mean']:.2f}" in line
    assert evaluate(policies, prompts=Labelled.read(labels), gold=GOLD, folder=folder, **settings).table == found.table
    with pytest.raises(SteerError, match=r"other settings \(seed\)"):
        evaluate(policies, prompts=Labelled.read(labels), gold=GOLD, folder=folder, seed=1, **settings)


def test_responses_in_memory_are_judged_without_a_folder() -> None:
    ends = {"a": "", "b": "!"}
    rows = {name: [{"prompt": f"q{i}", "response": "so" + end} for i in range(4)] for name, end in ends.items()}
    found = evaluate(rows, gold="countable:exclamation_share", resamples=20)
    assert [s["name"] for s in found.result["systems"]] == ["a", "b"]
    assert found.result["win_rates"]["annotators"][0]["systems"][1]["win_rate"]["mean"] == 1
    assert found.dial == {}


def test_responses_to_several_targets_are_a_system_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Pooled, the two would be one row of means over opposite requests."""
    asked = [{}, {"words": 0}, {"words": 2}]
    rows = [
        {"prompt": f"q{i}", "response": "so " * (1 + target.get("words", 1)), "target": target}
        for i in range(4)
        for target in asked
    ]
    found = evaluate({"a": rows}, gold="countable:words", resamples=20)
    means = {s["name"]: s["attributes"]["words"]["mean"] for s in found.result["systems"]}
    assert means == {"a @ none": 2, "a @ words=0": 1, "a @ words=2": 3}
    assert found.table.startswith("No attribute has a better end, so there is no reward to compare")
    assert "their dial needs the levels of the labelled rows" in capsys.readouterr().err
    many = [{**rows[0], "prompt": f"q{i}", "target": {"words": i}} for i in range(21)]
    assert [s["name"] for s in evaluate({"a": many}, gold="countable:words", resamples=20).result["systems"]] == ["a"]
    assert "responses to 21 targets are pooled" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["", "test"])
def test_rows_that_name_no_split_are_not_called_held_out(split: str) -> None:
    named = {"split": split} if split else {}
    rows = [{"prompt": f"q {i}", "response": "a " * (i + 1), **named} for i in range(4)]
    examination = Examination(EvaluateSettings(), rows, "countable:words")
    assert examination.case([], "", {}).held_out == bool(split)


def test_logged_responses_that_only_call_tools_count() -> None:
    asked = {"prompt": [{"role": "user", "content": "How heavy is it?"}], "response": ""}
    rows = [
        {**asked, "id": "a", "tool_calls": [{"function": {"name": "weigh", "arguments": {}}}]},
        {**asked, "id": "b"},
    ]
    court = Examination(EvaluateSettings(), rows, "countable:words").court
    assert [row["id"] for row in court.rows] == ["a"]
    assert court.logs.gold.tolist() == [[1.0]]
