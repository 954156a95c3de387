"""Draw the next token from logits, row by row: guidance, penalty, blocked condition markers, temperature, nucleus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steer.device import widest
from steer.generation.requests import EncodedRequest

FIRST = 1024  # tokens among which a nucleus is looked for first


def guided(logits: Tensor, against: Tensor, strength: Tensor) -> Tensor:
    """Mix two branches: log p(against) + S (log p(target) - log p(against)): [N, V], [N, V], [N] -> [N, V].

    S = 1 is no guidance. With s = S - 1 this is log p(c) + s (log p(c) - log p(none)), classifier-free guidance of text
    (Sanchez et al. 2306.17806, equation 7, with gamma = S); with an opposite target in place of none it is contrastive.
    """
    wanted, other = logits.log_softmax(-1), against.log_softmax(-1)
    return other + strength[:, None] * (wanted - other)


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> None:
    """Make tokens that occur already less likely, in place: [V], [n]; CTRL (1909.05858), as in transformers.

    Differs from the paper, as transformers does: a negative logit is multiplied, for dividing would raise it.
    """
    score = logits[seen]
    logits[seen] = torch.where(score < 0, score * penalty, score / penalty)


class Cuts(NamedTuple):
    """Exclusions from each row's distribution, [N] each; applied in this order, as in transformers."""

    top_k: Tensor  # all but the k most likely tokens and their ties (0: nothing)
    top_p: Tensor  # beyond the smallest set whose probability reaches it (1: nothing)
    min_p: Tensor  # less likely than so large a part of the most likely token (0: nothing)


def draw(logits: Tensor, requests: Sequence[EncodedRequest], numbers: Sequence[np.random.Generator]) -> Tensor:
    """Draw one token a row as its request wants it, at the next of the row's own random numbers: [N, V] -> [N]."""
    settings = [
        [r.temperature, min(r.top_k, logits.shape[-1]), r.top_p, r.min_p, own.random()]
        for r, own in zip(requests, numbers)
    ]
    temperature, *cuts, points = torch.tensor(settings, dtype=widest(logits.device), device=logits.device).unbind(1)
    return choose(logits, temperature, Cuts(*cuts), points)


def choose(logits: Tensor, temperature: Tensor, cuts: Cuts, points: Tensor) -> Tensor:
    """Draw one token a row by inverting its distribution at `points` in [0, 1): [N, V], [N], [N] each, [N] -> [N].

    A row's token depends on that row alone, so it does not matter which batch it is in. Temperature 0 is greedy.
    """
    best = logits.argmax(-1)
    if not temperature.any():
        return best
    # From the best token down, so that nothing overflows however low the temperature is.
    above = logits - logits.amax(-1, keepdim=True)
    p = (above / temperature.where(temperature > 0, 1.0).clamp(min=1e-30)[:, None].to(logits)).softmax(-1)
    p = _cut(p, cuts)
    # In float64: the float32 sum of a large vocabulary would be off by more than rare tokens are likely.
    total = p.cumsum(-1, dtype=widest(p.device))
    drawn = torch.searchsorted(total, points.to(total)[:, None] * total[:, -1:], right=True).squeeze(-1)
    return best.where(temperature == 0, drawn.clamp(max=logits.shape[-1] - 1))


def _cut(p: Tensor, cuts: Cuts) -> Tensor:
    """Set the probability of excluded tokens to 0: [N, V] -> [N, V]; rows then no longer sum to 1."""
    top_k, top_p, min_p = cuts
    if (top_k > 0).any():
        ordered = p.topk(min(int(top_k.max()), p.shape[-1])).values
        last = ordered.gather(-1, top_k.long().clamp(1, ordered.shape[-1])[:, None] - 1)
        p = p.masked_fill((p < last) & (top_k > 0)[:, None], 0.0)
    if (top_p < 1).any():
        p = _nucleus(p, top_p).where((top_p < 1)[:, None], p)
    if (min_p > 0).any():  # Nguyen et al. 2407.01082
        p = p.masked_fill(p < min_p.to(p)[:, None] * p.amax(-1, keepdim=True), 0.0)
    return p


def _nucleus(p: Tensor, top_p: Tensor) -> Tensor:
    """Keep the likeliest tokens, as many as reach this part of the whole: [N, V], [N] -> [N, V].

    Nucleus sampling (1904.09751). It is looked for among the FIRST likeliest tokens: to sort all takes longer than all
    else in a step of a small model.
    """
    wide = widest(p.device)
    limit = top_p.to(wide)[:, None] * p.sum(-1, keepdim=True, dtype=wide)
    for size in (min(FIRST, p.shape[-1]), p.shape[-1]):
        ordered, at = p.topk(size)
        total = ordered.cumsum(-1, dtype=wide)
        if bool(((total[:, -1:] >= limit)[top_p < 1]).all()):
            break
    return torch.zeros_like(p).scatter(-1, at, ordered.masked_fill(total - ordered >= limit, 0.0))


class Markers:
    """Blocks every token that would complete a condition marker, however its text is cut into tokens."""

    def __init__(self, markers: Sequence[str], pieces: Sequence[str]) -> None:
        """Set up the blocking; `pieces`: the text of every token."""
        self.markers, self.pieces = markers, pieces
        self.whole = torch.tensor([i for i, p in enumerate(pieces) if any(m in p for m in markers)], dtype=torch.long)
        self.window = max(map(len, markers), default=0)
        self._starting: dict[str, Tensor] = {}

    def tail(self, before: str, token: int) -> str:
        """Append a token's text and keep the end, as long as an unfinished marker can be."""
        return (before + self.pieces[token])[-self.window :] if self.window else ""

    def block(self, logits: Tensor, tails: Sequence[str]) -> Tensor:
        """Set the blocked tokens of each row to -inf, in place: [N, V]; `tails` [N]: the end of the text so far."""
        if self.window:
            logits.index_fill_(-1, self.whole.to(logits.device), -torch.inf)
        for i, text in enumerate(tails):
            for marker in self.markers:
                begun = text[text.rfind(marker[0]) :] if marker[0] in text else ""
                if begun and marker.startswith(begun):
                    logits[i, self._completing(marker[len(begun) :])] = -torch.inf
        return logits

    def _completing(self, text: str) -> Tensor:
        """Token ids whose text starts with this one: [n]."""
        if text not in self._starting:
            ids = [i for i, piece in enumerate(self.pieces) if piece.startswith(text)]
            self._starting[text] = torch.tensor(ids, dtype=torch.long)
        return self._starting[text]
