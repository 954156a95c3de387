"""Padded batches through `model.generate`: for models whose state cannot move between batches; also a benchmark's peer.

What is drawn depends on the batch here, unless it is greedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from steer.generation.requests import EncodedRequest
from steer.generation.sampling import Markers, penalise
from steer.models.policy import Policy, end_tokens
from steer.progress import progress, quiet


def plainly(
    policy: Policy, requests: Sequence[EncodedRequest], batch_size: int, seed: int, *, bucketed: bool = True
) -> list[list[int]]:
    """Draw the token ids of each response, with the end token; all use the first one's top_k, top_p and min_p.

    Every value is given to `model.generate`: it would take those that are not from what the model recommends.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    tokenizer, model = policy.tokenizer, policy.model.eval()
    device, pad, ends = next(model.parameters()).device, tokenizer.pad_token_id, end_tokens(policy)
    prefixes = [[*request.prompt, *request.condition] for request in requests]
    order = (
        sorted(range(len(requests)), key=lambda i: (len(prefixes[i]), i)) if bucketed else list(range(len(requests)))
    )
    order.sort(key=lambda i: requests[i].temperature)  # stable; a batch has one
    out: list[list[int]] = [[] for _ in requests]
    markers = Markers(policy.markers, policy.pieces if policy.markers else [])
    for start, part in _parts(order, [r.temperature for r in requests], batch_size):
        warm = requests[part[0]].temperature
        width = max(len(prefixes[i]) for i in part)
        config = GenerationConfig(
            max_new_tokens=max(requests[i].max_new_tokens for i in part),
            do_sample=warm > 0,
            temperature=warm or 1.0,
            top_p=requests[part[0]].top_p,
            top_k=requests[part[0]].top_k,
            min_p=requests[part[0]].min_p,
            repetition_penalty=1.0,  # _Rules knows padding from tokens
            eos_token_id=sorted(ends),
            pad_token_id=pad,
        )
        ids = torch.tensor([[pad] * (width - len(prefixes[i])) + prefixes[i] for i in part], device=device)
        mask = torch.tensor([[0] * (width - len(prefixes[i])) + [1] * len(prefixes[i]) for i in part], device=device)
        torch.manual_seed(seed + start)
        with torch.no_grad(), quiet():
            rules = LogitsProcessorList([_Rules(markers, [requests[i] for i in part], width)])
            drawn = model.generate(ids, attention_mask=mask, generation_config=config, logits_processor=rules)
        for i, tokens in zip(part, drawn[:, width:].tolist()):
            tokens = tokens[: requests[i].max_new_tokens]
            end = next((k for k, token in enumerate(tokens) if token in ends), len(tokens))
            out[i] = tokens[: end + 1]
    return out


def _parts(order: Sequence[int], temperatures: Sequence[float], size: int) -> Iterator[tuple[int, list[int]]]:
    """Yield batches of one temperature, each with its start in the order."""
    start = 0
    with progress(total=len(order), what="generate", unit="responses") as bar:
        while start < len(order):
            warm = temperatures[order[start]]
            part = [i for i in order[start : start + size] if temperatures[i] == warm]
            yield start, part
            start += len(part)
            bar.update(len(part))


class _Rules:
    """A logits processor that penalises repetition and blocks markers; `start`: the column where responses begin."""

    def __init__(self, markers: Markers, requests: Sequence[EncodedRequest], start: int) -> None:
        self.markers, self.requests, self.start = markers, requests, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Any:
        """Change the logits: [N, L], [N, V] -> [N, V]."""
        responses = input_ids[:, self.start :].tolist()
        for logits, request, response in zip(scores, self.requests, responses):
            if request.repetition_penalty != 1:
                seen = {*request.prompt, *request.condition, *response}
                penalise(logits, torch.tensor(sorted(seen), device=scores.device), request.repetition_penalty)
        if not self.markers.window:
            return scores
        reach = 2 * self.markers.window  # some tokens have no text
        tails = ["".join(self.markers.pieces[t] for t in response[-reach:]) for response in responses]
        return self.markers.block(scores, [text[-self.markers.window :] for text in tails])
