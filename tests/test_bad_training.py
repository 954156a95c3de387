"""What goes wrong in training ends in one sentence that says what to do, and loses nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import HANG, TORCHRUN, until
from safetensors.torch import load_file, save_file
from torch import Tensor

from steer.config.export import ExportConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.export.command import export_command
from steer.methods import METHODS
from steer.methods.base import Candidates, Method, weighted_nll
from steer.methods.groups import singles
from steer.models.policy import load_policy
from steer.rows import read_rows, write_rows
from steer.run_folder import folder_errors, read_json
from steer.training import checkpoint
from steer.training.command import train_command

FAST: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 3e-3, "batch_size": 16, "max_steps": 6}


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    return TrainConfig(str(labels), str(base), str(output), **FAST | more)


@dataclass(frozen=True)
class Settings:
    """None."""


def test_out_of_memory_says_what_to_lower(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def greedy(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            torch.empty(1 << 50)  # a petabyte: the allocator itself refuses
        return weighted_nll(logps, c)

    made = Method(groups=lambda rows, settings: singles(rows), loss=greedy, settings=Settings, per="token")
    monkeypatch.setitem(METHODS, "greedy", made)
    more = {"method": "greedy", "micro_batch_tokens": 100_000, "save_steps": 1}
    wanted = (
        r"^out of memory\. Lower --micro-batch-tokens \(now 100000\) or --max-length \(now 1024\), or use "
        r"--gradient-checkpointing, --adapter qlora, --optimizer adamw_8bit\.$"
    )
    with pytest.raises(SteerError, match=wanted):
        train_command(config(labels, base, tmp_path / "run", **more))
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    lower = {**more, "micro_batch_tokens": 300, "gradient_checkpointing": True}
    assert "6 steps" in train_command(config(labels, base, tmp_path / "run", **lower)), (
        "goes on with what was to be lowered"
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert read_json(tmp_path / "run" / "config.json")["micro_batch_tokens"] == 300
    train_command(config(labels, base, tmp_path / "whole", **more))
    assert json.loads(lines[-1])["loss"] == pytest.approx(read_json(tmp_path / "whole" / "done.json")["loss"], rel=1e-4)


def test_a_prompt_that_the_chat_template_refuses_is_named(labels: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "chat_template.jinja"
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    path.write_text(refuse + path.read_text())
    rows = [r for r in read_rows(labels) if r["split"] == "train"][:20]
    rows[7] = {**rows[7], "prompt": [{"role": "system", "content": "Be kind."}, *rows[7]["prompt"]]}
    write_rows(rows, tmp_path / "rows.jsonl")
    wanted = rf"^row '{rows[7]['id']}': the model's chat template refuses its prompt \(no system turn\)\. Change"
    with pytest.raises(SteerError, match=wanted):
        train_command(config(tmp_path / "rows.jsonl", tmp_path / "base", tmp_path / "run", method="mle"))
    assert not (tmp_path / "run").exists()


def test_other_errors_stay_what_they_are(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
        return logps @ torch.zeros(1)

    made = Method(groups=lambda rows, settings: singles(rows), loss=wrong, settings=Settings, per="token")
    monkeypatch.setitem(METHODS, "wrong", made)
    with pytest.raises(RuntimeError, match=r"size|shape"):
        train_command(config(labels, base, tmp_path, method="wrong"))


def test_a_full_disk_loses_nothing(labels: Path, base: Path, tmp_path: Path) -> None:
    """The limit on the size of a file stands for a disk that is full; it stops the resume point after step 2."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        with pytest.raises(
            SteerError, match=r"run: cannot be written \(.*\)\. Make room and run the same command again"
        ):
            train_command(config(labels, base, tmp_path / "run", save_steps=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "run").glob("checkpoint-*")), "a resume point is whole or absent"
    train_command(config(labels, base, tmp_path / "run", save_steps=2))
    train_command(config(labels, base, tmp_path / "whole", save_steps=2))
    one, two = (load_file(tmp_path / x / "adapter_model.safetensors") for x in ("run", "whole"))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_a_disk_that_is_full_when_the_tokenizer_is_saved(base: Path, tmp_path: Path) -> None:
    """Its library raises nothing narrower than Exception."""
    tokenizer = load_policy(str(base)).tokenizer
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        with pytest.raises(SteerError, match=r"cannot be written \(.*\)\. Make room"), folder_errors(tmp_path):
            tokenizer.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def policy(labels: Path, base: Path, tmp_path: Path) -> Path:
    train_command(config(labels, base, tmp_path / "policy", max_steps=1, condition_tokens="special"))
    return tmp_path / "policy"


