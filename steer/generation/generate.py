"""Generate responses to prompts at targets: `generate` takes prompts and gives rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steer.errors import SteerError
from steer.generation.engines import Engine, open_engine, respond
from steer.generation.recommended import chosen
from steer.generation.requests import Request, Response, seed_of
from steer.generation.settings import GenerateSettings, Sampling
from steer.labelling.obtained import Selection
from steer.models.card import Card
from steer.models.policy import Policy
from steer.progress import note_once, progress
from steer.rows import Row, Source, content_hash, prompt_key, prompts, read, read_back, split_of, write_rows
from steer.rows.schema import Schema
from steer.run_folder import identity, workplace
from steer.settings import settings_of

SHARD = 512  # responses between two resume points

# One prompt's text; or several prompts as texts, conversations (lists of turns) or rows; a Path is a file of them.
Prompts = str | Path | Iterable[str | Sequence[Mapping[str, Any]] | Mapping[str, Any]]


def generate(
    policy: Policy | str,
    prompts: Prompts,
    *,
    targets: str | Sequence[str] = (),
    n: int = 1,
    folder: str | Path | None = None,
    **settings: Any,
) -> list[Row]:
    """Answer each prompt at each target, `n` times: one row per response, prompts outermost.

    `policy`: a loaded policy, or its name, which engines other than `hf` need. `prompts`: a text, or a list of texts,
    conversations or rows (of rows, each distinct prompt once); a `Path` is a file of any known layout. `targets`: as
    in `steer generate --target`; none asks for the best. `folder`: where finished responses are kept for the same call
    to resume from, and those that later stages can use are written as rows.jsonl. `settings`: fields of
    `GenerateSettings`, such as `temperature` (default: as the model recommends, said once), `max_new_tokens`,
    `guidance`, `best_of`, `scorer`, `score`.

    A row has `prompt`, `response` (without condition and end token; it may be empty), `target` (levels), `finished`
    (false if cut off at `max_new_tokens` tokens) and how it was drawn. What is drawn follows from the seed and the
    place in the list; with a folder it is drawn in shards with different seeds. SteerError: an unknown
    setting, a target that the data does not support, a prompt that is too long, a folder of another call.
    """
    chosen = settings_of(
        GenerateSettings, {**settings, "target": (targets,) if isinstance(targets, str) else tuple(targets), "n": n}
    )
    rows = prompt_rows(prompts, chosen)
    generation = Generation.of(policy, rows, chosen, selection_of(chosen, policy))
    if folder is None:
        return generation.rows()
    scorer = generation.selection.scorer.id if generation.selection else ""
    inputs = {"policy": f"{generation.policy.name} {identity(generation.policy.name)}", "prompts": content_hash(rows)}
    with workplace(folder, replace(chosen, scorer=scorer), inputs) as place:
        return generation.rows(place)


@dataclass(frozen=True)
class Generation:
    """Requests that were checked and can be drawn: every prompt at every target, `n` x `best_of` times."""

    policy: Policy
    engine: Engine
    requests: Sequence[Request]
    settings: GenerateSettings
    sampling: Sampling
    selection: Selection | None = None
    values: str = ""  # which values of sampling come from where

    @classmethod
    def of(
        cls, policy: Policy | str, rows: Sequence[Row], settings: GenerateSettings, selection: Selection | None
    ) -> Generation:
        """Load the policy if it is a name and turn targets into levels; SteerError for one it cannot aim at."""
        policy, engine = open_engine(policy, settings)
        sampling, values = chosen(policy, settings)
        if settings.best_of > 1 and sampling.temperature == 0:
            raise SteerError("--best-of: greedy responses are all alike. Raise --temperature.")
        aims = policy.targets(settings.target, settings.allow_unsupported)
        away = [policy.against(settings.against, aim) if settings.guidance != 1 else {} for aim in aims]
        times = range(settings.n * settings.best_of)
        requests = [Request(row, aim, other) for row in rows for aim, other in zip(aims, away) for _ in times]
        selection = selection and selection.knowing(policy.card)
        return cls(policy, engine, requests, settings, sampling, selection, values)

    def say_values(self) -> None:
        """Note which values tokens are drawn with, unless the user asked for all of them."""
        if self.values:
            note_once(f"{self.values}.")

    @property
    def schema(self) -> Schema | None:
        """Return the schema in whose levels rows are shown: that of the labels, else the policy's."""
        card = self.policy.card
        return self.selection.schema if self.selection else card.schema if card else None

    def rows(self, folder: Path | None = None) -> list[Row]:
        """Draw all responses, keep the best of several and label them if asked; with a folder also write rows.jsonl."""
        self.say_values()
        if folder is None:
            responses = self.engine(self.policy, self.requests, self.sampling)
            rows = list(_rows(self.policy, self.requests, responses, self.sampling))
        else:
            rows = generate_rows(self.policy, self.requests, self.sampling, folder, engine=self.engine)
        if self.selection:
            rows = self.selection.kept(rows)
            rows = self.selection.labelled(rows) if self.settings.score else rows
        if folder is not None:
            write_rows(usable(self.policy, rows), folder / "rows.jsonl")
        return rows


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
                write_rows(({**row, "ids": r.ids} for row, r in zip(drawn, responses)) if ids else drawn, path)
            else:
                bar.resume(len(shard))
            bar.reach(start + len(shard))  # not every engine counts
            rows += read_back(path)
    return rows


