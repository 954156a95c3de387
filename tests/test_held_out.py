"""The loss on held-out rows, early stopping, the plan of a run, trackers, and reference log-probs that are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import stopped
from safetensors.torch import load_file

from steer.cache import cache_folder
from steer.conditioning.condition import render
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS
from steer.models.policy import load_policy
from steer.models.tokenization import Tokens
from steer.rows import read_rows
from steer.rows.labelled import Labelled
from steer.run_folder import read_json
from steer.training.batches import Plan
from steer.training.command import train_command
from steer.training.prepare import chosen, held_out_of

FAST: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 3e-3, "batch_size": 16, "max_steps": 6}


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    return TrainConfig(str(labels), str(base), str(output), **FAST | more)


def losses(folder: Path, name: str) -> dict[int, float]:
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return {x["step"]: x[name] for x in lines if name in x}


def test_the_held_out_loss_is_that_of_transformers_under_whole_conditions(
    labels: Path, base: Path, tmp_path: Path
) -> None:
    train_command(config(labels, base, tmp_path, eval_steps=4, lora_dropout=0.5, micro_batch_tokens=500))
    policy, schema = load_policy(str(tmp_path)), Labelled.without_rows(str(labels)).schema
    rows = [r for r in read_rows(labels) if r["split"] == "test"]
    tokens, total, count = Tokens(rows, policy.tokenizer), 0.0, 0
    policy.model.eval()
    for row in rows:
        prefix, response = tokens.sequence(row, render(row["levels"], schema, schema.own))
        seen = torch.tensor([prefix + response])
        hidden = torch.tensor([[-100] * len(prefix) + response])
        with torch.no_grad():
            total += float(policy.model(seen, labels=hidden).loss) * len(response)
        count += len(response)
    found = losses(tmp_path, "held_out_loss")
    assert list(found) == [4, 6]
    assert found[6] == pytest.approx(total / count, rel=1e-5)
    assert read_json(tmp_path / "done.json")["best_held_out_loss"] == min(found.values())


def test_watching_does_not_change_what_is_learned(labels: Path, base: Path, tmp_path: Path) -> None:
    train_command(config(labels, base, tmp_path / "one", lora_dropout=0.2))
    train_command(config(labels, base, tmp_path / "two", lora_dropout=0.2, eval_steps=2))
    one, two = (load_file(tmp_path / x / "adapter_model.safetensors") for x in ("one", "two"))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_early_stopping_keeps_the_best_weights_also_after_a_kill(labels: Path, base: Path, tmp_path: Path) -> None:
    # Four rows are learned by heart, so the loss on others soon rises.
    more = {"limit": 4, "batch_size": 4, "adapter": "none", "learning_rate": 1e-2, "max_steps": 60}
    more |= {
        "eval_steps": 2,
        "early_stopping": 3,
        "save_steps": 3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0.0,
    }
    summary = train_command(config(labels, base, tmp_path / "whole", **more))
    found, facts = losses(tmp_path / "whole", "held_out_loss"), read_json(tmp_path / "whole" / "done.json")
    best = min(found, key=lambda step: found[step])
    assert facts["steps"] == max(found) == best + 6 < 60
    assert f"at its best in step {best}, whose weights are kept" in summary
    train_command(config(labels, base, tmp_path / "short", **more | {"max_steps": best, "early_stopping": 0}))
    stopped(config(labels, base, tmp_path / "cut", **more), best + 3)
    train_command(config(labels, base, tmp_path / "cut", **more))
    whole, short, cut = (load_file(tmp_path / x / "model" / "model.safetensors") for x in ("whole", "short", "cut"))
    assert all(torch.equal(whole[n], short[n]) and torch.equal(whole[n], cut[n]) for n in whole)
    assert losses(tmp_path / "cut", "held_out_loss") == found
    assert not (tmp_path / "cut" / "best.safetensors").exists()


@pytest.mark.parametrize("method", ["rwr", "kto", "unlikelihood", "dpo"])
def test_held_out_rows_are_weighed_among_the_training_rows(method: str, base: Path, tmp_path: Path) -> None:
    """All of the held-out ones are better than the mean of the others; among themselves every other one is poor."""

    def row(i: int, reward: float, split: str, prompt: int) -> dict[str, Any]:
        turn = {"role": "user", "content": f"{split} {prompt}"}
        return {"id": f"{split}{i}", "prompt": [turn], "response": f"word {i}", "reward": reward, "split": split}

    train = [row(i, float(i % 2), "train", i // 2) for i in range(40)]
    test = [row(i, 2.0 + i % 2, "test", i // 2) for i in range(10)]
    labelled = Labelled([*train, *test])
    options = TrainConfig("rows", str(base), str(tmp_path), method=method, eval_steps=1)
    tokenizer = load_policy(str(base)).tokenizer
    plan = Plan([], Tokens(train, tokenizer), None, 16, 1024, 0)
    held_out = held_out_of(labelled, method, None, options, plan, 100)
    assert held_out is not None
    found = {r["id"]: w for group in held_out.plan.groups for r, w in zip(group.rows, group.weights)}
    assert found.keys() == {r["id"] for r in test}
    together = METHODS[method].groups([*train, *test], chosen(method, ())[1])
    assert found == {
        r["id"]: w for group in together for r, w in zip(group.rows, group.weights) if r["split"] == "test"
    }
    if method != "dpo":
        assert min(found.values()) > 0, "all are good"
        equal = Labelled([*train, *(r | {"reward": 2.0} for r in test)])
        assert held_out_of(equal, method, None, options, plan, 100) is not None, "they need not differ"


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"early_stopping": 2}, r"--early-stopping watches the loss on held-out rows\. Say how often: --eval-steps"),
        ({"eval_steps": 2, "method": "remax", "scorer": "data_recipes.world_text:Gold"}, "remax draws its own resp"),
        ({"track": "trackio"}, r'--track trackio: is not installed\. Run "pip install trackio"\.'),
    ],
)
def test_what_cannot_be_watched(more: dict[str, Any], wanted: str, labels: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=wanted):
        train_command(config(labels, base, tmp_path / "run", **more))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_the_plan_and_the_mask_and_writes_nothing(labels: Path, base: Path, tmp_path: Path) -> None:
    more = {"max_steps": 0, "num_train_epochs": 3.0, "attribute_dropout": 0.0, "condition_dropout": 0.0}
    setup = config(labels, base, tmp_path / "run", **more)
    said = train_command(replace(setup, dry_run=True))
    assert not (tmp_path / "run").exists()
    rows = [r for r in read_rows(labels) if r["split"] == "train"]
    schema, tokens = Labelled.without_rows(str(labels)).schema, Tokens(rows, load_policy(str(base)).tokenizer)
    lengths = [tokens.length(r, render(r["levels"], schema, schema.own)) for r in rows]
    train_command(setup)
    facts = read_json(tmp_path / "run" / "done.json")
    assert f"tokens      {sum(lengths):,} in one epoch" in said
    assert f"steps       {facts['steps']} of 16 groups (3.00 epochs" in said
    assert f"parameters  {facts['trainable']:,} trained of " in said
    assert f"rows        {len(rows)} groups to train on, {facts['held_out']} rows held out" in said
    sample = said.partition("what the loss counts):\n")[2]
    prompt, _, rest = sample.partition("⟦")
    trained, _, after = rest.partition("⟧")
    assert after == ""
    row = next(r for r in rows if prompt.endswith(render(r["levels"], schema, schema.own)) and r["response"] in trained)
    assert trained == row["response"] + "<|end|>", "the end is trained; prompt and condition are not"
    most = {"condition_dropout": 0.99, "attribute_dropout": 0.99, "output": str(tmp_path / "most")}
    dropped = train_command(replace(setup, dry_run=True, **most))
    assert dropped.partition("what the loss counts):\n")[2] == sample, "with its condition, though most lose theirs"


def test_the_memory_that_is_foreseen_follows_the_settings(labels: Path, base: Path, tmp_path: Path) -> None:
    def plan(**more: Any) -> str:
        said = train_command(config(labels, base, tmp_path / "run", dry_run=True, micro_batch_tokens=1024, **more))
        return next(line for line in said.splitlines() if line.startswith("memory"))

    whole = plan(adapter="none")
    parameters = sum(p.numel() for p in load_policy(str(base)).model.parameters())
    assert f"optimizer {8 * parameters / (1 << 20):.1f} MiB" in whole
    assert f"optimizer {2 * parameters / (1 << 20):.1f} MiB" in plan(adapter="none", optimizer="adamw_8bit")
    layer, inputs = 17 * 1024 * 32 * 4 / (1 << 20), 1024 * 32 * 4 / (1 << 20)
    assert f"activations {2 * layer:.1f} MiB" in whole
    assert f"activations {2 * inputs + layer:.1f} MiB" in plan(gradient_checkpointing=True)


def test_reference_log_probs_are_kept_by_content(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    more = {"method": "dpo", "max_steps": 2, "logging_steps": 1}
    train_command(config(labels, base, tmp_path / "one", **more))
    (kept,) = (cache_folder() / "references").iterdir()
    before = kept.read_bytes()
    train_command(config(labels, base, tmp_path / "two", **more))
    assert (tmp_path / "two" / "metrics.jsonl").read_text().count("\n") == 2
    assert losses(tmp_path / "one", "loss") == losses(tmp_path / "two", "loss")
    assert kept.read_bytes() == before
    with np.load(kept) as held:
        values = held["logps"]
    np.savez(kept, logps=values - np.arange(len(values)))  # other references: read, not computed
    train_command(config(labels, base, tmp_path / "three", **more))
    assert losses(tmp_path / "three", "loss") != losses(tmp_path / "one", "loss")
    kept.write_bytes(before[: len(before) // 2])  # damaged: computed anew
    train_command(config(labels, base, tmp_path / "four", **more))
    assert losses(tmp_path / "four", "loss") == losses(tmp_path / "one", "loss")
    train_command(config(labels, base, tmp_path / "five", **more | {"limit": 200}))
    assert len(list(kept.parent.iterdir())) == 2, "other rows, other references"


def test_reference_log_probs_are_computed_of_the_groups_that_are_used(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    more = {"method": "dpo", "max_steps": 2, "logging_steps": 1}
    train_command(config(labels, base, tmp_path / "some", **more))
    with monkeypatch.context() as patched:
        patched.setattr(Plan, "used", lambda plan, steps: list(range(len(plan.groups))))
        train_command(config(labels, base, tmp_path / "all", **more))
    assert losses(tmp_path / "some", "loss") == pytest.approx(losses(tmp_path / "all", "loss"), abs=1e-6)
    counts = sorted(len(np.load(path)["logps"]) for path in (cache_folder() / "references").iterdir())
    assert counts == [2 * 16 * 2, 2 * read_json(tmp_path / "all" / "done.json")["groups"]], "two of each pair"
    assert counts[0] < counts[1]


def test_a_tracker_is_told_what_the_metrics_say(labels: Path, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_command(config(labels, base, tmp_path, track="tensorboard", logging_steps=2, eval_steps=3))
    (events,) = {p.parent for p in tmp_path.rglob("events.out.*") if p.parent.name == "steer"}
    told = EventAccumulator(str(events)).Reload()
    assert {e.step: e.value for e in told.Scalars("loss")} == pytest.approx(losses(tmp_path, "loss"))
    assert {e.step: e.value for e in told.Scalars("held_out_loss")} == pytest.approx(losses(tmp_path, "held_out_loss"))
