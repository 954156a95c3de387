"""Rewarded soups (2306.04488): the mean of policies trained for one reward each, by a preference over these.

Differs from the official code: that averages A and B of LoRA each by itself, whose product is not the mean of what the
adapters add unless they share one of them; here it is that mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steer.errors import SteerError
from steer.export.policy import MARK, finished, replacing
from steer.models.card import Card
from steer.models.policy import load_policy
from steer.run_folder import fingerprint, read_json, write_json

# Parts of an adapter that are no sum of low-rank matrices, so they cannot be averaged as one.
OTHER = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "rank_pattern", "alpha_pattern")
PLAIN = (
    'Train it with "steer train --adapter lora", without --use-dora, --modules-to-save, --target-parameters and '
    "--condition-tokens special."
)


def soup(
    policies: Sequence[str | Path], folder: str | Path, *, shares: Sequence[float] = (), overwrite: bool = False
) -> Card:
    """Write the policy whose adapter is the weighted mean of those of `policies`, which share a base; return its card.

    `shares`: weights in the order of the policies, divided by their sum; default equal. What the adapters add to the
    base is averaged exactly: ranks add up. SteerError for policies that do not go together.
    """
    folders = [Path(policy) for policy in policies]
    if len(folders) < 2:
        raise SteerError("a soup is made of two policies or more. Name their folders.")
    if twice := [str(place) for i, place in enumerate(folders) if place in folders[:i]]:
        raise SteerError(f"{twice[0]}: is named twice. Name each policy once, with its --share.")
    weights = _checked(shares or [1.0] * len(folders), len(folders))
    cards = [_card(place) for place in folders]
    for place, card in zip(folders[1:], cards[1:]):
        _check_alike(folders[0], cards[0], place, card)
    target = Path(folder)
    inputs = {"soup": " ".join(f"{w:g} {fingerprint(place)}" for w, place in zip(weights, folders))}
    if finished(target, inputs, overwrite=overwrite):
        return Card.load(target)
    config, tensors = mixed(folders, weights)
    names = [place.resolve().name for place in folders]
    names = names if len({*names}) == len(names) else [str(place) for place in folders]  # a/policy and b/policy
    card = Card(**{**vars(cards[0]), "method": "soup", "settings": dict(zip(names, weights))})
    with replacing(target) as temporary:
        load_policy(str(folders[0]), device="meta").tokenizer.save_pretrained(temporary)
        save_file(tensors, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(temporary / "adapter_config.json", config)
        card.save(temporary)
        write_json(temporary / MARK, {**inputs, "facts": {"policies": len(folders)}})
    return card


def mixed(folders: Sequence[Path], weights: Sequence[float]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of the mean adapter: the A of all, one below the other, and the B beside each other."""
    configs = [read_json(place / "adapter_config.json") for place in folders]
    states = [load_file(place / "adapter_model.safetensors") for place in folders]
    for place, config, state in zip(folders, configs, states):
        if part := next((name for name in OTHER if config.get(name)), ""):
            raise SteerError(f"{place}: its adapter has {part}, which a soup cannot average. {PLAIN}")
        if state.keys() != states[0].keys():
            raise SteerError(
                f"{place}: its adapter is on other layers than that of {folders[0]}. Train both with the same "
                "--target-modules."
            )
    scales = [c["lora_alpha"] / (math.sqrt(c["r"]) if c.get("use_rslora") else c["r"]) for c in configs]
    rank = sum(config["r"] for config in configs)
    tensors = {}
    for name in states[0]:
        parts = [state[name] for state in states]
        if ".lora_B." in name:
            parts = [(w * scale * x.float()).to(x.dtype) for w, scale, x in zip(weights, scales, parts)]
        elif ".lora_A." not in name:
            raise SteerError(f"{folders[0]}: its adapter has {name}, which a soup cannot average. {PLAIN}")
        tensors[name] = torch.cat(parts, dim=1 if ".lora_B." in name else 0).contiguous()
    return {**configs[0], "r": rank, "lora_alpha": rank, "use_rslora": False}, tensors


def _checked(shares: Sequence[float], count: int) -> list[float]:
    """Return the shares divided by their sum."""
    if len(shares) != count:
        raise SteerError(f"{len(shares)} shares for {count} policies: give one for each.")
    if not all(math.isfinite(x) and x >= 0 for x in shares) or not sum(shares) > 0:
        raise SteerError(f"shares {', '.join(f'{x:g}' for x in shares)}: wanted 0 or more, and not 0 for all.")
    return [x / sum(shares) for x in shares]


def _card(folder: Path) -> Card:
    if not (folder / "adapter_config.json").is_file() or Card.place(folder) != folder:
        raise SteerError(f"{folder}: is no finished policy with an adapter. Train one: steer train --adapter lora.")
    return Card.load(folder)


def _check_alike(first: Path, one: Card, place: Path, other: Card) -> None:
    """Refuse policies of other bases, or that read other conditions."""
    if (one.base_hash or one.base) != (other.base_hash or other.base):
        raise SteerError(
            f"{place}: has another base than {first}, so their weights have no mean. Train both from one --model."
        )
    if (one.attributes, one.template, one.condition_tokens, one.schema) != (
        other.attributes,
        other.template,
        other.condition_tokens,
        other.schema,
    ):
        raise SteerError(
            f"{place}: reads other conditions than {first}, so no prompt suits both. Train both on labels of one "
            "schema, with the same --attribute, --template and --condition-tokens."
        )
