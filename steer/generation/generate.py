"""K responses per prompt at given targets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import click

from steer.config import GenerateConfig
from steer.errors import SteerError
from steer.generation.engines import Engine, open_engine, respond
from steer.generation.prefill import shareable
from steer.generation.requests import Request, Response, encode, seed_of
from steer.generation.settings import Sampling
from steer.generation.text import streamed
from steer.labelling.obtained import Selection, side_by_side
from steer.models.policy import Policy
from steer.progress import progress
from steer.rows import Row, prompts, read, read_back, split_of, write
from steer.rows.schema import Schema
from steer.run_folder import Run, fingerprint, stage

SHARD = 512  # responses between two resume points


def generate_rows(
    policy: Policy,
    requests: Sequence[Request],
    sampling: Sampling,
    folder: Path,
    *,
    source: str = "",
    engine: Engine = respond,
    ids: bool = False,
) -> list[Row]:
    """Draw responses shard by shard into `folder`, reading back finished shards; return them as rows, in order.

    `source` stands in the rows and their ids (default: the folder's name). `ids` adds the token ids as they were drawn,
    which tokenizing the text again need not give.
    """
    rows: list[Row] = []
    with progress(total=len(requests), what="generate", unit="responses") as bar:
        for index, start in enumerate(range(0, len(requests), SHARD)):
            path = folder / "parts" / f"{index:05d}.jsonl"
            shard = requests[start : start + SHARD]
            if not path.is_file():
                responses = engine(policy, shard, replace(sampling, seed=seed_of(sampling.seed, -1 - index)))
                drawn = _rows(policy, shard, responses, sampling, source or folder.name, start)
                write(path, ({**row, "ids": r.ids} for row, r in zip(drawn, responses)) if ids else drawn)
            rows += read_back(path)
            bar.update(len(shard))
    return rows


def _rows(
    policy: Policy,
    requests: Sequence[Request],
    responses: Sequence[Response],
    sampling: Sampling,
    source: str = "",
    start: int = 0,
) -> Iterator[Row]:
    """Rows that record how they were drawn, for methods that need to know how likely that was."""
    schema = policy.card.schema if policy.card else None
    for k, (request, response) in enumerate(zip(requests, responses), start):
        row: Row = {
            "id": f"{source}:{request.row['id']}:{k}",
            "prompt": request.row["prompt"],
            "response": response.text,
            "scores": {},
            "target": dict(request.target),
            "group": request.row.get("group") or request.row["id"],
            "source": source,
            "finished": response.finished,
            "temperature": sampling.temperature if request.temperature is None else request.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.guidance != 1:
            row["guidance"] = sampling.guidance
        row |= {"top_k": sampling.top_k} if sampling.top_k else {}
        row |= {"min_p": sampling.min_p} if sampling.min_p else {}
        if schema is not None and request.target:
            row["asked"] = schema.text(request.target)
        if request.row.get("split"):
            row["split"] = request.row["split"]
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
    policy, engine = open_engine(config)
    aims = policy.targets(config.target, config.allow_unsupported)
    schema = policy.card.schema if policy.card else None
    if selection:
        selection = selection.knowing(policy.card)
    away = [policy.against(config.against, aim) if config.guidance != 1 else {} for aim in aims]
    pairs = list(zip(aims, away))
    requests = [Request(row, *pair) for row in rows for pair in pairs for _ in range(config.n * config.best_of)]
    sampling = Sampling(**{field.name: getattr(config, field.name) for field in fields(Sampling)})
    if config.stream:
        return _stream(policy, requests, sampling, schema)
    if run is None:
        found = list(_rows(policy, requests, engine(policy, requests, sampling), sampling))
        kept = selection.kept(found) if selection else found
        shown = selection.labelled(kept) if selection and config.score else kept
        return side_by_side(shown, selection.schema if selection else schema)
    run.start()
    every = generate_rows(policy, requests, sampling, run.folder, engine=engine)
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


def _stream(policy: Policy, requests: Sequence[Request], sampling: Sampling, schema: Schema | None) -> str:
    """Print responses as they are drawn; what is left to say in the end."""
    if not shareable(policy):
        raise SteerError(f"{policy.name}: keeps more than keys and values, so it has no --stream.")
    for request, encoded in zip(requests, encode(policy, requests, sampling)):
        click.echo(
            "> "
            + request.row["prompt"][-1]["content"]
            + (f" [{schema.text(request.target)}]" if schema and request.target else "")
        )
        for piece in streamed(policy, encoded):
            click.echo(piece, nl=False)
        click.echo()
    return f"generate: {len(requests)} responses."


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
