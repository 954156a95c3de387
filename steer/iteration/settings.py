"""Settings of `iterate`."""

from __future__ import annotations

from dataclasses import dataclass

from steer.generation.settings import DRAWN_BY, ENGINES, SHARD_SIZE, SPEED
from steer.settings import LAUNCH, SEED, WHICH_WORKERS, WORKERS, option

ROUNDS, DRAWN, KEPT = "Rounds", "What each round draws", "Which responses are kept"
GUARDS, REFIT = "Watching and stopping", "Refitting the scorer"


@dataclass(frozen=True, kw_only=True)
class IterateSettings:
    """Settings of `iterate`."""

    rounds: int = option(2, "Generate, score, relabel, merge and retrain so often.", least=1, panel=ROUNDS)
    method: str = option("", "What every round optimises; default: the method of the policy.", panel=ROUNDS)
    set: tuple[str, ...] = option((), "A setting of the method, NAME=VALUE (repeat the flag).", panel=ROUNDS)
    start_from: str = option(
        "",
        "What every round trains from: the base, or the weights of the round before (`last`; the first round: of "
        "--policy, where there is one); default: the base, or `last` for methods that compare with the policy that "
        "drew (`bond`, `rebel`, `rso`, `spin`, `sppo`, `steerlm2`).",
        choices=("", "base", "last"),
        panel=ROUNDS,
    )
    pool: str = option(
        "",
        "What a round trains on: `all`, the logs and all fresh responses; `rounds`, those of all rounds; `last`, those "
        "of the last one; default: as the method says.",
        choices=("", "all", "rounds", "last"),
        panel=ROUNDS,
    )
    log_share: float = option(1.0, "Share of the logged rows in a pool that has them.", least=0, most=1, panel=ROUNDS)
    relative_levels: bool = option(
        False,
        "Levels are quantiles of every round's pool, so that the best one moves with it (Quark).",
        panel=ROUNDS,
    )
    train: str = option(
        "", "Config file for training; default: the settings of the policy. `limit` is one of the logs.", panel=ROUNDS
    )
    prompts_per_round: int = option(1000, "Training prompts answered per round.", least=1, panel=DRAWN)
    n: int = option(1, "Responses per prompt and round.", least=1, panel=DRAWN)
    explore: float = option(
        0.5, "Share of responses that aim at `best`; the others as --goals says.", least=0, most=1, panel=DRAWN
    )
    goals: str = option(
        "near",
        "`best`; `near`: the best tenth of the supported targets; `pareto`: those that no other beats in every "
        "attribute (Rewards-in-Context); `support`: all of them; `weights`: the best for drawn preferences.",
        choices=("best", "near", "pareto", "support", "weights"),
        panel=DRAWN,
    )
    weights: str = option(
        "", "Preferences of `--goals weights` as in `steer targets`; default: drawn at random.", panel=DRAWN
    )
    temperature: float = option(1.0, "Of the fresh responses (1 for `bond` and `steerlm2`).", least=0, panel=DRAWN)
    max_new_tokens: int = option(256, "Longest response.", least=1, panel=DRAWN)
    batch_size: int = option(64, "Sequences generated at once.", least=1, panel=DRAWN)
    any_form: bool = option(
        False,
        "Keep fresh responses with condition text, chat markers, broken characters or mostly repeated trigrams too.",
        panel=KEPT,
    )
    dedupe: bool = option(
        False, "Drop fresh responses that the prompt has in the logs or an earlier round.", panel=KEPT
    )
    keep_above: float = option(
        0.0,
        "Keep a fresh response if one of its scores is better than this quantile of the logs (0: all).",
        least=0,
        most=1,
        panel=KEPT,
    )
    gold: str = option(
        "", "Held-out scorer that only watches and chooses the round to keep: as in `steer label`.", panel=GUARDS
    )
    guard: tuple[str, ...] = option(
        (),
        "What stops the rounds, NAME=LIMIT (repeat the flag; 0: not this, `off`: nothing): gold=0.05 is the chance of "
        "a false alarm, kl=1 nats per token, length=0.005 of the logs, distinct=0.5 of the start, repeated=0.2, "
        "leaked=0.01, unfinished=0.2.",
        panel=GUARDS,
    )
    watch: int = option(300, "Held-out prompts answered after every round.", least=2, panel=GUARDS)
    annotator: str = option(
        "",
        "Rates fresh responses of every round, and --scorer is refitted: as in `steer label`. Wants --gold.",
        panel=REFIT,
    )
    ratings: int = option(100, "Responses that the annotator rates per round.", least=2, panel=REFIT)
    engine: str = option("hf", DRAWN_BY, choices=ENGINES, panel=SPEED)
    launch: str = option("", LAUNCH, panel=SPEED)
    num_proc: int = option(
        1, "Processes that draw responses at the same time, and that score them.", least=1, panel=SPEED
    )
    workers: str = option("processes", WORKERS, choices=WHICH_WORKERS, panel=SPEED)
    shard_size: int = option(512, SHARD_SIZE, least=1, panel=SPEED)
    seed: int = option(0, SEED, least=0)
