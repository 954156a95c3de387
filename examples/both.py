"""Counted words beside what a fitted scorer says of engagement: `steer label LOGS --scorer both:Both`.

Run it where the folder `scorer` of `steer fit` is, with this folder on PYTHONPATH.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from steer import load_scorer


class Both:
    """A scorer made of two, each for its own attributes."""

    attributes = ("words", "engagement")

    def __init__(self) -> None:
        self.parts = (load_scorer("countable:words"), ["words"]), (load_scorer("scorer"), ["engagement"])

    def score(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        """Return scores [n, 2]."""
        return np.concatenate([scorer.score(rows, names) for scorer, names in self.parts], axis=1)
