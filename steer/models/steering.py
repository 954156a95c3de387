"""Activation steering: a vector for each attribute that is added to the residual stream after one layer.

The vector is the mean activation over responses with high levels less that over responses with low ones (contrastive
activation addition, 2312.06681; activation addition, 2308.10248). Differs from them: responses are logged ones with
their own prompts, not pairs of one prompt; means are over all positions that predict a response's tokens, and the
vector is added at these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steer.models.collate import Sequence_, collate, micro_batches
from steer.models.parts import decoder_of
from steer.rows.schema import Schema

Weights = tuple[float, ...]  # of the vectors, in the order of the attributes; empty for none


@dataclass(frozen=True)
class Steering:
    """Vectors [A, D] of attributes, added after a layer; `strength`: the weight of the highest level."""

    schema: Schema
    names: tuple[str, ...]
    layer: int
    vectors: Tensor
    strength: float

    def weights(self, target: Mapping[str, float]) -> Weights:
        """Return the weight of each vector: from -strength at the lowest level to strength at the highest, linearly."""
        tops = [len(self.schema[n].shown) - 1 for n in self.names]
        shares = [2 * target[n] / top - 1 if n in target and top else 0.0 for n, top in zip(self.names, tops)]
        return tuple(self.strength * share for share in shares)

    @contextmanager
    def added(self, model: Any, weights: Sequence[Weights], first: int = 0) -> Iterator[None]:
        """Add the weighted vectors of each row of the batch from position `first` on while the block runs: [N][A]."""
        some = [w or (0.0,) * len(self.names) for w in weights]

        def add(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
            hidden: Tensor = output[0] if isinstance(output, tuple) else output  # [N, L, D]
            moved = torch.tensor(some, device=hidden.device) @ self.vectors.to(hidden.device, torch.float32)
            hidden = torch.cat([hidden[:, :first], hidden[:, first:] + moved[:, None].to(hidden)], 1)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = layers(model)[self.layer].register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()


def layers(model: Any) -> nn.ModuleList:
    """Return the layers of a causal language model, in order."""
    count = model.config.get_text_config().num_hidden_layers
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return next(m for m in decoder_of(whole).modules() if isinstance(m, nn.ModuleList) and len(m) == count)


@torch.no_grad()
def activations(model: Any, sequences: Sequence[Sequence_], layer: int, pad: int, budget: int) -> Tensor:
    """Mean activation after a layer over the positions that predict each response's tokens: [R, D]."""
    kept: list[Tensor] = []

    def keep(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    means: list[Tensor] = [torch.empty(0)] * len(sequences)
    handle = layers(model)[layer].register_forward_hook(keep)
    try:
        for part in micro_batches([len(s.prefix) + len(s.response) for s in sequences], budget):
            ones = [[1.0]] * len(part)
            batch = collate([[sequences[i]] for i in part], pad=pad, rewards=ones, weights=ones).to(model.device)
            model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            hidden = kept.pop().flatten(0, 1)[batch.positions].float()  # [M, D]
            for i, own in zip(part, hidden.split([len(sequences[i].response) for i in part])):
                means[i] = own.mean(0).cpu()
    finally:
        handle.remove()
    return torch.stack(means)
