"""Give rows their labels: predicted scores, levels, reward and split, in whatever process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from steer.labelling.likelihood import log_likelihood
from steer.labelling.scorer import Scores
from steer.rows import PREFERENCE, Row
from steer.rows.lines import line_of
from steer.rows.schema import REWARD, Schema
from steer.rows.spool import decoded
from steer.rows.table import Mask


class Numbers(NamedTuple):
    """What the labels of some rows come from."""

    train: Mask  # [k]
    out: Scores  # [k, A + 1], predicted scores and a flag, 1 where the scorer could not read the whole row
    scores: Scores  # [k, A], those that count
    preferred: Mask  # [k], whether a human preference gave the reward


@dataclass(frozen=True)
class Writer:
    """Give rows their labels, in whatever process."""

    schema: Schema
    scorer: str

    def __call__(self, block: tuple[list[bytes], Numbers]) -> list[bytes]:
        """Return lines of rows with their labels."""
        lines, numbers = block
        return [line_of(row, "rows") for row in self.rows(map(decoded, lines), numbers)]

    def rows(self, rows: Iterable[Row], numbers: Numbers) -> Iterator[Row]:
        """Yield rows with their labels."""
        for row, train, output, scores, preferred in zip(rows, *numbers):
            out = labelled(row, self.schema, scores, output[:-1], self.scorer, "train" if train else "test")
            if not math.isnan(output[-1]):
                out["truncated"] = bool(output[-1])
            if preferred:
                out["comparable"] = "group"
            yield out


def writing(writer: Writer) -> Callable[[int, Any], list[bytes]]:
    """Set the writing up in another process."""
    return lambda _, block: writer(block)


def levelled(row: Row, schema: Schema, scores: Scores, predicted: Scores, scorer: str) -> Row:
    """Add the predicted scores [A], and the levels and the reward of the `scores` [A] that count, to one row."""
    known = _known(schema, scores)
    levels = {n: level for n, level in schema.levels(known).items() if schema[n].shown}
    rounded = {n: round(s, 4) for n, s in zip(schema.own, predicted.tolist()) if not math.isnan(s)}
    return {**row, "predicted": rounded, "scorer": scorer, "levels": levels, "reward": known.get(REWARD)}


def labelled(row: Row, schema: Schema, scores: Scores, predicted: Scores, scorer: str, split: str) -> Row:
    """Add scores, levels, reward, split and their provenance to one row of training data."""
    out = levelled(row, schema, scores, predicted, scorer) | {"split": split}
    if (row.get("scores") or {}).get(PREFERENCE) is not None:
        out["comparable"] = "prompt"  # as any score; what people preferred is so in its group only
    if row.get("target"):
        value = log_likelihood(schema, _known(schema, scores), row["target"])
        out["likelihood"] = None if math.isnan(value) else value
    return out


def _known(schema: Schema, scores: Scores) -> dict[str, float]:
    """Return the known scores of [A] by attribute, with the reward if the schema has one and it can be computed."""
    known = {n: s for n, s in zip(schema.own, scores.tolist()) if not math.isnan(s)}
    reward = schema.reward(known) if REWARD in schema.names else None
    return known if reward is None else {**known, REWARD: reward}
