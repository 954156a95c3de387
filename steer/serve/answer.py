"""From a checked request to responses: prompts x targets x n as one draw, told whole or as events."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response, StreamingResponse

from steer.conditioning.targets import Target
from steer.config import ServeConfig
from steer.errors import SteerError
from steer.generation.prefill import Ids
from steer.generation.requests import EncodedRequest, condition_text, seed_of
from steer.generation.text import Text
from steer.labelling.scorer import Scorer
from steer.models.policy import Policy
from steer.models.tokenization import plain_ids
from steer.rows.schema import Schema
from steer.serve.engine import DecoderThread, Stream
from steer.serve.logprobs import Place, Places, of_chat, of_completions
from steer.serve.wire import MOST, ApiError, GenerationRequest, asked, of_steer


@dataclass
class Service:
    """What the endpoints share."""

    policy: Policy
    engine: DecoderThread
    config: ServeConfig
    name: str
    scorer: Scorer | None = None
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # by path and status
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by path
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def schema(self) -> Schema | None:
        """Of the policy, where it was conditioned."""
        card = self.policy.card
        return card.schema if card and card.attributes else None

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that can be asked for."""
        return self.policy.card.attributes if self.policy.card else ()

    @cached_property
    def aim(self) -> Callable[[str | None, bool], Target]:
        """A target as users write it (None: nothing is asked for) -> levels; remembered, for clients repeat them."""
        return lru_cache(1024)(lambda text, allow: self.policy.targets([] if text is None else [text], allow)[0])

    def shown(self, target: Target) -> dict[str, str]:
        """A target as users write it."""
        return {n: self.schema[n].show(level) for n, level in target.items()} if self.schema else {}


@dataclass
class Choices:
    """What one request asks for: several responses, each to a prompt at a target."""

    asks: list[EncodedRequest]
    targets: list[dict[str, str]]
    prompt_tokens: int
    stops: list[str]


def choices(service: Service, request: GenerationRequest, prompts: Sequence[Ids], most: int | None) -> Choices:
    """Prompts x targets x n, checked against names, support and room."""
    name, named = asked(request, service.names)
    texts: Sequence[str | None] = named or [None]
    if name != service.name:
        raise ApiError(
            404, f"there is no model '{name}'. Known: {service.name}.", param="model", code="model_not_found"
        )
    n = request.n or 1
    total = len(prompts) * len(texts) * n
    if total > MOST:
        raise ApiError(400, f"{total} choices in one request; at most {MOST}.", param="n")
    try:
        aims = [service.aim(text, request.allow_unsupported) for text in texts]
        guidance = 1.0 if request.guidance is None else request.guidance
        away = [service.policy.against(request.against, aim) if guidance != 1 else {} for aim in aims]
    except SteerError as error:
        raise of_steer(error, "targets") from None
    likeliest = request.likeliest()
    if likeliest is not None:
        _ = service.policy.pieces  # made once, which takes a while
    seed = secrets.randbits(31) if request.seed is None else request.seed
    temperature = 1.0 if request.temperature is None else request.temperature
    conditions = [_condition(service, aim) for aim in aims]
    others = [_condition(service, aim) for aim in away]
    asks: list[EncodedRequest] = []
    told = []
    for prompt in prompts:
        for aim, condition, other in zip(aims, conditions, others):
            guided = guidance != 1 and other != condition
            behind = max(len(condition), len(other) if guided else 0)
            room = _room(service, len(prompt) + behind, most)
            for _ in range(n):
                asks.append(
                    EncodedRequest(
                        prompt,
                        condition,
                        other if guided else None,
                        guidance,
                        temperature,
                        request.top_p or 1.0,
                        room,
                        seed_of(seed, len(asks)),
                        max(request.top_k or 0, 0),  # vLLM writes -1 where OpenAI's clients write nothing
                        request.min_p or 0.0,
                        likeliest,
                    )
                )
                told.append(service.shown(aim))
    return Choices(asks, told, sum(map(len, prompts)), request.stops())


def _condition(service: Service, target: Target) -> Ids:
    text = condition_text(service.policy, target)
    return tuple(plain_ids([text], service.policy.tokenizer)[0]) if text else ()


def _room(service: Service, prefix: int, most: int | None) -> int:
    """New tokens behind a prompt; a request that asks for more than fits is refused."""
    wanted = service.config.max_new_tokens if most is None else most
    longest = service.policy.longest
    if longest is None or prefix + (most or 1) <= longest:
        return wanted if longest is None else min(wanted, longest - prefix)
    asked_for = f" and {most} are asked for" if most else ""
    raise ApiError(
        400,
        f"prompt and target have {prefix} tokens{asked_for}, but the model has {longest} positions. Shorten the prompt"
        + (" or lower max_tokens." if most else "."),
        param="messages",
        code="context_length_exceeded",
    )


