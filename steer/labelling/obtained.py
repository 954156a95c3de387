"""Fresh responses beside their targets: scored, the best of several kept, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steer import methods
from steer.errors import SteerError
from steer.labelling.scorer import Reward, Scorer, known_scores, load_scorer, readable, rewarder, scorer_of_new
from steer.labelling.writer import levelled
from steer.models.card import Card
from steer.progress import note_once
from steer.rows import Row
from steer.rows.schema import REWARD, Schema


def best_of(rows: Sequence[Row], n: int, values: Sequence[float] | Sequence[tuple[float, float]]) -> list[Row]:
    """Keep the row with the highest value of every `n` in a row; the first of those that tie."""
    best = (max(range(i, i + n), key=lambda at: values[at]) for i in range(0, len(rows), n))
    return [{**rows[i], "best_of": n} for i in best]


@dataclass(frozen=True)
class Selection:
    """A scorer of fresh responses, the schema whose levels its scores become, and which response of several is kept.

    `n`: of so many responses one is kept, by the reward or (`by_target`) by how near its levels are to the target.
    `foreign`: the policy's targets are no levels of what is scored (weights in `directional`), so none is obtained.
    """

    scorer: Scorer
    n: int = 1
    by_target: bool = False
    schema: Schema | None = None
    reward: Reward | None = None
    foreign: bool = False

    @staticmethod
    def of(
        scorer: str, card: Card | None = None, *, n: int = 1, rerank: str = "reward", trust_remote_code: bool = False
    ) -> Selection:
        """Load a scorer, by default the one that labelled a policy's rows; SteerError where it cannot score."""
        if scorer:
            loaded = scorer_of_new(scorer, "--scorer", trust_remote_code=trust_remote_code)
        else:
            loaded = labeller(card, "--best-of" if n > 1 else "--score", trust_remote_code=trust_remote_code)
        return Selection(loaded, n, rerank == "target")

    def knowing(self, card: Card | None) -> Selection:
        """Add the schema of the policy, or that of the scorer where the policy has none or its targets are foreign."""
        foreign = card is not None and methods.foreign(card.method)
        if foreign and self.by_target:
            raise SteerError(
                "--rerank target: the policy's targets are no levels that are scored. Use --rerank reward."
            )
        schema = (card.schema if card and not foreign else None) or self.scorer.schema
        if schema is None:
            raise SteerError(f"scorer {self.scorer.id}: does not say which attributes are good. Use a fitted scorer.")
        reward = rewarder(self.scorer, schema) if self.n > 1 and not self.by_target else None
        return replace(self, schema=schema, reward=reward, foreign=foreign)

    def labelled(self, rows: Sequence[Row]) -> list[Row]:
        """Add scores, levels and reward of the responses; foreign targets are emptied."""
        assert self.schema is not None
        scores = self.scorer.evaluating().score(rows, self.schema.own)
        emptied: Row = {"target": {}} if self.foreign else {}
        return [levelled(row, self.schema, s, s, self.scorer.id) | emptied for row, s in zip(rows, scores)]

    def kept(self, rows: Sequence[Row]) -> list[Row]:
        """Keep the best of every `n` rows in a row."""
        if self.n == 1:
            return list(rows)
        return best_of(rows, self.n, self.reward(rows) if self.reward else self._nearness(rows))

    def _nearness(self, rows: Sequence[Row]) -> list[tuple[float, float]]:
        """Return how near each response is to its target: minus the levels between them, then minus the distance.

        Both are summed over the attributes of the target. The lowest and highest level are open, so what lies in one of
        them has met it at any distance; a target between levels is an exact score, of which the distance alone counts.
        """
        assert self.schema is not None
        names = sorted({n for row in rows for n in row["target"]})
        if missing := [n for n in names if n not in self.scorer.attributes]:
            raise SteerError(f"scorer {self.scorer.id}: does not score {', '.join(missing)} of the target.")
        scores = known_scores(self.scorer, rows, names)
        exact = np.column_stack([self.schema[n].position(scores[:, j]) for j, n in enumerate(names)] or [scores])
        near = []
        for row, line, places in zip(rows, scores.tolist(), exact.tolist()):
            asked = [(self.schema[n], row["target"][n], j) for j, n in enumerate(names) if n in row["target"]]
            missed = sum(abs(a.level(line[j]) - level) for a, level, j in asked if isinstance(level, int))
            near.append((-float(missed), -float(sum(abs(places[j] - level) for _, level, j in asked))))
        return near


def labeller(card: Card | None, flag: str, *, trust_remote_code: bool = False) -> Scorer:
    """Load the scorer that labelled a policy's rows, and say so; SteerError if there is none, or another one now."""
    remedy = 'Name one with --scorer, such as a folder of "steer fit".'
    if card is None or not card.scorer_spec:
        raise SteerError(f"{flag}: the policy names no scorer. {remedy}")
    spec = card.scorer_spec
    if spec == "human":
        raise SteerError(f"{flag}: people scored the policy's rows, and nobody has rated fresh responses. {remedy}")
    try:
        scorer = load_scorer(spec, trust_remote_code=trust_remote_code)
    except SteerError as error:
        raise SteerError(f"{flag}: what labelled the policy's rows cannot be loaded: {error} {remedy}") from None
    if scorer.id != card.scorer:
        raise SteerError(
            f"{flag}: {spec} is {scorer.id} now, and the policy's rows were labelled by {card.scorer}. If it will do, "
            f"name it: --scorer {spec}."
        )
    note_once(f"{flag} uses {spec}, which labelled the rows that the policy was trained on; --scorer names another.")
    return scorer


def obtained_text(row: Row, schema: Schema) -> str:
    """Show levels as `verbosity=1 (asked 0) warmth=4`, the attributes asked for first."""
    levels: Mapping[str, int] = row["levels"]
    target = row.get("target") or {}
    parts = []
    for name in [*(n for n in target if n in levels), *(n for n in levels if n not in target and n != REWARD)]:
        a = schema[name]
        met = name not in target or a.bin(target[name]) == levels[name]
        parts.append(f"{name}={a.show(levels[name])}{'' if met else f' (asked {a.show(target[name])})'}")
    if not parts:
        parts = [f"{n}={s:g}" for n, s in row["predicted"].items()]
    return " ".join(parts)


def side_by_side(rows: Sequence[Row], schema: Schema | None) -> str:
    """Show responses under their prompts and targets, for a terminal; several alike without a target have a number."""
    lines: list[str] = []
    last = None
    conditioned = any(row.get("asked") for row in rows)
    several = len(rows) > len({row["prompt"][-1]["content"] for row in rows})
    for row in map(readable, rows):
        prompt = row["prompt"][-1]["content"]
        if prompt != last:
            lines.append(("\n" if lines else "") + f"> {prompt}")
            last, number = prompt, 0
        number += 1
        name = row.get("asked", "")  # in the words of the policy's schema, which may not be the scorer's
        name = name or ("none" if conditioned else str(number) if several else "")
        lines.append(f"[{name}]\n{row['response']}" if name else row["response"])
        if "levels" in row and schema:
            lines.append(f"  obtained {obtained_text(row, schema)}")
    return "\n".join(lines)
