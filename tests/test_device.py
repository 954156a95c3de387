"""One place says what models run on: which device, in which precision, and in how large batches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch

import attribute_models.device
from attribute_models import backbone, bases
from steer import device, parts
from steer.methods import METHODS
from steer.models import log_probs
from steer.models.log_probs import ResponseLogps
from steer.models.policy import load_policy
from steer.training import processes
from steer.training.memory import micro_batch
from steer.training.processes import accelerated
from steer.training.settings import TrainSettings
from tests.test_policy import model_of

ROOT = Path(__file__).resolve().parents[1]


def gpus(kind: str, monkeypatch: pytest.MonkeyPatch, *, count: int = 1, **module: Any) -> list[int]:
    """Let torch have GPUs of a kind; return the list of numbers that `set_device` gets."""
    taken: list[int] = []
    found = SimpleNamespace(current_device=lambda: taken[-1] if taken else 0, set_device=taken.append, **module)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch, "get_device_module", lambda _: found)
    return taken


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, on any machine, until a test has one."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_without_a_gpu_it_is_the_cpu_in_float32() -> None:
    assert (device.kind(), device.own(), device.count(), device.name()) == ("cpu", "cpu", 0, "CPU")
    assert device.dtype_of("auto") == torch.float32
    assert micro_batch(0) == 2048
    device.take(3)  # nothing to take
    device.release()  # nor to give back


def test_memory_of_a_gpu_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    gpus("xpu", monkeypatch, empty_cache=lambda: given.append("back"))
    device.release()
    assert given == ["back"]


def test_a_process_takes_the_gpu_of_its_rank_or_the_one_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = gpus("xpu", monkeypatch, count=2, is_bf16_supported=lambda: True, get_device_name=lambda: "Arc")
    assert (device.own(), device.name(), device.dtype_of("auto")) == ("xpu:0", "Arc", torch.bfloat16)
    device.take(5)
    assert (taken, device.own()) == ([1], "xpu:1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert device.own() == "xpu:0"
    assert micro_batch(0) == 8192
    assert micro_batch(100) == 100


def test_processes_that_do_whole_runs_take_one_gpu_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = gpus("cuda", monkeypatch, count=2)
    monkeypatch.setattr(parts, "follow", lambda: None)
    monkeypatch.setattr(parts, "OWN", [])
    pool = parts.processes(3)  # which starts none before it has work
    for _ in range(3):
        parts.OWN.clear()  # each has its own
        pool._initializer(*pool._initargs)
    pool.shutdown()
    assert taken == [0, 1, 0]


@pytest.mark.parametrize("new", [True, False])
def test_on_an_apple_machine_it_is_its_gpu(new: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus("mps", monkeypatch)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: new and version == (14, 0))
    assert device.own() == "mps"
    assert device.dtype_of("auto") == (torch.bfloat16 if new else torch.float32)
    assert device.widest(torch.device("mps")) == torch.float32
    assert device.widest(torch.device("cpu")) == torch.float64


@pytest.mark.parametrize("kind", ["cpu", "mps", "xpu", "cuda"])
def test_accelerate_is_sent_to_the_cpu_only_if_there_is_no_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind != "cpu":
        gpus(kind, monkeypatch)
    asked = []

    class Accelerator:
        num_processes = 1

        def __init__(self, **settings: Any) -> None:
            asked.append(settings["cpu"])
            [waiting] = settings["kwargs_handlers"]
            assert waiting.to_kwargs() == {"timeout": processes.WAIT}, "NCCL by itself waits 10 minutes"

    monkeypatch.setattr(accelerate, "Accelerator", Accelerator)
    named = []
    monkeypatch.setattr(processes, "shardable", lambda name, *more: named.append(name))
    accelerated("mle", METHODS["mle"], TrainSettings())
    assert asked == [kind == "cpu"]
    assert named == ["mle"], "what messages name"


def test_scorers_and_policies_go_to_the_same_place(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus("xpu", monkeypatch, is_bf16_supported=lambda: True)
    assert bases.nf4()["device_map"] == {"": "xpu:0"}
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *place, **_: moved.append(place) or self)
    scorer = backbone.load(str(base), "AutoModel")
    policy = load_policy(str(base))
    assert moved == [("xpu:0",), ("xpu:0",)]
    assert scorer.model.dtype == policy.model.dtype == torch.bfloat16


@pytest.mark.parametrize(("cost", "said"), [(50.4, True), (0.6, False)])
def test_a_cpu_that_is_slow_in_bfloat16_is_said_once(
    cost: float, said: bool, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "bfloat16_cost", lambda: cost)
    for dtype in ("auto", "float32", "bfloat16", "bfloat16"):
        load_policy(str(base), dtype=dtype)
    line = "bfloat16 takes 50 times as long as float32 on this CPU (one product of matrices, measured now)."
    assert capsys.readouterr().err.count(line) == said


def test_the_cost_of_bfloat16_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    attribute_models.device.bfloat16_cost.cache_clear()
    seconds = {torch.bfloat16: 0.6, torch.float32: 0.2}
    asked = []
    monkeypatch.setattr(attribute_models.device, "_seconds", lambda dtype: asked.append(dtype) or seconds[dtype])
    assert attribute_models.device.bfloat16_cost() == attribute_models.device.bfloat16_cost() == pytest.approx(3.0)
    assert asked == [torch.bfloat16, torch.float32]
    attribute_models.device.bfloat16_cost.cache_clear()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen3", "gpt2"])
def test_a_model_that_shares_prompts_does_so_in_bfloat16_too(kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert ResponseLogps(model_of(kind).to(dtype)).shares_prompts()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_candidate_that_sees_another_is_noticed(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ResponseLogps(model_of("llama").to(dtype))
    monkeypatch.setattr(log_probs, "visible", lambda mask: torch.ones(1, *mask.shape[1:] * 2, dtype=torch.bool).tril())
    assert not model.shares_prompts()


def test_nothing_else_asks_torch_what_there_is() -> None:
    files = [p for part in ("steer", "attribute_models", "benchmarks") for p in (ROOT / part).rglob("*.py")]
    asking = [p.relative_to(ROOT).as_posix() for p in files if "is_available()" in p.read_text(encoding="utf-8")]
    assert asking == ["attribute_models/device.py"]
