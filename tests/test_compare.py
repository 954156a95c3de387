"""A comparison: one budget, one split, gold apart from proxy, and no run lost."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import steer.comparison.runs as package
from steer.cli import cli
from steer.comparison.command import compare_command
from steer.comparison.comparison import UNSCORED, Comparison
from steer.comparison.entry import Entry, cost, swept, unique
from steer.comparison.rates import read_rates
from steer.comparison.settings import BASELINES, FAMILIES, SUITES
from steer.comparison.tuning import phases, tried
from steer.config.comparison import CompareConfig
from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.drawn import Decoding
from steer.evaluation.statistics import best_of_n_kl
from steer.evaluation.systems import Answers, RewardScale, difference, raw_reward, summary
from steer.labelling.command import label_command
from steer.labelling.scorer import Scorer
from steer.methods import METHODS
from steer.options import resolve
from steer.report import headline
from steer.rows import read_back, read_rows, write_rows
from steer.rows.schema import Attribute, Schema
from steer.run_folder import read_json

GOLD = "data_recipes.world_text:Gold"


@pytest.fixture(scope="module")
def comparison(labels: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    settings = folder / "train.yaml"
    settings.write_text("max_steps: 3\nlora_r: 4\n")
    compare_command(
        CompareConfig(
            str(labels),
            str(tiny),
            str(folder / "out"),
            method=(
                "mle",
                "filtered:keep=0.5",
                "rwr:beta=0.5",
                "conditional",
                "conditional:template=decision-transformer",
            ),
            target=("best", "verbosity>=3", "verbosity<=3"),
            gold=GOLD,
            num_prompts=10,
            grid=20,
            controls=True,
            max_new_tokens=8,
            train=str(settings),
            resamples=50,
            seeds=2,
        )
    )
    return folder / "out"


def test_the_report_has_every_system_and_target(comparison: Path) -> None:
    report = read_json(comparison / "report.json")
    assert [s["name"] for s in report["systems"]] == [
        "logs",
        "base",
        "mle",
        "filtered:keep=0.5",
        "rwr:beta=0.5",
        "conditional @ best",
        "conditional @ verbosity>=3",
        "conditional @ verbosity<=3",
        "conditional @ random",
        "conditional:template=decision-transformer @ best",
        "conditional:template=decision-transformer @ random",
    ]
    assert [d["name"] for d in report["dials"]] == ["conditional", "conditional, permuted labels"]
    assert report["failures"] == []
    assert report["gold"] == GOLD
    low, high = ({s["name"]: s for s in report["systems"]}[f"conditional @ verbosity{sign}=3"] for sign in "<>")
    assert low["target"] != high["target"], "each has answers of its own"
    assert low["family"] == high["family"] == "conditional @ verbosity"
    assert {p.name for p in comparison.glob("report.*")} == {"report.json", "report.md", "report.html"}


def test_every_method_takes_the_same_steps_on_the_same_prompts(comparison: Path) -> None:
    steps = {read_json(p)["steps"] for p in comparison.glob("runs/*/policy/done.json")}
    assert steps == {3}
    prompts = [[row["prompt"] for row in read_back(p)] for p in comparison.glob("runs/*/answers-*/answers.jsonl")]
    assert len(prompts) == 18
    assert all(p == prompts[0] for p in prompts)


def test_held_out_prompts_are_not_trained_on(comparison: Path, labels: Path) -> None:
    asked = {
        row["prompt"][0]["content"]
        for row in read_back(comparison / "runs" / "mle-seed0" / "answers-plain" / "answers.jsonl")
    }
    trained = {row["prompt"][0]["content"] for row in read_rows(labels) if row["split"] == "train"}
    assert not asked & trained


def test_the_control_has_the_same_levels_on_other_rows(comparison: Path, labels: Path) -> None:
    rows, mixed = read_rows(labels), read_rows(comparison / "permuted")
    key = [sorted(r["levels"].items()) for r in rows if r["split"] == "train"]
    other = [sorted(r["levels"].items()) for r in mixed if r["split"] == "train"]
    assert sorted(key) == sorted(other)
    assert sum(a == b for a, b in zip(key, other)) < len(key) / 2
    labels_of = [{(str(r["levels"]), str(r["predicted"]), r["reward"]) for r in some} for some in (rows, mixed)]
    assert labels_of[0] == labels_of[1], "a score stays with the level that it gave"
    assert [r["response"] for r in rows] == [r["response"] for r in mixed]


def test_a_failed_run_does_not_lose_the_others(labels: Path, tiny: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "schema.json").write_bytes((labels / "schema.json").read_bytes())
    rows = [{**row, "reward": 0.0} for row in read_rows(labels)]
    write_rows(rows, bad / "rows.jsonl")
    settings = tmp_path / "train.yaml"
    settings.write_text("max_steps: 1\nlora_r: 2\n")
    said = compare_command(
        CompareConfig(
            str(bad),
            str(tiny),
            str(tmp_path / "out"),
            method=("rwr", "mle"),
            gold=GOLD,
            scorer=GOLD,
            num_prompts=4,
            grid=0,
            max_new_tokens=4,
            train=str(settings),
            resamples=20,
        )
    )
    report = read_json(tmp_path / "out" / "report.json")
    assert [f["name"] for f in report["failures"]] == ["rwr, seed 0"]
    assert "equal" in report["failures"][0]["error"]
    assert "mle" in [s["name"] for s in report["systems"]]
    assert "1 run failed" in said


def test_a_decoding_that_fails_loses_neither_the_others_nor_the_baseline(
    labels: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.yaml").write_text("max_steps: 1\nlora_r: 2\n")
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 4, "grid": 0, "max_new_tokens": 4, "resamples": 20}
    how |= {"method": ("mle:best_of=1/3", "rwr"), "train": str(tmp_path / "train.yaml")}
    config = CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), **how)

    def broken(*_: Any, **__: Any) -> Any:
        raise SteerError("no reward.")

    with monkeypatch.context() as patch:
        patch.setattr("steer.evaluation.examination.rewarder", broken)
        compare_command(config)
    report = read_json(tmp_path / "out" / "report.json")
    assert report["failures"] == [{"name": "mle:best_of=3, seed 0", "error": "no reward."}]
    assert report["baseline"] == "mle"
    assert {"mle", "mle:random_of=3", "rwr"} < {s["name"] for s in report["systems"]}
    assert not any("intended" in line for line in headline(report))
    with monkeypatch.context() as patch:
        patch.setattr(package, "load_policy", broken)
        compare_command(replace(config, output=str(tmp_path / "lost")))
    report = read_json(tmp_path / "lost" / "report.json")
    assert report["baseline"] == "base"
    assert "The baseline is base: mle, the intended one, has no answers." in headline(report)


class Partly:
    """A scorer that counts words, and gives no score to one answer in two."""

    attributes = ("words",)

    def score(self, rows: list[dict[str, Any]]) -> Any:
        counts = [(len(row["response"]), len(row["response"].split())) for row in rows]
        return np.array([[math.nan if length % 2 else float(words)] for length, words in counts])


def test_candidates_that_the_proxy_cannot_score_are_counted_and_lose_nothing(
    labels: Path, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.yaml").write_text("max_steps: 1\nlora_r: 2\n")
    counted = {"scorer": "countable:words", "higher": ("words",), "min_support": 1}
    label_command(LabelConfig(str(labels.parent / "logs"), str(tmp_path / "labels"), **counted))  # type: ignore[arg-type]
    how: dict[str, Any] = {"gold": "countable:words", "num_prompts": 4, "grid": 0, "max_new_tokens": 12}
    how |= {"method": ("mle:best_of=1/3",), "train": str(tmp_path / "train.yaml"), "resamples": 20}
    how |= {"scorer": "tests.test_compare:Partly"}
    compare_command(CompareConfig(str(tmp_path / "labels"), str(tiny), str(tmp_path / "out"), **how))
    report = read_json(tmp_path / "out" / "report.json")
    assert report["failures"] == []
    assert "mle:best_of=3" in {s["name"] for s in report["systems"]}
    place = tmp_path / "out" / "runs" / "mle-seed0" / "answers-best_of=3"
    odd = sum(len(row["response"]) % 2 for path in (place / "parts").iterdir() for row in read_back(path))
    assert UNSCORED.format("mle", odd, 3 * 4) in report["notes"]


def test_what_failed_is_tried_again_and_nothing_else(
    labels: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.yaml").write_text("max_steps: 1\nlora_r: 2\n")
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 4, "grid": 0, "max_new_tokens": 4, "resamples": 20}
    how |= {"method": ("rwr", "mle", "remax"), "budget_calls": 1, "train": str(tmp_path / "train.yaml")}
    config = CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), **how)

    def broken(shared: Comparison, entry: Entry, seed: int, rows: str) -> Any:
        if entry.method == "rwr":
            raise MemoryError
        return whole(shared, entry, seed, rows)

    whole = package.trained
    with monkeypatch.context() as patch:
        patch.setattr(package, "trained", broken)
        assert (
            "1 run failed and 1 method skipped; the report says why. The same command tries again."
            in compare_command(config)
        )
        assert shell(config).exit_code == 1, "a script with && does not go on"
    out = tmp_path / "out"
    assert {f["error"] for f in read_json(out / "report.json")["failures"]} > {"MemoryError"}
    assert not (out / "done.json").exists()
    before = (out / "runs" / "mle-seed0" / "policy" / "done.json").stat().st_mtime_ns
    said = compare_command(config)
    assert (out / "runs" / "mle-seed0" / "policy" / "done.json").stat().st_mtime_ns == before
    assert [f["name"] for f in read_json(out / "report.json")["failures"]] == ["remax"], "over budget stays so"
    assert "1 method skipped; the report says why. Report" in said
    assert compare_command(config) == said == read_json(out / "done.json")["summary"]
    assert shell(config).exit_code == 0


def shell(config: CompareConfig) -> Result:
    """Run `steer compare` with the settings of a config."""
    repeated = [f for name in ("method",) for value in getattr(config, name) for f in (f"--{name}", value)]
    named = ("model", "output", "gold", "train", "num_prompts", "grid", "max_new_tokens", "resamples", "budget_calls")
    flags = [str(x) for name in named for x in (f"--{name.replace('_', '-')}", getattr(config, name))]
    return CliRunner().invoke(cli, ["compare", config.rows, *repeated, *flags])


def test_methods_of_which_none_can_run_are_refused_before_any_begins(labels: Path, tiny: Path, tmp_path: Path) -> None:
    """Rows that nobody gave thumbs, say: each of them fails, after the base has answered and was judged."""
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "schema.json").write_bytes((labels / "schema.json").read_bytes())
    write_rows([{**row, "reward": 0.0} for row in read_rows(labels)], bad / "rows.jsonl")
    how: dict[str, Any] = {"gold": GOLD, "scorer": GOLD, "method": ("rwr", "remax"), "budget_calls": 1}
    message = r"none of the methods can run \(rwr: its training would fail: .*; remax: over budget"
    for more in ({}, {"dry_run": True}):
        with pytest.raises(SteerError, match=message):
            compare_command(CompareConfig(str(bad), str(tiny), str(tmp_path / "out"), **how, **more))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def held(comparison: Path) -> CompareConfig:
    """The settings of a comparison in its folder."""
    found = {k: v for k, v in read_json(comparison / "config.json").items() if k != "inputs"}
    return CompareConfig(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}, output=str(comparison)
    )


def test_an_unfinished_comparison_goes_on_and_ends_the_same(comparison: Path) -> None:
    before = read_json(comparison / "report.json")
    trained = {p: p.stat().st_mtime_ns for p in comparison.glob("runs/*/policy/done.json")}
    (comparison / "done.json").unlink()
    lost = comparison / "runs" / "mle-seed1" / "answers-plain"
    for path in (lost / "answers.jsonl", *(lost / "parts").iterdir()):
        path.unlink()
    compare_command(held(comparison))
    after = read_json(comparison / "report.json")
    assert {p: p.stat().st_mtime_ns for p in trained} == trained
    assert {k: after[k] for k in ("systems", "dials", "win_rates")} == {
        k: before[k] for k in ("systems", "dials", "win_rates")
    }


def test_other_scorers_and_other_training_are_another_comparison(
    comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = held(comparison)
    said, text = read_json(comparison / "done.json")["summary"], Path(config.train).read_text()
    Path(config.train).write_text(text + "micro_batch_tokens: 4096\nmethod: dpo\nscorer: nobody\n")
    assert compare_command(config) == said, "what results do not follow from"
    Path(config.train).write_text(text + "learning_rate: 1e-3\n")
    with pytest.raises(SteerError, match=r"other settings \(inputs\.training\)"):
        compare_command(config)
    Path(config.train).write_text(text)
    votes = tmp_path / "votes.json"
    seen = []
    for content in ("[]", "[1]"):
        votes.write_text(content)
        seen.append(Comparison(replace(config, annotator=(f"votes:{votes}",)), tmp_path).inputs)
    assert seen[0] != seen[1]
    with monkeypatch.context() as patch:
        patch.setattr("steer.evaluation.annotators.load_scorer", lambda spec, **_: Scorer(f"{spec}, refitted", ()))
        with pytest.raises(SteerError, match=r"other settings \(inputs\."):
            compare_command(config)
    assert compare_command(config) == said


def test_a_comparison_grows_and_is_then_what_it_would_be_at_once(labels: Path, tiny: Path, tmp_path: Path) -> None:
    """Another method or seed used to want another folder, where everything was trained again."""
    (tmp_path / "train.yaml").write_text("max_steps: 2\nlora_r: 2\nbatch_size: 4\n")
    (tmp_path / "rates.json").write_text('{"mle": 1}')
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 6, "grid": 0, "max_new_tokens": 8, "resamples": 20}
    how |= {"train": str(tmp_path / "train.yaml"), "rates": str(tmp_path / "rates.json")}
    small = CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), method=("mle", "filtered"), **how)
    compare_command(small)
    trained = {path: path.stat().st_mtime_ns for path in Path(small.output).rglob("adapter_model.safetensors")}
    assert len(trained) == 2
    (tmp_path / "rates.json").write_text('{"mle": 1, "awr": 0.5}')
    grown = replace(small, method=("mle", "awr"), seeds=2)
    compare_command(grown)
    assert trained == {path: path.stat().st_mtime_ns for path in trained}, "nothing is trained twice"
    assert read_json(Path(small.output) / "config.json")["seeds"] == 2
    whole = replace(grown, output=str(tmp_path / "whole"))
    compare_command(whole)
    found, expected = (read_json(Path(c.output) / "report.json") for c in (grown, whole))
    for key in ("win_rates", "failures", "baseline", "dials"):
        assert found[key] == expected[key]
    for one, other in zip(found["systems"], expected["systems"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    with pytest.raises(SteerError, match=r"other settings \(num_prompts\)"):
        compare_command(replace(grown, num_prompts=7))


def test_where_rates_are_tuned_the_seeds_stay(labels: Path, tiny: Path, tmp_path: Path) -> None:
    one = Comparison(CompareConfig(str(labels), str(tiny), str(tmp_path), tune=3), tmp_path)
    assert "seeds" not in one.growing
    assert "seeds" in Comparison(replace(one.config, tune=0), tmp_path).growing


def test_knobs_are_swept_on_one_policy_and_budgets_hold(labels: Path, tiny: Path, tmp_path: Path) -> None:
    settings = tmp_path / "train.yaml"
    settings.write_text("max_steps: 2\nlora_r: 2\nbatch_size: 4\n")
    config = CompareConfig(
        str(labels),
        str(tiny),
        str(tmp_path / "out"),
        method=("mle:best_of=1/3", "rwr:beta=1/0.5", "conditional:guidance=1/2", "remax"),
        target=("best", "verbosity=0", "verbosity=4"),
        gold=GOLD,
        num_prompts=6,
        grid=0,
        budget_calls=10,
        max_new_tokens=6,
        train=str(settings),
        resamples=30,
    )
    compare_command(config)
    report = read_json(tmp_path / "out" / "report.json")
    systems = {s["name"]: s for s in report["systems"]}
    assert len(list((tmp_path / "out" / "runs").glob("*/policy"))) == 4  # mle, rwr twice, conditional
    assert {"mle", "mle:best_of=3", "rwr:beta=1", "rwr:beta=0.5", "conditional:guidance=2 @ best"} <= set(systems)
    assert systems["mle:best_of=3"]["proxy"]["mean"] >= systems["mle"]["proxy"]["mean"]
    assert systems["mle:best_of=3"]["scored"] == 6 * 3
    one_at_random_of_the_same(tmp_path / "out", systems, report)
    assert systems["conditional @ verbosity=0"]["family"] == systems["conditional @ verbosity=4"]["family"]
    assert systems["conditional @ best"]["family"] != systems["conditional @ verbosity=0"]["family"]
    (lost,) = report["failures"]
    assert lost["name"] == "remax"
    assert lost["error"] == "over budget: training takes up to 16 scorer calls, and 10 are allowed."
    assert report["budget"]["scorer_calls"] == 10


def one_at_random_of_the_same(folder: Path, systems: dict[str, Any], report: dict[str, Any]) -> None:
    """Beside the best of n stands one of the same n at random: what choosing gains is paired."""
    place = folder / "runs" / "mle-seed0" / "answers-best_of=3"
    drawn = [row["response"] for path in sorted((place / "parts").iterdir()) for row in read_back(path)]
    best, chance = (read_back(place / f"{name}.jsonl") for name in ("answers", "random"))
    assert len(drawn) == 3 * len(best) == 3 * len(chance) == 18
    assert all(row["response"] in drawn[3 * i : 3 * i + 3] for i, row in enumerate(chance))
    assert [row["prompt"] for row in best] == [row["prompt"] for row in chance]
    wrote = [row["candidate_tokens"] for row in best]
    assert wrote == [row["candidate_tokens"] for row in chance], "the same draws, whichever is kept"
    assert all(3 <= total <= 3 * 6 for total in wrote)
    assert systems["mle:random_of=3"]["scored"] == 0
    assert systems["mle:random_of=3"]["family"] == "", "no setting of the method: no point of its frontier"
    [choice] = report["choices"]
    assert choice["name"] == "mle:best_of=3"
    gold = [systems[f"mle:{name}_of=3"]["gold"]["mean"] for name in ("best", "random")]
    assert choice["gain"]["mean"] == pytest.approx(gold[0] - gold[1])
    same = [(a["logp"], b["logp"]) for a, b in zip(best, chance) if a["response"] == b["response"]]
    assert all(a - b == pytest.approx(best_of_n_kl(3)) for a, b in same), "only choosing makes an answer likelier"
    assert same
    assert "What choosing gains" in (folder / "report.md").read_text()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(labels: Path, tiny: Path, tmp_path: Path) -> None:
    settings = tmp_path / "train.yaml"
    settings.write_text("max_steps: 20\nbatch_size: 4\n")
    config = CompareConfig(
        str(labels),
        str(tiny),
        str(tmp_path / "out"),
        method=("mle:best_of=1/3", "remax", "conditional", "conditional:rounds=2,prompts_per_round=10"),
        target=("best", "verbosity=0"),
        gold=GOLD,
        num_prompts=6,
        grid=20,
        seeds=2,
        controls=True,
        budget_calls=100,
        train=str(settings),
        dry_run=True,
    )
    lines = compare_command(config).splitlines()
    assert [line.partition(";")[0] for line in lines[1:-2]] == [
        "  mle: 20 steps, 24 answers",
        "  remax: over budget: training takes up to 160 scorer calls, and 100 are allowed.",
        "  conditional: 20 steps, 38 answers",  # best, verbosity=0 and at random to six prompts, and the grid
        "  conditional:rounds=2,prompts_per_round=10: 60 steps, draws and has scored up to 20 responses, 38 answers",
        "  conditional, permuted labels: 20 steps, 20 answers",
    ]
    assert lines[-1].startswith("With 2 seeds at most 240 steps of 4 groups and 240 answers, beside those of the base;")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("gold", "flag"), [("", "--scorer"), ("human", "--gold"), (GOLD, "--scorer")])
def test_people_judge_no_new_responses(gold: str, flag: str, labels: Path, tiny: Path, tmp_path: Path) -> None:
    scorer = GOLD if flag == "--gold" else "human"
    with pytest.raises(SteerError, match=f"people rated the logs, nobody rates new responses.* then {flag} SCORER"):
        compare_command(CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), scorer=scorer, gold=gold))
    assert not (tmp_path / "out").exists()


def test_a_slash_is_a_sweep() -> None:
    assert [e.spec for e in swept("rwr:beta=3/1,clip=5")] == ["rwr:beta=3,clip=5", "rwr:beta=1,clip=5"]
    (entry,) = swept("conditional:guidance=1/2,best_of=4")
    assert entry.decodings == tuple(Decoding(g, 4, r) for g in (1.0, 2.0) for r in (False, True))
    assert entry.name("best", entry.decodings[3]) == "conditional:guidance=2,random_of=4 @ best"
    assert entry.name("best", entry.decodings[2]) == "conditional:guidance=2,best_of=4 @ best"
    for spec, told in (
        ("mle:guidance=2", "condition"),
        ("mle:best_of=0", "best_of=0: wanted a whole number of 1 or more"),
        ("mle:best_of=x", "number"),
    ):
        with pytest.raises(SteerError, match=told):
            swept(spec)


def test_a_suite_fills_in_what_was_not_said() -> None:
    where = {"rows": "rows", "model": "model", "output": "out"}
    plain = CompareConfig(**where)
    full = resolve(CompareConfig, {**where, "suite": "full"})
    assert (full.seeds, full.controls, full.grid, full.num_prompts) == (3, True, 2000, plain.num_prompts)
    said = {"seeds": plain.seeds, "controls": False, "grid": plain.grid, "method": ("mle",)}
    assert resolve(CompareConfig, {**where, "suite": "full", **said}) == replace(plain, suite="full", method=("mle",))
    for suite in SUITES.values():
        assert unique(suite["method"])


def in_script(name: str) -> list[str]:
    """Read the entries that a script of benchmarks compares."""
    text = (Path(__file__).parents[1] / "benchmarks" / name).read_text(encoding="utf-8")
    return re.findall(r"METHODS:-([^}]+)}", text)[0].split()


def test_every_method_of_the_frontiers_stands_at_three_settings_or_more() -> None:
    points: Counter[str] = Counter()
    for entry in unique(in_script("frontiers.sh")):
        points[entry.method] += len({d for d in entry.decodings if not d.at_random})
    assert points.pop("mle") == 6  # one of them the control of twice the steps
    assert min(points.values()) >= 3


def test_the_whole_field_and_what_training_must_beat_stand_in_the_suites() -> None:
    full = {e.method for e in unique(SUITES["full"]["method"])}
    measured = unique(in_script("methods.sh"))
    for field in (full, {e.method for e in measured}):
        assert METHODS.keys() - field == set()
    assert {e.iterate.prompts_per_round for e in measured if e.iterate} == {500}
    parts = [SUITES[name]["method"] for name in FAMILIES]
    assert set(chain(*parts)) == set(SUITES["full"]["method"])
    assert set.intersection(*map(set, parts)) == set(BASELINES), "every other entry stands in one part"
    assert sum(map(len, parts)) - (len(parts) - 1) * len(BASELINES) == len(SUITES["full"]["method"])
    for suite in SUITES.values():
        assert {"mle", "prompted", "few-shot", "steering"} <= {e.method for e in unique(suite["method"])}
    for name in SUITES:
        decodings = [d for e in unique(SUITES[name]["method"]) for d in e.decodings if d.best_of > 1]
        assert decodings
        assert {d.best for d in decodings if d.at_random} == {d for d in decodings if not d.at_random}


def test_the_file_of_rates_holds_every_method_of_the_table() -> None:
    kept = {tried(Entry.of(spec)) for spec in read_rates(str(Path(__file__).parents[1] / "benchmarks" / "rates.json"))}
    assert phases(unique(in_script("methods.sh")), kept) == []


def test_every_method_of_a_comparison_takes_its_share_of_the_likelihood_rate() -> None:
    settings = TrainConfig("rows", "model", "out", learning_rate=4e-3)
    trained = (e for e in unique(SUITES["full"]["method"]) if not e.untrained)
    rates = {e.method: e.settings_from(settings).learning_rate for e in trained}
    assert rates == {name: 4e-3 * METHODS[name].rate for name in rates}
    assert rates["dpo"] == rates["rso"] == 4e-3 * 0.05
    assert Entry.of("dpo:rate=0.5").settings_from(settings).learning_rate == 4e-3 * 0.5
    assert Entry.of("dpo:learning_rate=1e-3").settings_from(settings).learning_rate == 1e-3
    assert Entry.of("dpo:learning_rate=1e-3,rate=0.5").settings_from(settings).learning_rate == 5e-4
    phrased = replace(settings, phrase=("warmth=be warm: {level}.",))
    assert Entry.of("conditional").settings_from(phrased).phrase == phrased.phrase
    assert Entry.of("directional:after=mle").settings_from(phrased).phrase == ()  # it asks for no levels


def test_unknown_parts_of_a_method_are_refused_before_anything_is_written(
    labels: Path, tiny: Path, tmp_path: Path
) -> None:
    for spec, told in (("dop", "unknown method"), ("rwr:bta=1", "beta"), ("conditional:template=tag", "tags")):
        with pytest.raises(SteerError, match=told):
            compare_command(CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), method=(spec,)))
    assert not (tmp_path / "out").exists()


def test_entries_split_template_from_settings() -> None:
    entry = Entry.of("conditional:template=steerlm")
    assert (entry.method, entry.settings, entry.training) == ("conditional", (), (("template", "steerlm"),))
    assert Entry.of("rwr:beta=0.5,clip=3").settings == ("beta=0.5", "clip=3")


def schema() -> Schema:
    good = Attribute("good", 0, 4, 1, 1.0)
    return Schema((good, Attribute("bad", 0, 4, -1, 0.5), Attribute("long", 0, 4, 0, 0.0)))


def test_reward_is_direction_aware_and_in_deviations_of_the_logs() -> None:
    scores = np.array([[4.0, 0.0, 9.0], [0.0, 4.0, np.nan], [2.0, 2.0, 0.0]])
    assert raw_reward(schema(), scores).tolist() == [4.0, -2.0, 1.0]
    judge = RewardScale.of(schema(), scores)
    assert judge.reward(scores) == pytest.approx(np.array([3.0, -3.0, 0.0]) / np.sqrt(6.0))


def test_differences_are_paired_by_prompt() -> None:
    judge = RewardScale(schema(), 0.0, 1.0)
    rows = [{"prompt": [{"role": "user", "content": str(i)}], "response": "x"} for i in range(3)]
    a = Answers(rows, np.array([[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]]), np.zeros((3, 3)))
    b = Answers(rows[::-1], np.array([[2.5, 0, 0], [1.5, 0, 0], [0.5, 0, 0]]), np.zeros((3, 3)))
    found = difference({0: a, 1: b}, {0: b, 2: a}, judge, 100)
    assert (found["mean"], found["low"], found["high"]) == (0.5, None, None), "three that differ alike have no spread"


def test_a_system_that_gold_cannot_score_stays_in_the_table() -> None:
    rows = [{"prompt": [{"role": "user", "content": str(i)}], "response": "x"} for i in range(3)]
    known, unknown = (Answers(rows, np.full((3, 3), value), np.ones((3, 3))) for value in (1.0, np.nan))
    judge = RewardScale(schema(), 0.0, 1.0)
    found = summary([known, unknown], judge, judge, ("good",), 50)
    assert found["gold"]["mean"] is None
    assert found["proxy"]["mean"] == 0.5
    assert difference({0: unknown}, {0: known}, judge, 50) == {
        "mean": None,
        "low": None,
        "high": None,
        "n": 0,
        "over": "prompts only",
        "p": None,
        "p_prompts": None,
        "errors": [],
    }


def test_rounds_draw_for_no_more_prompts_than_there_are() -> None:
    entry, settings = Entry.of("raft:rounds=2,n=4,prompts_per_round=100"), TrainConfig("rows", "base", "out")
    assert cost(entry, settings, prompts=30).responses == 2 * 4 * 30
    assert cost(entry, settings, prompts=300).responses == 2 * 4 * 100
