"""Annotators of pairs, and their votes on the answers of several systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from attribute_models.arrays import Ballots, Mask
from steer.errors import SteerError
from steer.evaluation.systems import Answers, base_of, paired_seeds, raw_reward
from steer.evaluation.votes import cast
from steer.evaluation.winrate import (
    Votes,
    agreement,
    difficulties,
    length_controlled,
    outside,
    pairs,
    ranking,
    win_rate,
)
from steer.labelling.scorer import Scorer, load_scorer, readable
from steer.methods.base import Array
from steer.rows import Row
from steer.rows.binning import described
from steer.rows.schema import Schema
from steer.run_folder import fingerprint

VOTES = "votes:"
Prefer = Callable[[Sequence[Row], Sequence[Row]], Array]


@dataclass(frozen=True)
class Annotator:
    """Annotator of pairs shown in order: 1 the first is better, 0 the second, .5 neither, NaN unknown."""

    name: str
    prefer: Prefer
    ordered: bool  # whether the order could matter, so that both are asked
    equal: bool = True  # whether equal responses are a tie without asking; a file of votes must list them
    votes: Callable[[Sequence[Row], Sequence[Row], bool], Ballots] | None = None  # of a pool, in training or not
    voters: tuple[str, ...] = ()  # names of a pool's annotators
    usage: Callable[[], dict[str, float]] = dict  # what an endpoint was asked so far

    def ballots(self, first: Sequence[Row], second: Sequence[Row], *, training: bool) -> Ballots:
        """Votes and who cast them; those of a pool in `training` are flipped as its settings say, others never are."""
        if self.votes is not None:
            return self.votes(first, second, training)
        return _unanimous(self.prefer(first, second))


def _unanimous(share: Array) -> Ballots:
    """Votes of one annotator who flips none."""
    return Ballots(share, np.zeros(len(share), dtype=np.int64), np.zeros(len(share), dtype=np.bool_))


def annotator(spec: str, schema: Schema | None = None, *, trust_remote_code: bool = False) -> Annotator:
    """Load an annotator: a simulated pool, a judge, a file of votes, or a scorer, which prefers the higher reward.

    `simulated:FILE` (without the flips of its training labels), `judge:FILE`, `votes:FILE`, else as in `steer label`.
    Attributes are weighed as in `_weighing`.
    """
    if spec.startswith(VOTES):
        return Annotator(spec, cast(spec.removeprefix(VOTES)), ordered=False, equal=False)
    scorer = load_scorer(spec, trust_remote_code=trust_remote_code)
    if scorer.model is None:
        raise SteerError("--annotator human: nobody has compared these responses. Name a scorer, a pool or a judge.")
    model = scorer.model
    if hasattr(model, "weighing"):
        weighing = _weighing(scorer, schema)
        model = model.weighing({n: weighing[n].direction * weighing[n].weight for n in weighing.own})
    if hasattr(model, "prefer"):
        judging = model.evaluating() if hasattr(model, "evaluating") else model

        def votes(first: Sequence[Row], second: Sequence[Row], training: bool = False) -> Ballots:
            one = model if training else judging
            first, second = [*map(readable, first)], [*map(readable, second)]
            with scorer.errors(f"annotator {spec}"):
                if hasattr(one, "ballots"):
                    return Ballots(*one.ballots(first, second))
                return _unanimous(np.asarray(one.prefer(first, second), dtype=float))

        return Annotator(
            spec,
            lambda first, second: votes(first, second).share,
            ordered=getattr(model, "order_matters", True),
            votes=votes,
            voters=tuple(getattr(model, "voters", ())),
            usage=lambda: _usage(model),
        )
    return Annotator(spec, by_reward(scorer, schema), ordered=False)


USED = ("requests", "cached", "failed", "prompt_tokens", "completion_tokens")


def _usage(model: Any) -> dict[str, float]:
    """Questions and tokens of a model at an endpoint, and their cost; empty for others."""
    counts = getattr(model, "counts", {})
    return {name: counts[name] for name in USED if name in counts} | ({"cost": model.cost} if counts else {})


def identified(spec: str, *, trust_remote_code: bool = False) -> str:
    """Return the identity of a scorer or annotator, which changes with it; empty for none."""
    if spec.startswith(VOTES):
        return fingerprint(spec.removeprefix(VOTES))
    return spec and load_scorer(spec, trust_remote_code=trust_remote_code).identity


def annotators(specs: Sequence[str], gold: str, schema: Schema, *, trust_remote_code: bool = False) -> list[Annotator]:
    """Load the named annotators; if none is named, the gold scorer if an attribute of it has a better end."""
    if specs or not gold:
        return [annotator(spec, schema, trust_remote_code=trust_remote_code) for spec in specs]
    scorer = load_scorer(gold, trust_remote_code=trust_remote_code).evaluating()
    weighings = [s for s in (schema, scorer.schema or guessed(scorer)) if _covered(s, scorer)]
    return [Annotator(gold, by_reward(scorer, schema), ordered=False)] if weighings else []


def by_reward(scorer: Scorer, schema: Schema | None = None) -> Prefer:
    """Prefer the response with the higher reward (see `_weighing`); a tie if they are equal up to rounding."""
    weighing = _weighing(scorer, schema)

    def prefer(first: Sequence[Row], second: Sequence[Row]) -> Array:
        unique = {id(row): row for row in (*first, *second)}  # an answer stands in many pairs and is scored once
        reward_of = dict(zip(unique, raw_reward(weighing, scorer.score(list(unique.values()), weighing.own)).tolist()))
        rewards = np.array([reward_of[id(row)] for row in (*first, *second)], dtype=float)
        gain = rewards[: len(first)] - rewards[len(first) :]
        near = 1e-9 * np.maximum(1.0, np.abs(rewards[: len(first)]))
        return np.where(np.isnan(gain), np.nan, np.where(np.abs(gain) <= near, 0.5, (gain > 0).astype(float)))

    return prefer


def _weighing(scorer: Scorer, schema: Schema | None) -> Schema:
    """Choose directions and weights of attributes: those of `schema` if the scorer scores every attribute that counts
    there, else of the scorer's own schema, else guessed from names. SteerError where none has a better end."""
    own = scorer.schema or guessed(scorer)
    weighing = schema if schema is not None and _covered(schema, scorer) else own
    if not _covered(weighing, scorer):
        raise SteerError(
            f"annotator {scorer.id}: none of its attributes has a better end, so it prefers nothing. Name rows where "
            f'one has: "steer label ROWS --scorer {scorer.spec or "SCORER"} --higher NAME --output LABELS".'
        )
    return weighing


