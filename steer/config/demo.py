"""The command lines of `steer demo` and `steer world`: their settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import OUTPUT, option


@dataclass(frozen=True)
class DemoConfig:
    """`steer demo`."""

    output: str = option("demo", OUTPUT)
    model: str = option(
        "", "A chat model, Hugging Face name or folder; default: SmolLM2-135M-Instruct, which is downloaded once."
    )
    prompts: int = option(32, "Prompts that get logged answers, from several assistants each.", least=8, most=80)
    asked: int = option(12, "Other prompts, which the policy is measured on.", least=2, most=16)
    max_new_tokens: int = option(110, "Longest answer.", least=1)


@dataclass(frozen=True)
class WorldConfig:
    """`steer world`."""

    output: str = option("world", OUTPUT)
    size: int = option(6000, "Rows of the embedded world.", least=1)
    seeds: int = option(1, "Repetitions of the comparison on each base.", least=1)
    bases: int = option(
        1, "Base models, each with text, first weights and an order of its own; the logs are the same.", least=1
    )
    full: bool = option(
        False, "The long run: 3 epochs for 1, 500 prompts for 250, a negative control, 3 methods for 5."
    )
