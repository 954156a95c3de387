"""Add to a base model what is trained: low-rank adapters, and tokens for the levels of a condition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steer.errors import SteerError
from steer.models.parts import text_layers
from steer.models.tokenization import limit_tokens
from steer.progress import quiet
from steer.run_folder import read_json


@dataclass(frozen=True)
class Lora:
    """Settings of low-rank adapters; by default they go on every linear layer of the text model but its head."""

    r: int = 32
    alpha: int = 64
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    target_parameters: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    use_dora: bool = False
    use_rslora: bool = False
    init_lora_weights: str = "default"

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if self.changes_base and (self.use_dora or self.target_parameters):
            other = "--use-dora" if self.use_dora else "--target-parameters"
            raise SteerError(
                f"--init-lora-weights {self.init_lora_weights}: moves a part of the base into the adapter, which "
                f"{other} cannot. Leave one of them out."
            )

    @property
    def changes_base(self) -> bool:
        """Whether the fresh adapter takes a part out of the base's weights, so that both together are as before."""
        return self.init_lora_weights.startswith(("pissa", "olora"))

    @property
    def starts_at_zero(self) -> bool:
        """Whether the model without the fresh adapter is the one that training starts from."""
        return not self.changes_base and self.init_lora_weights != "loftq"


def add_lora(model: Any, lora: Lora, seed: int, token_ids: Sequence[int] = ()) -> Any:
    """Add fresh adapters, seeded by `seed`, and freeze the base; embedding rows of `token_ids` are trained too.

    SteerError for settings that PEFT or the model has no place for.
    """
    ends = {name for path, _ in model.named_modules() for name in (path, path.rpartition(".")[2])}
    if lost := [name for name in lora.modules_to_save if name not in ends]:  # peft passes over them
        raise SteerError(f"--modules-to-save {lost[0]}: the model has no such module.")
    targets: Any = list(lora.target_modules) or text_layers(model)
    with quiet(), torch.random.fork_rng():
        from peft import LoraConfig, get_peft_model, replace_lora_weights_loftq

        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            target_parameters=list(lora.target_parameters) or None,
            modules_to_save=list(lora.modules_to_save) or None,
            ensure_weight_tying=bool(lora.modules_to_save),
            use_dora=lora.use_dora,
            use_rslora=lora.use_rslora,
            init_lora_weights=True if lora.init_lora_weights in ("default", "loftq") else lora.init_lora_weights,
            task_type="CAUSAL_LM",
            trainable_token_indices=list(token_ids) or None,
        )
        torch.manual_seed(0 if lora.changes_base else seed)  # what is taken out of the base is the same for all
        try:
            adapted = get_peft_model(model, config)
            if lora.init_lora_weights == "loftq":
                folder = model.name_or_path if Path(model.name_or_path).is_dir() else None
                replace_lora_weights_loftq(adapted, folder)
        except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
            raise SteerError(f"the adapter cannot be added to the model: {str(error).splitlines()[0]}") from None
    written = adapted.peft_config["default"]
    if not isinstance(written.target_modules, str):  # peft keeps a set, whose order differs between processes
        written.target_modules = sorted(written.target_modules or ())
    _check_parameters(adapted, lora.target_parameters)
    return adapted


