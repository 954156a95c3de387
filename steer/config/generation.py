"""The command line of `steer generate`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from steer.generation.settings import PROMPTS, SAMPLING, SPEED, GenerateSettings
from steer.settings import FORMS, MOST_SHARDS, OUTPUT_FORMAT, OUTPUT_SHARDS, OVERWRITE, SHARD, argument, option


@dataclass(frozen=True)
class GenerateConfig(GenerateSettings):
    """`steer generate`."""

    policy: str = argument("Folder of `steer train`, or any Hugging Face model (then without targets).")
    _: KW_ONLY
    prompt: tuple[str, ...] = option((), "A prompt to answer (repeat the flag).", panel=PROMPTS)
    input: str = option("", "File with prompts: rows, or text with one a line.", panel=PROMPTS)
    output: str = option("", "Folder for the responses as rows; default: print them.")
    shard: str = option("", SHARD, panel=SPEED)
    output_shards: int = option(1, OUTPUT_SHARDS, least=1, most=MOST_SHARDS)
    output_format: str = option("jsonl", OUTPUT_FORMAT, choices=FORMS)
    stream: bool = option(False, "Print responses while they are drawn, one after the other.", panel=SAMPLING)
    dry_run: bool = option(False, "Print the plan, an estimate of the time and the first prompt; write nothing.")
    overwrite: bool = option(False, OVERWRITE)
