"""The device that models run on: a GPU (NVIDIA and AMD: cuda, Intel: xpu, Apple: mps), else the CPU."""

from __future__ import annotations

import os
import platform
import time
from functools import cache
from typing import Any

import torch


def kind() -> str:
    """Return the kind of device that models run on: "cuda" (also ROCm), "xpu", "mps" and so on, else "cpu"."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator else "cpu"


def count() -> int:
    """Number of GPUs; 0 if models run on the CPU."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def own() -> str:
    """Return the device of this process: the GPU of its rank under torchrun, else the current one, else the CPU."""
    here = kind()
    if here in ("cpu", "mps"):  # there is one
        return here
    return f"{here}:{os.environ.get('LOCAL_RANK') or _module(here).current_device()}"


def take(number: int) -> None:
    """Let this process use the GPU of this number, modulo how many there are."""
    if (gpus := count()) > 1:
        _module(kind()).set_device(number % gpus)


def release() -> None:
    """Give back the memory of the GPU that this process holds and does not use."""
    if count():
        _module(kind()).empty_cache()


def free() -> float:
    """Share of the current GPU's memory that no process holds; 1 on a CPU."""
    if not count():
        return 1.0
    left, total = _module(kind()).mem_get_info()
    return float(left / total)


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type != "cpu":
        _module(device.type).synchronize()


def name() -> str:
    """Name of the device for people: a GPU's own, or CPU."""
    here = kind()
    if here == "cpu":
        return "CPU"
    named = getattr(_module(here), "get_device_name", None)
    return str(named()) if named else f"{platform.machine()} GPU ({here})"


def has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16 by itself; False on a CPU, where float32 gives the same on all machines."""
    here = kind()
    if here == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if here == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    supported = getattr(_module(here), "is_bf16_supported", None) if here != "cpu" else None
    return bool(supported and supported())


@cache
def bfloat16_cost() -> float:
    """How many times longer a product of matrices takes on the CPU in bfloat16 than in float32, measured once."""
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on a GPU that has no float64: Apple's, and some of Intel's."""
    lacks = device.type == "mps" or (device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64)
    return torch.float32 if lacks else torch.float64


def _seconds(dtype: torch.dtype) -> float:
    """Seconds of a product of matrices, the best of three after one that sets up."""
    matrix = torch.ones(128, 128, dtype=dtype)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _module(here: str) -> Any:
    return torch.get_device_module(here)
