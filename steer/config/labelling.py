"""The command line of `steer fit` and `steer label`: their settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.labelling.settings import SPEED, FitSettings, LabelSettings
from steer.settings import (
    FORMS,
    INPUTS,
    MOST_SHARDS,
    OUTPUT,
    OUTPUT_FORMAT,
    OUTPUT_SHARDS,
    OVERWRITE,
    SHARD,
    argument,
    option,
)


@dataclass(frozen=True)
class FitConfig(FitSettings):
    """`steer fit`."""

    rows: str = argument("Rows with human scores.")
    output: str = option(..., OUTPUT)
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class LabelConfig(LabelSettings):
    """`steer label`."""

    rows: str = argument("Rows to label, in any known layout.")
    output: str = option(..., OUTPUT)
    scorer: str = option(
        "human",
        "Folder of `steer fit`, `countable:words,...`, `classifier:NAME` (any sequence-classification model), "
        "`judge:FILE`, `MODULE:NAME` (a class or function of yours), or `human` for the scores in the rows.",
        panel=INPUTS,
    )
    shard: str = option("", SHARD, panel=SPEED)
    output_shards: int = option(1, OUTPUT_SHARDS, least=1, most=MOST_SHARDS)
    output_format: str = option("jsonl", OUTPUT_FORMAT, choices=FORMS)
    overwrite: bool = option(False, OVERWRITE)
