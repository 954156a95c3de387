"""The command line of `steer data`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.rows.settings import DataSettings
from steer.settings import FORMS, MOST_SHARDS, OUTPUT, OUTPUT_FORMAT, OUTPUT_SHARDS, OVERWRITE, argument, option


@dataclass(frozen=True)
class DataConfig(DataSettings):
    """`steer data`."""

    source: str = argument(
        "`world`, a file or folder with rows in any known layout, `hf:OWNER/NAME[/FOLDER][:CONFIG][@REVISION][#SPLIT]`."
    )
    output: str = option(..., OUTPUT)
    output_shards: int = option(1, OUTPUT_SHARDS, least=1, most=MOST_SHARDS)
    output_format: str = option("jsonl", OUTPUT_FORMAT, choices=FORMS)
    overwrite: bool = option(False, OVERWRITE)
