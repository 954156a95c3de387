"""A panel of judges, models and prompts of their own: one is drawn for every example (AlpacaFarm, 2305.14387).

In training a vote is flipped with the probability `flips`, in evaluation never. Who is drawn and what is flipped follow
from the seed and the example, whatever the order of the two responses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attribute_models import Row, documents, hashed
from attribute_models.arrays import Array, Ballots, Indices
from attribute_models.judge import Judge

OWN = ("panel", "flips", "seed")  # settings of the panel in a file; the others are what its judges have in common


@dataclass(frozen=True)
class Settings:
    """Settings of a panel, beside those that its judges have in common."""

    panel: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # name -> settings of this judge alone
    flips: float = 0.0  # share of votes flipped in training; AlpacaFarm's is .25
    training: bool = True  # false: evaluation, no flips
    seed: int = 0


class Panel:
    """Judges of one file. Scores and compares as a judge does, each example by the judge drawn for it."""

    def __init__(self, judges: Mapping[str, Judge], settings: Settings) -> None:
        """Set up a panel; its judges score the same attributes."""
        self.judges, self.settings = dict(judges), settings
        self.attributes = next(iter(self.judges.values())).attributes
        if not 0 <= settings.flips <= 1:
            raise ValueError(f"'flips' is {settings.flips:g}; wanted a share from 0 to 1.")

    @property
    def voters(self) -> tuple[str, ...]:
        """Names of the judges."""
        return tuple(self.judges)

    @property
    def counts(self) -> dict[str, int]:
        """Counts of all judges together."""
        each = [judge.counts for judge in self.judges.values()]
        return {name: sum(counts[name] for counts in each) for name in each[0]}

    @property
    def cost(self) -> float:
        """What all judges have cost so far, by the prices in their settings."""
        return sum(judge.cost for judge in self.judges.values())

    @property
    def identity(self) -> str:
        """A name with a hash of all settings that can change a vote."""
        s = self.settings
        each = {name: judge.identity for name, judge in self.judges.items()}
        return f"judge:panel of {len(each)}:{hashed([each, s.flips, s.training, s.seed])}"

    def evaluating(self) -> Panel:
        """Copy the panel without flipped votes: an evaluation must not use what trained."""
        return Panel(self.judges, dataclasses.replace(self.settings, training=False))

    def weighing(self, weights: Mapping[str, float]) -> Panel:
        """Copy the panel, with weights for comparisons as `Judge.weighing`."""
        return Panel({name: judge.weighing(weights) for name, judge in self.judges.items()}, self.settings)

    def score(self, rows: Sequence[Row]) -> Array:
        """Scores [n, A], each row by the judge drawn for it; NaN where no valid answer came. None is flipped."""
        drawn = np.array([self._drawn("rating", row)[0] for row in rows], dtype=np.int64)
        scores = np.full((len(rows), len(self.attributes)), np.nan)
        for judge, mine in self._shares(drawn):
            scores[mine] = judge.score([rows[i] for i in mine])
        return scores

    def prefer(self, first: Sequence[Row], second: Sequence[Row]) -> Array:
        """Winner of each pair [n] as by `Judge.prefer`, by the judge drawn for it."""
        return self.ballots(first, second).share

    def ballots(self, first: Sequence[Row], second: Sequence[Row]) -> Ballots:
        """Compare pairs as `prefer` does, and say who was drawn for each and whose answer was flipped."""
        drawn = [self._drawn("pair", a, b) for a, b in zip(first, second)]
        voter = np.array([number for number, _ in drawn], dtype=np.int64)
        share = np.full(len(drawn), np.nan)
        for judge, mine in self._shares(voter):
            share[mine] = judge.prefer([first[i] for i in mine], [second[i] for i in mine])
        chance = np.array([x for _, x in drawn], dtype=np.float64)
        decided = ~np.isnan(share) & (share != 0.5)
        flipped = decided & self.settings.training & (chance < self.settings.flips)
        return Ballots(np.where(flipped, 1 - share, share), voter, flipped)

    def _shares(self, drawn: Indices) -> list[tuple[Judge, Indices]]:
        """Each judge with the numbers of its examples."""
        each = [(judge, np.flatnonzero(drawn == k)) for k, judge in enumerate(self.judges.values())]
        return [(judge, mine) for judge, mine in each if len(mine)]

    def _drawn(self, kind: str, *rows: Row) -> tuple[int, float]:
        """Number of the judge of one example, and a number from 0 to 1 that decides on a flip."""
        content = [self.settings.seed, kind, list(rows[0]["prompt"]), *sorted(row["response"] for row in rows)]
        draw = np.random.default_rng(int(hashed(content, 16), 16))
        return int(draw.integers(len(self.judges))), float(draw.random())


def of(values: Mapping[str, Any], file: str) -> Panel:
    """Make a panel from the content of a file of settings; ValueError if its judges do not go together."""
    settings = documents.checked(Settings, {k: v for k, v in values.items() if k in OWN}, file, "a panel of judges")
    members, common = settings.panel, {k: v for k, v in values.items() if k not in OWN}
    if not isinstance(members, dict) or not members:
        raise ValueError(f"{file}: 'panel' names no judge. Write lines such as 'NAME: {{model: ...}}' below it.")
    judges = {}
    for name, own in members.items():
        if not isinstance(own, dict | None):
            raise ValueError(f"{file}: judge '{name}' is {own!r}; wanted settings such as {{model: ...}}.")
        judges[str(name)] = Judge.from_settings({**common, **(own or {})}, f"{file}: judge '{name}'")
    others = [name for name, judge in judges.items() if judge.rubrics != next(iter(judges.values())).rubrics]
    if others:
        raise ValueError(f"{file}: judge '{others[0]}' has other rubrics than the first. Write rubrics above 'panel'.")
    return Panel(judges, settings)
