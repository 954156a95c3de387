"""Random Llamas of real sizes, made layer by layer on the device, and a tokenizer for which a text is its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steer import device

LENGTH = 2048  # positions that a model has


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int = 128_256


SHAPES = {
    "tiny": Shape(64, 192, 2, 4, 2, 512),
    "1b": Shape(2048, 8192, 16, 32, 8),
    "8b": Shape(4096, 14_336, 32, 32, 8),
    "70b": Shape(8192, 28_672, 80, 64, 8),
}


def config_of(shape: Shape, **more: Any) -> Any:
    """Configuration of a Llama of this shape, in the dtype that the device computes in."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        dtype=device.dtype_of("auto"),
        **more,
    )


def tokenizer_of(shape: Shape) -> Any:
    """A tokenizer whose texts are words, one a token: `w2 w17 w5`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, shape.vocabulary)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>")


def build(shape: Shape, place: str, *, four_bit: bool) -> Any:
    """A random Llama in bfloat16 (float32 on a CPU), its inner linear layers in NF4 if asked for."""
    import bitsandbytes
    from transformers import LlamaForCausalLM

    from attribute_models.bases import keep_unpacked

    dtype = device.dtype_of("auto")
    config = config_of(shape)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    draw = torch.Generator(place).manual_seed(0)

    def random(shape: torch.Size) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=place).normal_(0, 0.02, generator=draw)

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head" and four_bit:
                made = bitsandbytes.nn.Linear4bit(
                    child.in_features, child.out_features, False, dtype, True, "nf4", device="meta"
                )
                made.weight = bitsandbytes.nn.Params4bit(
                    random(child.weight.shape), requires_grad=False, compress_statistics=True, quant_type="nf4"
                ).to(place)
                setattr(parent, name, made)
            elif isinstance(child, nn.Linear | nn.Embedding):
                child.weight = nn.Parameter(random(child.weight.shape))
            elif isinstance(getattr(child, "weight", None), Tensor):  # norms
                child.weight = nn.Parameter(torch.ones(child.weight.shape, dtype=dtype, device=place))
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(place)
    if four_bit:
        model.is_loaded_in_4bit = True
        keep_unpacked(model)
    return model
