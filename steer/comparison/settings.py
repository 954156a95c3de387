"""Settings of `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from steer.evaluation.settings import ANSWERS, JUDGING, AnswerSettings
from steer.generation.settings import DRAWN_BY, ENGINES, SHARD_SIZE
from steer.settings import LAUNCH, WHICH_WORKERS, WORKERS, option

RUNS = "What is trained"

BASELINES = (  # what every method must beat, and the control of twice the steps
    *("mle", "mle:after=mle", "mle:best_of=4/16"),
    *("prompted:guidance=1/1.5/2", "few-shot", "steering"),
)
FAMILIES = {
    "weights": (
        *("filtered:keep=0.5/0.2/0.1", "rwr:beta=3/1/0.5", "awr", "a-lol:after=mle"),
        *("feedme:after=mle", "unlikelihood"),
    ),
    "preferences": (
        *("dpo", "dpo:after=mle", "ipo:after=mle", "slic:after=mle", "contrastive:after=mle", "simpo:after=mle"),
        *("orpo", "cpo:after=mle", "odpo:after=mle", "rpo:after=mle", "apo:after=mle", "dpop:after=mle"),
        *("kto:after=mle", "bco:after=mle", "rrhf:after=mle", "pro"),
    ),
    "conditions": (
        *("conditional:guidance=1/1.5/2", "directional:after=mle", "binary-reward-conditioning:after=mle"),
        *("coh", "c-rlft", "gedi", "reward-augmented:after=mle"),
    ),
    "on-policy": ("remax:after=mle", "rloo:k=2,after=mle", "grpo:k=4,after=mle", "ppo:after=mle"),
    "rounds": (
        "raft:after=mle,rounds=1/2/3,prompts_per_round=500",
        "rejection:after=mle,rounds=2,prompts_per_round=500",
        "expert-iteration:after=mle,rounds=1,n=16,prompts_per_round=500",
        "rest-em:rounds=1/2,prompts_per_round=500",
    ),
    "conditioned-rounds": (
        "conditional:rounds=1/2,prompts_per_round=500",
        "quark:after=mle,prompts_per_round=500",
        "steerlm2:prompts_per_round=500",
    ),
    "drawn-preferences": (
        "rso:after=mle,rounds=1,n=16,prompts_per_round=500",
        "rebel:after=mle,rounds=1/2,prompts_per_round=500",
        "bond:after=mle,rounds=1/2,prompts_per_round=500",
        "spin:after=mle,rounds=1/2,prompts_per_round=500",
        "sppo:after=mle,rounds=1/2,prompts_per_round=500",
    ),
}
DIALS = {"controls": True, "grid": 2000}  # of a suite that measures dials
SUITES: dict[str, dict[str, Any]] = {  # values of other settings where the user gives none
    "quick": {
        "method": (
            *("mle", "filtered", "rwr:beta=3/1/0.5", "conditional", "mle:best_of=4"),
            *("prompted", "few-shot", "steering"),
        ),
        "num_prompts": 100,
        "grid": 300,
    },
    **{
        name: {"method": (*BASELINES, *own), "seeds": 3, **(DIALS if name == "conditions" else {"grid": 300})}
        for name, own in FAMILIES.items()
    },
    "full": {"method": (*BASELINES, *chain(*FAMILIES.values())), "seeds": 3, **DIALS},
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of the trainings of `compare`."""

    method: tuple[str, ...] = option(
        ("mle", "filtered", "rwr:beta=3", "rwr:beta=1", "rwr:beta=0.5", "conditional"),
        "A name of `steer methods`, or `prompted`, `few-shot`, `steering`, which need no training; NAME or "
        "NAME:SETTING=VALUE,...; `template`, `learning_rate` and `rate` are its own too (`rate`: its share of "
        "the learning rate in --train, which is that of likelihood methods; default: as `steer methods` says); values "
        "with a slash between them are a sweep, `rwr:beta=3/1/0.5`, also over `guidance` and `best_of`, and over "
        "`rounds` of `steer iterate`, `raft:rounds=1/2/3`, with its `n`, `prompts_per_round` and `start_from`, which "
        "are scored with --scorer (where none are named `quark` has two rounds, and so have `bond`, `rebel`, "
        "`rest-em`, `spin` and `sppo`, which need draws; `steerlm2` one); `after=mle` trains by likelihood first and "
        "continues from that policy, in every round, `dpo:after=mle` (repeat the flag).",
        panel=RUNS,
    )
    base: tuple[str, ...] = option(
        (),
        "Another base model (repeat the flag): every method is trained on each of them, and intervals are over bases "
        "too. Three bases with one seed cost as much as one with three.",
        panel=RUNS,
    )
    suite: str = option(
        "",
        "Methods, prompts and grid where no flag says them: `quick` takes minutes on two cores; `weights`, "
        "`preferences`, `conditions`, `on-policy`, `rounds`, `conditioned-rounds` and `drawn-preferences` are the "
        "parts of `full`, the field, which takes hours.",
        choices=("", *SUITES),
        presets=SUITES,
        panel=RUNS,
    )
    seeds: int = option(1, "Repetitions with seeds 0, 1, ..., on each base.", least=1, panel=RUNS)
    train: str = option("", "Config file for training, the same for every method.", panel=RUNS)
    tune: int = option(
        0,
        "Learning rates tried for every method that names none, each three times the one before, with its own among "
        "them (3: a third, one and three times its own; 0: none is tried). The proxy chooses, by answers to "
        "training prompts that are held out from these runs; neither gold nor the prompts of the report are asked.",
        least=0,
        panel=RUNS,
    )
    tune_prompts: int = option(
        100, "Training prompts that tuning holds out, at most a fifth of all.", least=2, panel=RUNS
    )
    rates: str = option(
        "",
        "Learning rates that an earlier comparison tuned: its folder, or a file like its rates.json. What is in it is "
        "not tried again; what is not takes its own rate or, with --tune, is tried.",
        panel=RUNS,
    )
    max_steps: int = option(0, "Optimizer steps of every run (0: as --train says).", least=0, panel=RUNS)
    budget_tokens: int = option(
        0, "Most tokens that training may generate (0: any); methods above it are skipped.", least=0, panel=RUNS
    )
    budget_calls: int = option(0, "Most responses that training may have scored (0: any).", least=0, panel=RUNS)
    engine: str = option("hf", DRAWN_BY, choices=ENGINES, panel=RUNS)
    launch: str = option("", LAUNCH, panel=RUNS)
    num_proc: int = option(
        1,
        "Runs done at the same time, each in its own process; with --launch or --workers ray, one run after the other, "
        "and processes that draw and score for it.",
        least=1,
        panel=RUNS,
    )
    workers: str = option("processes", WORKERS, choices=WHICH_WORKERS, panel=RUNS)
    shard_size: int = option(512, SHARD_SIZE, least=1, panel=RUNS)


@dataclass(frozen=True, kw_only=True)
class CompareSettings(AnswerSettings, RunSettings):  # the fields of the last base come first
    """Settings of `compare`."""

    resamples: int = option(2000, "Bootstrap resamples for every interval.", least=1, panel=JUDGING)
    controls: bool = option(
        False,
        "Also train conditional on permuted labels, whose dial must be flat, ask for targets at random, and predict "
        "the reward from the prompt alone.",
        panel=ANSWERS,
    )
    temperature: float = option(
        1.0,
        "Temperature of all responses but those that on-policy methods draw, at 1; at another one `bond` and "
        "`steerlm2` are skipped.",
        least=0,
        panel=ANSWERS,
    )
    max_new_tokens: int = option(
        256, "Longest response; in training too, where --train does not say.", least=1, panel=ANSWERS
    )
