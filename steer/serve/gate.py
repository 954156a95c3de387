"""Checks of every request before its body is parsed: host, key, size and time to arrive."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping, Set
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from steer.serve.answer import Service
from steer.serve.wire import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN = {"/", "/health", "/metrics", "/favicon.ico"}  # reveal nothing about models or people
COUNTED = OPEN | {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/steer/schema", "/v1/steer/score"}
ARRIVAL = 30.0  # seconds in which a body has to arrive
DRAINED = 64_000_000  # bytes to read of a body that is too large, so that its sender gets to read the answer


class Gate:
    """ASGI middleware that also counts and times the requests of a service.

    `key`: what clients must send (empty: nothing); `hosts`: names that requests may call a server by (empty: any).
    """

    def __init__(self, app: Any, service: Service, key: str = "", hosts: Set[str] = frozenset()) -> None:
        self.app, self.service, self.key, self.hosts = app, service, key, hosts
        self.most = service.settings.max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and pass the request on, or answer it with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in COUNTED else "other"

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.service.requests[path, message["status"]] += 1
            await send(message)

        began = time.perf_counter()
        try:
            headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
            self._admitted(scope, headers)
            body = await self._body(scope, headers, receive) if scope["method"] == "POST" else None
        except ApiError as error:
            await JSONResponse(error.body, error.status)(scope, receive, counted)
            return
        await self.app(scope, receive if body is None else _replayed(body, receive), counted)
        self.service.seconds[path] += time.perf_counter() - began

    def _admitted(self, scope: Scope, headers: dict[str, str]) -> None:
        # A page of another site must not reach a server on this machine by a name that points here.
        host = headers.get("host", "")
        host = host.rsplit("]", 1)[0].lstrip("[") if "[" in host else host.partition(":")[0]
        if self.hosts and host.lower() not in self.hosts:
            raise ApiError(
                403, f"this server answers to {', '.join(sorted(self.hosts))}, not to '{host}'.", code="host"
            )
        if self.key and scope["path"] not in OPEN:
            sent = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(sent, self.key.encode()):
                raise ApiError(401, "the API key is missing or wrong.", code="invalid_api_key")

    async def _body(self, scope: Scope, headers: dict[str, str], receive: Receive) -> bytes:
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # Keeps forms of other sites out too: a browser asks before it sends JSON across sites.
            raise ApiError(415, "send JSON with the header 'Content-Type: application/json'.", code="content_type")
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(ARRIVAL):
                async for part in Request(scope, receive).stream():
                    size += len(part)
                    if size <= self.most:
                        body += part
                    if size > DRAINED:
                        break
        except ClientDisconnect:
            raise ApiError(400, "the request ended early.", code="disconnected") from None
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {ARRIVAL:g} seconds.", code="timeout") from None
        if size > self.most:
            too_large = f"the request has more than {self.most} bytes. Shorten it."
            raise ApiError(413, too_large, code="request_too_large")
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Replay the body as one message, then pass on what follows: the client's disconnect."""
    replayed = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
