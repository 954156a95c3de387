"""DeepSpeed, in two processes on a CPU, where accelerate itself would start it on GPUs only."""

from __future__ import annotations

import subprocess
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from steer.config.training import TrainConfig
from steer.training.command import train_command
from tests.test_sharded import ATOL, RUNS, assert_close, assert_the_same_run, config, two_processes

# Lets accelerate start DeepSpeed without a GPU; all else is what accelerate, DeepSpeed and steer do there.
WORKER = """
import json, sys, accelerate
from accelerate.utils import InitProcessGroupKwargs
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.training.command import train_command
from steer.training.loop import Loop

class Started(accelerate.Accelerator):
    def __init__(self, cpu, **more):
        super().__init__(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")], **more)

def step(self, module, optimizer, number, *rest, whole=Loop._step):
    zero = optimizer.optimizer
    assert isinstance(zero, DeepSpeedZeroOptimizer) and zero.dp_process_group.size() == 2
    if number == stop:
        sys.exit()
    return whole(self, module, optimizer, number, *rest)

accelerate.Accelerator, Loop._step = Started, step
"""
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}
needs = pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")


def launched(folder: Path, stage: int, *runs: dict[str, Any], **more: str) -> subprocess.CompletedProcess[str]:
    """In two processes under DeepSpeed, which compiles something when it is first used."""
    return two_processes(folder, WORKER, {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage), **more}, runs)


@needs
@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_learn_what_one_learns_and_resume(stage: int, labels: Path, base: Path, tmp_path: Path) -> None:
    runs = {name: asdict(config(labels, base, tmp_path / name, **more)) for name, more in RUNS.items()}
    stopped = {**runs["lora"], "output": str(tmp_path / "stopped")}
    alone = {**runs["lora"], "output": str(tmp_path / "alone"), "stop": 5}
    ran = launched(tmp_path, stage, *runs.values(), {**stopped, "stop": 5}, stopped, alone)
    assert ran.returncode == 0, ran.stderr
    for name, run in runs.items():
        one = tmp_path / f"one {name}"
        train_command(replace(TrainConfig(**run), output=str(one)))
        assert_the_same_run(tmp_path / name, one, ATOL.get(name, 1e-5))
    assert_close(tmp_path / "stopped", tmp_path / "lora", 0.0)
    assert (tmp_path / "alone" / "checkpoint-4").is_dir()
    train_command(
        replace(TrainConfig(**runs["lora"]), output=str(tmp_path / "alone"))
    )  # in one process, without DeepSpeed
    assert_close(tmp_path / "alone", tmp_path / "lora", 1e-5)


@needs
@pytest.mark.parametrize(
    ("stage", "run", "variables", "wanted"),
    [
        (3, {}, {}, "ZeRO 3 is not supported. Use stage 1 or 2, or FSDP2"),
        (2, {}, {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offload_optimizer is not supported"),
        (2, {"adapter": "qlora"}, {}, "a quantised base is not sharded here. Use --adapter lora."),
    ],
)
def test_what_it_cannot_do_is_refused(
    stage: int, run: dict[str, Any], variables: dict[str, str], wanted: str, labels: Path, base: Path, tmp_path: Path
) -> None:
    ran = launched(tmp_path, stage, asdict(config(labels, base, tmp_path / "run", **run)), **variables)
    assert wanted in ran.stdout, ran.stderr
    assert not (tmp_path / "run").exists()
