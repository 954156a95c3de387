"""Generate responses to prompts at targets: `generate` takes prompts and gives rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from steer.errors import SteerError
from steer.generation.drawing import WHOLE, Split, draw_parts, read_parts, rows_of, stored_rows
from steer.generation.engines import Engine, open_engine, respond, without_weights
from steer.generation.recommended import chosen
from steer.generation.requests import Request, columns
from steer.generation.settings import GenerateSettings, Sampling
from steer.labelling.obtained import Selection
from steer.models.card import Card
from steer.models.policy import Policy
from steer.parts import Parts, Workers
from steer.progress import note_once
from steer.rows import Row, Source, content_hash, prompt_key, prompts, read, split_of
from steer.rows.contract import text_faults
from steer.rows.lazy import prompts_on_disk
from steer.rows.schema import Schema
from steer.rows.writing import write_parts
from steer.run_folder import workplace
from steer.settings import apart, settings_of

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
    (false if cut off at `max_new_tokens` tokens) and how it was drawn. What is drawn follows from the seed, the
    prompt, which of the targets it is and which sample: other prompts, their order and how drawing is split are no
    matter. SteerError: an unknown setting, a target that the data does not support, a prompt that is too long, a folder
    of another call.
    """
    aims = (targets,) if isinstance(targets, str) else tuple(targets)
    chosen = settings_of(GenerateSettings, {**apart(settings, target="targets"), "target": aims, "n": n})
    rows = prompt_rows(prompts, chosen)
    generation = Generation.of(policy, rows, chosen, selection_of(chosen, policy))
    if folder is None and generation.split.opens:
        raise SteerError("num_proc, workers: several processes need a folder for what they draw. Give one.")
    if folder is None:
        return generation.rows()
    scorer = generation.selection.scorer.identity if generation.selection else ""
    inputs = {"policy": generation.policy.identity, "prompts": content_hash(rows)}
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
    split: Split = WHOLE

    @classmethod
    def of(
        cls, policy: Policy | str, rows: Sequence[Row], settings: GenerateSettings, selection: Selection | None
    ) -> Generation:
        """Load the policy if it is a name and turn targets into levels; SteerError for one it cannot aim at."""
        workers = Workers.of(settings)
        engine: Engine = respond
        split = Split(settings.shard_size)
        if not workers.elsewhere:
            policy, engine = open_engine(policy, settings)
        elif isinstance(policy, str):
            split = Split(settings.shard_size, workers=workers, opens=partial(open_engine, policy, settings))
            policy = without_weights(policy, settings)
        else:
            raise SteerError("num_proc, workers: other processes load the policy. Give its name or folder.")
        sampling, values = chosen(policy, settings)
        if settings.best_of > 1 and sampling.temperature == 0:
            raise SteerError("--best-of: greedy responses are all alike. Raise --temperature.")
        aims = policy.targets(settings.target, settings.allow_unsupported)
        away = [policy.against(settings.against, aim) if settings.guidance != 1 else {} for aim in aims]
        times = range(settings.n * settings.best_of)
        requests = [Request(row, aim, other) for row in rows for aim, other in zip(aims, away) for _ in times]
        if settings.engine == "vllm" and not workers.elsewhere:
            sampling = replace(sampling, columns=columns(policy, requests, sampling))
        selection = selection and selection.knowing(policy.card)
        return cls(policy, engine, requests, settings, sampling, selection, values, split)

    def say_values(self) -> None:
        """Note which values tokens are drawn with, unless the user asked for all of them."""
        if self.values:
            note_once(f"{self.values}.")

    @property
    def schema(self) -> Schema | None:
        """Return the schema in whose levels rows are shown: that of the labels, else the policy's."""
        card = self.policy.card
        return self.selection.schema if self.selection else card.schema if card else None

    def draw(self, folder: Path, shard: tuple[int, int] = (0, 1)) -> Parts:
        """Draw what is missing of a shard, `shard[0]` of `shard[1]` from 0, into the folder."""
        self.say_values()
        split = replace(self.split, shard=shard)
        return draw_parts(self.policy, self.requests, self.sampling, folder, split, engine=self.engine)

    def rows(self, folder: Path | None = None, files: int = 1, written_as: str = "jsonl") -> list[Row]:
        """Draw all responses, keep the best of several and label them if asked.

        With a folder, those that later stages can use are written there as `write_parts` does, in so many `files`.
        """
        if folder is None:
            self.say_values()
            responses = self.engine(self.policy, self.requests, self.sampling)
            return self._selected(list(rows_of(self.policy, self.requests, responses, self.sampling)))
        return [*self.written(folder, files, written_as).rows()]

    def written(self, folder: Path, files: int = 1, written_as: str = "jsonl") -> Written:
        """Draw all responses into a folder and write those that later stages can use, as `rows` does.

        Rows are read one part after the other, and held only where the best of several are kept or they are labelled.
        """
        parts = self.draw(folder)
        rows: Callable[[], Iterable[Row]] = partial(stored_rows, parts)
        if self.selection:
            rows = partial(iter, self._selected(read_parts(parts)))
        written = Written.of(self.policy, rows)
        write_parts(usable(self.policy, rows()), folder, files, written.good, written_as)
        return written

    def _selected(self, rows: list[Row]) -> list[Row]:
        """Keep the best of several responses, and label them if asked."""
        if self.selection is None:
            return rows
        rows = self.selection.kept(rows)
        return self.selection.labelled(rows) if self.settings.score else rows