def beside_the_base(weights: Mapping[str, Tensor], start: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Turn an adapter that took its start out of the base into one of twice the rank beside the whole base.

    s B A + (W - s B0 A0) = W + s [B, -B0] [A; A0], with twice the rank and alpha in `config`; of rsLoRA B is divided
    by the square root of 2, for its scale s is alpha / sqrt(rank).
    """
    config.lora_alpha *= 2
    config.r *= 2
    config.init_lora_weights = True
    shrink = math.sqrt(2) if config.use_rslora else 1.0
    joined = dict(weights)
    for name in start:
        now, begun = weights[name], start[name].to(weights[name])
        is_a = "lora_A" in name or "lora_embedding_A" in name
        joined[name] = torch.cat([now, begun]) if is_a else torch.cat([now, -begun], 1) / shrink
    return joined


def lora_weights(model: Any) -> dict[str, Tensor]:
    """Copy the weights of a model's low-rank adapters to the CPU."""
    return {n: p.detach().to("cpu", copy=True) for n, p in model.named_parameters() if "lora_" in n}


def _check_parameters(model: Any, names: Sequence[str]) -> None:
    """Refuse names of parameters that no module has: PEFT passes over them."""
    adapted = {x.parameter_name for x in model.modules() if hasattr(x, "parameter_name")}
    if lost := [name for name in names if name.rpartition(".")[2] not in adapted]:
        stacked = sorted({f"experts.{n.rpartition('.')[2]}" for n, p in model.named_parameters() if p.ndim == 3})
        raise SteerError(
            f"--target-parameters {lost[0]}: the model has no such parameter. "
            + (f"Its stacked ones are {', '.join(stacked)}." if stacked else "It has no stacked experts.")
        )


def start_from(model: Any, folder: str) -> None:
    """Overwrite a fresh adapter with a saved one; SteerError if their shapes differ.

    Tokens of levels stay as they were added where the saved policy has none.
    """
    with quiet():
        from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

        try:
            weights = load_peft_weights(folder, device="cpu")
            fresh = get_peft_model_state_dict(model, save_embedding_layers=False)
            tokens = {name: weight for name, weight in fresh.items() if "trainable_tokens" in name}
            report = set_peft_model_state_dict(model, tokens | weights)
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


def adapter_config(folder: Path) -> dict[str, Any]:
    """Read what PEFT wrote about the adapter in a folder; SteerError if that names no rank."""
    config: Any = read_json(folder / "adapter_config.json")
    if not isinstance(config, dict) or type(config.get("r")) is not int:
        raise _unfit(folder, "adapter_config.json names no rank r")
    return config


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of training that the weights of the adapter in a folder belong to: rank, scale and kind."""
    config = adapter_config(folder)
    kinds = {name: bool(config.get(name)) for name in ("use_rslora", "use_dora")}
    return {"lora_r": config["r"], "lora_alpha": config.get("lora_alpha", 8), **kinds}  # 8: PEFT's default


def add_control_tokens(model: Any, tokenizer: Any, tokens: Sequence[Sequence[str]], seed: int) -> list[int]:
    """Add a token for every level [attribute][level]; return their ids. Tokens that exist keep their rows.

    Input rows of an attribute lie on a line between two random points, so that neighbouring levels start alike and
    extremes apart. An untied output row starts as the mean of the others: such a token is never a target.
    """
    from tokenizers import AddedToken

    names = [token for levels in tokens for token in levels]
    if not names:
        return []
    before, embedded = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in names], special_tokens=True)
    ids: list[int] = tokenizer.convert_tokens_to_ids(names)
    if list(tokenizer(names, add_special_tokens=False)["input_ids"]) != [[i] for i in ids]:
        raise SteerError(f"the model's tokenizer does not keep '{names[0]}' as one token. Use --condition-tokens text.")
    if len(tokenizer) > embedded:
        with quiet():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        limit_tokens(tokenizer, model)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        rows, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        old = rows[: min(before, embedded)].float().cpu()
        for i in range(embedded, before):  # of tokens that the model never had rows for
            rows[i], head[i] = old.mean(0).to(rows), head[:embedded].float().mean(0).to(head)
        lines = []
        for levels in tokens:
            low, high = old.mean(0) + torch.randn(2, old.shape[1], generator=draw) * old.std(0)
            lines += [low + (high - low) * i / max(1, len(levels) - 1) for i in range(len(levels))]
        for i, row in zip(ids, lines):
            if i >= before:
                head[i] = head[: len(old)].float().mean(0).to(head)
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
