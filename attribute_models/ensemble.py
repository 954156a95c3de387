"""Several attribute models as one: mean, spread, and a pessimistic score.

`--set members=linear+embeddings:model=FOLDER,pooling=mean+linear:min_df=5` fits them on the same rows. With `k` above 0
the score is the mean less k standard deviations of the members (plus, where lower is better), so that a policy gains
nothing from responses on which they disagree (Coste et al. 2023, 2310.02743).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from attribute_models import Row, Scored, load, model_class, scored, settings, unknown, write_settings
from attribute_models.arrays import Array
from attribute_models.documents import IN_WORDS
from attribute_models.learned import Learned

SWITCH = {"true": True, "false": False}


@dataclass(frozen=True)
class EnsembleSettings:
    """Settings of `Ensemble`."""

    members: str = "linear"  # NAME or NAME:SETTING=VALUE,...; a + between them
    k: float = 0.0  # standard deviations of the members subtracted from the mean
    lower: tuple[str, ...] = ()  # attributes where lower is better, to which they are added


class Ensemble(Learned):
    """Mean of members, less k times their spread.

    After `fit`: `held_out_` [n, A], the same score from the members' held-out predictions, NaN if one has none.
    """

    name = "ensemble"
    Settings = EnsembleSettings
    evidence = "members"
    settings: EnsembleSettings

    def _check(self) -> None:
        self.members: list[Any] = [member(text, self.attributes) for text in self.settings.members.split("+")]

    def fit(self, rows: Sequence[Row], scores: ArrayLike) -> Self:
        """Fit every member on rows and scores [n, A], NaN = unknown."""
        for one in self.members:
            one.fit(rows, scores)
        self.held_out_ = self._pessimistic(np.stack([one.held_out_ for one in self.members]))
        return self

    def _score(self, rows: Sequence[Row]) -> Scored:
        results = [scored(one, rows) for one in self.members]
        flags = [one.truncated for one in results if one.truncated is not None]
        truncated = np.logical_or.reduce(flags) if flags else None
        return Scored(self._pessimistic(np.stack([one.scores for one in results])), truncated)

    def _pessimistic(self, scores: Array) -> Array:
        """Combine members' scores pessimistically: [m, n, A] -> [n, A]."""
        worse = np.asarray([1.0 if name in self.settings.lower else -1.0 for name in self.attributes])
        return np.asarray(scores.mean(0) + worse * self.settings.k * scores.std(0))

    def save(self, folder: str | Path) -> None:
        """Write every member into a folder of its own, then `model.json`."""
        names = [f"member{i}" for i in range(len(self.members))]
        for name, one in zip(names, self.members):
            one.save(Path(folder) / name)
        write_settings(folder, self.state | {"folders": names})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote; `held_out_` is not saved."""
        state = settings(folder)
        loaded = cls.of(state)
        loaded.members = [load(Path(folder) / name) for name in state["folders"]]
        return loaded


def member(text: str, attributes: Sequence[str]) -> Any:
    """Make an unfitted model from NAME or NAME:SETTING=VALUE,...; ValueError if it does not exist."""
    name, _, pairs = text.strip().partition(":")
    kind: Any = model_class(name)
    if not hasattr(kind, "Settings") or getattr(kind, "own_scale", False):
        raise ValueError(f"member {name!r} does not learn scores on their own scale. Remove it.")
    defaults = {f.name: f.default for f in fields(kind.Settings)}
    values: dict[str, Any] = {}
    for pair in filter(None, pairs.split(",")):
        key, _, value = pair.partition("=")
        if key not in defaults:
            raise ValueError(unknown(f"setting of {name}", key, defaults))
        default: Any = defaults[key]
        if isinstance(default, tuple):
            raise ValueError(f"setting {key!r} of {name} is a list, which a member cannot have. Remove it.")
        try:
            values[key] = SWITCH[value.lower()] if isinstance(default, bool) else type(default)(value)
        except (ValueError, KeyError):
            raise ValueError(f"setting {key}={value} of {name} is not {IN_WORDS[type(default)]}.") from None
    return kind(attributes, kind.Settings(**values))
