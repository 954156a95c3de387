"""The command line of `steer train`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from steer.settings import INPUTS, OUTPUT, OVERWRITE, argument, option
from steer.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainConfig(TrainSettings):
    """`steer train`."""

    rows: str = argument("Labelled rows (plain rows do for mle).")
    model: str = option(..., "Base model: Hugging Face name or folder.", panel=INPUTS)
    output: str = option(..., OUTPUT)
    method: str = option("conditional", "What to optimise; `steer methods` lists them.", panel=INPUTS)
    _: KW_ONLY
    dry_run: bool = option(False, "Print the plan and the first sample with its loss mask; train and write nothing.")
    overwrite: bool = option(False, OVERWRITE)
