"""Systems that are compared without training, beside policies that were trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steer.comparison.command import compare_command
from steer.comparison.comparison import Comparison
from steer.comparison.entry import Entry, swept, unique
from steer.comparison.examples import Examples
from steer.comparison.untrained import UNTRAINED, Given
from steer.conditioning.condition import render
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.evaluation.drawn import Decoding
from steer.generation.requests import Request, encode
from steer.generation.settings import Sampling
from steer.models.policy import Policy, load_policy
from steer.rows import Row, read_back
from steer.run_folder import read_json

GOLD = "data_recipes.world_text:Gold"
METHODS = ("mle", "prompted:guidance=1/2", "few-shot:shots=2", "conditional")
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
    compare_command(config(labels, base, folder, method=METHODS))
    return folder / "out"


@pytest.fixture(scope="module")
def shared(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("shared")
    return Comparison(config(labels, base, folder), folder / "out")


def policy_of(shared: Comparison, name: str, seed: int = 0, **settings: Any) -> Policy:
    """The policy of a system without training, on the base of a comparison."""
    system = UNTRAINED[name]
    given = Given(shared.base(0).policy, shared.words, shared.logs, seed, settings.pop("longest", 6))
    return system.policy(given, system.settings(**settings))


def examples(policy: Policy, row: Row, target: dict[str, float]) -> list[tuple[str, str]]:
    """Questions and answers in front of a row's prompt."""
    turns = policy.reading(row, target)["prompt"][: -len(row["prompt"])]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    return [(question["content"], answer["content"]) for question, answer in zip(turns[::2], turns[1::2])]


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
    entries = ["prompted", "prompted:guidance=2", "few-shot:shots=2"]
    names = [f"{entry} @ {target}" for entry in entries for target in ("best", "warmth=0")]
    for name in names:
        assert [systems[name][key] for key in ("steps", "train_tokens", "drawn", "scored")] == [0, 0, 0, 0], name
        assert systems[name]["ess"] is None
        assert systems[name]["difference"]["mean"] is not None, "paired with mle on the same prompts"
        assert systems[name]["kl"]["mean"] is not None
    assert systems["mle"]["steps"] == 2
    assert [d["name"] for d in report["dials"]] == ["prompted", "few-shot:shots=2", "conditional"]
    assert not (done / "runs" / "prompted-seed0" / "policy").exists()


def test_what_trained_the_base_is_no_cost_of_a_system_without_training(shared: Comparison) -> None:
    base = shared.base(0).policy
    given = Given(replace(base, facts={"steps": 680, "train_tokens": 957_427}), shared.words, (), 0, 8)
    prompted = UNTRAINED["prompted"]
    assert prompted.policy(given, prompted.settings()).facts == {}


def test_slopes_are_compared_with_those_of_prompting_by_prompt_and_target(done: Path) -> None:
    prompted, _, conditional = read_json(done / "report.json")["dials"]
    assert prompted["less"] is None
    assert conditional["less"]["name"] == "prompted"
    for name, gain in conditional["less"]["slopes"].items():
        slopes = [d["result"]["attributes"][name]["partial_slope"]["mean"] for d in (conditional, prompted)]
        assert gain["mean"] == pytest.approx(slopes[0] - slopes[1], abs=1e-9), name
    text = (done / "report.md").read_text()
    assert "Slope less prompted" in text
    spread = [name for name, gain in conditional["less"]["slopes"].items() if gain["low"] is not None]
    assert spread, "six prompts that all gain alike have no bounds"
    assert all(f"conditional on {name} (" in text for name in spread)


def test_it_answers_the_prompts_and_targets_of_the_others(done: Path) -> None:
    for name in ("answers-best", "answers-warmth=0", "grid"):
        asked = [
            [(row["prompt"], row["target"]) for row in read_back(done / "runs" / run / name / "answers.jsonl")]
            for run in ("prompted-seed0", "few-shot-shots=2-seed0", "conditional-seed0")
        ]
        assert asked[0] == asked[1] == asked[2], name


def test_a_stopped_comparison_goes_on_with_what_was_answered(done: Path, labels: Path, base: Path) -> None:
    before = read_json(done / "report.json")
    kept = done / "runs" / "prompted-seed0" / "grid" / "answers.jsonl"
    (done / "done.json").unlink()
    for name in ("prompted", "few-shot-shots=2"):
        (done / "runs" / f"{name}-seed0" / "answers-best" / "answers.jsonl").unlink()
    time = kept.stat().st_mtime_ns
    compare_command(config(labels, base, done.parent, method=METHODS))
    assert kept.stat().st_mtime_ns == time
    assert read_json(done / "report.json")["systems"] == before["systems"]


def test_examples_are_the_nearest_training_rows_with_what_they_obtained_in_words(shared: Comparison) -> None:
    policy = policy_of(shared, "few-shot", shots=3)
    schema, names = shared.words.schema, shared.words.names
    train = {(row["prompt"][0]["content"], row["response"]): row for row in shared.logs}
    held_out = {row["prompt"][-1]["content"] for row in shared.examination.prompts}
    for row in shared.examination.prompts:
        target: dict[str, float] = {"warmth": 0, "helpfulness": 4}
        pairs = examples(policy, row, target)
        distances = []
        for question, answer in pairs:
            text, _, sentences = question.partition("\n\n")
            levels = train[text, answer]["levels"]
            assert "\n\n" + sentences == render({n: levels[n] for n in target}, schema, names, "words")
            assert text not in held_out
            distances.append(sum(abs(levels[n] - level) for n, level in target.items()))
        assert len({question for question, _ in pairs}) == 3
        nearest = sorted(sum(abs(r["levels"][n] - level) for n, level in target.items()) for r in shared.logs)
        assert distances == sorted(distances, reverse=True), "the nearest stands last"
        assert max(distances) <= nearest[10 * 3], "but for rows of one prompt, the nearest of all"
        assert all("\n\n" not in question for question, _ in examples(policy, row, {})), "nothing is asked"


