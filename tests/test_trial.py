"""Attention and head of a training: the fastest of those that work, said in a line, and the same after a resumption."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import stopped
from torch.nn.functional import cross_entropy, linear
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.models import attention, fused
from steer.run_folder import read_json, write_json
from steer.training import pace, trial
from steer.training.command import train_command
from steer.training.train import train

OWN = attention.NAME
Stands = Callable[..., list[str]]


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> Stands:
    """Let ways to attend stand in for those of a GPU, each taking so many seconds a call; return the calls made."""

    def stand(**costs: float) -> list[str]:
        now, calls = 0.0, []

        def way(name: str, cost: float) -> Callable[..., Any]:
            def attend(module: Any, q: torch.Tensor, *rest: Any, **more: Any) -> Any:
                nonlocal now
                now += cost
                calls.append(name)
                if name == "broken" and q.requires_grad:
                    raise ValueError("no such kernel\nand more")
                out, _ = attention.in_parts(module, q, *rest, **more)
                return (2 * out if name == "wrong" else out), None

            return attend

        for name, cost in costs.items():
            monkeypatch.setitem(AttentionInterface._global_mapping, name, way(name, cost))
            monkeypatch.setitem(AttentionMaskInterface._global_mapping, name, sdpa_mask)
        monkeypatch.setattr(pace, "_now", lambda device: now)
        monkeypatch.setattr(trial, "LEAST", 1)
        monkeypatch.setitem(trial.TRIED, "cpu", tuple(name for name in costs if name != OWN))
        return calls

    return stand


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    return TrainConfig(str(labels), str(base), str(output), **{"max_steps": 2, "batch_size": 8, "save_steps": 1} | more)


@pytest.mark.parametrize(("first", "second", "best"), [(3.0, 2.0, "second"), (2.0, 3.0, "first"), (9.0, 4.9, OWN)])
def test_the_fastest_attention_is_kept(
    first: float,
    second: float,
    best: str,
    labels: Path,
    base: Path,
    stands: Stands,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = stands(**{OWN: 5.0, "first": first, "second": second})
    train_command(config(labels, base, tmp_path))
    [line] = [x for x in capsys.readouterr().err.splitlines() if "attention " in x]
    assert f"attention {best}: 2 forward and backward passes of " in line
    calls_each = 2 * trial.TIMED  # two layers
    times = [f"{name} {calls_each * time:g} s" for name, time in ((OWN, 5.0), ("first", first), ("second", second))]
    assert f"take {', '.join(times)}." in line
    assert read_json(tmp_path / "done.json")["attention"] == best
    assert calls[-1] == best


def test_attention_that_fails_or_computes_other_states_is_not_taken(
    labels: Path, base: Path, stands: Stands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stands(**{OWN: 5.0, "broken": 1.0, "wrong": 1.0})
    train_command(config(labels, base, tmp_path))
    said = capsys.readouterr().err
    assert f"take {OWN} 20 s; broken fails (no such kernel); wrong gives other values (" in said
    assert read_json(tmp_path / "done.json")["attention"] == OWN


def test_a_resumed_training_attends_as_it_did(labels: Path, base: Path, stands: Stands, tmp_path: Path) -> None:
    setup = config(labels, base, tmp_path, max_steps=3)
    stands(**{OWN: 5.0, "quick": 1.0})
    stopped(setup, at=2)
    calls = stands(**{OWN: 1.0, "quick": 5.0})
    train_command(setup)
    assert calls[-1] == "quick"
    assert read_json(tmp_path / "done.json")["attention"] == "quick"


@pytest.mark.parametrize("begun", ["liger", "chunks"])
def test_a_training_resumes_with_the_head_it_began_with_or_not_at_all(
    begun: str, labels: Path, base: Path, stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = config(labels, base, tmp_path, max_steps=3)
    stands(**{OWN: 1.0, "slow": 5.0})
    stopped(setup, at=2)
    [state] = tmp_path.glob("checkpoint-*/state.json")
    write_json(state, read_json(state) | {"ways": {"attention": OWN, "head": begun}})
    monkeypatch.setattr(trial, "find_spec", lambda name: None)  # it was there when the training began
    if begun == "liger":
        with pytest.raises(SteerError, match="began with head liger, which does not work here"):
            train_command(setup)
    else:
        train_command(setup)
        assert read_json(tmp_path / "done.json")["head"] == "chunks"


def test_the_main_process_chooses_for_all(
    labels: Path, base: Path, stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stands(**{OWN: 5.0, "slow": 9.0})
    monkeypatch.setattr(trial, "broadcast_object_list", lambda own: ["slow"])
    train_command(config(labels, base, tmp_path))
    assert calls[-1] == "slow"


@pytest.mark.parametrize(("seconds", "best"), [(1.0, "liger"), (-1.0, "chunks")])
def test_a_fused_head_is_kept_where_it_is_faster(
    seconds: float, best: str, labels: Path, base: Path, stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that stands in for Liger's, and saves so many seconds a call."""
    stands(**{OWN: 5.0, "slow": 9.0})
    used: list[int] = []
    now = pace._now

    def head(hidden: torch.Tensor, weight: torch.Tensor, bias: Any, targets: torch.Tensor) -> torch.Tensor:
        used.append(len(targets))
        return -cross_entropy(linear(hidden, weight, bias), targets, reduction="none")

    monkeypatch.setattr(pace, "_now", lambda device: now(device) - seconds * len(used))
    monkeypatch.setattr(trial, "find_spec", lambda name: name == "liger_kernel")
    monkeypatch.setattr(fused, "liger", head)
    monkeypatch.setattr(trial, "liger", head)
    setup = config(labels, base, tmp_path, adapter="none", learning_rate=1e-3)
    train_command(setup)
    assert read_json(tmp_path / "done.json")["head"] == best
    tried = 1 + 1 + trial.WARM + trial.TIMED  # the check, the values, and the passes of the trial
    assert (len(used) > tried) == (best == "liger")


