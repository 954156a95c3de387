"""Continuous decoding: responses join and leave one running batch at every step.

A prompt is prefilled once for all its samples, targets and guidance branches. A response that ends gives its row to the
next in the queue. What is drawn depends on the request alone (but for rounding), not on its neighbours.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steer.generation.prefill import Prefixes
from steer.generation.requests import EncodedRequest
from steer.generation.sampling import Markers, draw, guided, penalise
from steer.generation.slots import Slots
from steer.models.policy import Policy, end_tokens
from steer.models.steering import Weights

CELLS = 1 << 18  # most rows x columns of keys and values in a batch


class TokenLogps(NamedTuple):
    """Log-probabilities of a drawn token and of the likeliest ones, at the target and with guidance.

    At temperature 1, before any token is penalised for repetition, blocked or excluded.
    """

    drawn: float
    likeliest: list[tuple[int, float]]


class TokenEvent(NamedTuple):
    """A token of the response `key`; `ended`: `stop` at an end token, `length` at the limit, else empty."""

    key: int
    token: int
    ended: str
    logps: TokenLogps | None = None


@dataclass(eq=False)
class _Draft:
    """A response that waits or is being drawn; `rows`: its row in the batch, then that of its other branch."""

    key: int
    request: EncodedRequest
    rng: np.random.Generator
    rows: list[int] = field(default_factory=list)
    drawn: int = 0
    last: int = 0
    tail: str = ""  # the end of its text, as long as an unfinished condition marker can be
    seen: Tensor | None = None  # the tokens that a repetition penalty makes less likely

    def occurring(self, device: torch.device) -> Tensor:
        """Return the tokens of prompt, condition and response so far [n]; call once for every token that is drawn."""
        if self.seen is None:
            ids = sorted({*self.request.prompt, *self.request.condition})
            self.seen = torch.tensor(ids, dtype=torch.long, device=device)
        else:
            self.seen = torch.cat([self.seen, self.seen.new_tensor([self.last])])
        return self.seen


class Decoder:
    """A running batch of at most `most` rows (a response with guidance takes two); use it from one thread.

    Responses join once `patience` rows are free, so that their prompts are prefilled in batches too.
    """

    def __init__(self, policy: Policy, most: int = 64, patience: int = 1) -> None:
        self.model, self.policy = policy.model.eval(), policy
        self.most, self.patience = most, patience
        self.ends = end_tokens(policy)
        self.prefixes = Prefixes(policy)
        self.markers = Markers(policy.markers, policy.pieces if policy.markers else [])
        self.waiting: deque[_Draft] = deque()
        self.running: list[_Draft] = []
        self.steps = 0
        self._slots = Slots()
        self._keys = 0

    def add(self, request: EncodedRequest) -> int:
        """Queue a request and return the key that its tokens will carry."""
        self._keys += 1
        self.waiting.append(_Draft(self._keys, request, np.random.default_rng(request.seed)))
        return self._keys

    @torch.no_grad()
    def drop(self, keys: Iterable[int]) -> None:
        """Remove responses that wait or run; their rows are free at once."""
        gone = set(keys)
        self.waiting = deque(s for s in self.waiting if s.key not in gone)
        self._remove([s for s in self.running if s.key in gone])

    @property
    def busy(self) -> bool:
        """Whether any response is unfinished."""
        return bool(self.waiting or self.running)

    @torch.no_grad()
    def step(self) -> list[TokenEvent]:
        """Admit waiting responses, each with its first token, then draw one token for all that run."""
        return self._admit() + (self._advance() if self.running else [])

    def _admit(self) -> list[TokenEvent]:
        wave = self._wave()
        if not wave:
            return []
        wanted = [(s.request.prompt, c, s.request.weights) for s in wave for c in s.request.branches]
        computed = iter(self.prefixes.find(wanted))
        prefixes = [[next(computed) for _ in s.request.branches] for s in wave]
        other = [p[1].logits for p in prefixes if len(p) > 1]
        events = self._draw(wave, torch.stack([p[0].logits for p in prefixes]), torch.stack(other) if other else None)
        unfinished = [i for i, event in enumerate(events) if not event.ended]
        if unfinished:
            rows = iter(self._slots.add([p for i in unfinished for p in prefixes[i]]))
            for i in unfinished:
                wave[i].rows = [next(rows) for _ in prefixes[i]]
                self.running.append(wave[i])
        return events

    def _wave(self) -> list[_Draft]:
        """Take from the queue the requests that fit into the batch now; one alone always fits."""
        rows = len(self._slots)
        if self.running and self.most - rows < min(self.patience, len(self.waiting)):
            return []
        wave: list[_Draft] = []
        columns = max((s.request.columns for s in self.running), default=0)
        while self.waiting:
            request = self.waiting[0].request
            rows, columns = rows + len(request.branches), max(columns, request.columns)
            if (wave or self.running) and (rows > self.most or rows * columns > CELLS):
                break
            wave.append(self.waiting.popleft())
        return wave

    def _advance(self) -> list[TokenEvent]:
        """Draw one token for every response, with one forward pass over all rows."""
        tokens = [0] * len(self._slots)
        weights: list[Weights] = [()] * len(self._slots)
        for s in self.running:
            for row in s.rows:
                tokens[row], weights[row] = s.last, s.request.weights
        with self.policy.steered(weights):
            logits = self._slots.forward(self.model, tokens)
        self.steps += 1
        other = [s.rows[1] for s in self.running if len(s.rows) > 1]
        main = logits[[s.rows[0] for s in self.running]]
        events = self._draw(self.running, main, logits[other] if other else None)
        ended = {event.key for event in events if event.ended}
        self._remove([s for s in self.running if s.key in ended])
        return events

    def _draw(self, sequences: Sequence[_Draft], logits: Tensor, other: Tensor | None) -> list[TokenEvent]:
        """Draw the next token of each from logits [N, V]; `other` [G, V]: of guidance's other branches."""
        requests = [s.request for s in sequences]
        logits = logits.float()
        if other is not None:
            at = [i for i, request in enumerate(requests) if request.against is not None]
            strength = torch.tensor([requests[i].guidance for i in at], device=logits.device)
            logits[at] = guided(logits[at], other.float(), strength)
        logps = {i: logits[i].log_softmax(-1) for i, request in enumerate(requests) if request.likeliest is not None}
        for i, s in enumerate(sequences):
            if s.request.repetition_penalty != 1:
                penalise(logits[i], s.occurring(logits.device), s.request.repetition_penalty)
        logits = self.markers.block(logits, [s.tail for s in sequences])
        events = []
        for i, token in enumerate(draw(logits, requests, [s.rng for s in sequences]).tolist()):
            s = sequences[i]
            s.last, s.drawn, s.tail = token, s.drawn + 1, self.markers.tail(s.tail, token)
            ended = "stop" if token in self.ends else "length" if s.drawn >= s.request.max_new_tokens else ""
            events.append(TokenEvent(s.key, token, ended, _logps(logps[i], token, s.request) if i in logps else None))
        return events

    def _remove(self, sequences: Sequence[_Draft]) -> None:
        """Free the rows of responses; the last row moves into each freed one."""
        if not sequences:
            return
        self.running = [s for s in self.running if s not in sequences]
        owners = {row: s for s in self.running for row in s.rows}
        for row in sorted((row for s in sequences for row in s.rows), reverse=True):
            last = self._slots.remove(row)
            if last != row:  # rows are freed from the last one down, so the row that moves is still in use
                owner = owners.pop(last)
                owner.rows[owner.rows.index(last)] = row
                owners[row] = owner


def _logps(logps: Tensor, token: int, request: EncodedRequest) -> TokenLogps:
    """Report a drawn token from the log-probabilities [V] at its position."""
    values, ids = logps.topk(min(request.likeliest or 0, len(logps)))
    return TokenLogps(float(logps[token]), [(i, x) for i, x in zip(ids.tolist(), values.tolist()) if math.isfinite(x)])
