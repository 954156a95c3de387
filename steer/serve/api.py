"""The HTTP endpoints of a served policy: OpenAI's with targets, the schema, scores, health and metrics."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi import Request as Http
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from jinja2 import TemplateError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from steer.conditioning.chat import fitted, lost, options_of
from steer.conditioning.condition import TEMPLATES
from steer.conditioning.switches import switch_of
from steer.conditioning.turns import UnprintedError
from steer.generation.reply import Form
from steer.models.loading import SAMPLED
from steer.models.tokenization import plain_ids, text_ids, turns_parts
from steer.progress import note_once
from steer.rows import Row
from steer.serve.answer import Choices, Service, answered, expanded
from steer.serve.wire import ApiError, ChatRequest, CompletionRequest, ScoreRequest, asked_row, read, turns
from steer.settings import THINKS


def described(service: Service) -> dict[str, Any]:
    """Describe the schema and its support for clients that draw sliders; cells are [levels of all attributes, rows]."""
    schema, names = service.schema, service.names
    scorer = service.scorer.id if service.scorer else None
    summary: dict[str, Any] = {
        "model": service.name,
        "positions": service.policy.longest,
        "max_new_tokens": service.settings.max_new_tokens,
        "sampling": {name: getattr(service.sampling, name) for name in SAMPLED},
        "scorer": scorer,
        "attributes": [],
    }
    if schema is None:
        return {**summary, "minimum": 0, "independent": False, "cells": [], "best": {}}
    at = [schema.names.index(n) for n in names]
    cells: Counter[tuple[int, ...]] = Counter()
    for cell, rows in schema.cells.items():
        cells[tuple(-1 if (level := cell[i]) is None else level for i in at)] += rows
    attributes = [
        {
            **{field: getattr(a, field) for field in ("name", "direction", "weight", "low", "high")},
            "levels": [{"shown": s, "score": c, "rows": n} for s, c, n in zip(a.shown, a.centres, a.counts)],
        }
        for a in (schema[n] for n in names)
    ]
    best = service.shown(schema.best(names)) if schema.supported(names) else {}
    return {
        **summary,
        "attributes": attributes,
        "minimum": schema.minimum,
        "independent": schema.independent,
        "cells": [[list(c), n] for c, n in sorted(cells.items())],
        "best": best,
    }


def scored(service: Service, request: ScoreRequest) -> list[dict[str, Any]]:
    """Score responses: raw scores, levels, and positions on the levels' scale."""
    if service.scorer is None:
        raise ApiError(404, "no scorer is loaded. Start the server with --scorer.", code="no_scorer")
    if request.messages is not None:
        prompt = turns(request.messages)
    else:
        prompt = [{"role": "user", "content": request.prompt or ""}]
    scorer = service.scorer.evaluating()
    names = list(scorer.attributes)
    rows = [{"prompt": prompt, "response": text} for text in request.responses]
    out = []
    for line in scorer.score(rows, names).tolist():
        scores = {n: s for n, s in zip(names, line) if np.isfinite(s)}
        entry: dict[str, Any] = {"scores": scores, "levels": {}, "positions": {}}
        for name in service.names:
            if name in scores and service.schema:
                a = service.schema[name]
                entry["levels"][name] = a.shown[a.level(scores[name])]
                entry["positions"][name] = float(a.position(np.array(scores[name])))
        out.append(entry)
    return out


def metrics(service: Service) -> str:
    """Report counters in Prometheus' text format."""
    e = service.engine
    kinds = {
        "steer_tokens_total": ("counter", "Tokens drawn.", e.tokens),
        "steer_steps_total": ("counter", "Forward passes over the running batch.", e.steps),
        "steer_prompt_tokens_total": ("counter", "Tokens prefilled.", e.decoder.prefixes.read),
        "steer_running": ("gauge", "Responses that are drawn now.", e.running),
        "steer_waiting": ("gauge", "Responses that wait for a place.", e.waiting),
    }
    lines = []
    for name, (kind, text, value) in kinds.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    lines += ["# HELP steer_requests_total Requests by path and status.", "# TYPE steer_requests_total counter"]
    for (path, status), count in sorted(service.requests.items()):
        lines.append(f'steer_requests_total{{path="{path}",status="{status}"}} {count}')
    lines += ["# HELP steer_request_seconds Time of requests by path.", "# TYPE steer_request_seconds summary"]
    for path, seconds in sorted(service.seconds.items()):
        count = sum(n for (where, _), n in service.requests.items() if where == path)
        lines += [f'steer_request_seconds_sum{{path="{path}"}} {seconds:.6f}']
        lines += [f'steer_request_seconds_count{{path="{path}"}} {count}']
    return "\n".join(lines) + "\n"


