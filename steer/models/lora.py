"""Add to a base model what is trained: low-rank adapters, and tokens for the levels of a condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from steer.errors import SteerError
from steer.progress import quiet
from steer.run_folder import read_json


@dataclass(frozen=True)
class Lora:
    """Settings of low-rank adapters, which go on every linear layer but the head."""

    r: int = 32
    alpha: int = 64
    dropout: float = 0.0


def add_lora(model: Any, lora: Lora, seed: int, token_ids: Sequence[int] = ()) -> Any:
    """Add fresh adapters, seeded by `seed`, and freeze the base; embedding rows of `token_ids` are trained too."""
    with quiet(), torch.random.fork_rng():
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            trainable_token_indices=list(token_ids) or None,
        )
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    for written in adapted.peft_config.values():  # peft keeps a set, whose order differs between processes
        written.target_modules = sorted(written.target_modules)
    return adapted


def start_from(model: Any, folder: str) -> None:
    """Overwrite a fresh adapter with a saved one; SteerError if their shapes differ."""
    with quiet():
        from peft import load_peft_weights, set_peft_model_state_dict

        try:
            weights = load_peft_weights(folder, device="cpu")
            report = set_peft_model_state_dict(model, weights)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise SteerError(f"--init {folder}: its adapter does not fit ({str(error).splitlines()[-1]}).") from None
    if report.unexpected_keys or any("lora_" in name for name in report.missing_keys):
        raise SteerError(f"--init {folder}: its adapter has other layers than this run's.")
    refuse_nan(weights.items(), f"--init {folder}")


def refuse_nan(weights: Iterable[tuple[str, torch.Tensor]], where: str) -> None:
    """Refuse weights with NaN or infinity; `where` begins the message."""
    for part, weight in weights:
        if weight.is_floating_point() and not weight.is_meta and not torch.isfinite(weight).all():
            raise SteerError(f"{where}: its weights hold NaN or infinity, in {part}. Restore or train it again.")


def adapter_rank(folder: Path) -> int:
    """Rank of the adapter in a folder."""
    config = read_json(folder / "adapter_config.json")
    rank = config.get("r") if isinstance(config, dict) else None
    if type(rank) is not int:
        raise _unfit(folder, "adapter_config.json names no rank r")
    return rank


def add_control_tokens(model: Any, tokenizer: Any, tokens: Sequence[Sequence[str]], seed: int) -> list[int]:
    """Add a token for every level [attribute][level]; return their ids. Tokens that exist keep their rows.

    Input rows of an attribute lie on a line between two random points, so that neighbouring levels start alike and
    extremes apart. An untied output row starts as the mean of the others: such a token is never a target.
    """
    from tokenizers import AddedToken

    names = [token for levels in tokens for token in levels]
    if not names:
        return []
    before = len(tokenizer)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in names], special_tokens=True)
    ids: list[int] = tokenizer.convert_tokens_to_ids(names)
    if list(tokenizer(names, add_special_tokens=False)["input_ids"]) != [[i] for i in ids]:
        raise SteerError(f"the model's tokenizer does not keep '{names[0]}' as one token. Use --condition-tokens text.")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        with quiet():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        rows, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        old = rows[:before].float().cpu()
        lines = []
        for levels in tokens:
            low, high = old.mean(0) + torch.randn(2, old.shape[1], generator=draw) * old.std(0)
            lines += [low + (high - low) * i / max(1, len(levels) - 1) for i in range(len(levels))]
        for i, row in zip(ids, lines):
            if i >= before:
                head[i] = head[:before].float().mean(0).to(head)
                rows[i] = row.to(rows)
    return ids


def adapted(model: Any, folder: Path, token_ids: Sequence[int] = ()) -> Any:
    """Put the adapter in a folder on the model; it must have trained the embedding rows of `token_ids`."""
    with quiet():
        from peft import PeftModel, get_peft_model_state_dict

        try:
            whole = PeftModel.from_pretrained(model, folder)
            with safe_open(folder / "adapter_model.safetensors", "pt") as file:
                saved = set(file.keys())
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, OSError, SafetensorError) as error:
            raise _unfit(folder, " ".join(str(error).split())[:200]) from None
        # Weights that the file lacks would silently keep their random start.
        wanted = set(get_peft_model_state_dict(whole, save_embedding_layers=False))
    if different := wanted ^ saved:
        raise _unfit(folder, f"{len(different)} weights are on one side only, such as {min(different)}")
    if sorted(whole.peft_config["default"].trainable_token_indices or []) != sorted(token_ids):
        raise _unfit(folder, "the tokens of its levels have other numbers in the base's tokenizer")
    return whole


def _unfit(folder: Path, reason: str) -> SteerError:
    return SteerError(
        f"{folder}: its adapter does not fit the base model ({reason}). It was written by another version of peft, for "
        "another base, or damaged: train again, or restore what it was trained with."
    )
