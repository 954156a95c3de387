"""Padded batches through `model.generate`: for models whose state cannot move between batches; also a benchmark's peer.

What is drawn depends on the batch here, unless it is greedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steer.generation.requests import EncodedRequest
from steer.generation.sampling import Markers
from steer.models.policy import Policy, end_tokens
from steer.progress import quiet


def plainly(
    policy: Policy, requests: Sequence[EncodedRequest], batch_size: int, seed: int, *, bucketed: bool = True
) -> list[list[int]]:
    """Draw the token ids of each response, with the end token; all use the first one's top_k, top_p and min_p."""
    from transformers import GenerationConfig, LogitsProcessorList

    tokenizer, model = policy.tokenizer, policy.model.eval()
    device, pad, ends = next(model.parameters()).device, tokenizer.pad_token_id, end_tokens(policy)
    prefixes = [[*request.prompt, *request.condition] for request in requests]
    order = (
        sorted(range(len(requests)), key=lambda i: (len(prefixes[i]), i)) if bucketed else list(range(len(requests)))
    )
    order.sort(key=lambda i: requests[i].temperature)  # stable; a batch has one
    out: list[list[int]] = [[] for _ in requests]
    blocked = _Blocked(Markers(policy.markers, policy.pieces)) if policy.markers else None
    start = 0
    while start < len(order):
        warm = requests[order[start]].temperature
        part = [i for i in order[start : start + batch_size] if requests[i].temperature == warm]
        width = max(len(prefixes[i]) for i in part)
        config = GenerationConfig(
            max_new_tokens=max(requests[i].max_new_tokens for i in part),
            do_sample=warm > 0,
            temperature=warm or None,
            top_p=requests[part[0]].top_p if warm else None,
            top_k=requests[part[0]].top_k if warm else None,
            min_p=(requests[part[0]].min_p or None) if warm else None,
            eos_token_id=sorted(ends),
            pad_token_id=pad,
        )
        ids = torch.tensor([[pad] * (width - len(prefixes[i])) + prefixes[i] for i in part], device=device)
        mask = torch.tensor([[0] * (width - len(prefixes[i])) + [1] * len(prefixes[i]) for i in part], device=device)
        if blocked:
            blocked.start = width
        torch.manual_seed(seed + start)
        with torch.no_grad(), quiet():
            processors = LogitsProcessorList([blocked] if blocked else [])
            drawn = model.generate(ids, attention_mask=mask, generation_config=config, logits_processor=processors)
        for i, tokens in zip(part, drawn[:, width:].tolist()):
            tokens = tokens[: requests[i].max_new_tokens]
            end = next((k for k, token in enumerate(tokens) if token in ends), len(tokens))
            out[i] = tokens[: end + 1]
        start += len(part)
    return out


class _Blocked:
    """A logits processor that blocks markers; `start`: the column where responses begin."""

    def __init__(self, blocked: Markers) -> None:
        self.markers, self.start = blocked, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        """Block markers in the logits: [N, L], [N, V] -> [N, V]."""
        reach = 2 * self.markers.window  # some tokens have no text
        tails = [
            "".join(self.markers.pieces[t] for t in row) for row in input_ids[:, self.start :][:, -reach:].tolist()
        ]
        return self.markers.block(scores, [text[-self.markers.window :] for text in tails])
