"""Weights that FSDP2 shards, in two processes on a CPU, where accelerate itself would use it on GPUs only."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HANG, TORCHRUN
from safetensors.torch import load_file
from torch import Tensor

from steer.config.training import TrainConfig
from steer.models.policy import load_policy
from steer.run_folder import read_json
from steer.training.command import train_command

pytestmark = pytest.mark.slow

# The runs of a worker, one after the other; `stop` is a step before which one ends.
GO = """
for line in sys.argv[1:]:
    config = json.loads(line)
    stop, killed = config.pop("stop", -1), config.pop("killed", False)
    try:
        train_command(TrainConfig(**config))
    except SystemExit:
        pass
    except SteerError as error:
        print(json.dumps({"refused": str(error)}), flush=True)
"""
# Says that this is FSDP, as accelerate does on GPUs; all else is what accelerate and steer do there.
WORKER = """
import json, os, signal, sys
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.models.collate import Batch
from steer.training.command import train_command
from steer.training.loop import Loop

def state(self, *args, whole=AcceleratorState.__init__, **more):
    whole(self, *args, **more)
    if more.get("fsdp_plugin"):
        self.fsdp_plugin = more["fsdp_plugin"]
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

def step(self, module, optimizer, number, *rest, whole=Loop._step):
    assert all(isinstance(p, DTensor) for p in module.parameters())
    assert sum(isinstance(m, FSDPModule) for m in module.modules()) == 1 + 2  # the module, and its two blocks
    if number == stop:
        os.kill(os.getpid(), signal.SIGKILL) if killed else sys.exit()
    return whole(self, module, optimizer, number, *rest)

def emptied(self, whole=Batch.emptied):
    print(json.dumps({"emptied": True}), flush=True)
    return whole(self)

AcceleratorState.__init__, Loop._step, Batch.emptied = state, step, emptied
"""
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
RUNS: dict[str, dict[str, Any]] = {
    "lora": {"save_steps": 2},
    "all weights": {"adapter": "none", "method": "dpo", "eval_steps": 1, "early_stopping": 2, "learning_rate": 0.03},
    "all weights in bfloat16": {"adapter": "none", "dtype": "bfloat16"},
    "recomputed": {"dtype": "bfloat16", "gradient_checkpointing": True, "condition_tokens": "special"},
    "base states": {"method": "quark", "batch_size": 5},
    "remembered states": {"method": "quark", "init_lora_weights": "pissa"},
}
ATOL = {"all weights": 1e-4, "all weights in bfloat16": 1e-3}  # ten times the learning rate; rounding
REFUSED: list[dict[str, Any]] = [
    {"output": "none", "adapter": "qlora"},
    {"output": "none", "optimizer": "adamw_8bit"},
    {"output": "none", "method": "remax", "scorer": "data_recipes.world_text:Gold"},
]


def two_processes(
    folder: Path, worker: str, variables: dict[str, str], runs: Iterable[dict[str, Any]]
) -> subprocess.CompletedProcess[str]:
    """Runs of `steer train`, one after the other, in two processes that begin with `worker`."""
    (folder / "worker.py").write_text(worker + GO)
    command = [*TORCHRUN, str(folder / "worker.py"), *map(json.dumps, runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STEER_CACHE": str(folder / "cache"), **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG)


def launched(folder: Path, *runs: dict[str, Any], **more: str) -> subprocess.CompletedProcess[str]:
    """In two processes that shard."""
    return two_processes(folder, WORKER, {**FSDP, **more}, runs)


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    fast = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 3e-3, "batch_size": 16, "max_steps": 6, "logging_steps": 1}
    return TrainConfig(str(labels), str(base), str(output), **fast | {"micro_batch_tokens": 300} | more)


@pytest.fixture(scope="module")
def sharded(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with a run of each kind, one of them stopped and taken up again; what the processes printed."""
    folder = tmp_path_factory.mktemp("sharded")
    runs = {name: asdict(config(labels, base, folder / name, **more)) for name, more in RUNS.items()}
    stopped = {**runs["lora"], "output": str(folder / "stopped")}
    ran = launched(folder, *runs.values(), {**stopped, "stop": 5}, stopped, *({**stopped, **x} for x in REFUSED))
    assert ran.returncode == 0, ran.stderr
    return folder, [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]


