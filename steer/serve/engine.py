"""A decoder in another thread: one running batch for the requests of all event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from steer.errors import SteerError
from steer.generation.decoder import Decoder, TokenEvent
from steer.generation.requests import EncodedRequest
from steer.models.policy import Policy
from steer.progress import quiet


@dataclass(eq=False)
class Stream:
    """The responses of a request while they are drawn.

    The key of a token in the queue is the number of its response; a text there is the message of a failure.
    """

    engine: DecoderThread
    requests: Sequence[EncodedRequest]
    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[TokenEvent | str] = field(default_factory=asyncio.Queue)
    left: set[int] = field(default_factory=set)

    async def pieces(self, seconds: float) -> AsyncIterator[TokenEvent]:
        """Yield tokens of all responses as they come; TimeoutError after `seconds`. Leaving the loop frees the rows."""
        deadline = self.loop.time() + seconds
        try:
            while self.left:
                async with asyncio.timeout_at(deadline):
                    piece = await self.queue.get()
                if isinstance(piece, str):
                    raise SteerError(piece)
                if piece.key in self.left:
                    if piece.ended:
                        self.left.discard(piece.key)
                    yield piece
        finally:
            if self.left:
                self.free(set(self.left))

    def free(self, indices: set[int]) -> None:
        """Stop drawing some of the responses."""
        self.left -= indices
        self.engine.free(self, indices)


class DecoderThread:
    """Takes requests from event loops and gives tokens back to them; a slow reader delays nobody else."""

    def __init__(self, policy: Policy, most: int) -> None:
        self.policy, self.most = policy, most
        self.decoder = Decoder(policy, most)
        self.tokens = self.steps = 0  # counters
        self._wake = threading.Condition()
        self._new: list[Stream] = []
        self._gone: list[tuple[Stream, set[int]]] = []
        self._stopping = False
        self._owners: dict[int, tuple[Stream, int]] = {}
        self._thread = threading.Thread(target=self._run, name="steer-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether new requests will be drawn."""
        return self._thread.is_alive() and not self._stopping

    @property
    def running(self) -> int:
        """Count the responses in the batch."""
        return len(self.decoder.running)

    @property
    def waiting(self) -> int:
        """Count the responses that wait for a place in the batch."""
        return len(self.decoder.waiting) + sum(len(s.requests) for s in self._new)

    def draw(self, requests: Sequence[EncodedRequest]) -> Stream:
        """Queue the responses of a request; call from the event loop that will read them."""
        stream = Stream(self, requests, asyncio.get_running_loop(), left=set(range(len(requests))))
        with self._wake:
            self._new.append(stream)
            self._wake.notify()
        return stream

    def free(self, stream: Stream, indices: set[int]) -> None:
        """Stop drawing some of a request's responses."""
        with self._wake:
            self._gone.append((stream, indices))
            self._wake.notify()

    def _run(self) -> None:
        try:
            with quiet():
                while self._turn():
                    pass
        finally:  # however the thread ended, every waiting request gets an error
            with self._wake:
                lost = [*(s for s, _ in self._owners.values()), *self._new]
                self._stopping = True
            for stream in dict.fromkeys(lost):
                self._send(stream.loop, [(stream, "the server is stopping.")])

    def _turn(self) -> bool:
        """Wait for work and do one step of it; false once stopped."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._new or self._gone or self.decoder.busy)
            if self._stopping:
                return False
            new, gone, self._new, self._gone = self._new, self._gone, [], []
            self._admit(new, gone)
        if self.decoder.busy:
            self._step()
        return True

    def _admit(self, new: Sequence[Stream], gone: Sequence[tuple[Stream, set[int]]]) -> None:
        for stream in new:
            for index, request in enumerate(stream.requests):
                self._owners[self.decoder.add(request)] = stream, index
        keys = [k for k, (s, i) in self._owners.items() if any(s is g and i in indices for g, indices in gone)]
        if keys:
            self.decoder.drop(keys)
            for key in keys:
                del self._owners[key]

    def _step(self) -> None:
        try:
            events = self.decoder.step()
        except RuntimeError as error:  # such as out of memory: running requests fail, later ones are served
            failed: dict[int, Stream] = {id(s): s for s, _ in self._owners.values()}
            for stream in failed.values():
                self._send(stream.loop, [(stream, f"the model failed: {error}")])
            self._owners.clear()
            self.decoder = Decoder(self.policy, self.most)
            return
        self.steps += 1
        self.tokens += len(events)
        self._deliver(events)

    def _deliver(self, events: Sequence[TokenEvent]) -> None:
        """Hand a step's tokens to the event loops in one call each."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, TokenEvent | str]]] = {}
        for event in events:
            stream, index = self._owners[event.key]
            by_loop.setdefault(stream.loop, []).append((stream, event._replace(key=index)))
            if event.ended:
                del self._owners[event.key]
        for loop, parts in by_loop.items():
            self._send(loop, parts)

    @staticmethod
    def _send(loop: asyncio.AbstractEventLoop, parts: Sequence[tuple[Stream, TokenEvent | str]]) -> None:
        def put() -> None:
            for stream, part in parts:
                stream.queue.put_nowait(part)

        if not loop.is_closed():
            loop.call_soon_threadsafe(put)
