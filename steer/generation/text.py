"""Turn tokens into text while they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from steer.generation.decoder import Decoder
from steer.generation.requests import EncodedRequest
from steer.models.policy import Policy
from steer.progress import quiet

LOST = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer prints for half a character


class Text:
    """The text of a growing response: whole characters only, and nothing from a stop text on.

    `special`: with the names of special tokens, which are left out otherwise. `after`: what the token that completed a
    stop text holds behind it. `before`: the tokens that it continues, after which its first one keeps its space.
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[str] = (), *, special: bool = False, before: Sequence[int] = ()
    ) -> None:
        self.tokenizer, self.stops, self.special = tokenizer, stops, special
        self.stopped, self.after = False, ""
        self.begun = 0  # characters before the last token, emitted or pending
        self.emitted = 0  # characters returned so far
        # The last token that it continues, or those of the last character, of which each may hold a byte.
        ends = (list(before[-n:]) for n in range(1, 5))
        self._ids: list[int] = next((ids for ids in ends if LOST not in tokenizer.decode(ids)), [])
        self._start = 0  # ids from here are decoded again
        self._read = len(self._ids)  # those before it are in the text
        self.continues = bool(self._decoded(self._read))  # whether other text stands before it
        self._pending = ""

    @property
    def length(self) -> int:
        """Characters so far, returned or pending."""
        return self.emitted + len(self._pending)

    def push(self, token: int) -> str:
        """Add a token and return the text that is certain now."""
        self._ids.append(token)
        self.begun = self.length
        before, now = self._decoded(self._read), self._decoded(len(self._ids))
        if now.endswith(LOST) or len(now) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._checked(now[len(before) :])

    def finish(self) -> str:
        """Return the rest of the text, when no token follows."""
        rest = self._decoded(len(self._ids))[len(self._decoded(self._read)) :]
        self._read = len(self._ids)
        text = self._checked(rest)
        if self.stopped:
            return text
        text, self.emitted, self._pending = text + self._pending, self.emitted + len(self._pending), ""
        return text

    def _decoded(self, end: int) -> str:
        text: str = self.tokenizer.decode(self._ids[self._start : end], skip_special_tokens=not self.special)
        return text

    def _checked(self, new: str) -> str:
        """Return the new text except what may begin a stop text, which stays pending."""
        if self.stopped:
            return ""
        text = self._pending + new
        positions = [(at, stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        if positions:
            first, stop = min(positions)
            self.stopped, self._pending, self.after = True, "", text[first + len(stop) :]
            self.emitted += first
            return text[:first]
        starts = (stop[:n] for stop in self.stops for n in range(1, min(len(stop), len(text) + 1)))
        keep = max((len(start) for start in starts if text.endswith(start)), default=0)
        self._pending = text[len(text) - keep :]
        self.emitted += len(text) - keep
        return text[: len(text) - keep]


def streamed(policy: Policy, request: EncodedRequest) -> Iterator[str]:
    """Draw one response and yield its text piece by piece."""
    decoder, text = Decoder(policy, 2), Text(policy.tokenizer)
    decoder.add(request)
    with quiet():
        while decoder.busy:
            for event in decoder.step():
                if event.ended != "stop":
                    yield text.push(event.token)
    yield text.finish()
