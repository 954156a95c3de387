"""The requests of clients: OpenAI's shapes with targets, and errors in OpenAI's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError, from_json

from steer.conditioning.chat import RESERVED, declared
from steer.conditioning.switches import Switch
from steer.errors import SteerError
from steer.models.loading import SAMPLED
from steer.rows.contract import ROLES
from steer.rows.schema import number_text
from steer.settings import did_you_mean

MOST = 64  # choices of one request
TURNS = 1024  # messages of one request, and parts of one message
LONGEST = 800  # characters of an error; a longer one is cut in the middle
LIKELIEST = 20  # most tokens with log-probabilities at one position
SIGNS = re.compile(r"[\s,=<>]")  # what separates the parts of a target that is a text
TRIED = re.compile(r"str|(list|dict)\[.*")  # pydantic's name for the type it tried, of a field with several
ANY = object()
# Fields that this server ignores, with the values that ask for nothing (ANY: any value can be ignored).
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
NEUTRAL: dict[str, Any] = dict.fromkeys((*IGNORED, "prompt_cache_options", "prompt_cache_retention"), ANY)
NEUTRAL |= dict.fromkeys(("frequency_penalty", "presence_penalty", "min_tokens"), (0,))
NEUTRAL |= dict.fromkeys(("length_penalty", "best_of"), (1,))
NEUTRAL |= dict.fromkeys(("logit_bias", "stop_token_ids"), ())
NEUTRAL |= dict.fromkeys(("ignore_eos", "include_stop_str_in_output"), (False,)) | {"skip_special_tokens": (True,)}
CHAT_NEUTRAL: dict[str, Any] = dict.fromkeys(("functions", "audio", "prediction", "moderation"), ())
CHAT_NEUTRAL |= {"function_call": ("none", "auto")}
CHAT_NEUTRAL |= {
    "web_search_options": (),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}
TargetValue = str | dict[str, Any]


class ApiError(Exception):
    """An error answer in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(_cut(message, LONGEST))
        self.status, self.param, self.code = status, param and _cut(param, LONGEST // 4), code

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON body of the answer."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def _cut(text: str, most: int) -> str:
    """Cut the middle of a long text: the start says what is wrong, the end what to do."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


class _Strict(BaseModel):
    """A model that refuses unknown fields and ignores empty ones."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    neutral: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _asking(cls, value: Any) -> Any:
        """Keep only the fields that ask for something."""
        return {k: v for k, v in value.items() if _asks(cls, k, v)} if isinstance(value, dict) else value


def _asks(kind: type[_Strict], name: str, value: Any) -> bool:
    """Whether a field asks for something; an error if this server cannot do it."""
    field = kind.model_fields.get(name)
    if field:
        return value is not None or field.is_required()
    if _empty(value):
        return False
    if name not in kind.neutral:
        known = did_you_mean(name, [*kind.model_fields, *kind.neutral])
        raise PydanticCustomError("unknown_field", "unknown field '{name}'; {known}", {"name": name, "known": known})
    if kind.neutral[name] is not ANY and value not in kind.neutral[name]:
        raise PydanticCustomError("unsupported", "'{name}' is not supported here. Leave it out.", {"name": name})
    return False


def _empty(value: Any) -> bool:
    """Whether a value is null, an empty text, list or object, or an object of such values."""
    return value is None or value in ("", [], {}) or (isinstance(value, dict) and all(map(_empty, value.values())))


class Function(_Strict):
    """What a call calls; arguments as the text of an object, or as an object."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(_Strict):
    """A call in an earlier answer; `index`: as streams number it."""

    neutral = {"index": ANY}

    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class Message(_Strict):
    """One turn; content as text or a list of text parts. Other fields of servers' answers may be sent back, empty."""

    neutral = dict.fromkeys(("refusal", "audio", "function_call", "annotations", "reasoning_details"), ())

    role: str
    content: str | Annotated[list[Any], Field(max_length=TURNS)] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the same, as other servers name it
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=TURNS)] | None = None
    tool_call_id: str | None = None


Messages = Annotated[list[Message], Field(fail_fast=True, max_length=TURNS)]


