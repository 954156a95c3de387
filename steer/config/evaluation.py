"""The command line of `steer evaluate`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.evaluation.settings import EvaluateSettings
from steer.settings import INPUTS, OUTPUT, OVERWRITE, argument, option


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
        "Labelled rows: held-out prompts for policies, the schema, the unit of the reward. Needed for policies; for "
        "responses the default is their own prompts.",
        panel=INPUTS,
    )
    gold: str = option("", "Scorer that judges, as in `steer label`; better one that training never saw.", panel=INPUTS)
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
