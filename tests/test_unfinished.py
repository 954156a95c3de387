"""A training that was stopped is a policy at its last resume point, and can still be resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import stopped
from safetensors.torch import load_file

from steer.conditioning.command import targets_command
from steer.config.conditioning import TargetsConfig
from steer.config.export import ExportConfig
from steer.config.generation import GenerateConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.sources import contestants
from steer.export.command import export_command
from steer.generation.command import generate_command
from steer.models.policy import Policy, load_policy
from steer.run_folder import fingerprint
from steer.training.command import train_command

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora_dropout": 0.2},
    "tokens": {"condition_tokens": "special"},
    "all weights": {"adapter": "none"},
}


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    """All weights of a policy by name."""
    return dict(policy.model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_training_is_a_policy_at_its_last_resume_point_and_resumes(
    kind: str, labels: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = tmp_path / "run", str(tmp_path / "run")
    steady: dict[str, Any] = {"lr_scheduler_type": "constant", "warmup_steps": 0, "batch_size": 4, "save_steps": 2}
    asked = TrainConfig(str(labels), str(base), name, **KINDS[kind], **steady, max_steps=4)
    stopped(asked, 3)
    policy = load_policy(name)
    assert f"{run}: step 2 of 4, training is unfinished." in capsys.readouterr().err
    assert (policy.facts["steps"], policy.facts["of"]) == (2, 4)
    assert not policy.model.training
    point = load_file(run / "checkpoint-2" / "weights.safetensors")
    own = dict(policy.model.named_parameters())
    assert all(torch.equal(own[n.removeprefix("model.")], w) for n, w in point.items())

    # The same steps and rate without the rest of the training end in the same policy.
    train_command(replace(asked, output=str(tmp_path / "short"), max_steps=2))
    short = weights(load_policy(str(tmp_path / "short")))
    assert short.keys() == weights(policy).keys()
    assert all(torch.equal(w, short[n]) for n, w in weights(policy).items())
    greedy = GenerateConfig(name, prompt=("Hello.",), max_new_tokens=8, temperature=0)
    texts = [generate_command(replace(greedy, policy=folder)) for folder in (name, str(tmp_path / "short"))]
    assert texts[0] == texts[1]

    # Reading it changes nothing for the training.
    train_command(asked)
    train_command(replace(asked, output=str(tmp_path / "whole")))
    whole = weights(load_policy(str(tmp_path / "whole")))
    assert all(torch.equal(w, whole[n]) for n, w in weights(load_policy(name)).items())


def test_other_stages_take_a_stopped_training(labels: Path, base: Path, tmp_path: Path) -> None:
    name = str(tmp_path / "run")
    asked = TrainConfig(str(labels), str(base), name, max_steps=4, save_steps=1, batch_size=4)
    stopped(asked, 2)
    assert "is better" in targets_command(TargetsConfig(name))
    [system] = contestants({"early": name})
    assert system.card
    before = system.identity
    assert before == fingerprint(name)
    export_command(ExportConfig(name, str(tmp_path / "merged")))
    assert load_policy(str(tmp_path / "merged")).card
    with pytest.raises(SteerError, match=r"vLLM reads no resume points\. \"steer export"):
        generate_command(GenerateConfig(name, prompt=("Hello.",), engine="vllm"))
    stopped(asked, 3)
    assert fingerprint(name) != before, "another policy"


def test_an_unfinished_training_is_no_base(labels: Path, base: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    stopped(TrainConfig(str(labels), str(base), run, adapter="none", max_steps=2, save_steps=1, batch_size=4), 1)
    with pytest.raises(SteerError, match=r"its training is not finished\. Finish it, or \"steer export\" it first"):
        train_command(TrainConfig(str(labels), run, str(tmp_path / "next"), max_steps=1))


def test_a_resume_point_that_does_not_fit_is_named(labels: Path, base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(TrainConfig(str(labels), str(base), str(run), max_steps=2, save_steps=1, batch_size=4), 1)
    (run / "checkpoint-1" / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(SteerError, match=r"checkpoint-1: cannot be read .* a newer one has replaced it: try again"):
        load_policy(str(run))
