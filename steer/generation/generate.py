"""K responses per prompt at given targets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import click

from steer.conditioning.chat import asked, in_roles
from steer.conditioning.condition import render
from steer.conditioning.turns import say_unprinted
from steer.config import GenerateConfig
from steer.errors import SteerError
from steer.generation.decoder import Ask, Decoder
from steer.generation.openai_client import Chat, Remote
from steer.generation.plain import plainly
from steer.generation.prefill import shareable
from steer.generation.text import streamed
from steer.generation.vllm import Vllm
from steer.labelling.obtained import Selection, side_by_side
from steer.models.policy import Card, Loading, Policy, end_tokens, load, load_as
from steer.models.tokenization import plain_ids, prompt_of
from steer.progress import progress, quiet
from steer.rows import Row, prompts, read, read_back, split_of, write
from steer.rows.schema import Schema
from steer.run_folder import Run, fingerprint, stage

SHARD = 512  # responses between two resume points


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. top_k (0) and min_p are off: they would bias what is sampled. Guidance 1 is none."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    batch_size: int = 64
    seed: int = 0
    guidance: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


class Job(NamedTuple):
    """One response to draw: the row whose prompt is answered, the levels asked for, those that guidance leaves.

    `temperature`: its own, in the place of that of all (of a server all have one).
    """

    row: Row
    target: Mapping[str, float]
    against: Mapping[str, float] = MappingProxyType({})
    temperature: float | None = None


class Response(NamedTuple):
    """Text without condition and EOS; `finished` is false where it was cut off; `ids` as drawn, with the end token."""

    text: str
    finished: bool
    ids: tuple[int, ...] = ()


Draw = Callable[[Policy, Sequence[Job], Sampling], list[Response]]


def respond(policy: Policy, jobs: Sequence[Job], sampling: Sampling) -> list[Response]:
    """Draw one response per job, in order. Each follows from the seed and its place, whatever the batch size, but for
    rounding: where the drawn point lies within 1e-6 of the edge of a token, another batch may give its neighbour.

    Prompts are prefilled once for all their jobs, bucketed by length; ended responses make room for the next.
    """
    asks = asks_of(policy, jobs, sampling)
    if not shareable(policy):
        if sampling.guidance != 1:
            raise SteerError(f"{policy.name}: keeps more than keys and values, so it has no --guidance.")
        return [_response(policy, ids) for ids in plainly(policy, asks, sampling.batch_size, sampling.seed)]
    decoder = Decoder(policy, sampling.batch_size, patience=max(1, sampling.batch_size // 4))
    order = sorted(range(len(asks)), key=lambda i: (len(asks[i].prompt), asks[i].prompt, len(asks[i].condition), i))
    place = {decoder.add(asks[i]): i for i in order}
    drawn: list[list[int]] = [[] for _ in asks]
    with quiet():
        while decoder.busy:
            for event in decoder.step():
                drawn[place[event.key]].append(event.token)
    return [_response(policy, ids) for ids in drawn]


def responding(remote: Remote) -> Draw:
    """`respond` through a server; the policy lends its schema and its chat template, by which turns are checked."""

    def draw(policy: Policy, jobs: Sequence[Job], sampling: Sampling) -> list[Response]:
        schema = policy.card.schema if policy.card and policy.card.attributes else None
        chats = []
        for i, job in enumerate(jobs):
            turns = job.row["prompt"]
            if policy.tokenizer is not None:
                prompt_of(job.row, policy.tokenizer)  # refuses what the template would leave out
                turns = in_roles(turns, policy.tokenizer)
            chats.append(Chat(turns, asked(job.target, schema) if schema else None, seed_of(sampling.seed, i)))
        if policy.tokenizer is not None:
            say_unprinted({job.row["id"]: job.row for job in jobs}.values(), policy.tokenizer)
        settings = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
        }
        settings |= {"top_k": sampling.top_k} if sampling.top_k else {}  # neither is of OpenAI's own API
        settings |= {"min_p": sampling.min_p} if sampling.min_p else {}
        return [Response(*found) for found in remote.complete(chats, sampling.batch_size, **settings)]

    return draw


def _response(policy: Policy, ids: Sequence[int]) -> Response:
    finished = bool(ids) and ids[-1] in end_tokens(policy)
    text = policy.tokenizer.decode(ids[: len(ids) - finished], skip_special_tokens=True)
    return Response(text, finished, tuple(ids))


def asks_of(policy: Policy, jobs: Sequence[Job], sampling: Sampling) -> list[Ask]:
    """Prompts and conditions as ids, tokenised apart as in training, with the new tokens that fit behind them."""
    texts = [prompt_of(job.row, policy.tokenizer) for job in jobs]
    say_unprinted({job.row["id"]: job.row for job in jobs}.values(), policy.tokenizer)
    conditions = [condition_text(policy, job.target) for job in jobs]
    others = [condition_text(policy, job.against) for job in jobs]
    unique = list(dict.fromkeys([*texts, *conditions, *others]))
    ids = {t: tuple(i) for t, i in zip(unique, plain_ids(unique, policy.tokenizer))} | {"": ()}
    asks = []
    for i, (job, text, condition, other) in enumerate(zip(jobs, texts, conditions, others)):
        guided = sampling.guidance != 1 and other != condition
        longest = len(ids[text]) + max(len(ids[condition]), len(ids[other]) if guided else 0)
        room = sampling.max_new_tokens if policy.longest is None else policy.longest - longest
        if room < 1:
            raise SteerError(
                f"row '{job.row['id']}': its prompt has {longest} tokens, but {policy.name} has {policy.longest} "
                "positions. Shorten it or leave it out."
            )
        most, seed = min(sampling.max_new_tokens, room), seed_of(sampling.seed, i)
        away = ids[other] if guided else None
        warm = sampling.temperature if job.temperature is None else job.temperature
        settings = (sampling.guidance, warm, sampling.top_p, most, seed, sampling.top_k, sampling.min_p)
        asks.append(Ask(ids[text], ids[condition], away, *settings))
    return asks


def seed_of(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=4).digest()) & 0x7FFFFFFF


def condition_text(policy: Policy, target: Mapping[str, float]) -> str:
    """The condition that this policy was trained to read for a target."""
    card = policy.card
    if not target or card is None or card.schema is None:
        return ""
    return render(target, card.schema, card.attributes, card.template)


def answer(
    policy: Policy,
    jobs: Sequence[Job],
    sampling: Sampling,
    folder: Path,
    schema: Schema | None,
    source: str,
    draw: Draw = respond,
    *,
    ids: bool = False,
) -> list[Row]:
    """Responses as rows, drawn shard by shard into `folder`; finished shards are read back.

    `ids`: with the token ids as they were drawn, which the text read anew need not give.
    """
    rows: list[Row] = []
    with progress(total=len(jobs), what="generate", unit="responses") as bar:
        for index, start in enumerate(range(0, len(jobs), SHARD)):
            path = folder / "parts" / f"{index:05d}.jsonl"
            part = jobs[start : start + SHARD]
            if not path.is_file():
                with_seed = replace(sampling, seed=seed_of(sampling.seed, -1 - index))
                found = draw(policy, part, with_seed)
                made = _drawn(part, found, sampling, schema, source, start)
                write(path, ({**row, "ids": r.ids} for row, r in zip(made, found)) if ids else made)
            rows += read_back(path)
            bar.update(len(part))
    return rows


def _drawn(
    jobs: Sequence[Job],
    responses: Sequence[Response],
    sampling: Sampling,
    schema: Schema | None,
    source: str,
    start: int,
) -> Iterator[Row]:
    """Rows that say how they were drawn, for methods that ask how likely that was."""
    for k, (job, response) in enumerate(zip(jobs, responses)):
        row: Row = {
            "id": f"{source}:{job.row['id']}:{start + k}",
            "prompt": job.row["prompt"],
            "response": response.text,
            "scores": {},
            "target": dict(job.target),
            "group": job.row.get("group") or job.row["id"],
            "source": source,
            "finished": response.finished,
            "temperature": sampling.temperature if job.temperature is None else job.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.guidance != 1:
            row["guidance"] = sampling.guidance
        row |= {"top_k": sampling.top_k} if sampling.top_k else {}
        row |= {"min_p": sampling.min_p} if sampling.min_p else {}
        if schema is not None and job.target:
            row["asked"] = schema.text(job.target)
        if job.row.get("split"):
            row["split"] = job.row["split"]
        yield row


@stage
def generate_command(config: GenerateConfig) -> str:
    """Answer prompts at targets: printed side by side, or written as rows with a summary line."""
    if bool(config.prompt) == bool(config.input):
        raise SteerError('give either --prompt "..." (repeat it for several) or --input FILE.')
    if config.stream and (config.output or config.score or config.best_of > 1 or config.engine != "hf"):
        raise SteerError("--stream: only prints. Leave out --output, --score, --best-of and --engine.")
    selection = None
    if config.score or config.best_of > 1:
        selection = Selection.of(config.scorer, n=config.best_of, rerank=config.rerank, temperature=config.temperature)
    run = None
    if config.output:
        inputs = {"policy": fingerprint(config.policy) if Path(config.policy).exists() else ""}
        if selection:
            inputs["scorer"] = selection.scorer.id
        run = Run(config.output, config, inputs | ({"input": fingerprint(config.input)} if config.input else {}))
        if run.done:
            return str(run.done["summary"])
    rows = _asked(config)
    policy, draw = _engine(config)
    aims = policy.targets(config.target, config.allow_unsupported)
    schema = policy.card.schema if policy.card else None
    if selection:
        selection = selection.knowing(policy.card)
    away = [policy.against(config.against, aim) if config.guidance != 1 else {} for aim in aims]
    pairs = list(zip(aims, away))
    jobs = [Job(row, *pair) for row in rows for pair in pairs for _ in range(config.n * config.best_of)]
    sampling = Sampling(
        config.temperature,
        config.top_p,
        config.max_new_tokens,
        config.batch_size,
        config.seed,
        config.guidance,
        config.top_k,
        config.min_p,
    )
    if config.stream:
        return _stream(policy, jobs, sampling, schema)
    if run is None:
        found = list(_drawn(jobs, draw(policy, jobs, sampling), sampling, schema, "", 0))
        kept = selection.kept(found) if selection else found
        shown = selection.labelled(kept) if selection and config.score else kept
        return side_by_side(shown, selection.schema if selection else schema)
    run.start()
    every = answer(policy, jobs, sampling, run.folder, schema, Path(config.output).name, draw)
    drawn = selection.kept(every) if selection else every
    said = [r for r in drawn if r["response"].strip()]
    good = [r for r in said if not policy.leaks(r["response"])]
    write(run.folder / "rows.jsonl", selection.labelled(good) if selection and config.score else good)
    cut = sum(not r["finished"] for r in drawn)
    best = f" (each the best of {config.best_of})" if config.best_of > 1 else ""
    leaking = f"{len(said) - len(good)} with a condition in them skipped, " if len(said) > len(good) else ""
    summary = (
        f"generate: {len(rows)} prompts x {len(aims)} targets x {config.n} in, {len(good)} out{best}, "
        f"{len(drawn) - len(said)} empty skipped, {leaking}{cut} cut off at {config.max_new_tokens} tokens."
    )
    if selection and config.score:
        summary = f"{selection.table(selection.labelled(good))}\n{summary}"
    return run.finish(summary, rows=len(good))


def _stream(policy: Policy, jobs: Sequence[Job], sampling: Sampling, schema: Schema | None) -> str:
    """Print responses as they are drawn; what is left to say in the end."""
    if not shareable(policy):
        raise SteerError(f"{policy.name}: keeps more than keys and values, so it has no --stream.")
    for job, ask in zip(jobs, asks_of(policy, jobs, sampling)):
        click.echo(
            "> " + job.row["prompt"][-1]["content"] + (f" [{schema.text(job.target)}]" if schema and job.target else "")
        )
        for piece in streamed(policy, ask):
            click.echo(piece, nl=False)
        click.echo()
    return f"generate: {len(jobs)} responses."


def _engine(config: GenerateConfig) -> tuple[Policy, Draw]:
    """The policy and what draws from it; with a server no weights are loaded."""
    if config.engine == "hf":
        return load(config.policy, dtype=config.dtype, trust_remote_code=config.trust_remote_code), respond
    if config.guidance != 1:
        raise SteerError("--guidance: mixes two distributions in every step, which only --engine hf can do.")
    if config.engine == "vllm":
        engine = Vllm(config.policy, config.dtype, trust_remote_code=config.trust_remote_code)
        return engine.policy, lambda p, jobs, s: [_response(p, ids) for ids in engine.draw(asks_of(p, jobs, s))]
    folder = Path(config.policy)
    card = Card.load(folder) if (folder / "steer.json").is_file() else None
    remote = Remote(config.engine, config.engine_model)
    return Policy(None, _template_of(config), card, config.policy), responding(remote)


def _template_of(config: GenerateConfig) -> Any:
    """The tokenizer of the policy that a server draws from; None where it is not here, which is said."""
    try:
        if not Path(config.policy).is_dir():
            raise SteerError(f"{config.policy} is no folder here.")
        return load_as(config.policy, Loading(trust_remote_code=config.trust_remote_code, device="meta")).tokenizer
    except SteerError as error:
        click.echo(f"steer: turns that the server's chat template leaves out are not noticed: {error}", err=True)
        return None


def _asked(config: GenerateConfig) -> list[Row]:
    if config.prompt:
        if any(not p.strip() for p in config.prompt):
            raise SteerError("--prompt: is empty.")
        return [{"id": f"prompt:{i}", "prompt": [{"role": "user", "content": p}]} for i, p in enumerate(config.prompt)]
    found = _distinct(prompts(config.input), config.split, config.held_out, config.seed)
    if not found:
        raise SteerError(f"{config.input}: no prompt" + (f" in the {config.split} split." if config.split else "."))
    return found[: config.limit or None]


def held_out_prompts(rows: str, held_out: float, seed: int, limit: int, split: str = "test") -> list[Row]:
    """One row per distinct prompt of a split, in the order of the file."""
    return _distinct(read(rows), split, held_out, seed)[: limit or None]


def _distinct(rows: Iterable[Row], split: str, held_out: float, seed: int) -> list[Row]:
    """The first row of every prompt, of one split or (empty) of both."""
    unique: dict[str, Row] = {}
    for row in rows:
        if not split or split_of(row, held_out, seed) == split:
            unique.setdefault(json.dumps(row["prompt"]), row)
    return list(unique.values())
