"""The command line of `steer compare`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.comparison.settings import CompareSettings
from steer.settings import INPUTS, OUTPUT, OVERWRITE, argument, option


@dataclass(frozen=True)
class CompareConfig(CompareSettings):
    """`steer compare`."""

    rows: str = argument("Labelled rows with train and test prompts.")
    model: str = option(..., "Base model: Hugging Face name or folder.", panel=INPUTS)
    output: str = option(..., OUTPUT)
    scorer: str = option(
        "", "Scorer that training may see: as in `steer label`; default: the one that labelled the rows.", panel=INPUTS
    )
    gold: str = option(
        "",
        "Scorer that only evaluation may see: as in `steer label`; default: the proxy, and the report says so.",
        panel=INPUTS,
    )
    dry_run: bool = option(
        False, "Print what would be trained, drawn and answered, and its time; do and write nothing."
    )
    overwrite: bool = option(False, OVERWRITE)
