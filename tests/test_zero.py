"""DeepSpeed, in two processes on a CPU, where accelerate itself would start it on GPUs only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from steer.config import TrainConfig
from steer.errors import SteerError
from steer.run import read_json
from steer.train import train
from tests.test_sharded import assert_close, config

# Lets accelerate start DeepSpeed without a GPU; all else is what accelerate, DeepSpeed and steer do there.
WORKER = """
import json, sys, accelerate
from accelerate.utils import InitProcessGroupKwargs
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from steer.config import TrainConfig
from steer.errors import SteerError
from steer.train import train
from steer.training.loop import Loop

class Started(accelerate.Accelerator):
    def __init__(self, cpu, **more):
        super().__init__(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")], **more)

def step(self, module, optimizer, number, known, whole=Loop._step):
    zero = optimizer.optimizer
    assert isinstance(zero, DeepSpeedZeroOptimizer) and zero.dp_process_group.size() == 2
    if number == stop:
        sys.exit()
    return whole(self, module, optimizer, number, known)

accelerate.Accelerator, Loop._step = Started, step
for line in sys.argv[1:]:
    config = json.loads(line)
    stop = config.pop("stop", -1)
    try:
        train(TrainConfig(**config))
    except SystemExit:
        pass
    except SteerError as error:
        print(json.dumps({"refused": str(error)}), flush=True)
"""
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
RUNS: dict[str, dict[str, Any]] = {
    "lora": {"save_steps": 2},
    "all weights": {"adapter": "none", "method": "dpo", "eval_steps": 1, "early_stopping": 2, "learning_rate": 0.03},
    "recomputed": {"dtype": "bfloat16", "gradient_checkpointing": True, "condition_tokens": "special"},
    "base states": {"method": "quark", "batch_size": 5},
}
needs = pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")


def launched(folder: Path, stage: int, *runs: dict[str, Any], **more: str) -> subprocess.CompletedProcess[str]:
    """Runs of `steer train`, one after the other, in two processes."""
    (folder / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(folder / "worker.py"), *map(json.dumps, runs)]
    environment = {**os.environ, **ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage), **more}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


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
        train(replace(TrainConfig(**run), output=str(one)))
        assert_close(tmp_path / name, one, 1e-5)
        ours, theirs = (read_json(x / "done.json") for x in (tmp_path / name, one))
        assert (ours.pop("processes"), theirs.pop("processes")) == (2, 1)
        for facts in (ours, theirs):
            del facts["seconds"], facts["summary"]
        assert ours == pytest.approx(theirs, rel=1e-4)
        first = (json.loads((x / "metrics.jsonl").read_text().splitlines()[0]) for x in (tmp_path / name, one))
        assert next(first)["grad_norm"] == pytest.approx(next(first)["grad_norm"], rel=1e-3)
    assert_close(tmp_path / "stopped", tmp_path / "lora", 0.0)
    assert (tmp_path / "alone" / "checkpoint-4").is_dir()
    train(replace(TrainConfig(**runs["lora"]), output=str(tmp_path / "alone")))  # in one process, without DeepSpeed
    assert_close(tmp_path / "alone", tmp_path / "lora", 1e-5)


@needs
@pytest.mark.parametrize(
    ("stage", "run", "variables", "wanted"),
    [
        (3, {}, {}, "ZeRO 3 is not supported. Use stage 1 or 2, or FSDP2"),
        (2, {}, {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offload_optimizer is not supported"),
        (2, {"adapter": "qlora"}, {}, "Use --adapter lora."),
    ],
)
def test_what_it_cannot_do_is_refused(
    stage: int, run: dict[str, Any], variables: dict[str, str], wanted: str, labels: Path, base: Path, tmp_path: Path
) -> None:
    ran = launched(tmp_path, stage, asdict(config(labels, base, tmp_path / "run", **run)), **variables)
    assert wanted in ran.stdout, ran.stderr
    assert not (tmp_path / "run").exists()


def test_it_is_refused_where_it_is_missing_or_would_be_passed_over(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "True")
    with pytest.raises(SteerError, match=r"^DeepSpeed was asked for[ ,].* (Leave|pip install)"):
        train(config(labels, base, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
