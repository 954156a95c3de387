"""Common part of the models that learn from scores: their settings, what is saved of them, and how they score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np

from attribute_models import Row, Scored, tupled
from attribute_models.arrays import Array


class Learned:
    """A model that reads rows once it is fitted or loaded.

    A subclass adds `fit`, `save`, `load`, and `_score`, which gives scores [n, A] of n > 0 rows and flags.
    """

    name: ClassVar[str]  # in MODELS
    Settings: ClassVar[Any]  # frozen dataclass
    evidence: ClassVar[str] = "coefficients_"  # attribute that a fitted model has

    def __init__(self, attributes: Sequence[str], settings: Any = None) -> None:
        self.attributes = tuple(attributes)
        self.settings = self.Settings() if settings is None else settings
        self._check()

    def _check(self) -> None:
        """Raise ValueError for settings that cannot be."""

    def _score(self, rows: Sequence[Row]) -> Scored:
        raise NotImplementedError

    def score(self, rows: Sequence[Row]) -> Array:
        """Scores [n, A]."""
        return self.score_and_flag(rows).scores

    def score_and_flag(self, rows: Sequence[Row]) -> Scored:
        """Scores [n, A], and which rows the model could not read whole. ValueError before it is fitted."""
        if not hasattr(self, self.evidence):
            raise ValueError(f'This {self.name} model is not fitted. Call "fit" first, or "load" one from a folder.')
        return self._score(rows) if len(rows) else Scored(np.zeros((0, len(self.attributes))), None)

    @property
    def state(self) -> dict[str, Any]:
        """The beginning of `model.json`."""
        return {"model": self.name, "attributes": self.attributes, "settings": asdict(self.settings)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """Make an unfitted model from its `state`; one without `tail` was saved when rows ended with the EOS token."""
        earlier = {"tail": "eos"} if hasattr(cls.Settings, "tail") else {}
        return cls(state["attributes"], cls.Settings(**earlier | tupled(state["settings"])))