class Written(NamedTuple):
    """Responses that were drawn, read anew at each call of `rows`, and how many are of each kind."""

    rows: Callable[[], Iterable[Row]]
    good: int  # can be used by later stages
    empty: int
    leaking: int  # with a condition in them
    cut: int  # not finished

    @classmethod
    def of(cls, policy: Policy, rows: Callable[[], Iterable[Row]]) -> Written:
        """Count the rows of each kind."""
        empty = leaking = cut = good = 0
        for row in rows():
            cut += not row["finished"]
            if not answers(row):
                empty += 1
            elif policy.leaks(row["response"]):
                leaking += 1
            else:
                good += 1
        return cls(rows, good, empty, leaking, cut)


def usable(policy: Policy, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows that later stages can use: not empty, and no condition written in the response."""
    return (row for row in rows if answers(row) and not policy.leaks(row["response"]))


def answers(row: Row) -> bool:
    """Whether a response is not empty: it has a text, or calls a tool."""
    return bool(row["response"].strip() or row.get("tool_calls"))


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
    items: Any = [source] if isinstance(source, str | Mapping) else source
    if not isinstance(items, Path):
        if not isinstance(items, Iterable):
            raise SteerError(f"prompts: {type(items).__name__} is none. Give a text, texts, conversations or a path.")
        items = list(items)
        if items and all(isinstance(item, Mapping) and "role" in item for item in items):
            items = [items]  # the turns of one conversation
        if all(isinstance(item, str | list | tuple) for item in items):
            return [{"id": f"prompt:{i}", "prompt": _turns(item, i)} for i, item in enumerate(items)]
    return prompts_in(items, settings)


def prompts_in(source: Source, settings: GenerateSettings, stored_as: str = "") -> list[Row]:
    """Read each distinct prompt of a path, dicts or a datasets.Dataset; of one split, and the first ones, if asked.

    `stored_as`: fingerprint of a path; the rows of large files are then not held, but in a file of the cache.
    """
    read = prompts_on_disk(source, stored_as) if stored_as else prompts(source)
    rows = _distinct(read, settings.split, settings.held_out, settings.seed)
    if not rows:
        name = source if isinstance(source, str | Path) else "prompts"
        raise SteerError(f"{name}: no prompt" + (f" in the {settings.split} split." if settings.split else "."))
    return rows[: settings.limit or None]


def _turns(prompt: str | Sequence[Mapping[str, str]], number: int) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise SteerError(f"prompt {number}: is empty.")
        if cut := next(text_faults(prompt), None):
            raise SteerError(f"prompt {number}: {cut}.")
        return [{"role": "user", "content": prompt}]
    row = next(prompts([{"prompt": list(prompt)}]))  # checked as any row
    turns: list[dict[str, str]] = row["prompt"]
    return turns


def held_out_prompts(
    rows: str | Iterable[Row], held_out: float, seed: int, limit: int, split: str = "test"
) -> list[Row]:
    """Return one row per distinct prompt of a split, in the order of the rows, or of the file that they name."""
    rows = read(rows) if isinstance(rows, str) else rows
    return _distinct(rows, split, held_out, seed)[: limit or None]


def _distinct(rows: Iterable[Row], split: str, held_out: float, seed: int) -> list[Row]:
    """Return the first row of every prompt, of one split or (empty) of both."""
    unique: dict[str, Row] = {}
    for row in rows:
        if not split or split_of(row, held_out, seed) == split:
            unique.setdefault(prompt_key(row), row)
    return list(unique.values())
