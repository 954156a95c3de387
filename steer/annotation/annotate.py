"""Label pairs of responses: an annotator says which is better, and each pair becomes chosen and rejected."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steer.annotation.settings import AnnotateSettings
from steer.errors import SteerError
from steer.evaluation import annotators
from steer.evaluation.annotators import Annotator, identified
from steer.methods.groups import distinct
from steer.parts import Parts, Task, Workers, fill
from steer.rows import Row, Source, prompt_key, read_rows, split_of
from steer.rows.labelled import Labelled, content_of
from steer.run_folder import read_json, workplace, write_json
from steer.settings import settings_of

# Columns of a response, or that follow from its scores: a pair has its own, or none.
OWN = ("id", "prompt", "response", "reasoning_content", "tool_calls", "finished", "after_response", "group", "split")
SCORED = ("scores", "raters", "predicted", "levels", "reward", "scorer", "target", "likelihood", "truncated")
TURN = ("reasoning_content", "tool_calls", "finished")  # columns of a response that belong into its turn

COMPARE = Task("compare", "compared")


class Pair(NamedTuple):
    """Two responses to one prompt in the order in which they are shown; `split`: train or test."""

    first: Row
    second: Row
    split: str


class Vote(NamedTuple):
    """Share of the first response (None: no answer), number of the annotator, and whether the vote was flipped."""

    share: float | None
    voter: int
    flipped: bool


@dataclass(frozen=True)
class Annotated:
    """Pairs with chosen and rejected, and what became of all the others."""

    pairs: list[Row]
    rows: int  # that were read
    alone: int  # prompts without two different responses
    votes: Counter[str]  # of each annotator
    flipped: int  # votes on training prompts
    training: int  # pairs that were compared for training
    ties: int
    unanswered: int
    dropped: Counter[str]  # columns of one response, or that differ, and of how many pairs they are left out
    usage: Counter[str]  # requests, tokens and cost where an endpoint was asked

    @property
    def compared(self) -> int:
        """Pairs that were compared."""
        return self.votes.total()


def annotate(
    rows: Source | Labelled, *, annotator: str, folder: str | Path | None = None, **settings: Any
) -> Annotated:
    """Have pairs of each prompt's responses compared, as "steer annotate" does.

    `annotator`: `simulated:FILE`, `judge:FILE`, `votes:FILE` or any scorer; of a pool one annotator is drawn for every
    pair, and votes on training prompts are flipped as its settings say, others never. `settings`: fields of
    `AnnotateSettings`. With a `folder` the votes are kept there, and a call that was interrupted goes on.
    Raises SteerError for rows of which no prompt has two different responses, and where the annotator decides none.
    """
    options = settings_of(AnnotateSettings, settings)
    listed = read_rows(rows.rows if isinstance(rows, Labelled) else rows, limit=options.limit)
    who = load(annotator, rows, options)
    access = {"trust_remote_code": options.trust_remote_code}
    inputs = {"rows": content_of(listed, rows), "annotator": identified(annotator, **access)}
    with workplace(folder, options, inputs) as place:
        return annotated(listed, who, options, place)


def load(spec: str, rows: Source | Labelled, settings: AnnotateSettings) -> Annotator:
    """Load an annotator that weighs attributes as the schema beside the rows does, if there is one."""
    schema = Labelled.without_rows(rows).schema
    return annotators.annotator(
        spec, schema if schema.attributes else None, trust_remote_code=settings.trust_remote_code
    )


def annotated(rows: Sequence[Row], who: Annotator, settings: AnnotateSettings, place: Path) -> Annotated:
    """Compare the pairs of rows, part by part; each part is a file in `place`/parts and is not compared again."""
    pairs, alone = pairs_of(rows, settings)
    if not pairs:
        raise SteerError(
            f"none of the {alone} prompts has two different responses to compare. Draw more of them with "
            '"steer generate POLICY --input ROWS --n 2 --sampling own --output MORE".'
        )
    votes, usage = _votes(pairs, who, settings.shard_size, place / "parts")
    dropped = Counter[str]()
    decided = [_record(p, v, who, dropped) for p, v in zip(pairs, votes) if v.share not in (None, 0.5)]
    if not decided:
        raise SteerError(f"annotator {who.name}: decided none of {len(pairs)} pairs: only ties, or no answers.")
    return Annotated(
        decided,
        rows=len(rows),
        alone=alone,
        votes=Counter(_voter(who, v) for v in votes),
        flipped=sum(v.flipped for v in votes),
        training=sum(p.split == "train" for p in pairs),
        ties=sum(v.share == 0.5 for v in votes),
        unanswered=sum(v.share is None for v in votes),
        dropped=dropped,
        usage=usage,
    )


def pairs_of(rows: Sequence[Row], settings: AnnotateSettings) -> tuple[list[Pair], int]:
    """Draw pairs of each prompt's different responses, in an order that is drawn too, and count prompts without any."""
    prompts: dict[str, list[Row]] = {}
    for row in rows:
        prompts.setdefault(prompt_key(row), []).append(row)
    pairs: list[Pair] = []
    alone = 0
    for key, candidates in prompts.items():
        possible = list(combinations(distinct(candidates), 2))
        alone += not possible
        draw = np.random.default_rng([settings.seed, int(key, 16)])
        for i in draw.permutation(len(possible))[: settings.pairs_per_prompt or None]:
            first, second = possible[i][::-1] if draw.random() < 0.5 else possible[i]
            pairs.append(Pair(first, second, split_of(first, settings.held_out, settings.seed)))
    return pairs, alone