def test_a_head_with_one_factor_for_all_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uniform(torch.autograd.Function):
        """Multiplies the gradients of all tokens by the factor of the first."""

        @staticmethod
        def forward(ctx: Any, logps: torch.Tensor) -> torch.Tensor:
            return logps.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad[:1].expand_as(grad)

    def head(hidden: torch.Tensor, weight: torch.Tensor, bias: Any, targets: torch.Tensor) -> Any:
        return Uniform.apply(-cross_entropy(linear(hidden, weight, bias), targets, reduction="none"))

    monkeypatch.setattr(fused, "liger", head)
    with pytest.raises(SteerError, match="other gradients"):
        fused.check_liger(torch.device("cpu"))


def test_the_head_of_liger_gives_the_values_and_gradients_of_torch() -> None:
    """By the interpreter of Triton, where both are installed."""
    pytest.importorskip("liger_kernel")
    code = "import torch; from steer.models.fused import check_liger; check_liger(torch.device('cpu'))"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True)


@pytest.mark.parametrize("more", [{"attn_implementation": "sdpa"}, {"plain_layout": True}])
def test_nothing_is_tried_where_the_user_chose(
    more: dict[str, Any], labels: Path, base: Path, stands: Stands, tmp_path: Path
) -> None:
    calls = stands(quick=1.0)
    train_command(config(labels, base, tmp_path, **more))
    assert not calls
    assert "attention" not in read_json(tmp_path / "done.json")


def test_a_trained_policy_attends_as_its_base(labels: Path, base: Path, stands: Stands) -> None:
    stands(**{OWN: 5.0, "quick": 1.0})
    policy = train(str(labels), model=str(base), method="mle", max_steps=2, batch_size=8)
    assert policy.facts["attention"] == "quick"
    assert policy.model.config._attn_implementation == OWN
