"""Learning rates of a comparison: as many tries for all, judged by the proxy on prompts held out of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from steer.comparison.command import compare_command
from steer.comparison.comparison import Comparison, Outcome
from steer.comparison.entry import Entry
from steer.comparison.rates import RATES
from steer.comparison.tuning import Choice, held_out, on_training_rows, phases, shares, tried
from steer.comparison.tuning import tuned as by_rates
from steer.config.comparison import CompareConfig
from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.evaluation.systems import Answers
from steer.labelling.command import label_command
from steer.methods import METHODS, peak_rate
from steer.report.tuned import tuned as table
from steer.rows import prompt_key, read_back, read_rows, write_rows
from steer.run_folder import read_json, write_json
from tests.test_compare import held

GOLD = "data_recipes.world_text:Gold"
METHOD = ("mle", "dpo:after=mle", "rwr:rate=0.5", "raft:rounds=1,prompts_per_round=4,n=2")


@pytest.fixture(scope="module")
def tuned(labels: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "train.yaml").write_text("max_steps: 2\nlora_r: 2\nbatch_size: 4\nlearning_rate: 1e-3\n")
    how: dict[str, Any] = {"gold": GOLD, "num_prompts": 5, "grid": 0, "max_new_tokens": 40, "resamples": 30}
    how |= {"train": str(folder / "train.yaml"), "tune": 3, "tune_prompts": 6, "method": METHOD}
    compare_command(CompareConfig(str(labels), str(trained), str(folder / "out"), **how))
    return folder / "out"


def test_shares_are_three_times_the_one_before_with_the_methods_own_among_them() -> None:
    assert shares("mle", 3) == pytest.approx([1 / 3, 1, 3], rel=3e-3)
    assert shares("dpo", 3) == pytest.approx([0.05 / 3, 0.05, 0.15], rel=3e-3)
    assert shares("dpo", 2) == pytest.approx([0.05 / 3, 0.05], rel=3e-3)
    assert all(method.rate in shares(name, n) for name, method in METHODS.items() for n in (2, 3, 4))


def test_what_stands_in_front_is_tuned_first_and_given_rates_are_not_tuned() -> None:
    specs = ("dpo:after=mle", "rwr:rate=0.5", "ipo:learning_rate=1e-3", "prompted", "raft:rounds=1", "raft:rounds=2")
    first, second = phases([Entry.of(spec) for spec in specs])
    assert [e.spec for e in first] == ["mle", "raft"], "rounds take what was chosen on the logs"
    assert [e.spec for e in second] == ["dpo:after=mle"]
    (quark,) = phases([Entry.of("quark:prompts_per_round=9"), Entry.of("quark:rounds=3,prompts_per_round=9")])
    assert [(e.spec, e.iterate) for e in quark] == [("quark", None)], "on the logs, though an entry has rounds"
    weighing = phases([Entry.of("steerlm2:rounds=2,n=4")])
    assert [e.spec for phase in weighing for e in phase] == ["conditional", "steerlm2:n=4"], "one round, as others"


def test_what_logs_of_single_responses_cannot_train_is_tried_in_one_round(tmp_path: Path) -> None:
    """It was tried on the logs, failed at every rate, and was dropped, though its rounds could train it."""
    specs = ("raft:rounds=2,n=4", "dpo:after=mle,rounds=3", "mle:rounds=2", "conditional:rounds=1")
    entries = [Entry.of(spec) for spec in specs]
    found = {}
    for several in (1, 2):
        rows = [
            {"id": f"{i} {j}", "prompt": [{"role": "user", "content": str(i)}], "response": f"x{j}", "split": "train"}
            | {"scores": {"x": j + i % 3}}
            for i in range(20)
            for j in range(several)
        ]
        write_rows(rows, tmp_path / f"{several}.jsonl")
        labels = str(tmp_path / f"labels{several}")
        label_command(LabelConfig(str(tmp_path / f"{several}.jsonl"), labels, scorer="human", higher=("x",)))
        comparison = Comparison(CompareConfig(labels, "base", str(tmp_path), tune=3), tmp_path)
        found[several] = [e.spec for phase in phases(entries, (), comparison) for e in phase]
        assert [tried(e, comparison).iterate is not None for e in entries] == [several == 1] * 2 + [False] * 2
    assert found[1] == ["mle", "raft:n=4,rounds=1", "conditional", "dpo:after=mle,rounds=1"]
    assert found[2] == ["mle", "raft", "conditional", "dpo:after=mle"]


def answers(proxy: float, prompts: int = 4) -> Outcome:
    rows = [{"prompt": [{"role": "user", "content": str(i)}], "response": "x"} for i in range(prompts)]
    scores = np.full((prompts, 1), proxy) + np.arange(prompts)[:, None]
    return Outcome({}, {("", None): Answers(rows, -scores, scores)}, None)  # type: ignore[dict-item]


def test_the_highest_proxy_reward_is_chosen_and_never_what_gold_prefers() -> None:
    court = SimpleNamespace(by_proxy=SimpleNamespace(reward=lambda scores: scores[:, 0]))
    inner: Any = SimpleNamespace(examination=SimpleNamespace(court=court))

    def choice(*proxies: float | None) -> Choice:
        runs = {s: None if p is None else answers(p) for s, p in zip(shares("dpo", 3), proxies)}
        return Choice.of(inner, Entry.of("dpo"), runs)

    low, own, high = shares("dpo", 3)
    assert choice(0.0, 1.0, 2.0).share == high
    assert choice(2.0, 1.0, 0.0).share == low
    assert choice(1.0, 1.0, 1.0).share == own, "of equals the one that is nearest to the method's own"
    assert choice(None, 0.0, np.nan).share == own, "what failed or has no score is not chosen"
    assert choice(None, None, np.nan).share is None
    gain = choice(0.0, 1.0, 2.5).gain
    assert gain is not None
    assert gain["mean"] == pytest.approx(1.5)
    assert choice(0.0, 1.0, 0.5).gain is None


def test_a_rate_is_not_chosen_for_the_answers_that_have_no_score() -> None:
    """The higher rate lost its two lowest prompts; on those that both have it is worse."""
    court = SimpleNamespace(by_proxy=SimpleNamespace(reward=lambda scores: scores[:, 0]))
    inner: Any = SimpleNamespace(examination=SimpleNamespace(court=court))
    low, own, high = shares("dpo", 3)
    runs = {low: None, own: answers(0.0), high: answers(-0.5)}
    next(iter(runs[high].answers.values())).proxy[:2] = np.nan  # type: ignore[union-attr]
    found = Choice.of(inner, Entry.of("dpo"), runs)
    assert (found.share, found.unscored) == (own, 2)
    assert {share: reward.mean for share, reward in found.rewards.items()} == {own: 2.5, high: 2.0}
    next(iter(runs[own].answers.values())).proxy[2:] = np.nan  # type: ignore[union-attr]
    assert Choice.of(inner, Entry.of("dpo"), runs).share == own, "no prompt tells them apart"


def test_a_gain_below_0_is_not_shown_to_be_better() -> None:
    gain = {"mean": -0.4, "low": -0.5, "high": -0.3, "n": 9}
    one = {"learning_rate": 1e-4, "proxy": gain, "chosen": True, "own": False}
    entry = {"name": "dpo", "tries": [one], "gain": gain, "edge": False, "runs": 1, "failed": 0, "unscored": 3}
    entry |= dict.fromkeys(("steps", "tokens", "drawn", "scored", "answers", "seconds"), 1)
    [block, left_out] = table({"proxy": "linear", "rows": 100, "prompts": 20, "entries": [entry]})
    assert block.rows[0][2:4] == ["-0.40 [-0.50, -0.30]", "no"]  # type: ignore[union-attr]
    assert left_out == "Prompts left out of the choice, because a try has no score there: dpo (3 of 20)."


def test_the_table_says_that_the_gain_of_what_was_chosen_is_not_corrected_for_choosing() -> None:
    [block] = table({"proxy": "linear", "rows": 100, "prompts": 20, "entries": []})
    assert "best of several tries on the prompts that chose it: it is biased upwards" in block.caption  # type: ignore[union-attr]


def test_tuning_sees_neither_gold_nor_a_prompt_of_the_report(tuned: Path, labels: Path) -> None:
    rows = read_rows(labels)
    test = {prompt_key(row) for row in rows if row["split"] == "test"}
    train = {prompt_key(row) for row in rows if row["split"] == "train"}
    inside = read_rows(tuned / "tuning" / "rows")
    ours, kept = ({prompt_key(r) for r in inside if r["split"] == split} for split in ("test", "train"))
    assert len(ours) == 6
    assert not test & (ours | kept)
    assert not ours & kept
    assert ours | kept == train
    asked = [read_back(path) for path in (tuned / "tuning").glob("runs/*/answers-*/answers.jsonl")]
    assert asked
    assert all({prompt_key(row) for row in some} == ours for some in asked)
    other = Comparison(replace(held(tuned), gold="nothing:Nowhere", scorer=GOLD), tuned)
    alone = on_training_rows(other)
    assert alone.examination.court.gold is alone.examination.court.proxy, "gold is not even loaded"
    assert held_out(other) == held_out(Comparison(held(tuned), tuned)), "nothing but prompts decides"


def test_tuning_takes_none_but_the_rows_that_train(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("limit: 40\n")
    config = CompareConfig(str(labels), "base", str(tmp_path), train=str(tmp_path / "train.yaml"), tune=3)
    comparison = Comparison(config, tmp_path)
    inner = on_training_rows(comparison)
    assert {row["id"] for row in inner.labelled.rows} == {row["id"] for row in comparison.logs}
    assert len(comparison.logs) == 40
    assert {prompt_key(row) for row in inner.labelled.rows if row["split"] == "test"} == set(held_out(comparison))


def test_every_method_has_the_same_tries_and_trains_at_its_chosen_rate(tuned: Path) -> None:
    report = read_json(tuned / "report.json")
    assert report["failures"] == []
    entries = {e["name"]: e for e in report["tuning"]["entries"]}
    assert list(entries) == ["mle", "raft", "dpo:after=mle"]
    assert {e["runs"] for e in entries.values()} == {3}
    assert {len(e["tries"]) for e in entries.values()} == {3}
    assert {n: e["steps"] for n, e in entries.items()} == {"mle": 6, "raft": 6, "dpo:after=mle": 12}
    assert {e["answers"] for e in entries.values()} == {18}
    for entry in entries.values():
        means = [one["proxy"]["mean"] for one in entry["tries"]]
        (chosen,) = (one for one in entry["tries"] if one["chosen"])
        assert chosen["proxy"]["mean"] == max(means)
    rates = {s["name"]: s["learning_rate"] for s in report["systems"] if s["learning_rate"]}
    chosen_of = {n: next(t["learning_rate"] for t in e["tries"] if t["chosen"]) for n, e in entries.items()}
    assert rates == pytest.approx(
        {
            "mle": chosen_of["mle"],
            "dpo:after=mle": chosen_of["dpo:after=mle"],
            "rwr:rate=0.5": 5e-4,
            METHOD[3]: chosen_of["raft"],
        }
    )
    trained = {read_json(p)["learning_rate"] for p in tuned.glob("runs/*/policy/config.json")}
    assert trained == {r for n, r in rates.items() if n != METHOD[3]}, "mle once, also in front of dpo"
    assert "Learning rates" in (tuned / "report.md").read_text()


def test_a_tuning_that_was_stopped_goes_on_to_the_same_choice(tuned: Path) -> None:
    before = read_json(tuned / "report.json")
    policies = {p: p.stat().st_mtime_ns for p in tuned.rglob("policy/done.json")}
    assert len(policies) == 9 + 4  # three tries of three methods; mle, dpo, rwr, and the round of raft
    (tuned / "done.json").unlink()
    compare_command(held(tuned))
    assert {p: p.stat().st_mtime_ns for p in tuned.rglob("policy/done.json")} == policies
    after = read_json(tuned / "report.json")
    assert [after[key] for key in ("tuning", "systems")] == [before[key] for key in ("tuning", "systems")]


def test_a_dry_run_counts_the_tuning(tuned: Path, tmp_path: Path) -> None:
    said = compare_command(replace(held(tuned), output=str(tmp_path / "new"), dry_run=True))
    assert (
        "Tuning, once: 3 learning rates for 3 methods, 18 steps and 54 answers to 6 training prompts held out" in said
    )


def test_a_rate_that_fails_is_said_and_another_is_chosen(tuned: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import steer.comparison.runs as package

    whole = package.trained

    def broken(shared: Comparison, entry: Entry, seed: int, rows: str) -> Any:
        if "rate=0.333" in entry.spec or entry.method == "awr":
            raise SteerError("diverged")
        return whole(shared, entry, seed, rows)

    monkeypatch.setattr(package, "trained", broken)
    out = tmp_path / "out"
    compare_command(replace(held(tuned), output=str(out), method=("mle", "awr")))
    report = read_json(out / "report.json")
    tries = {e["name"]: e for e in report["tuning"]["entries"]}
    assert (tries["mle"]["failed"], tries["awr"]["failed"]) == (1, 3)
    assert not tries["mle"]["tries"][0]["chosen"]
    names = [f["name"] for f in report["failures"]]
    assert "tuning, mle:rate=0.333, seed 1" in names
    assert names[-1] == "awr"
    assert "1, failed" not in (out / "report.md").read_text()
    assert "3, 1 failed" in (out / "report.md").read_text()


def test_a_tuning_leaves_its_rates_in_a_file_that_another_comparison_takes(tuned: Path, tmp_path: Path) -> None:
    report = read_json(tuned / "report.json")
    kept = read_json(tuned / RATES)
    assert kept.keys() == {"mle", "raft", "dpo:after=mle"}
    for entry in report["tuning"]["entries"]:
        (best,) = (one["learning_rate"] for one in entry["tries"] if one["chosen"])
        assert peak_rate(entry["name"].partition(":")[0], 1e-3, kept[entry["name"]]) == pytest.approx(best)
    write_json(tmp_path / "some.json", {"mle": kept["mle"], "rwr:beta=3": 0.5})
    new = replace(held(tuned), output=str(tmp_path / "new"), rates=str(tmp_path / "some.json"))
    said = compare_command(replace(new, dry_run=True))
    assert "Tuning, once: 3 learning rates for 2 methods, 12 steps" in said
    untuned = replace(new, output=str(tmp_path / "untuned"), tune=0, rates=str(tuned))
    compare_command(untuned)
    again = read_json(tmp_path / "untuned" / "report.json")
    assert [s["learning_rate"] for s in again["systems"]] == [s["learning_rate"] for s in report["systems"]]
    assert again["tuning"] is None
    assert not (tmp_path / "untuned" / "tuning").exists()
    assert f"Learning rates of 3 of 3 methods are those of {tuned}." in again["notes"]
    assert read_json(tmp_path / "untuned" / RATES) == kept
    nothing_left = Comparison(replace(untuned, tune=3), tmp_path)
    by_rates(nothing_left, [Entry.of(spec) for spec in METHOD])
    assert nothing_left.tuning is None


def test_what_a_file_of_rates_lacks_is_tried_or_takes_its_own_and_is_named(tuned: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "some.json", {"mle": 3.0})
    entries = [Entry.of(spec) for spec in ("dpo:after=mle", "rwr:rate=0.5", "awr")]
    comparison = Comparison(replace(held(tuned), rates=str(tmp_path / "some.json"), tune=0), tmp_path)
    able = by_rates(comparison, entries)
    assert [(e.rate, e.front_rate) for e in able] == [(None, 3.0), (None, None), (None, None)]
    text = f"Learning rates of 1 of 3 methods are those of {tmp_path / 'some.json'}. awr, dpo:after=mle: "
    assert comparison.taken == f"{text}at their own."
    assert read_json(tmp_path / RATES) == {"mle": 3.0}


def test_a_changed_or_a_wrong_file_of_rates_is_refused(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    config = replace(held(tuned), output=str(tmp_path / "new"), rates=str(path))
    with pytest.raises(SteerError, match=r"no such file.*steer compare --tune 3"):
        compare_command(config)
    for wrong in ([], {"mle": "high"}, {"mle": -1}, {"mle": True}):
        write_json(path, wrong)
        with pytest.raises(SteerError, match="is no file of learning rates"):
            compare_command(config)
    write_json(path, {"mel": 1})
    with pytest.raises(SteerError, match=r"rates\.json: unknown method 'mel'"):
        compare_command(config)
    write_json(path, {"mle": 1})
    before = Comparison(config, tmp_path).inputs
    write_json(path, {"mle": 3})
    assert Comparison(config, tmp_path).inputs != before
    assert not (tmp_path / "new").exists()


def test_one_rate_or_too_few_prompts_are_refused(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="--tune 1: one learning rate leaves nothing to choose"):
        compare_command(replace(held(tuned), output=str(tmp_path / "new"), tune=1))
    few = tmp_path / "train.yaml"
    few.write_text("max_steps: 2\nlimit: 4\n")
    with pytest.raises(SteerError, match="too few training prompts"):
        compare_command(replace(held(tuned), output=str(tmp_path / "new"), train=str(few)))
    assert not (tmp_path / "new").exists()


def test_the_control_of_permuted_labels_trains_at_the_rate_of_conditional() -> None:
    conditional = Entry.of("conditional")
    assert tried(replace(conditional, permuted=True)) == tried(conditional)
    assert phases([conditional, replace(conditional, permuted=True)]) == [[tried(conditional)]]


def test_tuning_holds_out_whole_conversations(tmp_path: Path) -> None:
    """What is learned of a turn tells of the next one."""
    rows = []
    for i in range(40):
        turns: list[dict[str, str]] = []
        for question, answer in (("a", "b"), ("c", "d")):
            turns = [*turns, {"role": "user", "content": f"{question} {i}"}]
            row = {
                "prompt": turns,
                "response": answer,
                "conversation": str(i),
                "split": "train",
                "scores": {"x": i % 5},
            }
            rows.append({**row, "id": f"{i} {question}"})
            turns = [*turns, {"role": "assistant", "content": answer}]
    write_rows(rows, tmp_path / "rows.jsonl")
    label_command(LabelConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "labels"), scorer="human"))
    config = CompareConfig(str(tmp_path / "labels"), "base", str(tmp_path / "out"), scorer="countable:words", tune=3)
    parted = on_training_rows(Comparison(config, tmp_path / "out")).labelled.rows
    sides: dict[str, set[str]] = {}
    for row in parted:
        sides.setdefault(row["conversation"], set()).add(row["split"])
    assert {len(side) for side in sides.values()} == {1}
    assert sum(side == {"test"} for side in sides.values()) == 40 // 5