class StreamOptions(_Strict):
    """Options of a stream."""

    neutral = {"continuous_usage_stats": (False,)}

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationRequest(_Strict):
    """Fields of both endpoints."""

    neutral = NEUTRAL

    model: str
    targets: TargetValue | Annotated[list[TargetValue], Field(fail_fast=True, max_length=MOST)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    allow_unsupported: bool = False
    guidance: float | None = Field(default=None, ge=0, le=100)
    against: str = "none"
    n: int | None = Field(default=None, ge=1, le=MOST)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def sampling(self) -> dict[str, Any]:
        """Return what the request says of sampling."""
        named = {n: x for n in ("guidance", *SAMPLED) if (x := getattr(self, n)) is not None}
        return named | ({"top_k": 0} if named.get("top_k") == -1 else {})  # as vLLM's clients write it

    def options(self) -> dict[str, Any]:
        """Return what else than a target the request gives the chat template."""
        return {k: v for k, v in (self.chat_template_kwargs or {}).items() if k != "attributes" and v is not None}

    def stops(self) -> list[str]:
        """Return the texts that end a response."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 4 or not all(stops):
            raise ApiError(400, "'stop' takes up to four texts, none of them empty.", param="stop")
        return stops

    def likeliest(self) -> int | None:
        """Number of tokens to report at each position with log-probabilities; None: no log-probabilities."""
        raise NotImplementedError


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    neutral = NEUTRAL | CHAT_NEUTRAL

    messages: Messages
    tools: Annotated[list[Any], Field(max_length=TURNS)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=LIKELIEST)

    def likeliest(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
        return self.top_logprobs or 0 if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """POST /v1/completions: the prompt as it is, without a chat template."""

    neutral = NEUTRAL | {"echo": (False,), "suffix": (), "add_special_tokens": (True,)}

    prompt: str | list[Any]
    logprobs: int | None = Field(default=None, ge=0, le=LIKELIEST)

    def likeliest(self) -> int | None:
        return self.logprobs

    def prompts(self, tokens: int) -> list[str | list[int]]:
        """Return the texts to continue, or the token ids of each; `tokens`: the size of the vocabulary."""
        one = isinstance(self.prompt, str) or (self.prompt and all(type(id) is int for id in self.prompt))
        prompts: Any = [self.prompt] if one else self.prompt
        if len(prompts) > MOST:
            raise ApiError(400, f"{len(prompts)} prompts in one request; at most {MOST}.", param="prompt")
        if not prompts or not all(prompts):
            raise ApiError(400, "'prompt' is empty.", param="prompt")
        if all(isinstance(each, str) for each in prompts):
            return list(prompts)
        if not all(isinstance(each, list) and all(type(id) is int for id in each) for each in prompts):
            raise ApiError(400, "'prompt' is a text, a list of texts, or the ids of tokens.", param="prompt")
        if odd := next((id for each in prompts for id in each if not 0 <= id < tokens), None):
            raise ApiError(400, f"'prompt': the model has no token {odd}; its ids are below {tokens}.", param="prompt")
        return list(prompts)


class ScoreRequest(_Strict):
    """POST /v1/steer/score: responses to one prompt."""

    responses: list[str] = Field(fail_fast=True, min_length=1, max_length=MOST)
    prompt: str | None = None
    messages: Messages | None = None


Kind = TypeVar("Kind", bound=_Strict)


def read(kind: type[Kind], body: bytes) -> Kind:
    """Parse a request's body; ApiError names the first fault."""
    try:
        value = from_json(body)
    except ValueError as error:  # unpaired surrogates too
        raise ApiError(400, f"the body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is no JSON object.")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    path = [p for p in map(str, first["loc"]) if not TRIED.fullmatch(p)]
    if first["type"] in ("unknown_field", "unsupported"):
        own = first["ctx"]["name"]
        param = ".".join([*path, own])
        raise ApiError(400, first["msg"].replace(f"'{own}'", f"'{param}'", 1), param=param, code=first["type"])
    param = ".".join(path)
    raise ApiError(400, f"'{param}': {first['msg']}.", param=param)


def turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the conversation as a row has it."""
    if not messages or messages[-1].role not in ("user", "tool"):
        raise ApiError(400, "'messages' has to end with a turn of the user or of a tool.", param="messages")
    return [_turn(message, f"messages.{i}") for i, message in enumerate(messages)]


def _turn(message: Message, place: str) -> dict[str, Any]:
    role = message.role
    if role not in ROLES:
        raise ApiError(400, f"'role' is one of {', '.join(ROLES)}, not '{role}'.", param=f"{place}.role")
    content = "" if message.content is None and role == "assistant" else message.content  # an empty answer
    turn: dict[str, Any] = {"role": role, "content": _text(content, f"{place}.content")}
    calls = [_call(call, f"{place}.tool_calls.{i}") for i, call in enumerate(message.tool_calls or ())]
    own = {
        "reasoning_content": ("assistant", message.reasoning_content or message.reasoning),
        "tool_calls": ("assistant", calls),
        "tool_call_id": ("tool", message.tool_call_id),
    }
    for name, (owner, value) in own.items():
        if value and owner != role:
            param = f"{place}.{name}"
            raise ApiError(400, f"'{param}': only turns of the role {owner} have it.", param=param, code="unsupported")
    turn |= {name: value for name, (_, value) in own.items() if value}
    return turn | ({"name": message.name} if message.name and role == "tool" else {})


def _call(call: ToolCall, place: str) -> dict[str, Any]:
    """Return a call as a row has it; ApiError if its arguments are no object."""
    arguments: Any = call.function.arguments
    if isinstance(arguments, str):
        param = f"{place}.function.arguments"
        try:
            arguments = from_json(arguments or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise ApiError(400, f"'{param}' is not the text of a JSON object.", param=param)
    named = {"id": call.id} if call.id else {}
    return {**named, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def asked_row(request: ChatRequest, template: str, thinks: bool, switch: Switch | None = None) -> dict[str, Any]:
    """Return the row that a request asks to answer; ApiError for what the chat template would not see.

    `thinks`: whether the policy thinks before it answers. `switch`: the template's own option for it.
    """
    row: dict[str, Any] = {"prompt": turns(request.messages), "chat_template_kwargs": {}}
    if request.tools and not declared(request.tools):
        raise ApiError(400, "'tools' is not supported but for functions with names.", param="tools", code="unsupported")
    if request.tools and request.tool_choice != "none":
        row["tools"] = request.tools
    row["chat_template_kwargs"] = _options(request, template, thinks, switch)
    return row


def _options(request: ChatRequest, template: str, thinks: bool, switch: Switch | None) -> dict[str, Any]:
    """Return the values that a request gives the chat template; ApiError for those that would change nothing."""
    options, kept = request.options(), {}
    for name in ("enable_thinking", "reasoning_effort"):
        value = getattr(request, name)
        if value is not None and options.setdefault(name, value) != value:
            raise ApiError(400, f"'{name}' is given twice, with different values.", param=name)
    for name, value in options.items():
        param = name if getattr(request, name, None) is not None else "chat_template_kwargs"
        thought = name in ("enable_thinking", "thinking")
        if thought and value and not thinks:
            obstacle = "the policy answers without a thought. Policies think that were trained with --thinking learn"
            raise ApiError(400, f"'{name}': {obstacle}.", param=param, code="unsupported")
        if name not in RESERVED and re.search(rf"\b{re.escape(name)}\b", template):
            kept[name] = value
        elif thinks and name == "enable_thinking" and switch:
            kept.setdefault(switch.name, switch.on if value else switch.off)
        elif value != "none" if name == "reasoning_effort" else not thought or thinks:
            obstacle = f"'{name}' is not supported: the model's chat template does not read it. Leave it out"
            raise ApiError(400, f"{obstacle}.", param=param, code="unsupported")
    return kept


def _text(content: str | Sequence[Any] | None, param: str) -> str:
    """Join a turn's text parts; ApiError for parts of other kinds."""
    if isinstance(content, str):
        return content
    if content is None:
        raise ApiError(400, f"'{param}' should be a valid string, or a list of text parts.", param=param)
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(400, "only parts of type 'text' can be read here.", param=f"{param}.{i}", code="unsupported")
        if unknown := [k for k in part if not _empty(part[k]) and k not in ("type", "text", "cache_control")]:
            place = f"{param}.{i}.{unknown[0]}"
            raise ApiError(400, f"unknown field '{place}'; known: type, text.", param=place, code="unknown_field")
        texts.append(part["text"])
    return "".join(texts)


def asked(request: GenerationRequest, known: Sequence[str]) -> tuple[str, list[str] | None]:
    """Return the model's name and the targets as users write them (None: none); ApiError if two fields name targets."""
    name, at, target = request.model.partition("@")
    places: dict[str, list[str]] = {"model": [target]} if at else {}
    if request.targets is not None:
        several = request.targets if isinstance(request.targets, list) else [request.targets]
        places["targets"] = [_target(value, "targets", known) for value in several]
        if not several:
            raise ApiError(400, "'targets' is empty. Leave it out for the best.", param="targets")
    kwargs = request.chat_template_kwargs or {}
    if kwargs.get("attributes") is not None:
        place = "chat_template_kwargs.attributes"
        places[place] = [_target(kwargs["attributes"], place, known)]
    if len(places) > 1:
        raise ApiError(400, f"targets are given twice, in {' and '.join(places)}.", param="targets")
    targets = next(iter(places.values()), None)
    return name, targets and [" ".join(text.replace(",", " ").split()) for text in targets]


def _target(value: Any, param: str, known: Sequence[str]) -> str:
    """`{"helpful": 5, "warmth": [1, 3]}` -> `helpful=5 warmth=1..3`; texts as they are."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise ApiError(400, 'a target is a text or an object such as {"helpful": 5}.', param=param)
    parts = []
    for name, level in value.items():
        if level is None:
            if name not in known:
                raise ApiError(400, f"unknown attribute '{name}'; {did_you_mean(name, known)}", param=param)
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
    """Turn an error that speaks of flags into one for clients of the API."""
    text = str(error).replace("--allow-unsupported asks", '"allow_unsupported": true asks')
    code = "unsupported_target" if "seen" in text else "invalid_target"
    return ApiError(400, text, param=param, code=code)
