"""Parts of a model: its text decoder, experts, routers, towers for images; which of them training reaches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

ROUTERS = ("gate", "router")  # names of the layer that chooses experts
COPY = ".modules_to_save."  # in PEFT's name of a weight that is trained whole beside adapters


def decoder_of(model: Any) -> Any:
    """Return the part that reads tokens and gives hidden states: in a multimodal model its language model."""
    if is_multimodal(model):
        text = model.get_decoder()
        return decoder_of(text) if hasattr(text, "lm_head") else text  # that of Llama 4 has its own head
    if (named := getattr(model, model.base_model_prefix, None)) is not None:
        return named
    embeddings = model.get_input_embeddings()  # the text model of Llama 4 is named as a part of the multimodal one
    return next(part for part in model.modules() if any(child is embeddings for child in part.children()))


def is_multimodal(model: Any) -> bool:
    """Whether the text decoder is one of several parts of a model."""
    return bool(model.config.get_text_config() is not model.config)


def freeze_towers(model: Any) -> None:
    """Freeze what is no part of the text model: training sees text only."""
    for _, parameter in towers(model):
        parameter.requires_grad_(False)


def text_layers(model: Any) -> str | list[str]:
    """Targets of adapters by default: every linear layer of the text model but the head; of experts see below.

    A rule of PEFT: "all-linear", names of modules, or a regular expression on them. Where experts are stacked, layers
    that are called as theirs once were are left out: PEFT would take these names for the experts, on some families.
    The last layer of a Mamba block is left out too: its kernels read the weight, and would pass over an adapter.
    """
    decoder = decoder_of(model)
    kinds = {name.rpartition(".")[2] for name, part in decoder.named_modules() if isinstance(part, nn.Linear)}
    mamba = any(hasattr(part, "A_log") and hasattr(part, "in_proj") for part in decoder.modules())
    kinds -= {"out_proj"} if mamba else set()
    if any(_is_stacked(name, p) for name, p in decoder.named_parameters()):
        kinds -= {*ROUTERS, "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
        if not is_multimodal(model):
            return sorted(kinds)
    if not is_multimodal(model):
        return sorted(kinds) if mamba else "all-linear"
    [prefix] = [name for name, module in model.named_modules() if module is decoder]
    return rf"{re.escape(prefix)}\.(.*\.)?({'|'.join(map(re.escape, sorted(kinds)))})"


def coverage(model: Any) -> str:
    """Describe which layers of a model have adapters, how many of its parameters these hold, and what has none."""
    from peft.tuners.lora import LoraLayer

    if not hasattr(model, "get_base_model"):
        frozen = sorted({name.split(".")[1] for name, _ in towers(model)})
        return "all weights are trained" + (f" but {', '.join(frozen)}" if frozen else "")
    base = model.get_base_model()
    layers = {name: layer for name, layer in base.named_modules() if isinstance(layer, LoraLayer)}
    kinds = sorted({getattr(layer, "parameter_name", name.rpartition(".")[2]) for name, layer in layers.items()})
    adapted = {id(_adapted(layer)) for layer in layers.values()}
    outside = {id(p) for _, p in towers(base)}
    shared = {id(p) for x in (base.get_input_embeddings(), base.get_output_embeddings()) for p in x.parameters()}
    copied = {name.partition(COPY)[0] for name, _ in base.named_parameters() if COPY in name}
    sizes: Counter[str] = Counter()
    copies: Counter[str] = Counter()  # of what is trained whole beside the adapters
    experts = set()
    for name, weight in base.named_parameters():
        path = [x for x in name.split(".") if x not in ("base_layer", "original_module")]
        if any(mark in name for mark in ("lora_", "trainable_tokens_", COPY)):
            continue  # added by PEFT
        if id(weight) in adapted:
            part = "adapted"
        elif id(weight) in outside:
            part = path[1]
        elif _is_stacked(name, weight):
            part = "experts"
            experts.add(f"--target-parameters experts.{path[-1]}")
        elif path[-2] in ROUTERS and weight.ndim == 2:
            part = "routers"
        else:
            part = "embeddings and head" if id(weight) in shared else "other layers" if weight.ndim > 1 else "norms"
        (copies if name.partition(".original_module.")[0] in copied else sizes)[part] += _size(weight)
    whole, size = sizes.total() + copies.total(), sizes.pop("adapted", 0)
    del sizes["norms"]
    trained, rest = (", ".join(f"{part} ({n:,})" for part, n in kept.most_common()) for kept in (copies, sizes))
    return (
        f"adapters on {len(layers)} layers ({', '.join(kinds)}), {size:,} of {whole:,} parameters of the model"
        + (f"; trained whole: {trained}" if trained else "")
        + (f"; none on {rest}" if rest else "")
        + (f". For the experts add {' '.join(sorted(experts))}" if experts else "")
    )


def _is_stacked(name: str, weight: Any) -> bool:
    """Whether a weight is that of all experts of a layer, which transformers stacks in three dimensions."""
    return bool(weight.ndim == 3 and "experts" in name.split("."))


def _adapted(layer: Any) -> Any:
    """Return the weight that a layer of PEFT adapts: its own parameter, or that of the layer which it wraps."""
    return layer.get_param() if hasattr(layer, "parameter_name") else layer.get_base_layer().weight


def _size(weight: Any) -> int:
    """Count the numbers in a weight; two lie in each byte of one in 4 bits."""
    return int(weight.numel()) * (2 * weight.element_size() if type(weight).__name__ == "Params4bit" else 1)


def towers(model: Any) -> Iterator[tuple[str, Any]]:
    """Parameters of a multimodal model that are neither its text decoder's nor its head's."""
    if not is_multimodal(model):
        return iter(())
    text = {id(p) for part in (decoder_of(model), model.get_output_embeddings()) if part for p in part.parameters()}
    return ((name, p) for name, p in model.named_parameters() if id(p) not in text)