def _of_chat(service: Service, body: bytes) -> tuple[ChatRequest, Choices]:
    request, policy = read(ChatRequest, body), service.policy
    tokenizer = policy.tokenizer
    row = asked_row(request, str(tokenizer.chat_template), policy.thinking in THINKS, switch_of(tokenizer))
    options = options_of(row)
    try:
        text, tail = turns_parts(row["prompt"], policy.tokenizer, policy.template, options, policy.thinking)
    except TemplateError as error:
        raise ApiError(400, f"the model's chat template refuses this: {error}", param="messages") from None
    except UnprintedError as error:
        raise ApiError(400, f"{error}.", param="messages") from None
    _refuse_unprinted(row, policy.tokenizer, options)
    prompt = tuple(plain_ids([text], policy.tokenizer)[0])
    choices = expanded(service, request, [prompt], request.max_completion_tokens or request.max_tokens, tail)
    choices.form, choices.one_call = Form.of(policy, row), request.parallel_tool_calls is False
    return request, choices


def _refuse_unprinted(row: Row, tokenizer: Any, options: Mapping[str, Any]) -> None:
    """Refuse tools and calls that the chat template would drop; note once that it drops earlier thoughts."""
    for turn, part in lost(fitted(row["prompt"], tokenizer), tokenizer, options):
        if part in ("tools", "calls"):
            param = part if part == "tools" else f"messages.{turn}.tool_calls"
            obstacle = f"'{param}' is not supported: the model's chat template prints none"
            raise ApiError(400, f"{obstacle}.", param=param, code="unsupported")
        if part == "reasoning":
            note_once("the chat template drops thoughts of earlier turns (reasoning_content): the model sees none.")


def _of_prompts(service: Service, body: bytes) -> tuple[CompletionRequest, Choices]:
    request = read(CompletionRequest, body)
    if first := next(iter(request.options()), None):
        raise ApiError(400, f"'{first}' is not known here; only 'attributes' is.", param="chat_template_kwargs")
    tokenizer = service.policy.tokenizer
    asked = request.prompts(getattr(tokenizer, "embedded", None) or len(tokenizer))
    prompts = [tuple(text_ids([each], tokenizer)[0] if isinstance(each, str) else each) for each in asked]
    if not all(prompts):
        raise ApiError(400, "a prompt has no token that the model knows.", param="prompt")
    if service.policy.template and TEMPLATES[service.policy.template].in_turn:
        raise ApiError(
            400, "the policy reads its target at the end of a turn, which a bare prompt has not. Use chat completions."
        )
    return request, expanded(service, request, prompts, request.max_tokens)


def page_policy(page: str) -> str:
    """Content security policy of the page: its own script and style, its own server, nothing else."""

    def hashes(tag: str) -> str:
        contents = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(x.encode()).digest()).decode()}'" for x in contents)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def application(service: Service) -> FastAPI:
    """Build the endpoints and the page."""
    page = files("steer.serve").joinpath("page.html").read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": page_policy(page), "Cache-Control": "no-cache"}
    app = FastAPI(title="steer", docs_url=None, redoc_url=None)
    _errors(app)

    # A request takes up to seconds to check and tokenise: in a thread, so that the streams of others go on.
    @app.post("/v1/chat/completions")
    async def chat(http: Http) -> Response:
        request, choices = await run_in_threadpool(_of_chat, service, await http.body())
        return await answered(service, request, choices, http, chat=True)

    @app.post("/v1/completions")
    async def complete(http: Http) -> Response:
        request, choices = await run_in_threadpool(_of_prompts, service, await http.body())
        return await answered(service, request, choices, http, chat=False)

    @app.post("/v1/steer/score")
    async def score(http: Http) -> dict[str, Any]:
        body = await http.body()
        return {"data": await run_in_threadpool(lambda: scored(service, read(ScoreRequest, body)))}

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        return HTMLResponse(page, headers=headers)

    _facts(app, service)
    return app


def _facts(app: FastAPI, service: Service) -> None:
    """Add the endpoints about the model and the server."""

    facts = {"object": "model", "created": service.started, "owned_by": "steer"}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        names = [service.name, *([f"{service.name}@best", f"{service.name}@none"] if service.schema else [])]
        return {"object": "list", "data": [{"id": name, **facts} for name in names]}

    @app.get("/v1/models/{name}")
    def model(name: str) -> dict[str, Any]:
        if name.partition("@")[0] != service.name:
            raise ApiError(404, f"there is no model '{name}'. Known: {service.name}.", code="model_not_found")
        return {"id": name, **facts}

    @app.get("/v1/steer/schema")
    def schema() -> dict[str, Any]:
        return described(service)

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not service.engine.alive:
            raise ApiError(503, "the engine has stopped. Start the server again.", code="engine")
        return {"status": "ok"}

    @app.get("/metrics")
    async def prometheus() -> Response:
        return PlainTextResponse(metrics(service), media_type="text/plain; version=0.0.4")


def _errors(app: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def ours(_: Http, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(HTTPException)
    async def theirs(_: Http, error: HTTPException) -> Response:
        return JSONResponse(ApiError(error.status_code, f"{error.detail}.").body, error.status_code)

    @app.exception_handler(500)
    async def broken(_: Http, error: Exception) -> Response:
        message = f"the server failed ({type(error).__name__}). Its log has the details."
        return JSONResponse(ApiError(500, message, code="internal").body, 500)