def _rows(
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


def usable(policy: Policy, rows: Iterable[Row]) -> list[Row]:
    """Keep the rows that later stages can use: not empty, and no condition written in the response."""
    said = (row for row in rows if row["response"].strip() or row.get("tool_calls"))
    return [row for row in said if not policy.leaks(row["response"])]


def selection_of(settings: GenerateSettings, policy: Policy | str) -> Selection | None:
    """Load the scorer that chooses among several responses or labels them; None where nothing needs one."""
    if not settings.score and settings.best_of == 1:
        return None
    card = Card.find(policy) if isinstance(policy, str) else policy.card
    return Selection.of(
        settings.scorer,
        card,
        n=settings.best_of,
        rerank=settings.rerank,
        trust_remote_code=settings.trust_remote_code,
    )


def prompt_rows(source: Prompts, settings: GenerateSettings) -> list[Row]:
    """Turn prompts into rows to answer: texts and conversations as they are, of rows each distinct prompt once."""
    items: Any = [source] if isinstance(source, str) else source
    if not isinstance(items, Path):
        items = list(items)
        if items and all(isinstance(item, Mapping) and "role" in item for item in items):
            items = [items]  # the turns of one conversation
        if all(isinstance(item, str | list | tuple) for item in items):
            return [{"id": f"prompt:{i}", "prompt": _turns(item, i)} for i, item in enumerate(items)]
    return prompts_in(items, settings)


def prompts_in(source: Source, settings: GenerateSettings) -> list[Row]:
    """Read each distinct prompt of a path, dicts or a datasets.Dataset; of one split, and the first ones, if asked."""
    rows = _distinct(prompts(source), settings.split, settings.held_out, settings.seed)
    if not rows:
        name = source if isinstance(source, str | Path) else "prompts"
        raise SteerError(f"{name}: no prompt" + (f" in the {settings.split} split." if settings.split else "."))
    return rows[: settings.limit or None]


def _turns(prompt: str | Sequence[Mapping[str, str]], number: int) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise SteerError(f"prompt {number}: is empty.")
        return [{"role": "user", "content": prompt}]
    row = next(prompts([{"prompt": list(prompt)}]))  # checked as any row
    turns: list[dict[str, str]] = row["prompt"]
    return turns


def held_out_prompts(rows: str, held_out: float, seed: int, limit: int, split: str = "test") -> list[Row]:
    """Return one row per distinct prompt of a split, in the order of the file."""
    return _distinct(read(rows), split, held_out, seed)[: limit or None]


def _distinct(rows: Iterable[Row], split: str, held_out: float, seed: int) -> list[Row]:
    """Return the first row of every prompt, of one split or (empty) of both."""
    unique: dict[str, Row] = {}
    for row in rows:
        if not split or split_of(row, held_out, seed) == split:
            unique.setdefault(prompt_key(row), row)
    return list(unique.values())
