"""`steer generate`: answer prompts at targets, printed side by side or written as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from steer.config.generation import GenerateConfig
from steer.errors import SteerError
from steer.evaluation.obtained import table
from steer.generation.generate import Generation, Written, prompt_rows, prompts_in, selection_of, usable
from steer.generation.openai_client import OpenAIClient
from steer.generation.pace import measured
from steer.generation.prefill import shareable
from steer.generation.requests import encode
from steer.generation.text import streamed
from steer.labelling.obtained import Selection, side_by_side
from steer.parts import shard_of
from steer.rows import Row
from steer.run_folder import Run, fingerprint, origin_of, read_done, read_json, stage


@stage
def generate_command(config: GenerateConfig) -> str:
    """Answer prompts at targets: return them side by side, or write rows into a run folder and return the summary."""
    if bool(config.prompt) == bool(config.input):
        raise SteerError('give either --prompt "..." (repeat it for several) or --input FILE.')
    elsewhere = config.engine != "hf" or config.server
    if config.stream and (config.output or config.score or config.best_of > 1 or elsewhere):
        raise SteerError("--stream: only prints. Leave out --output, --score, --best-of, --engine and --server.")
    if not (config.output or config.dry_run) and (config.shard or config.num_proc > 1 or config.workers == "ray"):
        raise SteerError("--shard, --num-proc and --workers ray: need an --output folder for what they draw.")
    shard = shard_of(config.shard, overwrite=config.overwrite)
    selection = selection_of(config, config.policy)
    run = _run(config, selection) if config.output else None
    if run and run.done and not config.dry_run:
        return str(run.done["summary"])
    read = run.config["inputs"]["input"] if run and config.input else ""
    rows = prompts_in(config.input, config, read) if config.input else prompt_rows(config.prompt, config)
    generation = Generation.of(config.policy, rows, _here(config) if config.dry_run else config, selection)
    if config.dry_run:
        return _planned(generation, len(rows))
    if config.stream:
        return _stream(generation)
    if run is None:
        responses = generation.rows()
        shown = side_by_side(responses, generation.schema)
        return f"{shown}\n\n{_table(generation, responses)}" if config.score and len(rows) > 1 else shown
    run.start()
    if config.shard:
        parts = generation.draw(run.folder, shard)
        parts.note_done()
        if parts.missing:
            return parts.pending("generate", config.output, done="drawn")
    written = generation.written(run.folder, config.output_shards, config.output_format)
    return run.finish(summary_of(generation, len(rows), written), rows=written.good)


def _here(config: GenerateConfig) -> GenerateConfig:
    """Draw in this process: a plan measures the speed of one."""
    return replace(config, num_proc=1, workers="processes")


def _run(config: GenerateConfig, selection: Selection | None) -> Run:
    """Open the output folder as a run, with the fingerprints of its inputs."""
    inputs = {"policy": origin_of(config.policy)}
    inputs |= {"scorer": selection.scorer.identity} if selection else {}
    inputs |= {"input": fingerprint(config.input)} if config.input else {}
    inputs |= {"served": _served(config)} if config.server and not config.server_model else {}
    return Run(config.output, config, inputs)


def _served(config: GenerateConfig) -> str:
    """Return the only model of the servers, which may be others when a run goes on; of a finished run that it names."""
    try:
        return OpenAIClient(config.server).model
    except SteerError:
        folder = Path(config.output)
        if not read_done(folder):
            raise
        return str(read_json(folder / "config.json")["inputs"].get("served", ""))


def _planned(generation: Generation, prompts: int) -> str:
    """Describe what would be drawn, how long that takes, and what the policy reads first."""
    policy, requests, s, sampling = generation.policy, generation.requests, generation.settings, generation.sampling
    generation.say_values()
    aims = len(requests) // (prompts * s.n * s.best_of)
    best = f", each the best of {s.best_of}" if s.best_of > 1 else ""
    time = f"not estimated: {s.server} draws at a speed of its own"
    if not s.server:
        time = measured(policy, requests, sampling, generation.engine).foreseen(len(requests), s.max_new_tokens)
    time += "; scoring comes on top" if generation.selection else ""
    lines = [
        f"Plan: {prompts} prompts x {aims} targets x {s.n}{best}, from {policy.name}; nothing is written.",
        f"time        {time}.",
    ]
    if policy.tokenizer is None:
        return "\n".join(lines)
    first = encode(policy, requests[:1], sampling)[0]
    text = policy.tokenizer.decode([*first.prompt, *first.condition])
    return "\n".join([*lines, "First prompt, as the policy reads it:", text])


def summary_of(generation: Generation, prompts: int, written: Written) -> str:
    """Count what went in and came out; with --score add how often targets were met."""
    s = generation.settings
    aims = len(generation.requests) // (prompts * s.n * s.best_of)
    summary = (
        f"generate: {prompts} prompts x {aims} targets x {s.n} in, {written.good} out"
        f"{f' (each the best of {s.best_of})' if s.best_of > 1 else ''}, {written.empty} empty skipped, "
        f"{f'{written.leaking} with a condition in them skipped, ' if written.leaking else ''}"
        f"{written.cut} cut off at {s.max_new_tokens} tokens."
    )
    if not s.score:
        return summary
    return f"{_table(generation, [*usable(generation.policy, written.rows())])}\n{summary}"


def _table(generation: Generation, rows: Sequence[Row]) -> str:
    assert generation.schema is not None
    return table(rows, generation.schema)


def _stream(generation: Generation) -> str:
    """Print responses as they are drawn, one after the other; return the last line."""
    policy, requests, schema = generation.policy, generation.requests, generation.schema
    if not shareable(policy):
        raise SteerError(f"{policy.name}: keeps more than keys and values, so it has no --stream.")
    generation.say_values()
    for request, encoded in zip(requests, encode(policy, requests, generation.sampling)):
        aim = f" [{schema.text(request.target)}]" if schema and request.target else ""
        click.echo(f"> {request.row['prompt'][-1]['content']}{aim}")
        for piece in streamed(policy, encoded):
            click.echo(piece, nl=False)
        click.echo()
    return f"generate: {len(requests)} responses."