def test_adapters_that_do_not_fit_are_refused(policy: Path, base: Path, tmp_path: Path) -> None:
    path = policy / "adapter_model.safetensors"
    whole = load_file(path)
    name = next(n for n in whole if "lora_A" in n)
    odd: dict[str, dict[str, Tensor]] = {
        "a weight is missing": {n: v for n, v in whole.items() if n != name},
        "another name": {n.replace("lora_A", "lora_a"): v for n, v in whole.items()},
        "another shape": {**whole, name: torch.zeros(3, 3)},
    }
    for weights in odd.values():
        save_file(weights, path)
        with pytest.raises(SteerError, match=r"policy: its adapter does not fit the base model \(.*\)\. It was wri"):
            load_policy(str(policy))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SteerError, match="its adapter does not fit"):
        load_policy(str(policy))
    save_file(whole, path)
    settings = json.loads((policy / "adapter_config.json").read_text())
    (policy / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "TELEPATHY"}))
    with pytest.raises(SteerError, match="its adapter does not fit"):
        load_policy(str(policy))
    ids = settings["trainable_token_indices"]
    moved = {**settings, "trainable_token_indices": [i - 1 for i in ids]}
    (policy / "adapter_config.json").write_text(json.dumps(moved))
    with pytest.raises(SteerError, match="the tokens of its levels have other numbers"):
        load_policy(str(policy))
    (policy / "adapter_config.json").write_text(json.dumps(settings))
    load_policy(str(policy))


def test_an_export_needs_the_base_that_was_trained_on(labels: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    train_command(config(labels, tmp_path / "base", tmp_path / "policy", max_steps=1))
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(SteerError, match=r"its base model .*base is gone\."):
        export_command(ExportConfig(str(tmp_path / "policy"), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    export_command(ExportConfig(str(tmp_path / "policy"), str(tmp_path / "out"), model=str(tmp_path / "moved")))
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_tokenizer_without_end_or_padding(labels: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "pad_token"}))
    found = load_policy(str(tmp_path / "base")).tokenizer
    assert found.pad_token_id == found.eos_token_id
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))
    with pytest.raises(SteerError, match=r"its tokenizer has no EOS token, so responses cannot end\. Set one"):
        train_command(config(labels, tmp_path / "base", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_killed_at_any_moment_end_bit_equal_to_two_whole_ones(
    labels: Path, base: Path, tmp_path: Path
) -> None:
    flags = "--lora-r 4 --lora-alpha 8 --lora-dropout 0.1 --learning-rate 3e-3 --batch-size 16 --max-steps 40"
    flags += " --save-steps 3 --micro-batch-tokens 500 --logging-steps 5"

    def start(output: str) -> subprocess.Popen[bytes]:
        command = ["train", str(labels), "--model", str(base), "--output", str(tmp_path / output), *flags.split()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*TORCHRUN, "-m", "steer", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    first = start("killed")
    until(lambda: any((tmp_path / "killed").glob("checkpoint-*")) or first.poll() is not None)
    assert first.poll() is None, "ended before it was killed"
    everyone = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    assert len(everyone) == 3  # the launcher and two processes, each in a session of its own
    for process in everyone:
        process.send_signal(signal.SIGKILL)
    first.wait()
    psutil.wait_procs(everyone, timeout=HANG)
    assert not (tmp_path / "killed" / "done.json").exists()
    assert start("killed").wait(timeout=HANG) == 0
    assert start("whole").wait(timeout=HANG) == 0
    one, two = (load_file(tmp_path / x / "adapter_model.safetensors") for x in ("killed", "whole"))
    assert all(torch.equal(one[n], two[n]) for n in one)
    told = [
        [json.loads(x) | {"seconds": 0} for x in (tmp_path / y / "metrics.jsonl").open()] for y in ("killed", "whole")
    ]
    assert told[0] == told[1]


def test_a_resume_point_that_was_not_finished_is_not_used(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-3.tmp").mkdir()
    weight = torch.nn.Parameter(torch.ones(2))
    assert checkpoint.restore(tmp_path, [("w", weight)], torch.optim.AdamW([weight])) is None
