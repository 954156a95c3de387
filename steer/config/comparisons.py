"""Of the commands that go in rounds and compare."""

from __future__ import annotations

from dataclasses import dataclass

from steer.comparison.settings import CompareSettings
from steer.evaluation.settings import EvaluateSettings
from steer.iteration.settings import IterateSettings
from steer.settings import (
    INPUTS,
    OUTPUT,
    OVERWRITE,
    argument,
    option,
)


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
    overwrite: bool = option(False, OVERWRITE)


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
    dry_run: bool = option(False, "Print what would be trained, drawn and answered; do and write nothing.")
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class EvaluateConfig(EvaluateSettings):
    """`steer evaluate`."""

    systems: tuple[str, ...] = argument(
        "What to evaluate, each as PATH or NAME=PATH: a policy or model, or responses as rows or in AlpacaEval's form. "
        "The first is the baseline; several of one name are seeds of one system."
    )
    output: str = option(..., OUTPUT)
    rows: str = option(
        "",
        "Labelled rows: held-out prompts for policies, the schema, the unit of the reward. Default: the prompts and "
        "the responses that are evaluated.",
        panel=INPUTS,
    )
    gold: str = option("", "Scorer that judges, as in `steer label`; best one that training never saw.", panel=INPUTS)
    scorer: str = option(
        "", "Scorer that training saw, to stand beside gold; default: the one that labelled the rows.", panel=INPUTS
    )
    export: tuple[str, ...] = option(
        (),
        "Also write the answers for other tools: alpaca-eval (instruction, output, generator), or the prompts and the "
        "gold scorer as a task: lm-eval (repeat the flag).",
        panel="Other tools",
    )
    overwrite: bool = option(False, OVERWRITE)


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
