"""Turn a checked request into responses: prompts x targets x n, answered whole or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response, StreamingResponse

from steer.conditioning.targets import Target
from steer.errors import SteerError
from steer.generation.prefill import Ids
from steer.generation.reply import Form, Piece, Reply
from steer.generation.requests import EncodedRequest, condition_text, seed_of
from steer.generation.settings import Sampling
from steer.labelling.scorer import Scorer
from steer.models.policy import Policy
from steer.models.tokenization import plain_ids
from steer.rows.schema import Schema
from steer.serve.engine import DecoderThread, Stream
from steer.serve.logprobs import Place, of_chat, of_completions, take_ready
from steer.serve.settings import ServeSettings
from steer.serve.wire import MOST, ApiError, GenerationRequest, asked, of_steer


@dataclass
class Service:
    """The state that all endpoints share."""

    policy: Policy
    engine: DecoderThread
    settings: ServeSettings
    name: str
    sampling: Sampling  # of requests that do not say
    scorer: Scorer | None = None
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # by path and status
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by path
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def schema(self) -> Schema | None:
        """Return the policy's schema, or None if it is unconditioned."""
        card = self.policy.card
        return card.schema if card and card.attributes else None

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that a target can name."""
        return self.policy.card.attributes if self.policy.card else ()

    @cached_property
    def aim(self) -> Callable[[str | None, bool], Target]:
        """Parse a target as users write it (None: no target) into levels; cached, because clients repeat targets."""
        return lru_cache(1024)(lambda text, allow: self.policy.targets([] if text is None else [text], allow)[0])

    def shown(self, target: Target) -> dict[str, str]:
        """Show a target as users write it."""
        return {n: self.schema[n].show(level) for n, level in target.items()} if self.schema else {}


@dataclass
class Choices:
    """The responses that one request asks for, each to a prompt at a target; `one_call`: each may call one tool."""

    requests: list[EncodedRequest]
    targets: list[dict[str, str]]
    prompt_tokens: int
    stops: list[str]
    form: Form = field(default_factory=Form)
    one_call: bool = False


def expanded(
    service: Service, request: GenerationRequest, prompts: Sequence[Ids], most: int | None, tail: str = ""
) -> Choices:
    """Expand a request into prompts x targets x n; ApiError for an unknown name, no support or too little room.

    `tail`: what the chat template prints after a condition.
    """
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
        guided = request.guidance not in (None, 1)
        away = [service.policy.against(request.against, aim) if guided else {} for aim in aims]
    except SteerError as error:
        raise of_steer(error, "targets") from None
    likeliest = request.likeliest()
    if likeliest is not None:
        _ = service.policy.pieces  # computed once, which takes a while
    seed = secrets.randbits(31) if request.seed is None else request.seed
    sampling = replace(service.sampling, **request.sampling())
    conditions = [_condition(service, aim, tail) for aim in aims]
    others = [_condition(service, aim, tail) for aim in away]
    requests: list[EncodedRequest] = []
    shown, read = [], 0
    for prompt in prompts:
        for aim, condition, other in zip(aims, conditions, others):
            draft = EncodedRequest.of(prompt, condition, other, sampling)
            room = _room(service, draft.prefix, most)
            read += len(prompt) + len(condition)  # as other servers of an exported policy count
            for _ in range(n):
                own = seed_of(seed, len(requests))
                requests.append(draft._replace(max_new_tokens=room, seed=own, likeliest=likeliest))
                shown.append(service.shown(aim))
    return Choices(requests, shown, read, request.stops())


def _condition(service: Service, target: Target, tail: str) -> Ids:
    text = condition_text(service.policy, target) + tail
    return tuple(plain_ids([text], service.policy.tokenizer)[0]) if text else ()


def _room(service: Service, prefix: int, most: int | None) -> int:
    """Number of new tokens that may follow a prefix; ApiError if the request asks for more than fits."""
    wanted = service.settings.max_new_tokens if most is None else most
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

    def __init__(self, service: Service, choices: Choices, *, chat: bool) -> None:
        self.service, self.choices, self.chat = service, choices, chat
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created, self.tokens = int(time.time()), 0
        self.replies = [
            Reply(service.policy.tokenizer, choices.form, choices.stops, () if chat else request.prompt)
            for request in choices.requests
        ]
        self.waiting: list[list[Place]] = [[] for _ in choices.requests]  # log-probabilities of text to be sent
        self.stream: Stream | None = None

    async def parts(self) -> AsyncIterator[tuple[int, Piece, str, list[Place]]]:
        """Yield index, what is new, why the choice ended (empty: it goes on), and log-probabilities of the text."""
        self.stream = self.service.engine.draw(self.choices.requests)
        async for event in self.stream.pieces(self.service.settings.timeout):
            self.tokens += 1
            reply, waiting, ended = self.replies[event.key], self.waiting[event.key], event.ended
            piece = Piece() if ended == "stop" else reply.push(event.token, event.logps)
            if ended or reply.text.stopped:
                piece = piece.with_rest(reply.finish(whole=ended == "stop"))
            waiting += [
                Place(begins, token, logps, begins > 0 or reply.text.continues)
                for begins, token, logps in piece.tokens
                if logps
            ]
            if reply.text.stopped:
                if not ended:
                    self.stream.free({event.key})
                ended = "stop"
            if piece.calls:
                ended = "tool_calls"
            if piece.thought or piece.text or ended:
                yield event.key, piece, ended, take_ready(waiting, reply.text, ended=bool(ended))

    def _logprobs(self, places: Sequence[Place]) -> dict[str, Any] | None:
        """Log-probabilities in the shape of the endpoint; None if the request did not ask for them."""
        if not self.choices.requests or self.choices.requests[0].likeliest is None:
            return None
        return (of_chat if self.chat else of_completions)(places, self.service.policy)

    @property
    def usage(self) -> dict[str, int]:
        """Count the tokens read and drawn."""
        read = self.choices.prompt_tokens
        return {"prompt_tokens": read, "completion_tokens": self.tokens, "total_tokens": read + self.tokens}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.service.name}

    async def whole(self) -> dict[str, Any]:
        """Wait for all responses and return the body of an answer that is not streamed."""
        wholes = [Piece() for _ in self.choices.requests]
        reasons = [""] * len(wholes)
        places: list[list[Place]] = [[] for _ in wholes]
        async for index, new, ended, more in self.parts():
            places[index] += more
            wholes[index] = wholes[index].with_rest(new)
            reasons[index] = ended or reasons[index]
        out = []
        for i, (whole, reason, target) in enumerate(zip(wholes, reasons, self.choices.targets)):
            body = {"message": self._message(whole)} if self.chat else {"text": whole.text}
            logprobs = self._logprobs(places[i])
            out.append({"index": i, **body, "finish_reason": reason, "logprobs": logprobs, "target": target})
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": out, "usage": self.usage}

    def _message(self, whole: Piece) -> dict[str, Any]:
        """Return a whole reply as a message; its text is null beside calls if there is none."""
        message = {"role": "assistant", "content": whole.text or (None if whole.calls else ""), "refusal": None}
        message |= {"reasoning_content": whole.thought} if whole.thought else {}
        return message | ({"tool_calls": self._tool_calls(whole)} if whole.calls else {})

    def _tool_calls(self, piece: Piece) -> list[dict[str, Any]]:
        """Return calls in OpenAI's shape: each with an id, that all chat templates take, and arguments as text."""
        return [
            {
                "id": call.get("id") or uuid.uuid4().hex[:9],
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                },
            }
            for call in (piece.calls[:1] if self.choices.one_call else piece.calls)
        ]

    def _deltas(self, piece: Piece, ended: str) -> list[dict[str, Any]]:
        """Return what is new as deltas, the thought before the text; an empty one where a choice only ends."""
        deltas: list[dict[str, Any]] = [{"reasoning_content": piece.thought}] if piece.thought else []
        deltas += [{"content": piece.text}] if piece.text else []
        if piece.calls:
            deltas.append({"tool_calls": [{"index": i, **call} for i, call in enumerate(self._tool_calls(piece))]})
        return deltas if deltas or not ended else [{}]

    async def events(self, usage: bool) -> AsyncIterator[str]:
        """Yield server-sent events; an error after the first of them is an event too."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")

        def chunk(index: int, delta: Mapping[str, Any], ended: str, places: Sequence[Place] = ()) -> str:
            body = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
            logprobs = self._logprobs(places) if places else None
            choice = {"index": index, **body, "finish_reason": ended or None, "logprobs": logprobs}
            choice["target"] = self.choices.targets[index]
            return _event({**head, "choices": [choice]})

        try:
            if self.chat:
                for index in range(len(self.choices.requests)):
                    yield chunk(index, {"role": "assistant", "content": ""}, "")
            async for index, piece, ended, places in self.parts():
                *before, last = self._deltas(piece, ended)
                for delta in before:
                    yield chunk(index, delta, "")
                yield chunk(index, last, ended, places)
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
        return ApiError(408, f"the request took longer than {service.settings.timeout:g} seconds.", code="timeout")
    return ApiError(500, str(error), code="engine")


async def answered(
    service: Service, request: GenerationRequest, choices: Choices, http: Http, *, chat: bool
) -> Response:
    """Answer as a stream or whole; a client that disconnects frees its rows. ApiError if the queue is full."""
    if not service.engine.alive:
        raise ApiError(503, "the engine has stopped. Start the server again.", code="engine")
    if service.engine.waiting + len(choices.requests) > service.settings.max_waiting:
        raise ApiError(429, "too many requests are waiting. Try again later.", code="queue_full")
    answer = Answer(service, choices, chat=chat)
    if request.stream:
        usage = bool(request.stream_options and request.stream_options.include_usage)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(answer.events(usage), media_type="text/event-stream", headers=headers)
    work = asyncio.ensure_future(answer.whole())
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return Response(status_code=499)  # the client has disconnected
        return JSONResponse(work.result())
    except (TimeoutError, SteerError) as error:
        raise _failed(error, service) from None
    finally:
        gone.cancel()
        work.cancel()


async def _disconnected(http: Http) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