def test_examples_follow_from_the_seed_and_differ_between_prompts(shared: Comparison) -> None:
    first, second = shared.examination.prompts[:2]
    target: dict[str, float] = {"warmth": 3}
    found = [examples(policy_of(shared, "few-shot", seed), first, target) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert examples(policy_of(shared, "few-shot"), second, target) != found[0]


def test_examples_stand_after_the_turn_of_the_system_and_the_condition_ends_the_last_turn(shared: Comparison) -> None:
    policy = policy_of(shared, "few-shot", shots=1)
    row = shared.examination.prompts[0]
    row = {**row, "prompt": [{"role": "system", "content": "be brief."}, *row["prompt"]]}
    assert [t["role"] for t in policy.reading(row, {"warmth": 3})["prompt"]] == ["system", "user", "assistant", "user"]
    [encoded] = encode(policy, [Request(row, {"warmth": 3})], Sampling())
    text = " ".join(policy.tokenizer.decode(encoded.prompt + encoded.condition).split())
    assert text.endswith(f"{row['prompt'][-1]['content']} Be warm: 3.<|assistant|>")


def test_examples_that_do_not_fit_are_dropped_and_counted(shared: Comparison) -> None:
    prompts = [{**row, "target": {"warmth": 3.0}} for row in shared.examination.prompts]
    positions = shared.base(0).policy.longest
    assert positions == 512
    for longest in (6, 512 - 60, 512 - 30):
        policy = policy_of(shared, "few-shot", longest=longest)
        before = policy.before
        assert isinstance(before, Examples)
        numbers = [len(before(row, row["target"])) // 2 for row in prompts]
        encoded = encode(policy, [Request(row, row["target"]) for row in prompts], Sampling(max_new_tokens=longest))
        assert all(e.prefix + longest <= positions for e, number in zip(encoded, numbers) if number)
        if longest == 6:
            assert numbers == [4] * 6
            assert before.remark(prompts).endswith("questions of one turn, answered. 4 stand before every prompt.")
        else:
            assert min(numbers) < 4
            mean, room = sum(numbers) / 6, 512 - longest
            told = f"stand fewer than 4 ({mean:.1f} on average): the model holds {room} tokens of prompt and examples."
            assert before.remark(prompts).endswith(told)


def test_examples_without_the_levels_that_are_asked_for_are_missed_by_name(shared: Comparison) -> None:
    rows = [{**row, "levels": row["levels"] if i < 2 else {}} for i, row in enumerate(shared.logs[:20])]
    before = Examples(rows, shared.words, None, most=4, room=None, seed=0)
    asked = [{**shared.examination.prompts[0], "target": {"warmth": 3.0}}]
    assert before.remark(asked).endswith("average): too few of them have all levels that are asked for.")


def test_the_report_says_what_examples_cost_and_where_they_come_from(shared: Comparison, done: Path) -> None:
    report = read_json(done / "report.json")
    read = {s["name"]: s["prompt_tokens"] for s in report["systems"]}
    assert read["mle"] < read["prompted @ best"] < read["few-shot:shots=2 @ best"]
    assert read["prompted @ best"] == read["conditional @ best"]
    assert read["logs"] is None
    before = policy_of(shared, "few-shot", shots=2).before
    assert isinstance(before, Examples)
    answers = (done / "runs" / "few-shot-shots=2-seed0").glob("*/answers.jsonl")
    remark = before.remark(row for path in answers for row in read_back(path))
    assert f"few-shot:shots=2: {remark}" in report["notes"]


def test_log_probabilities_are_those_of_what_was_read(shared: Comparison, done: Path) -> None:
    """KL counts the examples: log-probs of an answer follow from the tokens that the decoder saw."""
    policy = policy_of(shared, "few-shot", shots=2)
    rows = read_back(done / "runs" / "few-shot-shots=2-seed0" / "grid" / "answers.jsonl")
    parts = read_back(next((done / "runs" / "few-shot-shots=2-seed0" / "grid" / "parts").iterdir()))
    for row, part in list(zip(rows, parts))[:3]:
        [e] = encode(policy, [Request(row, row["target"])], Sampling())
        ids = [*e.prompt, *e.condition, *part["ids"]]
        assert row["prompt_tokens"] == e.prefix
        with torch.no_grad():
            logps = policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total = sum(float(logps[e.prefix - 1 + k, token]) for k, token in enumerate(part["ids"]))
        assert row["logp"] == pytest.approx(total, abs=1e-3)


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
    assert "  prompted: no training, 68 answers" in [
        line.partition(";")[0] for line in planned.splitlines()
    ]  # 2 targets x 6 prompts x (1 + 3), and 20


def test_knobs_of_training_are_refused() -> None:
    assert [e.decodings for e in swept("prompted:guidance=1/2")] == [(Decoding(), Decoding(2.0))]
    assert [e.spec for e in unique(("prompted", "prompted:best_of=4"))] == ["prompted"]
    for spec, told in (
        ("prompted:rounds=2", "unknown setting 'rounds'"),
        ("prompted:learning_rate=1", "unknown setting 'learning_rate'"),
        ("prompted:after=mle", "unknown setting 'after'"),
        ("few-shot:shots=0", "wanted 1 or more"),
        ("few-shot:k=3", "unknown setting 'k'"),
        ("prompt", "did you mean 'prompted'"),
        ("dpo:after=prompted", "unknown method 'prompted'"),
    ):
        with pytest.raises(SteerError, match=told):
            Entry.of(spec)
