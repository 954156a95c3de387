"""A fitted model as two files: arrays in `weights.npz`, the rest in `model.json`, which holds their digest."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attribute_models import settings, write


def save(folder: str | Path, state: Mapping[str, Any], arrays: Mapping[str, ArrayLike]) -> None:
    """Write `weights.npz`, then `model.json` with the state and the digest, by which `load` refuses half a pair."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    state = {**state, "weights": hashlib.sha256(buffer.getvalue()).hexdigest()}
    write(Path(folder) / "weights.npz", buffer.getvalue())
    write(Path(folder) / "model.json", json.dumps(state, indent=1, default=methodcaller("tolist")).encode())


def load(folder: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read the state and arrays that `save` wrote; ValueError if the two files do not belong together."""
    state, path = settings(folder), Path(folder) / "weights.npz"
    weights = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(weights).hexdigest() != state["weights"]:
        raise ValueError(f"{path}: does not belong to model.json. Fit and save the model again.")
    with np.load(io.BytesIO(weights), allow_pickle=False) as file:
        arrays = dict(file)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity. Fit and save the model again.")
    return state, arrays
