"""The command line of `steer demo`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import OUTPUT, OVERWRITE, option


@dataclass(frozen=True)
class DemoConfig:
    """`steer demo`."""

    output: str = option("demo", OUTPUT)
    size: int = option(6000, "Rows of the embedded world.", least=1)
    seeds: int = option(1, "Repetitions of the comparison on each base.", least=1)
    bases: int = option(
        1, "Base models, each with text, first weights and an order of its own; the logs are the same.", least=1
    )
    full: bool = option(False, "Fewer methods, trained for longer, on more prompts and with the negative control.")
    overwrite: bool = option(False, OVERWRITE)
