"""Resume points of a training run, without pickle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from steer.errors import SteerError
from steer.models.policy import Policy
from steer.models.unfinished import WEIGHTS, describe
from steer.run_folder import POINT, folder_errors, read_json, resume_point, write_json
from steer.training import zero

BEST = "best.safetensors"  # trained weights at the lowest held-out loss


def save(
    folder: Path,
    policy: Policy,
    named: Sequence[tuple[str, nn.Parameter]],
    optimizer: Any,
    state: dict[str, Any],
    main: bool,
) -> None:
    """Write trainable weights and optimizer state in the main process; remove older resume points.

    Weights and the policy's card make the point a policy, see `models.unfinished`.
    """
    weights = gathered(dict(named), main)
    inner = zero.state(named, optimizer) if zero.shards(optimizer) else optimizer.state_dict()["state"]
    inner = {i: _unwrapped(s) for i, s in inner.items()}
    tensors = gathered({f"{i}.{k}": v for i, s in inner.items() for k, v in s.items() if torch.is_tensor(v)}, main)
    if not main:
        return
    final = folder / f"{POINT}{state['step']}"
    temporary = folder / f".{POINT}{state['step']}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with folder_errors(folder):
        try:
            temporary.mkdir(parents=True)
            save_file(weights, temporary / WEIGHTS)
            save_file(tensors, temporary / "optimizer.safetensors")
            others = {f"{i}.{k}": v for i, s in inner.items() for k, v in s.items() if not torch.is_tensor(v)}
            write_json(temporary / "state.json", {**state, "optimizer": others})
            describe(policy, temporary)
            os.replace(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for old in folder.glob(f"{POINT}*"):
        if old != final:
            shutil.rmtree(old)


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    """Flatten the state of a parameter: bitsandbytes hides its 8-bit tensors from FSDP in a dict of their own."""
    hidden = [v for v in state.values() if isinstance(v, dict)]
    return {k: v for part in (state, *hidden) for k, v in part.items() if not isinstance(v, dict)}


def state_of(folder: Path) -> dict[str, Any]:
    """Read what the newest resume point knows beside its tensors; empty if there is none."""
    newest = resume_point(folder)
    state: dict[str, Any] = read_json(newest / "state.json") if newest else {}
    return state


def restore(folder: Path, named: Sequence[tuple[str, nn.Parameter]], optimizer: Any) -> dict[str, Any] | None:
    """Load the newest resume point into weights and optimizer; return its state, or None if there is none."""
    if not (newest := resume_point(folder)):
        return None
    try:
        weights = load_file(newest / WEIGHTS)
        tensors = load_file(newest / "optimizer.safetensors")
    except (OSError, SafetensorError) as error:
        raise SteerError(f"{newest}: cannot be read ({error}). Remove it, and run the same command again.") from None
    _fill(named, weights)
    state = state_of(folder)
    inner: dict[int, dict[str, Any]] = {}
    for key, value in (tensors | state.pop("optimizer")).items():
        index, name = key.split(".", 1)
        inner.setdefault(int(index), {})[name] = value
    if zero.shards(optimizer):
        zero.put(named, optimizer, inner)
        return state
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        i: {k: part(v, parameters[i]) if torch.is_tensor(v) else v for k, v in s.items()} for i, s in inner.items()
    }
    saved = {"state": parts, "param_groups": optimizer.state_dict()["param_groups"]}
    inside = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper has it
    if getattr(inside, "is_paged", False):
        inside.load_state_dict(saved, move_to_device=False)
        _page(inside)
    else:
        optimizer.load_state_dict(saved)
    return state


def _page(optimizer: Any) -> None:
    """Put the large state of bitsandbytes' optimizer where it pages it: loaded, it would fill the GPU and stay there.

    The first step moves the rest to the device.
    """
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            state[name] = optimizer.get_state_buffer(parameter, dtype=state[name].dtype).copy_(state[name])


def keep_best(folder: Path, named: Sequence[tuple[str, nn.Parameter]], main: bool) -> None:
    """Write the trained weights as the best so far, in the main process."""
    weights = gathered(dict(named), main)
    if not main:
        return
    temporary = folder / f".{BEST}.tmp"
    with folder_errors(folder):
        try:
            save_file(weights, temporary)
            os.replace(temporary, folder / BEST)
        finally:
            temporary.unlink(missing_ok=True)


def take_best(folder: Path, named: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Load the best weights."""
    _fill(named, load_file(folder / BEST))


def _fill(named: Sequence[tuple[str, nn.Parameter]], weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in named:
            parameter.copy_(part(weights[name], parameter))


def clear(folder: Path) -> None:
    """Remove all resume points and the best weights of early stopping, which the policy now has."""
    (folder / BEST).unlink(missing_ok=True)
    for old in (*folder.glob(f"{POINT}*"), *folder.glob(f".{POINT}*")):
        shutil.rmtree(old)


def gathered(tensors: Mapping[str, Tensor], main: bool) -> dict[str, Tensor]:
    """Copy whole tensors to the CPU of the main process. Collective: every process may hold a part and must call."""
    copies = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if main:
            copies[name] = whole.detach().to("cpu", copy=True).contiguous()
    return copies


def part(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor if `like` is sharded; a tensor of another shape stays whole."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
