"""The benchmark that waits for a GPU: all its systems run at toy size on what is here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks import gpu_serving
from benchmarks.gpu import PROMPT, alone, flops, peak_of
from benchmarks.gpu_models import LENGTH, SHAPES

ROOT = Path(__file__).resolve().parents[1]
CASES = ("tiny-lora", "tiny-qlora", "tiny-draw", "tiny-label")


def test_vllm_is_asked_for_the_same_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that draws three tokens for each."""
    seen: list[Any] = []

    def generate(prompts: Any, params: Any, use_tqdm: bool) -> Any:
        seen.append((prompts, params))
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[1, 2, 3])]) for _ in prompts]

    vllm: Any = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = lambda **_: SimpleNamespace(generate=generate), SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    rate, each = gpu_serving.draw("tiny", "vllm", 2)
    assert rate > 0
    assert each == 3
    prompts, params = seen[0]
    assert len(prompts) == len(params) == 2 * gpu_serving.SAMPLES
    assert all(64 <= len(prompt["prompt_token_ids"]) < LENGTH for prompt in prompts)


def test_a_frozen_head_counts_where_there_are_responses() -> None:
    shape = SHAPES["tiny"]
    head, trained, inner = shape.vocabulary * shape.hidden, 1000, 50_000
    model = SimpleNamespace(get_nb_trainable_parameters=lambda: (trained, trained + inner + 2 * head))
    attention = 3 * 2 * shape.layers * shape.hidden * LENGTH
    responses = (LENGTH - PROMPT) / LENGTH
    assert flops(model, shape, LENGTH) == 4 * inner + 4 * head * responses + 6 * trained + attention


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200 NVL", 0),
        ("NVIDIA B300", 0),
    ],
)
def test_cards_of_one_family_have_their_own_peak(name: str, peak: float) -> None:
    assert peak_of(name) == peak


@pytest.mark.parametrize(("visible", "one"), [(None, "0"), ("3", "3"), ("2,5", "2"), ("", "")])
def test_a_worker_sees_one_gpu(visible: str | None, one: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert alone()["CUDA_VISIBLE_DEVICES"] == one


@pytest.mark.slow
def test_every_system_of_the_gpu_benchmark_runs() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--peer", "transformers"]
    command += ["--steps", "1", "--batch-size", "1", "--rows", "2", *(x for case in CASES for x in ("--case", case))]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    table = [line.split(" | ") for line in ran.stdout.splitlines() if line.startswith("| tiny")]
    assert not ran.stderr, ran.stderr
    found = {(cells[0].removeprefix("| "), cells[1]): cells[-1].removesuffix(" |") for cells in table}
    assert {name for name, _ in found} == {*CASES}
    # One pass of ours and of transformers on the same sequences, and one scorer read by both.
    assert found["tiny-lora", "steer"] == found["tiny-lora", "transformers"]
    assert found["tiny-label", "steer"] == found["tiny-label", "transformers"]
    assert float(found["tiny-draw", "steer"].split()[0]) > 1
