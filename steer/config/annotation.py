"""The command line of `steer annotate`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.annotation.settings import AnnotateSettings
from steer.settings import OUTPUT, OVERWRITE, argument, option


@dataclass(frozen=True)
class AnnotateConfig(AnnotateSettings):
    """`steer annotate`."""

    rows: str = argument("Rows with several responses a prompt, in any known layout.")
    output: str = option(..., OUTPUT)
    annotator: str = option(
        ...,
        "Who says which response is better: `simulated:FILE`, `judge:FILE` (one judge or a panel), any scorer, or "
        "`votes:FILE`. A pool draws one annotator for every pair, and flips a share of the votes on training prompts.",
    )
    overwrite: bool = option(False, OVERWRITE)
