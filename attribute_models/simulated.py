"""Simulated annotators: a pool with tastes of their own, between the truth and the labels (AlpacaFarm, 2305.14387).

Each annotator has a bias on every attribute, uses more or less of the scale, is more or less careful, weighs the
attributes differently and likes or dislikes length. One of them is drawn for every example. In training a label is
flipped with p = .25; in evaluation never. Everything follows from the seed and the example, in any order and in any
process.

Of two responses an annotator prefers the one with the higher sum, over attributes, of weight x taste x impression, plus
the liking for length. A weight is below 0 if less is better and 0 if neither end is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from attribute_models import Row, documents, hashed, own, settings, texts, unknown, write_settings
from attribute_models.arrays import Array, Ballots

LENGTH = 50.0  # words of a response that no annotator finds short or long
OWNER = "simulated annotators"
TRAITS = ("stretch", "noise", "length")  # of an annotator, that a file may give


@dataclass(frozen=True)
class Settings:
    """Settings in a file for `simulated:FILE`; spreads are standard deviations over the pool, in units of a score."""

    gold: str = ""  # MODULE:NAME of the truth: a class with `attributes` and `score`, or a function of a row
    low: float = 0.0
    high: float = 4.0
    annotators: int = 13  # as many as AlpacaFarm's
    pool: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # name -> TRAITS in place of those that are drawn
    bias: float = 0.3  # spread of an annotator's mean error on an attribute
    stretch: float = 0.15  # spread, on a log scale, of how much of the scale an annotator uses
    noise: float = 0.5  # mean standard deviation of an annotator's single ratings; some are twice as careful as others
    length: float = 0.2  # spread of the liking for a response that is e times as long
    taste: float = 0.5  # spread, on a log scale, of how much more or less an attribute counts in a preference
    flips: float = 0.25  # share of labels flipped in training
    training: bool = True  # false: evaluation, no flips
    step: float = 1.0  # ratings are multiples of it above `low`; 0: any number
    seed: int = 0

    @classmethod
    def of(cls, spec: str) -> Self:
        """Read a YAML or JSON file; what names a truth, such as `MODULE:NAME`, stands for it with the defaults."""
        if not Path(spec).exists() and ":" in spec:
            return cls(gold=spec)
        return documents.checked(cls, documents.read(spec), spec, OWNER)


@dataclass(frozen=True)
class Annotator:
    """One annotator; arrays [A] in the order of the attributes."""

    bias: Array
    stretch: float
    noise: float
    length: float
    taste: Array


class Simulated:
    """Rates rows (`score`) and compares pairs (`prefer`) as a pool of people would, who see the truth with noise."""

    order_matters = False  # of the two responses in `prefer`

    def __init__(self, settings: Settings, weights: Mapping[str, float] | None = None, truth: Any = None) -> None:
        """Set up a pool; `weights`: direction x weight of attributes in preferences; None: the truth's, else 1 each.

        `truth`: the attribute model that the setting `gold` names; None: it is imported.
        """
        if not settings.low < settings.high or settings.annotators < 1 or not 0 <= settings.flips <= 1:
            raise ValueError("simulated annotators want low below high, 1 annotator or more, and flips from 0 to 1.")
        _check_pool(settings)
        self.settings = settings
        try:
            self._gold = own.load(settings.gold) if truth is None else truth
        except ValueError as error:
            raise ValueError(f"gold '{settings.gold}': {error}") from None
        self.attributes = tuple(self._gold.attributes)
        self.weights: Mapping[str, float] | None = getattr(self._gold, "weights", None) if weights is None else weights
        if not isinstance(self.weights, Mapping | None):
            raise ValueError(
                f"gold '{settings.gold}': its weights are {self.weights!r}. Give a number for each attribute that "
                f"counts: {{'{self.attributes[0]}': 1.0}}; below 0 if less is better."
            )
        self.pool = [self._annotator(i) for i in range(settings.annotators)]

    @property
    def identity(self) -> str:
        """A name with a hash of the settings."""
        told = {k: v for k, v in dataclasses.asdict(self.settings).items() if k != "pool" or v}
        return f"simulated:{self.settings.gold}:{hashed(told)}"

    def evaluating(self) -> Simulated:
        """Copy the pool without flipped labels: an evaluation must not use what trained."""
        return Simulated(dataclasses.replace(self.settings, training=False), self.weights, self._gold)

    def weighing(self, weights: Mapping[str, float]) -> Simulated:
        """Copy the pool, preferring by these weights (direction x weight); attributes without one do not count."""
        return Simulated(self.settings, weights, self._gold)

    def score(self, rows: Sequence[Row]) -> Array:
        """Ratings [n, A] from low to high, each row by the annotator drawn for it; NaN where the truth is unknown.

        A flipped rating is mirrored at the middle of the scale, on all attributes at once.
        """
        s = self.settings
        ratings = np.empty((len(rows), len(self.attributes)))
        for i, (row, truth) in enumerate(zip(rows, self._truth(rows))):
            draw = self._draw("rating", row["prompt"], row["response"])
            ratings[i] = self._impression(self._drawn(draw), row, truth, draw)
            if s.training and draw.random() < s.flips:
                ratings[i] = s.low + s.high - ratings[i]
        rated = ratings if not s.step else s.low + np.floor((ratings - s.low) / s.step + 0.5) * s.step
        return np.clip(rated, s.low, s.high)

    @property
    def voters(self) -> tuple[str, ...]:
        """Names of the annotators."""
        return tuple(map(str, self.settings.pool)) or tuple(f"simulated {i + 1}" for i in range(len(self.pool)))

    def prefer(self, first: Sequence[Row], second: Sequence[Row]) -> Array:
        """Winner of each pair [n]: 1 the first, 0 the second, .5 neither, NaN unanswered; the other order, the other.

        An attribute whose truth is unknown for one of the two counts for neither. Where none is left that counts there
        is no answer; equal sums, which there are without noise, are a tie.
        """
        return self.ballots(first, second).share

    def ballots(self, first: Sequence[Row], second: Sequence[Row]) -> Ballots:
        """Compare pairs as `prefer` does, and say who was drawn for each and whose answer was flipped."""
        s, weights = self.settings, self._parts()
        count = len(first)
        votes = Ballots(np.zeros(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_))
        truths = zip(self._truth(first), self._truth(second))
        for i, (a, b, (truth_a, truth_b)) in enumerate(zip(first, second, truths)):
            exchanged = a["response"] > b["response"]
            pair = [(b, truth_b), (a, truth_a)] if exchanged else [(a, truth_a), (b, truth_b)]
            draw = self._draw("pair", a["prompt"], *(row["response"] for row, _ in pair))
            votes.voter[i] = draw.integers(len(self.pool))
            annotator = self.pool[votes.voter[i]]
            impressions = [
                self._impression(annotator, row, truth, draw) - _liking(annotator, row) for row, truth in pair
            ]
            parts = np.where(np.isnan(impressions).any(0), 0.0, weights * annotator.taste)
            if not parts.any():
                votes.share[i] = math.nan
                continue
            sums = [float(np.nansum(parts * x)) + _liking(annotator, row) for x, (row, _) in zip(impressions, pair)]
            if math.isclose(*sums, rel_tol=1e-9, abs_tol=1e-9):
                votes.share[i] = 0.5
                continue
            votes.flipped[i] = s.training and draw.random() < s.flips
            votes.share[i] = (sums[0] > sums[1]) ^ bool(votes.flipped[i]) ^ exchanged
        return votes

    def save(self, folder: str | Path) -> None:
        """Write `model.json`."""
        write_settings(folder, {"model": "simulated", "settings": dataclasses.asdict(self.settings)})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the pool that `save` wrote."""
        return cls(documents.checked(Settings, settings(folder)["settings"], str(folder), OWNER))

    @classmethod
    def of(cls, spec: str) -> Self:
        """Make a pool from what `Settings.of` takes."""
        return cls(Settings.of(spec))

    def _annotator(self, number: int) -> Annotator:
        s = self.settings
        draw = np.random.default_rng([s.seed, number])
        count = len(self.attributes)
        drawn = Annotator(
            bias=s.bias * draw.standard_normal(count),
            stretch=math.exp(s.stretch * draw.standard_normal()),
            noise=s.noise * draw.uniform(2 / 3, 4 / 3),
            length=s.length * draw.standard_normal(),
            taste=np.exp(s.taste * draw.standard_normal(count)),
        )
        return dataclasses.replace(drawn, **(list(s.pool.values())[number] or {})) if s.pool else drawn

    def _parts(self) -> Array:
        """The weights over the sum of their sizes, so that the liking for length counts alike for any weights."""
        given = dict.fromkeys(self.attributes, 1.0) if self.weights is None else self.weights
        weights = np.array([float(given.get(name, 0.0)) for name in self.attributes])
        return np.asarray(weights / max(float(np.abs(weights).sum()), 1e-12))

    def _truth(self, rows: Sequence[Row]) -> Array:
        texts(rows)  # raises for rows without text
        return np.asarray(self._gold.score(rows), dtype=np.float64).reshape(len(rows), len(self.attributes))

    def _impression(self, annotator: Annotator, row: Row, truth: Array, draw: np.random.Generator) -> Any:
        """An annotator's scores of a response [A], before they are rounded and clipped to the scale."""
        middle = (self.settings.low + self.settings.high) / 2
        mean = middle + annotator.stretch * (truth - middle) + annotator.bias + _liking(annotator, row)
        return mean + annotator.noise * draw.standard_normal(len(truth))

    def _drawn(self, draw: np.random.Generator) -> Annotator:
        return self.pool[int(draw.integers(len(self.pool)))]

    def _draw(self, kind: str, prompt: Any, *responses: str) -> np.random.Generator:
        """The random generator of one example, seeded by its content alone."""
        return np.random.default_rng(int(hashed([self.settings.seed, kind, list(prompt), *responses], 16), 16))


def _check_pool(settings: Settings) -> None:
    """Refuse a pool of names that does not go together with the other settings."""
    pool = settings.pool
    if not isinstance(pool, Mapping) or (pool and len(pool) != settings.annotators):
        raise ValueError(
            f"'pool' wants a name for each of the {settings.annotators} annotators, as 'NAME: {{noise: .5}}'."
        )
    for name, traits in pool.items():
        if not isinstance(traits, dict | None):
            raise ValueError(f"annotator '{name}' is {traits!r}; wanted some of {', '.join(TRAITS)}, or nothing.")
        for trait, value in (traits or {}).items():
            if trait not in TRAITS:
                raise ValueError(f"annotator '{name}': {unknown('trait', str(trait), TRAITS)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"annotator '{name}': '{trait}' is {value!r}; wanted a number.")


def _liking(annotator: Annotator, row: Row) -> float:
    """Points that an annotator adds to a rating for the length of a response."""
    return annotator.length * math.log((1 + len(row["response"].split())) / LENGTH)
