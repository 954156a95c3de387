"""Tokens -> text while they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from steer.generation.decoder import Decoder
from steer.generation.requests import EncodedRequest
from steer.models.policy import Policy
from steer.progress import quiet

LOST = "\N{REPLACEMENT CHARACTER}"  # what a decoder prints for half a character


class Text:
    """Tokens -> text as it grows: whole characters only, nothing from a stop text on."""

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        self.stopped = False
        self.begun = 0  # characters before the last token, in the text or held back
        self.said = 0  # characters of the text
        self._ids: list[int] = []
        self._start = self._read = 0  # ids from `_start` are decoded again, those before `_read` are in the text
        self._held = ""

    def push(self, token: int) -> str:
        """What can be said now that this token is known."""
        self._ids.append(token)
        self.begun = self.said + len(self._held)
        before, now = self._decoded(self._read), self._decoded(len(self._ids))
        if now.endswith(LOST) or len(now) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._checked(now[len(before) :])

    def finish(self) -> str:
        """The rest, when no token follows."""
        rest = self._decoded(len(self._ids))[len(self._decoded(self._read)) :]
        self._read = len(self._ids)
        said = self._checked(rest)
        if self.stopped:
            return said
        said, self.said, self._held = said + self._held, self.said + len(self._held), ""
        return said

    def _decoded(self, end: int) -> str:
        text: str = self.tokenizer.decode(self._ids[self._start : end], skip_special_tokens=True)
        return text

    def _checked(self, new: str) -> str:
        """Hold back what may be the beginning of a stop text."""
        if self.stopped:
            return ""
        text = self._held + new
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            self.said += min(found)
            return text[: min(found)]
        starts = (stop[:n] for stop in self.stops for n in range(1, min(len(stop), len(text) + 1)))
        keep = max((len(start) for start in starts if text.endswith(start)), default=0)
        self._held = text[len(text) - keep :]
        self.said += len(text) - keep
        return text[: len(text) - keep]


def streamed(policy: Policy, request: EncodedRequest) -> Iterator[str]:
    """The text of one response, piece by piece."""
    decoder, text = Decoder(policy, 2), Text(policy.tokenizer)
    decoder.add(request)
    with quiet():
        while decoder.busy:
            for event in decoder.step():
                if event.ended != "stop":
                    yield text.push(event.token)
    yield text.finish()
