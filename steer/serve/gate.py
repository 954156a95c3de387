"""What every request passes before it is read: whose it is, how large it is, and how long it takes to arrive."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from starlette.responses import JSONResponse

from steer.serve.wire import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN = {"/", "/health", "/metrics", "/favicon.ico"}  # tell nothing of models or people
COUNTED = OPEN | {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/steer/schema", "/v1/steer/score"}
ARRIVAL = 30.0  # seconds in which a body has to be here
DRAINED = 64_000_000  # bytes of a body that is too large which are still read, so that its sender reads the answer


class Told(Protocol):
    """Where requests are counted and timed."""

    requests: Counter[tuple[str, int]]
    seconds: dict[str, float]


class Gate:
    """ASGI middleware; `hosts` are the names under which a server for this machine only may be called (empty: any)."""

    def __init__(self, app: Any, *, key: str, most: int, hosts: set[str], told: Told) -> None:
        self.app, self.key, self.most, self.hosts, self.told = app, key, most, hosts, told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body read, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in COUNTED else "other"

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.told.requests[path, message["status"]] += 1
            await send(message)

        began = time.perf_counter()
        try:
            headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
            self._admitted(scope, headers)
            body = await self._body(headers, receive) if scope["method"] == "POST" else None
        except ApiError as error:
            await JSONResponse(error.body, error.status)(scope, receive, counted)
            return
        await self.app(scope, receive if body is None else _replayed(body, receive), counted)
        self.told.seconds[path] += time.perf_counter() - began

    def _admitted(self, scope: Scope, headers: dict[str, str]) -> None:
        # A page of another site must not reach a server on this machine by a name that points here.
        host = (
            headers.get("host", "").rsplit("]", 1)[0].lstrip("[")
            if "[" in headers.get("host", "")
            else (headers.get("host", "").partition(":")[0])
        )
        if self.hosts and host.lower() not in self.hosts:
            raise ApiError(
                403, f"this server answers to {', '.join(sorted(self.hosts))}, not to '{host}'.", code="host"
            )
        if self.key and scope["path"] not in OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, self.key.encode()):
                raise ApiError(401, "the API key is missing or wrong.", code="invalid_api_key")

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # Also what keeps forms of other sites out: a browser asks before it sends JSON across sites.
            raise ApiError(415, "send JSON with the header 'Content-Type: application/json'.", code="content_type")
        body = bytearray()
        size = 0
        try:
            async with asyncio.timeout(ARRIVAL):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the request ended early.", code="disconnected")
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= self.most:
                        body += part
                    if not message.get("more_body") or size > DRAINED:
                        break
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {ARRIVAL:g} seconds.", code="timeout") from None
        if size > self.most:
            message_text = f"the request has more than {self.most} bytes. Shorten it."
            raise ApiError(413, message_text, code="request_too_large")
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then what really comes: the client going away."""
    told = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
