"""Of the commands that go in rounds and compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
class IterateConfig:
    """`steer iterate`."""

    rows: str = argument("Labelled rows that training starts from.")
    model: str = option(..., "Base model: Hugging Face name or folder.")
    scorer: str = option(..., "Scores fresh responses: as in `steer label`.")
    output: str = option(..., OUTPUT)
    policy: str = option("", "Policy that draws the first responses (folder of `steer train`); default: the base.")
    method: str = option("", "What every round optimises; default: the method of the policy.")
    set: tuple[str, ...] = option((), "A setting of the method, NAME=VALUE (repeat the flag).")
    gold: str = option("", "Held-out scorer that only watches and chooses the round to keep: as in `steer label`.")
    guard: tuple[str, ...] = option(
        (),
        "What stops the loop, NAME=LIMIT (repeat the flag; 0: not this, `off`: nothing): gold=0.05 is the chance of a "
        "false alarm, kl=1 nats per token, length=0.005 of the logs, distinct=0.5 of the start, repeated=0.2, "
        "leaked=0.01, unfinished=0.2.",
    )
    watch: int = option(300, "Held-out prompts answered after every round.", least=2)
    annotator: str = option(
        "",
        "Rates fresh responses of every round, and --scorer is fitted anew: as in `steer label`. Wants --gold.",
    )
    ratings: int = option(100, "Responses that it rates per round.", least=2)
    levels: str = option(
        "absolute",
        "`relative`: levels are quantiles of every round's pool, so that the best one moves with it (Quark).",
        choices=("absolute", "relative"),
    )
    rounds: int = option(2, "Generate, score, relabel, merge and retrain so often.", least=1)
    start_from: str = option(
        "base",
        "What every round trains from: the base, or the weights of the round before (`last`; the first round: of "
        "--policy, where there is one).",
        choices=("base", "last"),
    )
    prompts: int = option(1000, "Training prompts answered per round.", least=1)
    n: int = option(1, "Responses per prompt and round.", least=1)
    explore: float = option(0.5, "Share of responses that aim at `best`; the others as --goals says.", least=0, most=1)
    goals: str = option(
        "near",
        "`best`; `near`: the best tenth of the supported targets; `pareto`: those that no other beats in every "
        "attribute (Rewards-in-Context); `support`: all of them; `weights`: the best for drawn preferences.",
        choices=("best", "near", "pareto", "support", "weights"),
    )
    weights: str = option("", "Preferences of `--goals weights` as in `steer targets`; default: drawn at random.")
    pool: str = option(
        "",
        "What a round trains on: `all`, the logs and all fresh responses; `rounds`, those of all rounds; `last`, those "
        "of the last one; default: as the method says.",
        choices=("", "all", "rounds", "last"),
    )
    mix: float = option(1.0, "Share of the logged rows in a pool that has them.", least=0, most=1)
    any_form: bool = option(
        False,
        "Keep fresh responses with condition text, chat markers, broken characters or mostly repeated trigrams too.",
    )
    dedupe: bool = option(False, "Leave out fresh responses that the prompt has in the logs or an earlier round.")
    keep_above: float = option(
        0.0, "Keep a fresh response if a score of it is above this quantile of the logs (0: all).", least=0, most=1
    )
    temperature: float = option(1.0, "Of the fresh responses.", least=0)
    max_new_tokens: int = option(256, "Longest response.", least=1)
    batch_size: int = option(64, "Sequences generated at once.", least=1)
    train: str = option(
        "", "Config file for training; default: the settings of the policy. `limit` is one of the logs."
    )
    seed: int = option(0, SEED, least=0)
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
        "Methods, prompts and grid where nothing is said: `quick` takes minutes on two cores, `full` the whole field. "
        "`claims`: what the field says of its methods, by methods of its own.",
        choices=("", *SUITES, "claims"),
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