def guessed(scorer: Scorer) -> Schema:
    """Guess a schema from the names of a scorer's attributes, unless its model has their `weights`, below 0: lower."""
    schema = described(scorer.attributes, np.array([[0.0], [1.0]]) @ np.ones((1, len(scorer.attributes))))
    weights = getattr(scorer.model, "weights", None)
    if not isinstance(weights, Mapping):
        return schema
    signed = {n: float(weights.get(n, 0.0)) for n in scorer.attributes}
    return schema.turned({n: (int(np.sign(w)), abs(w)) for n, w in signed.items()})


def _covered(schema: Schema, scorer: Scorer) -> bool:
    return bool(schema.counted) and set(schema.counted) <= set(scorer.attributes)


class Meeting(NamedTuple):
    """Two answers to one prompt, of systems by their numbers."""

    first: int
    second: int
    prompt: str
    seed: int
    left: Row
    right: Row


def meetings(systems: Sequence[Mapping[int, Answers]], kind: str = "all") -> list[Meeting]:
    """Pairs of systems (answers by seed each) on the prompts that both answered.

    Seeds stand against each other as in `paired_seeds`, the i-th answer to a prompt against the i-th. Where there are
    several bases, a meeting's `seed` is the number of the base: seeds on one base are no repetitions of the bases.
    """
    met, several = [], any(len({answers.base for answers in system.values()}) > 1 for system in systems)
    for i, j in pairs(len(systems), kind):
        for run, (left, right) in enumerate(paired_seeds(systems[i], systems[j])):
            others = _numbered(systems[j][right])
            repetition = base_of(systems[i][left], systems[j][right]) if several else run
            for key, row in _numbered(systems[i][left]).items():
                if key in others:
                    met.append(Meeting(i, j, key[0], repetition, row, others[key]))
    return met