class Answer:
    """The responses of a request as they grow, in OpenAI's shapes."""

    def __init__(self, service: Service, found: Choices, *, chat: bool) -> None:
        self.service, self.found, self.chat = service, found, chat
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created, self.tokens = int(time.time()), 0
        self.texts = [Text(service.policy.tokenizer, found.stops) for _ in found.asks]
        self.places = [Places() for _ in found.asks]
        self.stream: Stream | None = None

    async def parts(self) -> AsyncIterator[tuple[int, str, str, list[Place]]]:
        """Index, new text, with the last part of a choice why it ended, and the log-probabilities of the new text."""
        self.stream = self.service.engine.draw(self.found.asks)
        async for piece in self.stream.pieces(self.service.config.timeout):
            self.tokens += 1
            text = self.texts[piece.choice]
            new = "" if piece.ended == "stop" else text.push(piece.token)
            ended, places = piece.ended, self.places[piece.choice]
            if piece.logps and ended != "stop":
                places.waiting.append(Place(text.begun, piece.token, piece.logps))
            if ended:
                new += text.finish()
            if text.stopped:
                if not ended:
                    self.stream.free({piece.choice})
                ended = "stop"
            if new or ended:
                yield piece.choice, new, ended, places.told(text, ended=bool(ended))

    def _logprobs(self, places: Sequence[Place]) -> dict[str, Any] | None:
        """In the shape of the endpoint; None where nobody asked for them."""
        if not self.found.asks or self.found.asks[0].likeliest is None:
            return None
        return (of_chat if self.chat else of_completions)(places, self.service.policy)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and drawn."""
        read = self.found.prompt_tokens
        return {"prompt_tokens": read, "completion_tokens": self.tokens, "total_tokens": read + self.tokens}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.service.name}

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        texts = [""] * len(self.found.asks)
        reasons = [""] * len(texts)
        places: list[list[Place]] = [[] for _ in texts]
        async for index, new, ended, more in self.parts():
            places[index] += more
            texts[index] += new
            reasons[index] = ended or reasons[index]
        out = []
        for i, (text, reason, target) in enumerate(zip(texts, reasons, self.found.targets)):
            said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
            logprobs = self._logprobs(places[i])
            out.append({"index": i, **said, "finish_reason": reason, "logprobs": logprobs, "target": target})
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": out, "usage": self.usage}

    async def events(self, usage: bool) -> AsyncIterator[str]:
        """Server-sent events; an error after the first of them comes as one too."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")

        def chunk(index: int, new: str, ended: str, places: Sequence[Place] = (), **more: Any) -> str:
            said: dict[str, Any] = {"delta": {**more, "content": new} if new or more else {}}
            said = said if self.chat else {"text": new}
            logprobs = self._logprobs(places) if places else None
            choice = {"index": index, **said, "finish_reason": ended or None, "logprobs": logprobs}
            choice["target"] = self.found.targets[index]
            return _event({**head, "choices": [choice]})

        try:
            if self.chat:
                for index in range(len(self.found.asks)):
                    yield chunk(index, "", "", role="assistant")
            async for index, new, ended, places in self.parts():
                yield chunk(index, new, ended, places)
            if usage:
                yield _event({**head, "choices": [], "usage": self.usage})
            yield "data: [DONE]\n\n"
        except (TimeoutError, SteerError) as error:
            yield _event(_failed(error, self.service).body)
        finally:
            if self.stream and self.stream.left:  # the client went away
                self.stream.free(set(self.stream.left))


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _failed(error: Exception, service: Service) -> ApiError:
    if isinstance(error, TimeoutError):
        return ApiError(408, f"the request took longer than {service.config.timeout:g} seconds.", code="timeout")
    return ApiError(500, str(error), code="engine")


async def answered(service: Service, request: GenerationRequest, found: Choices, http: Http, *, chat: bool) -> Response:
    """Stream, or wait for all of it; a client that goes away frees its rows. Refused where the queue is full."""
    if not service.engine.alive:
        raise ApiError(503, "the engine has stopped. Start the server again.", code="engine")
    if service.engine.waiting + len(found.asks) > service.config.max_waiting:
        raise ApiError(429, "too many requests are waiting. Try again later.", code="queue_full")
    answer = Answer(service, found, chat=chat)
    if request.stream:
        usage = bool(request.stream_options and request.stream_options.include_usage)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(answer.events(usage), media_type="text/event-stream", headers=headers)
    work = asyncio.ensure_future(answer.whole())
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return Response(status_code=499)  # nobody reads it
        return JSONResponse(work.result())
    except (TimeoutError, SteerError) as error:
        raise _failed(error, service) from None
    finally:
        gone.cancel()
        work.cancel()


async def _disconnected(http: Http) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
