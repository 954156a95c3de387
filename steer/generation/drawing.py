"""Draw responses part by part, with `steer.parts`; a part is a file of rows that say how they were drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from steer import device
from steer.generation.engines import Engine, open_engine, respond
from steer.generation.requests import BLOCK, Request, Response, columns, seeds
from steer.generation.settings import GenerateSettings, Sampling
from steer.models.policy import Policy
from steer.parts import Parts, Task, Work, Workers, fill
from steer.progress import note_once
from steer.rows import Row, read_back, write_rows

DRAW = Task("generate", "drew", "responses")


@dataclass(frozen=True)
class Split:
    """How drawing is split: into parts of `size` responses, of which `shard` (i, n) are done here, every n-th from i.

    `opens`: what other processes than this one call for a policy and its engine; None: `workers` is one, this process.
    `guides`: whether they can mix two distributions; otherwise guided responses are drawn in this process.
    """

    size: int = BLOCK
    shard: tuple[int, int] = (0, 1)
    workers: Workers = field(default_factory=Workers)
    opens: Callable[[], tuple[Policy, Engine]] | None = None
    guides: bool = True

    @staticmethod
    def of(policy: str, workers: Workers, size: int = BLOCK, **settings: Any) -> Split:
        """Split the drawing by a policy that others can load by its name; `settings`: those of `GenerateSettings`."""
        how = GenerateSettings(**settings)
        if how.engine == "vllm" and not workers.ray:  # one process takes the GPUs, until it ends
            workers = Workers(apart=True)
        opens = partial(open_engine, policy, how) if workers.elsewhere else None
        return Split(size, workers=workers, opens=opens, guides=how.engine == "hf")


WHOLE = Split()


def draw_parts(
    policy: Policy,
    requests: Sequence[Request],
    sampling: Sampling,
    folder: Path,
    split: Split = WHOLE,
    *,
    source: str = "",
    engine: Engine = respond,
    ids: bool = False,
) -> Parts:
    """Draw the responses that are missing in `folder`, of this shard, and write them there.

    What is drawn follows from the seed and the prompt (see `seeds`), not from how drawing is split. `source` stands in
    the rows and their ids (default: the folder's name). `ids` adds the token ids as they were drawn, which tokenizing
    the text again need not give.
    """
    parts = Parts(folder / "parts", split.size, len(requests), ".jsonl", split.shard)
    if sampling.guidance != 1 and not split.guides:
        note_once("guided responses are drawn with transformers: vLLM has no --guidance.")
        split = Split(split.size, split.shard)
    workers = parts.busy(split.workers, DRAW)
    if workers.number and split.opens and not split.guides:
        sampling = replace(sampling, columns=columns(policy, requests, sampling))
    how = partial(_drawn, sampling, split.size, source or folder.name, ids)
    if split.opens is None:
        start: Any = partial(partial, how, policy, engine)
    else:
        device.release()  # those that draw load the policy beside what this process still uses
        start = partial(_open, split.opens, how)
        requests = [request._replace(against=dict(request.against)) for request in requests]  # can be pickled
    seeded = (r._replace(seed=seed) for r, seed in zip(requests, seeds(requests, sampling.seed)))
    fill(parts, seeded, start, workers, _write, DRAW)
    return parts


def generate_rows(
    policy: Policy, requests: Sequence[Request], sampling: Sampling, folder: Path, split: Split = WHOLE, **how: Any
) -> list[Row]:
    """Draw what is missing in `folder` as `draw_parts` does, and read all of it back: one row per request, in order."""
    return read_parts(draw_parts(policy, requests, sampling, folder, split, **how))


def read_parts(parts: Parts) -> list[Row]:
    """Read the drawn rows of all parts, in their order."""
    return [*stored_rows(parts)]


def stored_rows(parts: Parts) -> Iterator[Row]:
    """Yield the drawn rows of all parts, in their order; those of one part are held at a time."""
    return (row for path in parts.paths for row in read_back(path))


def _write(path: Path, rows: list[Row]) -> None:
    write_rows(rows, path)


def _open(opens: Callable[[], tuple[Policy, Engine]], how: Callable[..., list[Row]]) -> Work:
    """Load the policy in the process that draws."""
    return partial(how, *opens())


def _drawn(
    sampling: Sampling,
    size: int,
    source: str,
    ids: bool,
    policy: Policy,
    engine: Engine,
    index: int,
    requests: Sequence[Request],
) -> list[Row]:
    """Draw a part: the responses from place `index` x `size` on."""
    responses = engine(policy, requests, sampling)
    rows = rows_of(policy, requests, responses, sampling, source, index * size)
    return [{**row, "ids": r.ids} for row, r in zip(rows, responses)] if ids else list(rows)


def rows_of(
    policy: Policy,
    requests: Sequence[Request],
    responses: Sequence[Response],
    sampling: Sampling,
    source: str = "",
    start: int = 0,
) -> Iterator[Row]:
    """Yield rows that record how they were drawn, for methods that need to know how likely that was."""
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
            **drawn_with(sampling),
        }
        row |= {name: request.row[name] for name in ("tools", "chat_template_kwargs") if request.row.get(name)}
        if response.thought:
            row["reasoning_content"] = response.thought
        if response.calls:
            row["tool_calls"] = list(response.calls)
        if request.temperature is not None:
            row["temperature"] = request.temperature
        if schema is not None and request.target:
            row["asked"] = schema.text(request.target)
        if request.row.get("split"):
            row["split"] = request.row["split"]
        yield row


def drawn_with(sampling: Sampling) -> Row:
    """Return the columns that say how a response was drawn: temperature and top_p if known, others if they are on."""
    plain = Sampling()
    always = {n: getattr(sampling, n) for n in ("temperature", "top_p") if n not in sampling.left}
    others = ("guidance", "top_k", "min_p", "repetition_penalty")
    return always | {n: x for n in others if (x := getattr(sampling, n)) != getattr(plain, n)}
