"""Systems that are compared without training, beside policies that were trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steer.comparison.command import compare_command
from steer.comparison.comparison import Comparison
from steer.comparison.entry import Entry, swept, unique
from steer.comparison.untrained import UNTRAINED
from steer.conditioning.condition import render
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.evaluation.drawn import Decoding
from steer.generation.requests import Request, encode
from steer.generation.settings import Sampling
from steer.models.policy import Policy, load_policy
from steer.rows import read_rows
from steer.run_folder import read_json

GOLD = "data_recipes.world_text:Gold"
TRAIN = "max_steps: 2\nlora_r: 2\nbatch_size: 4\ntemplate: words\nphrase: ['warmth=Be warm: {level}.']\n"


def config(labels: Path, base: Path, folder: Path, **more: Any) -> CompareConfig:
    """A small comparison of conditions in words, with a sentence of its own for warmth."""
    (folder / "train.yaml").write_text(TRAIN)
    settings: dict[str, Any] = {"gold": GOLD, "num_prompts": 6, "grid": 20, "max_new_tokens": 6, "resamples": 30}
    settings |= {"target": ("best", "warmth=0"), "train": str(folder / "train.yaml"), "method": ("prompted",)}
    return CompareConfig(str(labels), str(base), str(folder / "out"), **(settings | more))


@pytest.fixture(scope="module")
def done(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    compare_command(config(labels, base, folder, method=("mle", "prompted:guidance=1/2", "conditional")))
    return folder / "out"


@pytest.fixture(scope="module")
def shared(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("shared")
    return Comparison(config(labels, base, folder), folder / "out")


def policy_of(shared: Comparison, name: str) -> Policy:
    system = UNTRAINED[name]
    return system.policy(shared.base(0).policy, shared.words, system.settings())


def test_a_prompted_base_reads_what_a_policy_trained_on_words_reads(shared: Comparison, done: Path) -> None:
    trained = load_policy(str(done / "runs" / "conditional-seed0" / "policy"))
    prompted = policy_of(shared, "prompted")
    aims: list[dict[str, float]] = [{}, {"warmth": 0}, {"helpfulness": 2, "warmth": 3}]
    requests = [Request(row, aim) for row in shared.examination.prompts for aim in aims]
    assert encode(prompted, requests, Sampling()) == encode(trained, requests, Sampling())
    assert prompted.schema is not None
    assert "Be warm: " in render({"warmth": 0}, prompted.schema, ("warmth",), "words")


def test_it_is_the_base_where_nothing_is_asked(shared: Comparison) -> None:
    requests = [Request(row, {}) for row in shared.examination.prompts]
    plain = [(r.prompt + r.condition, r.seed) for r in encode(shared.base(0).policy, requests, Sampling())]
    assert [
        (r.prompt + r.condition, r.seed) for r in encode(policy_of(shared, "prompted"), requests, Sampling())
    ] == plain


def test_it_stands_in_the_report_as_the_others_do_and_costs_no_training(done: Path) -> None:
    report = read_json(done / "report.json")
    assert report["failures"] == []
    systems = {s["name"]: s for s in report["systems"]}
    names = ["prompted @ best", "prompted @ warmth=0", "prompted:guidance=2 @ best", "prompted:guidance=2 @ warmth=0"]
    for name in names:
        assert [systems[name][key] for key in ("steps", "train_tokens", "drawn", "scored")] == [0, 0, 0, 0], name
        assert systems[name]["ess"] is None
        assert systems[name]["difference"]["mean"] is not None, "paired with mle on the same prompts"
        assert systems[name]["kl"]["mean"] is not None
    assert systems["mle"]["steps"] == 2
    assert [d["name"] for d in report["dials"]] == ["prompted", "conditional"]
    assert not (done / "runs" / "prompted-seed0" / "policy").exists()


def test_slopes_are_compared_with_those_of_prompting_by_prompt_and_target(done: Path) -> None:
    prompted, conditional = read_json(done / "report.json")["dials"]
    assert prompted["less"] is None
    assert conditional["less"]["name"] == "prompted"
    for name, gain in conditional["less"]["slopes"].items():
        slopes = [d["result"]["attributes"][name]["partial_slope"]["mean"] for d in (conditional, prompted)]
        assert gain["mean"] == pytest.approx(slopes[0] - slopes[1], abs=1e-9), name
    text = (done / "report.md").read_text()
    assert "Slope less prompted" in text
    assert "conditional on warmth (" in text


def test_it_answers_the_prompts_and_targets_of_the_others(done: Path) -> None:
    for name in ("answers-best", "answers-warmth=0", "grid"):
        asked = [
            [(row["prompt"], row["target"]) for row in read_rows(done / "runs" / run / name / "answers.jsonl")]
            for run in ("prompted-seed0", "conditional-seed0")
        ]
        assert asked[0] == asked[1], name


def test_a_stopped_comparison_goes_on_with_what_was_answered(done: Path, labels: Path, base: Path) -> None:
    before = read_json(done / "report.json")
    kept, lost = (done / "runs" / "prompted-seed0" / name / "answers.jsonl" for name in ("grid", "answers-best"))
    (done / "done.json").unlink()
    lost.unlink()
    time = kept.stat().st_mtime_ns
    compare_command(config(labels, base, done.parent, method=("mle", "prompted:guidance=1/2", "conditional")))
    assert kept.stat().st_mtime_ns == time
    assert read_json(done / "report.json")["systems"] == before["systems"]


def test_a_base_without_a_chat_template_is_skipped_in_one_sentence(labels: Path, base: Path, tmp_path: Path) -> None:
    model = load_policy(str(base))
    model.tokenizer.chat_template = None
    model.save(tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink(missing_ok=True)
    settings = config(labels, tmp_path / "plain", tmp_path, method=("prompted", "mle"), grid=0)
    told = f"skipped: the base {tmp_path / 'plain'} has no chat template, so it cannot be told in words what is wanted."
    assert f"  prompted: {told}" in compare_command(replace(settings, dry_run=True)).splitlines()
    text = compare_command(settings)
    assert "1 method skipped; the report says why. Report" in text
    assert read_json(tmp_path / "out" / "report.json")["failures"] == [{"name": "prompted", "error": told}]
    assert compare_command(settings) == text, "it is finished: no repetition helps"


def test_a_dry_run_counts_its_answers(labels: Path, base: Path, tmp_path: Path) -> None:
    planned = compare_command(config(labels, base, tmp_path, method=("prompted:best_of=1/3",), dry_run=True))
    assert "  prompted: no training, 68 answers" in planned.splitlines()  # 2 targets x 6 prompts x (1 + 3), and 20


def test_knobs_of_training_are_refused() -> None:
    assert [e.decodings for e in swept("prompted:guidance=1/2")] == [(Decoding(), Decoding(2.0))]
    assert [e.spec for e in unique(("prompted", "prompted:best_of=4"))] == ["prompted"]
    for spec, told in (
        ("prompted:rounds=2", "unknown setting 'rounds'"),
        ("prompted:learning_rate=1", "unknown setting 'learning_rate'"),
        ("prompted:after=mle", "unknown setting 'after'"),
        ("prompt", "did you mean 'prompted'"),
        ("dpo:after=prompted", "unknown method 'prompted'"),
    ):
        with pytest.raises(SteerError, match=told):
            Entry.of(spec)
