"""Padded batches through `model.generate`: for models whose state cannot move between batches; also a benchmark's peer.

`model.generate` only runs the model: each token is drawn as in the running batch, so it follows from its own seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steer.generation.requests import EncodedRequest
from steer.generation.sampling import Markers, draw, penalise
from steer.models.policy import Policy, end_tokens
from steer.progress import progress, quiet


def plainly(
    policy: Policy, requests: Sequence[EncodedRequest], batch_size: int, *, bucketed: bool = True
) -> list[list[int]]:
    """Draw the token ids of each response, with the end token; `bucketed`: prompts of like length share a batch."""
    from transformers import GenerationConfig, LogitsProcessorList

    tokenizer, model = policy.tokenizer, policy.model.eval()
    device, pad, ends = next(model.parameters()).device, tokenizer.pad_token_id, end_tokens(policy)
    prefixes = [[*request.prompt, *request.condition] for request in requests]
    order = list(range(len(requests)))
    if bucketed:
        order.sort(key=lambda i: len(prefixes[i]))
    out: list[list[int]] = [[] for _ in requests]
    markers = Markers(policy.markers, policy.pieces if policy.markers else [])
    with progress(total=len(order), what="generate", unit="responses") as bar:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            width = max(len(prefixes[i]) for i in part)
            config = GenerationConfig(
                max_new_tokens=max(requests[i].max_new_tokens for i in part),
                do_sample=False,  # _Rules draws
                repetition_penalty=1.0,  # _Rules knows padding from tokens
                eos_token_id=sorted(ends),
                pad_token_id=pad,
            )
            padded = [[pad] * (width - len(prefixes[i])) + prefixes[i] for i in part]
            real = [[0] * (width - len(prefixes[i])) + [1] * len(prefixes[i]) for i in part]
            ids, mask = torch.tensor(padded, device=device), torch.tensor(real, device=device)
            with torch.no_grad(), quiet():
                rules = LogitsProcessorList([_Rules(markers, [requests[i] for i in part], width)])
                drawn = model.generate(ids, attention_mask=mask, generation_config=config, logits_processor=rules)
            for i, tokens in zip(part, drawn[:, width:].tolist()):
                tokens = tokens[: requests[i].max_new_tokens]
                end = next((k for k, token in enumerate(tokens) if token in ends), len(tokens))
                out[i] = tokens[: end + 1]
            bar.update(len(part))
    return out


class _Rules:
    """A logits processor that penalises repetition, blocks markers, and leaves only the token that is drawn.

    `start`: the column where responses begin.
    """

    def __init__(self, markers: Markers, requests: Sequence[EncodedRequest], start: int) -> None:
        self.markers, self.requests, self.start = markers, requests, start
        self.numbers = [np.random.default_rng(request.seed) for request in requests]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        """Change the logits: [N, L], [N, V] -> [N, V]."""
        responses = input_ids[:, self.start :].tolist()
        for logits, request, response in zip(scores, self.requests, responses):
            if request.repetition_penalty != 1:
                seen = {*request.prompt, *request.condition, *response}
                penalise(logits, torch.tensor(sorted(seen), device=scores.device), request.repetition_penalty)
        reach = 2 * self.markers.window  # some tokens have no text
        tails = ["".join(self.markers.pieces[t] for t in response[-reach:] if reach) for response in responses]
        scores = self.markers.block(scores, [text[-self.markers.window :] for text in tails])
        drawn = draw(scores, self.requests, self.numbers)[:, None]
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)
