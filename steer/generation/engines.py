"""The engines that draw responses: `hf` here in one running batch, vLLM, and an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from steer.conditioning.chat import asked, in_roles, options_of
from steer.conditioning.turns import say_unprinted
from steer.errors import SteerError
from steer.generation.decoder import Decoder
from steer.generation.openai_client import ChatCall, ChatReply, OpenAIClient
from steer.generation.plain import plainly
from steer.generation.prefill import shareable
from steer.generation.reply import Form, parted, written_as
from steer.generation.requests import Request, Response, encode, seeds
from steer.generation.settings import GenerateSettings, Sampling
from steer.generation.vllm import Vllm
from steer.models.card import Card
from steer.models.loading import SAMPLED
from steer.models.policy import Policy, end_tokens, load_policy
from steer.models.tokenization import plain_ids, prompt_parts, written
from steer.progress import note, progress, quiet
from steer.settings import THINKS

Engine = Callable[[Policy, Sequence[Request], Sampling], list[Response]]


def respond(policy: Policy, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
    """Draw one response per request, in order, with the model here.

    Each follows from its own seed (see `seeds`), whatever the batch, but for rounding: where the drawn point lies
    within 1e-6 of the edge of a token, another batch may give its neighbour. Prompts are prefilled once for all their
    requests, bucketed by length; responses that end make room for the next.
    """
    encoded = encode(policy, requests, sampling)
    if not shareable(policy):
        if sampling.guidance != 1:
            raise SteerError(f"{policy.name}: keeps more than keys and values, so it has no --guidance.")
        if policy.steering:
            raise SteerError(f"{policy.name}: keeps more than keys and values, so no vectors can steer it.")
        drawn = plainly(policy, encoded, sampling.batch_size)
        return list(map(partial(_response, policy), requests, drawn))
    decoder = Decoder(policy, sampling.batch_size, patience=max(1, sampling.batch_size // 4))
    order = sorted(
        range(len(encoded)), key=lambda i: (len(encoded[i].prompt), encoded[i].prompt, len(encoded[i].condition), i)
    )
    place = {decoder.add(encoded[i]): i for i in order}
    tokens: list[list[int]] = [[] for _ in encoded]
    with quiet(), progress(what="generate", unit="responses", total=len(requests)) as bar:
        while decoder.busy:
            for event in decoder.step():
                tokens[place[event.key]].append(event.token)
                if event.ended:
                    bar.update()
    return list(map(partial(_response, policy), requests, tokens))


def through(client: OpenAIClient) -> Engine:
    """An engine that asks a server; the policy lends its schema, and its chat template to check turns by."""

    def engine(policy: Policy, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        schema = policy.card.schema if policy.card and policy.card.attributes else None
        chats = []
        for request, seed in zip(requests, seeds(requests, sampling.seed)):
            turns = request.row["prompt"]
            if policy.tokenizer is not None:
                # refuses turns that the template would drop
                prompt_parts(request.row, policy.tokenizer, policy.template, policy.thinking)
                turns = in_roles(turns, policy.tokenizer)
            attributes = asked(request.target, schema) if schema else None
            chats.append(ChatCall(turns, attributes, seed, options_of(request.row)))
        if policy.tokenizer is not None:
            say_unprinted({request.row["id"]: request.row for request in requests}.values(), policy.tokenizer)
        settings = {"max_tokens": sampling.max_new_tokens, **_sent(policy, sampling)}
        replies = client.complete(chats, sampling.batch_size, **settings)
        return [_replied(policy, request, reply) for request, reply in zip(requests, replies)]

    return engine


def _replied(policy: Policy, request: Request, reply: ChatReply) -> Response:
    """Take what a server sent; a thought that it left in the text is parted from it where the policy is here."""
    thought, text = reply.thought, reply.text
    if not thought and policy.tokenizer is not None and policy.thinking in THINKS:
        form = Form.of(policy, request.row)._replace(syntax=None)
        [ids] = plain_ids([text], policy.tokenizer)
        if form.block and form.block.closing in policy.tokenizer.decode(ids):
            parts = parted(policy.tokenizer, form, ids, whole=reply.finished)
            thought, text = parts.thought, parts.text
    return Response(text, reply.finished, thought=thought, calls=reply.calls)


def _sent(policy: Policy, sampling: Sampling) -> dict[str, float]:
    """Return the values of sampling that a server is told.

    Only temperature and top_p are part of OpenAI's own API: of the others those that the server would not choose by
    itself, for it reads the policy's generation_config.json too.
    """
    values = {name: getattr(sampling, name) for name in SAMPLED if name not in sampling.left}
    by_itself = {name: policy.recommended.get(name, getattr(Sampling(), name)) for name in SAMPLED}
    told = ("temperature", "top_p") if policy.model is not None else SAMPLED
    return {name: value for name, value in values.items() if name in told or value != by_itself[name]}


def _response(policy: Policy, request: Request, ids: Sequence[int]) -> Response:
    """Part what was drawn; calls of tools are text unless the chat template writes them exactly so."""
    ends = end_tokens(policy)
    finished = bool(ids) and ids[-1] in ends
    form, drawn = Form.of(policy, request.row), ids[: len(ids) - finished]
    if form.plain:
        return Response(policy.tokenizer.decode(drawn, skip_special_tokens=True), finished, tuple(ids))
    parts = parted(policy.tokenizer, form, drawn, whole=finished)
    stops = written(ends, policy.tokenizer)
    if parts.calls and not written_as(parts, drawn, policy.tokenizer, request.row, stops):
        parts = parted(policy.tokenizer, form._replace(syntax=None), drawn, whole=finished)
    return Response(parts.text, finished, tuple(ids), parts.thought, parts.calls)


def open_engine(policy: Policy | str, settings: GenerateSettings) -> tuple[Policy, Engine]:
    """Load a policy by its name with what draws from it; with a server no weights are loaded."""
    if settings.engine == "hf" and not settings.server:
        if isinstance(policy, str):
            policy = load_policy(policy, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code)
        elif settings.dtype != "auto":
            raise SteerError(f"--dtype {settings.dtype}: the policy is loaded already. Give its name, or load it so.")
        return policy, respond
    engine = f"--server {settings.server}" if settings.server else "--engine vllm"
    if not isinstance(policy, str):
        raise SteerError(f"{engine}: loads the policy by itself. Give its name or folder, not a loaded one.")
    if settings.guidance != 1:
        raise SteerError("--guidance: mixes two distributions in every step, which only --engine hf can do.")
    if settings.server and settings.engine != "hf":
        raise SteerError(f"--engine {settings.engine}: is not used with --server. Leave one of them out.")
    if settings.engine == "vllm":
        vllm = Vllm(policy, settings.dtype, trust_remote_code=settings.trust_remote_code)
        return vllm.policy, lambda p, requests, s: list(
            map(partial(_response, p), requests, vllm.draw(encode(p, requests, s), s.columns))
        )
    client = OpenAIClient(settings.server, settings.server_model)
    return _of_a_server(policy, settings), through(client)


def without_weights(policy: str, settings: GenerateSettings) -> Policy:
    """Load what checks requests, where others draw: tokenizer, configuration and card."""
    if settings.server:
        return _of_a_server(policy, settings)
    if settings.engine == "vllm":
        raise SteerError(
            "--engine vllm: takes the GPUs for one process. Start one for each GPU instead of --num-proc, such as "
            "CUDA_VISIBLE_DEVICES=0 steer generate ... --engine vllm --shard 1/2."
        )
    return load_policy(policy, trust_remote_code=settings.trust_remote_code, device="meta")


def _of_a_server(policy: str, settings: GenerateSettings) -> Policy:
    """The policy that a server draws from; with its card only, and a note, where it is not here."""
    try:
        if not Path(policy).exists():
            raise SteerError(f"{policy} is no folder here.")
        return load_policy(policy, trust_remote_code=settings.trust_remote_code, device="meta")
    except SteerError as error:
        note(f"turns that the server's chat template drops are not noticed: {error}")
        return Policy(None, None, Card.find(policy), policy)
