"""Speed of drawing before it starts: some of the responses, a few tokens of each, on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from steer import device
from steer.generation.engines import Engine, respond
from steer.generation.requests import Request, encode
from steer.generation.settings import Sampling
from steer.models.policy import Policy
from steer.progress import duration

LATER = 8  # tokens of a response that are drawn after its first
READ = 1024  # tokens of prompts that are read on a CPU, where those of a whole batch could take a minute


class Pace(NamedTuple):
    """Seconds for the first token of a response (its prompt is read for it) and for each one after it.

    `responses`, `tokens`: how many of them were drawn together to measure that.
    """

    responses: int
    tokens: int
    first: float
    later: float

    def seconds(self, responses: int, most: int) -> float:
        """Seconds for so many responses of `most` tokens each."""
        return responses * (self.first + (most - 1) * self.later)

    @property
    def basis(self) -> str:
        """Say what the speed rests on."""
        return f"measured on {self.tokens} tokens of {self.responses} responses here; those that end earlier take less"

    def foreseen(self, responses: int, most: int) -> str:
        """Describe how long so many responses take if none ends before `most` tokens, and what that rests on."""
        seconds = self.seconds(responses, most)
        return (
            f"up to about {duration(seconds)} to draw {responses:,} responses of at most {most} tokens, at "
            f"{responses * most / max(seconds, 1e-9):,.0f} tokens/s: {self.basis}"
        )


def measured(policy: Policy, requests: Sequence[Request], sampling: Sampling, engine: Engine = respond) -> Pace:
    """Time the first token of the first requests, then some more tokens; on a GPU when it has warmed up.

    Later tokens are drawn for as many responses together as are drawn together in earnest: where few prompts are read,
    for several responses to each, since a token of a small batch takes a multiple of its time in a large one.
    """
    some = requests[: _count(policy, requests[: sampling.batch_size], sampling)]
    batch = [some[i % len(some)] for i in range(min(len(requests), sampling.batch_size))]
    short, longer = (replace(sampling, max_new_tokens=n) for n in (1, 1 + LATER))
    for _ in range(1 if device.kind() == "cpu" else 2):
        tokens, first = _timed(policy, some, short, engine)
        begun, start = _timed(policy, batch, short, engine) if len(batch) > len(some) else (tokens, first)
        more, both = _timed(policy, batch, longer, engine)
    later = max(0.0, both - start) / (more - begun) if more > begun else 0.0
    return Pace(len(batch), more, first / len(some), later)


def _count(policy: Policy, requests: Sequence[Request], sampling: Sampling) -> int:
    """Count the first requests whose distinct prompts can be read in a few seconds, at least one."""
    if device.kind() != "cpu":
        return len(requests)
    prompts: set[tuple[int, ...]] = set()
    for count, encoded in enumerate(encode(policy, requests, sampling)):
        prompts.add(encoded.prompt)
        if count and sum(map(len, prompts)) > READ:
            return count
    return len(requests)


def _timed(policy: Policy, requests: Sequence[Request], sampling: Sampling, engine: Engine) -> tuple[int, float]:
    """Draw responses; return how many tokens they have together, and the seconds it took."""
    began = time.monotonic()
    tokens = sum(len(response.ids) for response in engine(policy, requests, sampling))
    return tokens, time.monotonic() - began
