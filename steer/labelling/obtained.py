"""What responses obtained beside what was asked for: which of several to keep, and how to show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steer.config import GenerateConfig
from steer.errors import SteerError
from steer.labelling.scorer import Reward, Scorer, load_scorer, rewarder
from steer.methods import METHODS
from steer.models.policy import Card
from steer.rows import Row
from steer.rows.schema import REWARD, Schema


@dataclass(frozen=True)
class Judge:
    """A scorer, the schema whose levels its scores become, and how it chooses the best of every `best_of` rows.

    `weighs`: the policy's targets are weights (`directional`), which no response obtains.
    """

    scorer: Scorer
    best_of: int = 1
    by_target: bool = False
    schema: Schema | None = None
    reward: Reward | None = None
    weighs: bool = False

    @staticmethod
    def of(config: GenerateConfig) -> Judge:
        """The judge that the flags ask for."""
        if config.best_of > 1 and config.temperature == 0:
            raise SteerError("--best-of: greedy responses are all alike. Raise --temperature.")
        if not config.scorer:
            asked = "--best-of" if config.best_of > 1 else "--score"
            raise SteerError(f'{asked} needs --scorer, such as a folder of "steer fit".')
        scorer = load_scorer(config.scorer)
        if scorer.model is None:
            raise SteerError(f"--scorer {config.scorer}: nobody has rated fresh responses. Use a fitted scorer.")
        return Judge(scorer, config.best_of, config.rerank == "target")

    def knowing(self, card: Card | None) -> Judge:
        """The same with the schema of a policy, else that of the scorer: one of weights says nothing of scores."""
        weighs = card is not None and card.method in METHODS and METHODS[card.method].reframe is not None
        if weighs and self.by_target:
            raise SteerError("--rerank target: the policy's targets are weights, not levels. Use --rerank reward.")
        known = (card.schema if card and not weighs else None) or self.scorer.schema
        if known is None:
            raise SteerError(f"scorer {self.scorer.id}: does not say which attributes are good. Use a fitted scorer.")
        reward = rewarder(self.scorer, known) if self.best_of > 1 and not self.by_target else None
        return replace(self, schema=known, reward=reward, weighs=weighs)

    def labelled(self, rows: Sequence[Row]) -> list[Row]:
        """Rows with scores, levels and reward of their responses; targets stay where they are levels too."""
        assert self.schema is not None
        schema = self.schema
        out = []
        for row, line in zip(rows, self.scorer.score(rows, schema.own).tolist()):
            scores = {n: s for n, s in zip(schema.own, line) if np.isfinite(s)}
            reward = schema.reward(scores) if REWARD in schema.names else None
            known = scores if reward is None else {**scores, REWARD: reward}
            levels = {n: x for n, x in schema.levels(known).items() if schema[n].shown}
            predicted = {n: round(s, 4) for n, s in scores.items()}
            found = {"predicted": predicted, "scorer": self.scorer.id, "levels": levels, "reward": reward}
            out.append({**row, **found, **({"target": {}} if self.weighs else {})})
        return out

    def kept(self, rows: Sequence[Row]) -> list[Row]:
        """The best of every `best_of` rows in a row; the first of those that tie."""
        n = self.best_of
        if n == 1:
            return list(rows)
        found = self.reward(rows) if self.reward else [-gap for gap in self._gaps(rows)]
        kept = [rows[max(range(i, i + n), key=found.__getitem__)] for i in range(0, len(rows), n)]
        return [{**row, "best_of": n} for row in kept]

    def _gaps(self, rows: Sequence[Row]) -> list[float]:
        """How many levels each response is from its target, summed over the attributes asked for."""
        assert self.schema is not None
        names = sorted({n for row in rows for n in row["target"]})
        if missing := [n for n in names if n not in self.scorer.attributes]:
            raise SteerError(f"scorer {self.scorer.id}: does not score {', '.join(missing)} of the target.")
        scores = self.scorer.score(rows, names)
        at = np.column_stack([self.schema[n].position(scores[:, j]) for j, n in enumerate(names)] or [scores])
        return [
            float(sum(abs(line[j] - row["target"][n]) for j, n in enumerate(names) if n in row["target"]))
            for row, line in zip(rows, at)
        ]

    def table(self, rows: Sequence[Row]) -> str:
        """Every target's attributes: the level asked for, the mean of those obtained, and how often it was met."""
        assert self.schema is not None
        groups: dict[tuple[tuple[str, float], ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(row["target"].items()), []).append(row)
        lines = ["asked for | obtained, mean score | share at the level | within one | responses"]
        for target, members in groups.items():
            for name, level in target:
                known = [r for r in members if name in r["levels"]]
                if known:
                    gaps = [abs(r["levels"][name] - self.schema[name].bin(level)) for r in known]
                    mean = sum(r["reward"] if name == REWARD else r["predicted"][name] for r in known) / len(known)
                    hit, near = (sum(g <= most for g in gaps) / len(gaps) for most in (0, 1))
                    head = f"{name}={self.schema[name].show(level)}"
                    lines.append(f"{head} | {mean:.2f} | {hit:.0%} | {near:.0%} | {len(known)}")
        return "\n".join(lines) if len(lines) > 1 else "no level was asked for that has a score."


def obtained_text(row: Row, schema: Schema) -> str:
    """`verbosity=1 (asked 0) warmth=4`: the attributes asked for first."""
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
    """Responses under their prompts and targets, for a terminal."""
    lines: list[str] = []
    last = None
    for row in rows:
        prompt = row["prompt"][-1]["content"]
        if prompt != last:
            lines.append(("\n" if lines else "") + f"> {prompt}")
            last = prompt
        name = row.get("asked", "")  # in the words of the policy's schema, which may not be the scorer's
        lines.append(f"[{name}]\n{row['response']}" if name else row["response"])
        if "levels" in row and schema:
            lines.append(f"  obtained {obtained_text(row, schema)}")
    return "\n".join(lines)
