"""Of the commands that go in rounds and compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steer.iteration.settings import IterateSettings
from steer.settings import (
    DTYPE,
    DTYPES,
    MICRO_BATCH_TOKENS,
    OUTPUT,
    OVERWRITE,
    SEED,
    TRUST_REMOTE_CODE,
    argument,
    option,
)

ANNOTATOR = (
    "Who says which response is better, for win-rates: `simulated:FILE`, `judge:FILE`, any scorer, or `votes:FILE` of "
    "AlpacaEval's annotations (repeat the flag); default: the gold scorer. What they say of the baseline and each "
    "other system is written as AlpacaEval does: annotations/NAME/annotations.json."
)

SUITES: dict[str, dict[str, Any]] = {  # what they say where the user said nothing: `resolve` sees to that
    "quick": {"method": ("mle", "filtered", "rwr:beta=3/1/0.5", "conditional"), "prompts": 100, "grid": 300},
    "full": {
        "method": (
            "mle",
            "filtered:keep=0.5/0.2/0.1",
            "rwr:beta=3/1/0.5",
            "awr",
            "raft",
            "rrhf",
            "pro",
            "dpo",
            "dpo:after=mle",
            "contrastive:after=mle",
            "ipo",
            "slic",
            "rso:after=mle",
            "mle:best_of=4/16",
            "conditional:guidance=1/1.5/2",
            "conditional:rounds=1/2,prompts=500",
            "raft:rounds=1/2/3,prompts=500",
            "steerlm2:prompts=500",
            "directional",
            "remax:after=mle",
            "rloo:after=mle",
            "ppo:after=mle",
        ),
        "seeds": 3,
        "controls": True,
        "grid": 2000,
    },
}


@dataclass(frozen=True)
class IterateConfig(IterateSettings):
    """`steer iterate`."""

    rows: str = argument("Labelled rows that training starts from.")
    model: str = option(..., "Base model: Hugging Face name or folder.")
    scorer: str = option(..., "Scores fresh responses: as in `steer label`.")
    output: str = option(..., OUTPUT)
    policy: str = option("", "Policy that draws the first responses (folder of `steer train`); default: the base.")
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class CompareConfig:
    """`steer compare`."""

    rows: str = argument("Labelled rows with train and test prompts.")
    model: str = option(..., "Base model: Hugging Face name or folder.")
    output: str = option(..., OUTPUT)
    base: tuple[str, ...] = option(
        (),
        "Another base model (repeat the flag): every method is trained on each of them, and intervals are over bases "
        "too. Three bases with one seed cost as much as one with three.",
    )
    method: tuple[str, ...] = option(
        ("mle", "filtered", "rwr:beta=3", "rwr:beta=1", "rwr:beta=0.5", "conditional"),
        "NAME or NAME:SETTING=VALUE,...; `template`, `learning_rate` and `rate` are its own too (`rate`: its share of "
        "the learning rate in --train, which is that of likelihood methods; default: as `steer methods` says); values "
        "with a slash between them are a sweep, `rwr:beta=3/1/0.5`, also over `guidance` and `best_of`, and over "
        "`rounds` of `steer iterate`, `raft:rounds=1/2/3`, which draw `n` responses to each of so many "
        "`prompts`, score them with the proxy and train `from` base or last; `after=mle` trains by likelihood first "
        "and goes on from that policy, `dpo:after=mle` (repeat the flag).",
    )
    suite: str = option(
        "",
        "Methods, prompts and grid where no flag says them: `quick` takes minutes on two cores, `full` is the field.",
        choices=("", *SUITES),
        presets=SUITES,
    )
    target: tuple[str, ...] = option(("best",), "Targets for conditioned methods (repeat the flag).")
    proxy: str = option(
        "", "Scorer that training may see: as in `steer label`; default: the one that labelled the rows."
    )
    gold: str = option(
        "", "Scorer that only evaluation may see: as in `steer label`; default: the proxy, and the report says so."
    )
    seeds: int = option(1, "Repetitions with seeds 0, 1, ..., on each base.", least=1)
    prompts: int = option(300, "Held-out prompts answered by every method.", least=1)
    grid: int = option(1000, "Responses over the factorial grid of targets (0: none).", least=0)
    controls: bool = option(
        False,
        "Also train conditional on permuted labels, whose dial must be flat, ask for targets at random, and predict "
        "the reward from the prompt alone.",
    )
    annotator: tuple[str, ...] = option(
        (),
        ANNOTATOR,
    )
    pairs: str = option(
        "all", "Systems compared with each other, or with the baseline only.", choices=("all", "baseline")
    )
    budget_tokens: int = option(0, "Most tokens that training may generate (0: any); methods above it fail.", least=0)
    budget_calls: int = option(0, "Most responses that training may have scored (0: any).", least=0)
    temperature: float = option(1.0, "Of all responses but those that on-policy methods draw, at 1.", least=0)
    max_new_tokens: int = option(256, "Longest response; in training too, where --train does not say.", least=1)
    batch_size: int = option(64, "Sequences generated at once.", least=1)
    num_proc: int = option(1, "Runs done at the same time, each in its own process.", least=1)
    train: str = option("", "Config file for training, the same for every method.")
    resamples: int = option(2000, "Bootstrap resamples behind every interval.", least=1)
    dry_run: bool = option(False, "Print what would be trained, drawn and answered; do and write nothing.")
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class EvaluateConfig:
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
    )
    gold: str = option("", "Scorer that judges, as in `steer label`; best one that training never saw.")
    proxy: str = option("", "Scorer that training saw, to stand beside gold; default: the one that labelled the rows.")
    annotator: tuple[str, ...] = option(
        (),
        ANNOTATOR,
    )
    pairs: str = option(
        "all", "Systems compared with each other, or with the baseline only.", choices=("all", "baseline")
    )
    target: tuple[str, ...] = option(("best",), "Targets for conditioned policies (repeat the flag).")
    prompts: int = option(300, "Prompts that policies answer (0: all).", least=0)
    n: int = option(1, "Answers of a policy to each of them.", least=1)
    grid: int = option(1000, "Answers over the factorial grid of targets, for the dial (0: none).", least=0)
    controls: bool = option(
        False, "Also ask for targets at random, and predict the reward from the prompt alone: what is no steering."
    )
    reference: str = option("", "Model that KL is measured from; default: the base that a policy was trained from.")
    export: tuple[str, ...] = option(
        (),
        "Also write the answers for other tools: alpaca-eval (instruction, output, generator), or the prompts and the "
        "gold scorer as a task: lm-eval (repeat the flag).",
    )
    temperature: float = option(1.0, "Of all answers.", least=0)
    max_new_tokens: int = option(256, "Longest answer.", least=1)
    batch_size: int = option(64, "Sequences generated at once.", least=1)
    micro_batch_tokens: int = option(0, MICRO_BATCH_TOKENS, least=0)
    dtype: str = option("auto", DTYPE, choices=DTYPES)
    resamples: int = option(10_000, "Bootstrap resamples behind every interval.", least=1)
    seed: int = option(0, SEED, least=0)
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE)
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
