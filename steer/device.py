"""The device that models run on, and the precision that suits it: the only place that asks torch what there is."""

from __future__ import annotations

from typing import Any

import torch

from attribute_models.device import (
    bfloat16_cost,
    count,
    free,
    has_bfloat16,
    kind,
    name,
    own,
    release,
    take,
    wait,
    widest,
)
from steer.progress import note_once

__all__ = ["count", "dtype_of", "free", "kind", "name", "own", "release", "take", "wait", "widest"]
SLOW = 2.0  # times that bfloat16 takes on a CPU, before it is worth a line


def dtype_of(setting: str) -> Any:
    """Choose the dtype: `auto`: bfloat16 on a GPU that has it, else float32; `stored`: as on disk.

    A CPU that is slow in bfloat16 is said, once.
    """
    if setting == "auto":
        return torch.bfloat16 if has_bfloat16() else torch.float32
    if setting == "stored":
        return "auto"
    if setting == "bfloat16" and kind() == "cpu" and (cost := bfloat16_cost()) > SLOW:
        note_once(
            f"bfloat16 takes {cost:.0f} times as long as float32 on this CPU (one product of matrices, measured now). "
            "--dtype auto takes float32."
        )
    return getattr(torch, setting)