def _votes(pairs: Sequence[Pair], who: Annotator, size: int, folder: Path) -> tuple[list[Vote], Counter[str]]:
    """Votes on all pairs and what they have used, from disk or cast now."""
    parts = Parts(folder, size, len(pairs), ".json")
    fill(parts, pairs, lambda: partial(_counted, who), parts.busy(Workers(), COMPARE), write_json, COMPARE)
    votes: list[Vote] = []
    usage = Counter[str]()
    for path in parts.paths:
        stored = read_json(path)
        votes += [Vote(*vote) for vote in stored["votes"]]
        usage.update(stored["usage"])
    return votes, usage


def _counted(who: Annotator, _index: int, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Votes on pairs, and what they use."""
    before = who.usage()
    cast = list(_cast(pairs, who))
    return {"votes": cast, "usage": {name: value - before.get(name, 0) for name, value in who.usage().items()}}


def _cast(pairs: Sequence[Pair], who: Annotator) -> Iterator[Vote]:
    """Votes on pairs in their order; only those on training prompts are flipped."""
    of: dict[int, Vote] = {}
    for split in ("train", "test"):
        mine = [i for i, pair in enumerate(pairs) if pair.split == split]
        first, second = [pairs[i].first for i in mine], [pairs[i].second for i in mine]
        ballots = who.ballots(first, second, training=split == "train") if mine else ((), (), ())
        for i, share, voter, flipped in zip(mine, *ballots):
            of[i] = Vote(None if math.isnan(share) else float(share), int(voter), bool(flipped))
    return (of[i] for i in range(len(pairs)))


def _record(pair: Pair, vote: Vote, who: Annotator, dropped: Counter[str]) -> Row:
    """Return a pair as chosen and rejected, with the columns that both responses share; count the others in `dropped`.

    A score is of one response, even if another has the same; empty columns are not counted.
    """
    first, second, split = pair
    chosen, rejected = (first, second) if vote.share is not None and vote.share > 0.5 else (second, first)
    columns = [name for name in {**first, **second} if name not in (*OWN, "comparable")]
    shared = {n: first[n] for n in columns if n not in SCORED and _same(first.get(n), second.get(n))}
    full = {name for row in (first, second) for name in row if row[name] not in (None, {})}
    dropped.update(name for name in columns if name in full and name not in shared)
    return {
        **shared,
        "id": f"{first['id']} {second['id']}",
        "prompt": first["prompt"],
        "chosen": [_turn(chosen)],
        "rejected": [_turn(rejected)],
        "annotator": _voter(who, vote),
        "flipped": vote.flipped,
        "split": split,
    }


def _voter(who: Annotator, vote: Vote) -> str:
    return who.voters[vote.voter] if who.voters else who.name


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _turn(row: Row) -> Row:
    """Return the turn of the assistant that a row's response is."""
    own = {name: row[name] for name in TURN if row.get(name) not in (None, "", [])}
    return {"role": "assistant", "content": row["response"], **own}
