"""Keys and values of prompts and conditions: each is computed once for all samples and targets."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from steer.models.policy import Policy
from steer.models.steering import Weights

AT_ONCE = 8192  # padded tokens in one forward pass
REMEMBERED = 16384  # tokens kept for later requests with the same prompt

Ids = tuple[int, ...]
Wanted = tuple[Ids, Ids, Weights]  # prompt, condition, weights of steering vectors at the condition


class Prefix(NamedTuple):
    """Keys and values [H, l, D] of l tokens in every layer, and the logits [V] after them."""

    layers: list[tuple[Tensor, Tensor]]
    logits: Tensor

    @property
    def tokens(self) -> int:
        """Count the tokens of the prefix."""
        return int(self.layers[0][0].shape[1])


def inner(policy: Policy) -> Any:
    """Return the model without the wrapper of its adapter."""
    return policy.model.get_base_model() if hasattr(policy.model, "get_base_model") else policy.model


def shareable(policy: Policy) -> bool:
    """Whether the model's state is keys and values of plain attention, which can be shared and moved."""
    model = inner(policy)
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    stateful = getattr(model, "_is_stateful", False) or model.config.is_encoder_decoder
    plain = kinds <= {"full_attention", "sliding_attention"}
    return plain and not stateful and "position_ids" in inspect.signature(model.forward).parameters


class Prefixes:
    """A cache of prefixes by prompt, condition and steering; the least recently used are dropped first."""

    def __init__(self, policy: Policy) -> None:
        self.model, self.policy = policy.model, policy
        self.device = next(policy.model.parameters()).device
        takes = inspect.signature(inner(policy).forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._cache: OrderedDict[Wanted, Prefix] = OrderedDict()
        self.read = 0  # tokens that went through the model

    def find(self, wanted: Sequence[Wanted]) -> list[Prefix]:
        """Return the prefixes in order; compute the missing ones in batches, prompts first, then their conditions."""
        cache = self._cache
        missing = [w for w in dict.fromkeys(wanted) if w not in cache]
        prompts = [p for p in dict.fromkeys(p for p, *_ in missing) if (p, (), ()) not in cache]
        for part in _parts(prompts, len):
            for prompt, prefix in zip(part, self._forward(part, [])):
                cache[prompt, (), ()] = prefix
        missing = [w for w in missing if w[1]]
        for length in sorted({len(condition) for _, condition, _ in missing}):
            same = [w for w in missing if len(w[1]) == length]
            for part in _parts(same, lambda w: len(w[0]) + len(w[1])):
                before = [cache[prompt, (), ()] for prompt, *_ in part]
                with self.policy.steered([weights for *_, weights in part]):
                    cache.update(zip(part, self._forward([condition for _, condition, _ in part], before)))
        prefixes = [cache[w] for w in wanted]
        for one in wanted:
            for key in {(one[0], (), ()), one} & cache.keys():
                cache.move_to_end(key)
        total = sum(prefix.tokens for prefix in cache.values())
        while total > REMEMBERED and cache:
            total -= cache.popitem(last=False)[1].tokens
        return prefixes

    def _forward(self, tokens: Sequence[Ids], before: Sequence[Prefix]) -> list[Prefix]:
        """Prefill tokens [N][l], each after its prefix in `before` if there are any (then all have the same l)."""
        new, past = max(map(len, tokens)), max((p.tokens for p in before), default=0)
        cache = DynamicCache()
        for i in range(len(before[0].layers) if before else 0):
            cache.update(*_stacked([p.layers[i] for p in before], past), i)
        ids = torch.tensor([[0] * (new - len(t)) + list(t) for t in tokens])
        lengths = [len(t) for t in tokens] if not before else [p.tokens + new for p in before]
        columns, first = torch.arange(past + new), torch.tensor([[past + new - x] for x in lengths])
        logits = self.model(
            input_ids=ids.to(self.device),
            attention_mask=(columns >= first).long().to(self.device),
            position_ids=(columns[past:] - first).clamp(min=0).to(self.device),
            past_key_values=cache,
            use_cache=True,
            **self._last_only,
        ).logits[:, -1]
        self.read += sum(map(len, tokens))
        return [
            Prefix([(x.keys[i, :, -n:].clone(), x.values[i, :, -n:].clone()) for x in cache.layers], logits[i].clone())
            for i, n in enumerate(lengths)
        ]


def _stacked(layers: Sequence[tuple[Tensor, Tensor]], length: int) -> list[Tensor]:
    """Right-align keys and values [H, l, D] of N prefixes: [N, H, length, D] each."""
    out = []
    for parts in zip(*layers):
        x = parts[0].new_zeros(len(parts), parts[0].shape[0], length, parts[0].shape[2])
        for row, part in zip(x, parts):
            row[:, length - part.shape[1] :] = part
        out.append(x)
    return out


def _parts(items: Sequence[Any], size: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Sort items by length and cut them so that the padded tokens of a part fit one forward pass."""
    part: list[Any] = []
    for item in sorted(items, key=size):
        if part and size(item) * (len(part) + 1) > AT_ONCE:
            yield part
            part = []
        part.append(item)
    if part:
        yield part