def vote(who: Annotator, met: Sequence[Meeting]) -> Votes:
    """Collect an annotator's vote on each meeting, in both orders if the order can matter."""
    share, turned, alike = _asked(who, [m.left for m in met], [m.right for m in met])
    lengths = [[len(readable(row)["response"]) for row in (m.left, m.right)] for m in met]
    longer = np.array([left - right for left, right in lengths], dtype=float)
    first, second, runs = np.array([(m.first, m.second, m.seed) for m in met], dtype=int).reshape(-1, 3).T
    return Votes(first, second, share, np.array([m.prompt for m in met]), longer, turned, runs, alike)


def _asked(who: Annotator, left: Sequence[Row], right: Sequence[Row]) -> tuple[Array, Array, Mask]:
    """Shares of the left response, whether the other order changed the answer, and which tie as equal responses.

    Nobody is asked about equal responses; a file of votes has to list them. Where only one of two orders is answered
    the share is unknown: it would depend on the order.
    """
    share, turned = np.full(len(left), 0.5), np.full(len(left), np.nan)
    alike = np.array([readable(a)["response"] == readable(b)["response"] for a, b in zip(left, right)], dtype=bool)
    asked = [i for i, equal in enumerate(alike) if not (equal and who.equal)]
    if not asked:
        return share, turned, alike
    first, second = [left[i] for i in asked], [right[i] for i in asked]
    share[asked] = forward = who.prefer(first, second)
    if who.ordered:
        back = 1 - who.prefer(second, first)
        turned[asked] = np.where(np.isnan(forward + back), np.nan, (forward != back).astype(float))
        share[asked] = (forward + back) / 2
    return share, turned, alike & (share == 0.5)


def _numbered(answers: Answers) -> dict[tuple[str, int], Row]:
    """Rows by their prompt and their number among its answers."""
    rows: dict[tuple[str, int], Row] = {}
    count = Counter[str]()
    for key, row in zip(answers.prompts.tolist(), answers.rows):
        rows[key, count[key]] = row
        count[key] += 1
    return rows


def win_rates(who: Sequence[Annotator], names: Sequence[str], every: Sequence[Votes], resamples: int) -> dict[str, Any]:
    """Return, per annotator, the ranking and the win-rates against the first system, and the annotators' agreement.

    `comparisons` are those that were asked about and answered. Equal responses, about which nobody is asked, are
    counted as `alike`, and are no agreement.
    """
    results = []
    for annotator, votes in zip(who, every):
        against = [votes.between(i, 0) for i in range(len(names))]
        easiness = difficulties([v for v in against[1:] if len(v.share)])
        ranked = ranking(votes, len(names), resamples=resamples)
        rows = []
        for i, name in enumerate(names):
            row: dict[str, Any] = {"name": name, **(ranked[i] or {"strength": None, "place": None})}
            if i:
                pair = against[i]
                hard = [easiness[key] for key in pair.prompts.tolist()] if easiness else None
                level = length_controlled(pair.share, pair.longer, pair.prompts, difficulty=hard, resamples=resamples)
                row |= {**win_rate(pair, resamples=resamples), "length_controlled": level.json()}
                row["outside"] = outside(pair.longer)
            rows.append(row)
        unknown = int(np.isnan(votes.share).sum())
        turned = votes.turned[~np.isnan(votes.turned)]
        results.append(
            {
                "annotator": annotator.name,
                "comparisons": int((~votes.alike).sum()) - unknown,
                "alike": int(votes.alike.sum()),
                "unanswered": unknown,
                "turned": float(turned.mean()) if len(turned) else None,
                "systems": rows,
            }
        )
    agreed = []
    for i, j in pairs(len(who), "all"):
        asked = ~(every[i].alike | every[j].alike)
        found = agreement(every[i].share[asked], every[j].share[asked], every[i].prompts[asked])
        agreed.append({"annotators": [who[i].name, who[j].name], **found})
    return {"baseline": names[0], "annotators": results, "agreement": agreed}