def weights(folder: Path) -> dict[str, Tensor]:
    (found,) = folder.rglob("*.safetensors")
    return load_file(found)


def assert_close(a: Path, b: Path, atol: float) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=atol, rtol=0, msg=name)


def assert_the_same_run(two: Path, one: Path, atol: float) -> None:
    """Two processes made what one made: weights, facts, the first gradient, files; and it is a policy."""
    assert_close(two, one, atol)
    ours, theirs = (read_json(x / "done.json") for x in (two, one))
    assert (ours.pop("processes"), theirs.pop("processes")) == (2, 1)
    for facts in (ours, theirs):
        del facts["seconds"], facts["summary"]
    assert ours == pytest.approx(theirs, rel=1e-4)
    norms = ([json.loads(x).get("grad_norm", 0.0) for x in (y / "metrics.jsonl").open()] for y in (two, one))
    assert next(norms) == pytest.approx(next(norms), rel=1e-3)
    assert sorted(x.name for x in two.rglob("*")) == sorted(x.name for x in one.rglob("*"))
    assert load_policy(str(two)).model(torch.tensor([[3, 4, 5]])).logits.isfinite().all()


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_that_shard_learn_what_one_learns(
    name: str, sharded: tuple[Path, list[dict[str, Any]]], labels: Path, base: Path, tmp_path: Path
) -> None:
    train_command(config(labels, base, tmp_path, **RUNS[name]))
    assert_the_same_run(sharded[0] / name, tmp_path, ATOL.get(name, 1e-5))


def test_early_stopping_took_back_earlier_weights(sharded: tuple[Path, list[dict[str, Any]]]) -> None:
    done = read_json(sharded[0] / "all weights" / "done.json")
    assert done["best_step"] < done["steps"]


def test_a_process_without_a_micro_batch_of_its_own_computes_an_emptied_one(
    sharded: tuple[Path, list[dict[str, Any]]],
) -> None:
    assert {"emptied": True} in sharded[1]  # so the steps had odd numbers of micro-batches


def test_a_stopped_run_ends_bit_equal_to_a_whole_one(sharded: tuple[Path, list[dict[str, Any]]]) -> None:
    assert_close(sharded[0] / "stopped", sharded[0] / "lora", 0.0)
    stopped, whole = ((sharded[0] / x / "metrics.jsonl").read_text().splitlines() for x in ("stopped", "lora"))
    assert [json.loads(x) | {"seconds": 0} for x in stopped] == [json.loads(x) | {"seconds": 0} for x in whole]


def test_what_sharded_weights_cannot_do_is_refused(sharded: tuple[Path, list[dict[str, Any]]]) -> None:
    said = [x["refused"] for x in sharded[1] if "refused" in x]
    for text in (
        "a quantised base is not sharded here. Use --adapter lora.",
        "Use --optimizer adamw.",
        "Use torchrun without them",
    ):
        assert sum(text in x for x in said) == 2  # processes


def test_a_killed_run_goes_on_sharded_or_not(labels: Path, base: Path, tmp_path: Path) -> None:
    setup = asdict(config(labels, base, tmp_path / "whole", adapter="none", save_steps=2))
    assert launched(tmp_path, setup).returncode == 0
    for name in ("killed", "alone"):
        run = {**setup, "output": str(tmp_path / name)}
        assert launched(tmp_path, {**run, "stop": 5, "killed": True}).returncode != 0
        assert (tmp_path / name / "checkpoint-4").is_dir()
    assert launched(tmp_path, {**setup, "output": str(tmp_path / "killed")}).returncode == 0
    assert_close(tmp_path / "killed", tmp_path / "whole", 0.0)
    train_command(
        replace(TrainConfig(**setup), output=str(tmp_path / "alone"))
    )  # in one process, from the shards of two
    assert_close(tmp_path / "alone", tmp_path / "whole", 1e-5)


@pytest.mark.parametrize(
    ("variable", "wanted"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP of version 1 is not supported. Use version 2"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "Use --gradient-checkpointing instead"),
    ],
)
def test_settings_of_fsdp_that_would_spoil_a_run_are_refused(
    variable: dict[str, str], wanted: str, labels: Path, base: Path, tmp_path: Path
) -> None:
    ran = launched(tmp_path, asdict(config(labels, base, tmp_path / "run")), **variable)
    assert wanted in ran.stdout
    assert not (tmp_path / "run").exists()
