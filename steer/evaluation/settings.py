"""Settings of `evaluate`, and those that it shares with `compare`."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import DTYPE, DTYPES, MICRO_BATCH_TOKENS, SEED, TRUST_REMOTE_CODE, option

JUDGING, ANSWERS, MODELS = "Who judges", "What policies answer", "Models and speed"


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """Settings of answering and judging, shared by `evaluate` and `compare`."""

    annotator: tuple[str, ...] = option(
        (),
        "Who says which response is better, for win-rates: `simulated:FILE`, `judge:FILE`, any scorer, or `votes:FILE` "
        "of AlpacaEval's annotations (repeat the flag); default: the gold scorer. Votes on the baseline and each other "
        "system are written in AlpacaEval's form: annotations/ANNOTATOR/annotations.json.",
        panel=JUDGING,
    )
    pairs: str = option(
        "all",
        "Systems compared with each other, or with the baseline only.",
        choices=("all", "baseline"),
        panel=JUDGING,
    )
    resamples: int = option(10_000, "Bootstrap resamples for every interval.", least=1, panel=JUDGING)
    target: tuple[str, ...] = option(("best",), "Targets for conditioned policies (repeat the flag).", panel=ANSWERS)
    num_prompts: int = option(300, "Held-out prompts that every policy answers (0: all).", least=0, panel=ANSWERS)
    grid: int = option(
        1000, "Answers over the factorial grid of targets, for the dial (0: none).", least=0, panel=ANSWERS
    )
    controls: bool = option(
        False,
        "Also ask for targets at random, and predict the reward from the prompt alone: neither is steering.",
        panel=ANSWERS,
    )
    temperature: float = option(1.0, "Temperature of all answers.", least=0, panel=ANSWERS)
    max_new_tokens: int = option(256, "Longest answer.", least=1, panel=ANSWERS)
    batch_size: int = option(64, "Sequences generated at once.", least=1, panel=ANSWERS)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(AnswerSettings):
    """Settings of `evaluate`."""

    n: int = option(1, "Answers of a policy to each prompt.", least=1, panel=ANSWERS)
    reference: str = option(
        "", "Model that KL is measured from; default: the base that a policy was trained from.", panel=ANSWERS
    )
    seed: int = option(0, SEED, least=0, panel=ANSWERS)
    micro_batch_tokens: int = option(0, MICRO_BATCH_TOKENS, least=0, panel=MODELS)
    dtype: str = option("auto", DTYPE, choices=DTYPES, panel=MODELS)
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE, panel=MODELS)
