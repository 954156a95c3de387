"""Simulated annotators: a pool with tastes of their own, between the truth and the labels (AlpacaFarm, 2305.14387).

Each annotator has a bias on every attribute, uses more or less of the scale, is more or less careful, weighs the
attributes in an own way and likes or dislikes length. One of them is drawn for every example. In training a label is
turned round with p = .25; in evaluation never. Everything follows from the seed and the example, in any order and in
any process.

Of two responses an annotator prefers the one with the higher sum, over attributes, of weight x taste x what is felt,
plus the liking for length. A weight is below 0 where less is better and 0 where neither end is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from attribute_models import Row, documents, own, settings, texts, unknown, write

if TYPE_CHECKING:
    import numpy as np

    from attribute_models.arrays import Array, Mask

LENGTH = 50.0  # words of a response that no annotator finds short or long


KINDS: dict[type, Any] = {bool: bool, int: int, float: (int, float), str: str}


@dataclass(frozen=True)
class Settings:
    """What a file for `simulated:FILE` holds; spreads are standard deviations over the pool, in units of a score."""

    gold: str = ""  # module:name of the truth: a class with `attributes` and `score`, or a function of a row
    low: float = 0.0
    high: float = 4.0
    annotators: int = 13  # as many as AlpacaFarm's
    bias: float = 0.3  # spread of an annotator's mean error on an attribute
    stretch: float = 0.15  # spread, on a log scale, of how much of the scale an annotator uses
    noise: float = 0.5  # mean standard deviation of an annotator's single ratings; some are twice as careful as others
    length: float = 0.2  # spread of the liking for a response that is e times as long
    taste: float = 0.5  # spread, on a log scale, of how much more or less an attribute counts in a preference
    flips: float = 0.25  # share of labels turned round in training
    training: bool = True  # false: evaluation, no flips
    step: float = 1.0  # ratings are multiples of it above `low`; 0: any number
    seed: int = 0


@dataclass(frozen=True)
class Annotator:
    """One of the pool; arrays [A] in the order of the attributes."""

    bias: Array
    stretch: float
    noise: float
    length: float
    taste: Array


class Simulated:
    """Rates rows (`score`) and compares pairs (`prefer`) as a pool of people would who see the truth through a haze."""

    order_matters = False  # of the two responses in `prefer`

    def __init__(self, settings: Settings, weights: Mapping[str, float] | None = None) -> None:
        """`weights`: direction x weight of attributes in a preference; else those of the truth, else 1 each."""
        if not settings.low < settings.high or settings.annotators < 1 or not 0 <= settings.flips <= 1:
            raise ValueError("simulated annotators want low below high, 1 annotator or more, and flips from 0 to 1.")
        self.settings = settings
        try:
            self._gold = own.load(settings.gold)
        except ValueError as error:
            raise ValueError(f"gold '{settings.gold}': {error}") from None
        self.attributes = tuple(self._gold.attributes)
        given = getattr(self._gold, "weights", None) if weights is None else weights
        self.weights = dict.fromkeys(self.attributes, 1.0) if given is None else dict(given)
        self.pool = [self._annotator(i) for i in range(settings.annotators)]

    @property
    def identity(self) -> str:
        """Tells pools apart."""
        told = json.dumps(dataclasses.asdict(self.settings), sort_keys=True)
        return f"simulated:{self.settings.gold}:{hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}"

    def evaluating(self) -> Simulated:
        """The same people with no label turned round: what judges must not be what trained."""
        return Simulated(dataclasses.replace(self.settings, training=False), self.weights)

    def weighing(self, weights: Mapping[str, float]) -> Simulated:
        """The same people, who prefer by these weights (direction x weight); attributes without one do not count."""
        return Simulated(self.settings, weights)

    def fit(self, rows: Sequence[Row], scores: Array) -> Self:
        """Do nothing, so that a pool fits wherever a learned model does."""
        return self

    def score(self, rows: Sequence[Row]) -> Array:
        """Ratings [n, A] from low to high, each row by the annotator drawn for it; NaN where the truth is unknown.

        A rating that is turned round in training is mirrored in the middle of the scale, on all attributes at once.
        """
        import numpy as np

        s = self.settings
        felt = np.empty((len(rows), len(self.attributes)))
        for i, (row, truth) in enumerate(zip(rows, self._truth(rows))):
            draw = self._draw("rating", row["prompt"], row["response"])
            felt[i] = self._felt(self._drawn(draw), row, truth, draw)
            if s.training and draw.random() < s.flips:
                felt[i] = s.low + s.high - felt[i]
        rated = felt if not s.step else s.low + np.floor((felt - s.low) / s.step + 0.5) * s.step
        return np.clip(rated, s.low, s.high)

    def prefer(self, first: Sequence[Row], second: Sequence[Row]) -> Mask:
        """Whether the first of each pair [n] is preferred; the same pair the other way round gets the other answer.

        An attribute whose truth is unknown for one of the two counts for neither.
        """
        import numpy as np

        s, weights = self.settings, self._parts()
        found = np.empty(len(first), dtype=bool)
        truths = zip(self._truth(first), self._truth(second))
        for i, (a, b, (truth_a, truth_b)) in enumerate(zip(first, second, truths)):
            turned = a["response"] > b["response"]
            pair = [(b, truth_b), (a, truth_a)] if turned else [(a, truth_a), (b, truth_b)]
            draw = self._draw("pair", a["prompt"], *(row["response"] for row, _ in pair))
            who = self._drawn(draw)
            felt = [self._felt(who, row, truth, draw) - _long(who, row) for row, truth in pair]
            parts = np.where(np.isnan(felt).any(0), 0.0, weights * who.taste)
            liked = [float(np.nansum(parts * x)) + _long(who, row) for x, (row, _) in zip(felt, pair)]
            answer = (liked[0] > liked[1]) ^ (s.training and draw.random() < s.flips)
            found[i] = answer ^ turned
        return found

    def save(self, folder: str | Path) -> None:
        """Write `model.json`."""
        state = {"model": "simulated", "settings": dataclasses.asdict(self.settings)}
        write(Path(folder) / "model.json", json.dumps(state, indent=1).encode())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The pool that `save` wrote."""
        return cls(_settings(settings(folder)["settings"], str(folder)))

    @classmethod
    def of(cls, spec: str) -> Self:
        """A pool from a YAML or JSON file of Settings, or from `module:name` of the truth with the defaults."""
        if not Path(spec).exists() and ":" in spec:
            return cls(Settings(gold=spec))
        return cls(_settings(documents.read(spec), spec))

    def _annotator(self, number: int) -> Annotator:
        import numpy as np

        s = self.settings
        draw = np.random.default_rng([s.seed, number])
        count = len(self.attributes)
        return Annotator(
            bias=s.bias * draw.standard_normal(count),
            stretch=math.exp(s.stretch * draw.standard_normal()),
            noise=s.noise * draw.uniform(2 / 3, 4 / 3),
            length=s.length * draw.standard_normal(),
            taste=np.exp(s.taste * draw.standard_normal(count)),
        )

    def _parts(self) -> Array:
        """The weights as parts of a sum of sizes of 1, so that the liking for length counts alike for any of them."""
        import numpy as np

        weights = np.array([float(self.weights.get(name, 0.0)) for name in self.attributes])
        return np.asarray(weights / max(float(np.abs(weights).sum()), 1e-12))

    def _truth(self, rows: Sequence[Row]) -> Array:
        import numpy as np

        texts(rows)  # refuses rows without text
        return np.asarray(self._gold.score(rows), dtype=np.float64).reshape(len(rows), len(self.attributes))

    def _felt(self, who: Annotator, row: Row, truth: Array, draw: np.random.Generator) -> Any:
        """What the annotator makes of a response, before the scale's steps and ends: [A]."""
        s = self.settings
        middle = (s.low + s.high) / 2
        felt = middle + who.stretch * (truth - middle) + who.bias + _long(who, row)
        return felt + who.noise * draw.standard_normal(len(truth))

    def _drawn(self, draw: np.random.Generator) -> Annotator:
        return self.pool[int(draw.integers(len(self.pool)))]

    def _draw(self, what: str, prompt: Any, *responses: str) -> np.random.Generator:
        """All chance in one example, from its content alone."""
        import numpy as np

        content = json.dumps([self.settings.seed, what, list(prompt), *responses], sort_keys=True)
        return np.random.default_rng(int.from_bytes(hashlib.blake2b(content.encode(), digest_size=16).digest()))


def _long(who: Annotator, row: Row) -> float:
    """What an annotator adds to a rating for the length of a response."""
    return who.length * math.log((1 + len(row["response"].split())) / LENGTH)


def _settings(given: Any, where: str) -> Settings:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: wanted settings of simulated annotators, 'name: value' lines.")
    known = {f.name: f.default for f in dataclasses.fields(Settings)}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{where}: {unknown('setting', str(name), known)}")
        wanted = KINDS[type(known[name])]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"{where}: '{name}' is {value!r}; wanted a {type(known[name]).__name__}.")
    return Settings(**given)
