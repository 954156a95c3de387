"""The command line of `steer iterate`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.iteration.settings import IterateSettings
from steer.settings import INPUTS, OUTPUT, OVERWRITE, argument, option


@dataclass(frozen=True)
class IterateConfig(IterateSettings):
    """`steer iterate`."""

    rows: str = argument("Labelled rows that training starts from.")
    model: str = option(..., "Base model: Hugging Face name or folder.", panel=INPUTS)
    scorer: str = option(..., "Scores fresh responses: as in `steer label`.", panel=INPUTS)
    output: str = option(..., OUTPUT)
    policy: str = option(
        "", "Policy that draws the first responses (folder of `steer train`); default: the base.", panel=INPUTS
    )
    dry_run: bool = option(False, "Print the plan and an estimate of the time; train and write nothing.")
    overwrite: bool = option(False, OVERWRITE)
