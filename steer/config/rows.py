"""The command line of `steer data`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.rows.settings import DataSettings
from steer.settings import OUTPUT, OVERWRITE, argument, option


@dataclass(frozen=True)
class DataConfig(DataSettings):
    """`steer data`."""

    source: str = argument(
        "`world`, a file or folder with rows in any known layout, `hf:OWNER/NAME[/FOLDER][:CONFIG][@REVISION][#SPLIT]`."
    )
    output: str = option(..., OUTPUT)
    overwrite: bool = option(False, OVERWRITE)
