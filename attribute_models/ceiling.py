"""Agreement of human raters: the upper bound for any scorer of single ratings.

A row may have a column `raters`: {attribute: [score, score, ...]}, the scores that several people gave it, in any order
and number; its `scores` hold their summary, usually the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def ceiling(ratings: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Agreement figures from each row's ratings of one attribute; rows with fewer than two are skipped, {} if all are.

    raters: mean ratings a row. human: Pearson correlation of one rating with the mean of the row's others, as is
    computed for a scorer. agreement: ICC(1), the share of the variance of one rating that rows account for (Shrout and
    Fleiss 1979; raters are exchangeable). ceiling: the square root of the reliability of the mean of so many
    raters, by Spearman and Brown: the correlation with that mean of a scorer that knows the true score; 0 where raters
    agree no better than by chance.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in ratings if len(row) > 1]
    if len(rows) < 2:
        return {}
    count = np.asarray([len(row) for row in rows])
    total, every = int(count.sum()), np.concatenate(rows)
    means = np.asarray([row.mean() for row in rows])
    within = sum(float(((row - row.mean()) ** 2).sum()) for row in rows) / (total - len(rows))
    between = float((count * (means - every.mean()) ** 2).sum()) / (len(rows) - 1)
    typical = (total - float((count**2).sum()) / total) / (len(rows) - 1)  # ratings a row, where they are uneven
    spread = between + (typical - 1) * within
    agreement = (between - within) / spread if spread > 0 else None
    k = total / len(rows)
    reliable = max(0.0, agreement or 0.0)
    mean = k * reliable / (1 + (k - 1) * reliable)
    others = np.concatenate([(row.sum() - row) / (len(row) - 1) for row in rows])
    constant = np.ptp(every) == 0 or np.ptp(others) == 0
    return {
        "raters": round(k, 2),
        "rated_rows": len(rows),
        "human": None if constant else float(np.corrcoef(every, others)[0, 1]),
        "agreement": agreement,
        "ceiling": None if agreement is None else math.sqrt(mean),
    }


def ratings(raters: Any, attribute: str) -> list[float]:
    """The known ratings of an attribute in a row's column `raters`; ValueError if it holds something else."""
    if raters is None:
        return []
    values = raters.get(attribute) if isinstance(raters, dict) else 0
    known = [score for score in values if score is not None] if isinstance(values, list) else values
    if known is None:
        return []
    if not isinstance(known, list) or not all(
        isinstance(score, (int, float)) and math.isfinite(score) for score in known
    ):
        raise ValueError(f'"raters" holds {raters!r:.60}. Write {{"{attribute}": [score, score, ...]}} or null.')
    return [float(score) for score in known]
