"""What a client may send: the OpenAI shapes with targets, and the errors in the same shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from steer.errors import SteerError
from steer.schema import number_text

MOST = 64  # choices of one request
# Fields of the OpenAI API that this server has no use for, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
}
SIGNS = re.compile(r"[\s,=<>]")  # what separates the parts of a target that is a text
TargetValue = str | dict[str, Any]


class ApiError(Exception):
    """An answer in the shape of OpenAI's errors."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that goes with the status."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Message(_Strict):
    """One turn; content as text or as a list of text parts."""

    role: str
    content: str | list[dict[str, Any]]
    name: str | None = None


class StreamOptions(_Strict):
    """What else a stream tells."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Request(_Strict):
    """What both endpoints take."""

    model: str
    targets: TargetValue | list[TargetValue] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    allow_unsupported: bool = False
    guidance: float | None = Field(default=None, ge=0, le=100)
    against: str = "none"
    n: int | None = Field(default=None, ge=1, le=MOST)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Taken and of no effect: who asks, and how OpenAI is to file it.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None

    def stops(self) -> list[str]:
        """The texts that end a response."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(found) > 4 or not all(found):
            raise ApiError(400, "'stop' takes up to four texts, none of them empty.", param="stop")
        return found

    def refuse_unsupported(self) -> None:
        """Nothing that was asked for is left undone in silence."""
        for name, neutral in NEUTRAL.items():
            value = getattr(self, name, None)
            if value is not None and value not in neutral:
                raise ApiError(400, f"'{name}' is not supported here. Leave it out.", param=name, code="unsupported")


class ChatRequest(Request):
    """POST /v1/chat/completions."""

    messages: list[Message]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    top_logprobs: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    response_format: Any = None

    def turns(self) -> list[dict[str, str]]:
        """The conversation as the chat template takes it."""
        if not self.messages or self.messages[-1].role != "user":
            raise ApiError(400, "'messages' has to end with a turn of the user.", param="messages")
        turns = []
        for i, message in enumerate(self.messages):
            role = message.role
            if role not in ("system", "developer", "user", "assistant"):
                raise ApiError(400, f"'role' is system, user or assistant, not '{role}'.", param=f"messages.{i}.role")
            turns.append({"role": role, "content": _text(message.content, f"messages.{i}.content")})
        return turns


class CompletionRequest(Request):
    """POST /v1/completions: the prompt as it is, without a chat template."""

    prompt: str | list[str]
    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    def prompts(self) -> list[str]:
        """The texts to continue."""
        found = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not found or not all(found):
            raise ApiError(400, "'prompt' is empty.", param="prompt")
        return found


class ScoreRequest(_Strict):
    """POST /v1/steer/score: responses to one prompt."""

    responses: list[str] = Field(min_length=1, max_length=MOST)
    prompt: str | None = None
    messages: list[Message] | None = None


def _text(content: str | list[dict[str, Any]], param: str) -> str:
    """A turn's text; parts of other kinds are refused."""
    if isinstance(content, str):
        return content
    if not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
        raise ApiError(400, "only parts of type 'text' can be read here.", param=param, code="unsupported")
    return "".join(part["text"] for part in content)


def asked(request: Request) -> tuple[str, list[str] | None]:
    """The model's name, and its targets as users write them, from the one place where the request names them.

    None where it names none.
    """
    name, at, behind = request.model.partition("@")
    places: dict[str, list[str]] = {}
    if at:
        places["model"] = [behind]
    if request.targets is not None:
        several = request.targets if isinstance(request.targets, list) else [request.targets]
        places["targets"] = [_target(value, "targets") for value in several]
        if not several:
            raise ApiError(400, "'targets' is empty. Leave it out for the best.", param="targets")
    kwargs = request.chat_template_kwargs or {}
    if kwargs.get("attributes") is not None:
        places["chat_template_kwargs.attributes"] = [_target(kwargs["attributes"], "chat_template_kwargs.attributes")]
    if others := kwargs.keys() - {"attributes"}:
        first = sorted(others)[0]
        raise ApiError(400, f"'{first}' is not known here; only 'attributes' is.", param="chat_template_kwargs")
    if len(places) > 1:
        raise ApiError(400, f"targets are given twice, in {' and '.join(places)}.", param="targets")
    found = next(iter(places.values()), None)
    return name, found and [" ".join(text.replace(",", " ").split()) for text in found]


def _target(value: Any, param: str) -> str:
    """`{"helpful": 5, "warmth": [1, 3]}` -> `helpful=5 warmth=1..3`; texts as they are."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise ApiError(400, 'a target is a text or an object such as {"helpful": 5}.', param=param)
    parts = []
    for name, level in value.items():
        if level is None:
            continue
        if isinstance(level, Sequence) and not isinstance(level, str) and len(level) == 2:
            parts.append(f"{name}={_level(level[0], name, param)}..{_level(level[1], name, param)}")
        else:
            parts.append(f"{name}={_level(level, name, param)}")
    return " ".join(parts) or "none"


def _level(value: Any, name: str, param: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ApiError(400, f"'{name}' wants a level: a number or a word such as low.", param=param)
    text = value if isinstance(value, str) else number_text(value)
    if SIGNS.search(name) or SIGNS.search(text):
        raise ApiError(400, f"'{name}': '{text}' names no level.", param=param)
    return text


def of_steer(error: SteerError, param: str | None = None) -> ApiError:
    """A message that was written for the command line, for a client of the API."""
    text = str(error).replace("--allow-unsupported asks", '"allow_unsupported": true asks')
    code = "unsupported_target" if "seen" in text else "invalid_target"
    return ApiError(400, text, param=param, code=code)
