"""A policy at the last resume point of a training that is not finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from steer.errors import SteerError
from steer.models.lora import Lora, lora_weights
from steer.models.parts import freeze_towers
from steer.models.precision import trainable
from steer.progress import quiet
from steer.run_folder import read_json

if TYPE_CHECKING:
    from steer.models.policy import Policy

WEIGHTS = "weights.safetensors"  # of a resume point: what is trained, whole even where processes share it


def describe(policy: Policy, point: Path) -> None:
    """Write into a resume point what `with_weights` needs beside the weights: card, and settings of the adapter."""
    if policy.card:
        policy.card.save(point)
    if adapters := getattr(policy.model, "peft_config", None):
        adapters["default"].save_pretrained(point)


def facts_of(point: Path) -> dict[str, Any]:
    """Return what is known of the training at a resume point: `steps` made `of` so many, `tokens`, `seconds`."""
    state = read_json(point / "state.json")
    return {"steps": state["step"], "of": state["steps"], "tokens": state["tokens"], "seconds": state["seconds"]}


def with_weights(model: Any, point: Path, token_ids: Sequence[int]) -> tuple[Any, dict[str, Tensor]]:
    """Give a base model the weights of a resume point, adapters or all of its own; SteerError if they do not fit.

    Also return the weights of the fresh adapter if it took them out of the base (`Policy.start`). `token_ids`: of the
    tokens that levels have, added to the model already.
    """
    start: dict[str, Tensor] = {}
    try:
        weights = load_file(point / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise SteerError(
            f"{point}: cannot be read ({error}). If the training goes on, a newer one has replaced it: try again."
        ) from None
    if (point / "adapter_config.json").is_file():
        with quiet(), torch.random.fork_rng():
            from peft import LoraConfig, get_peft_model

            config = LoraConfig.from_pretrained(point)
            config.trainable_token_indices = list(token_ids) or None
            torch.manual_seed(0)  # as `add_lora`
            model = get_peft_model(model, config)
        if isinstance(config.init_lora_weights, str) and Lora(init_lora_weights=config.init_lora_weights).changes_base:
            start = lora_weights(model)
    else:
        freeze_towers(model)
    named = {f"model.{name}": p for name, p in trainable(model)}  # a training may also have a critic
    if wrong := [n for n, p in named.items() if n not in weights or weights[n].shape != p.shape]:
        raise SteerError(f"{point}: does not fit the base model (such as {wrong[0]}). Restore it or train again.")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights[name])
    return model.eval().requires_grad_(False), start
