"""Settings of generation, with defaults, bounds and help."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import DTYPE, DTYPES, HELD_OUT, SEED, SHARE, TRUST_REMOTE_CODE, WHICH_WORKERS, WORKERS, option

# Panels of --help.
ENGINE, PROMPTS, SAMPLING, SPEED, TARGETS = "Engine", "Prompts", "Sampling", "Speed", "Targets and selection"
DRAWN_BY = (
    "Draw with transformers, or with vLLM where it is installed, in a process that loads each policy on the visible "
    "GPUs together and ends when it has drawn. No server draws here: it has one policy, and every training makes "
    "another."
)
ENGINES = ("hf", "vllm")
SHARD_SIZE = "Responses drawn between two resume points; processes share these out."


@dataclass(frozen=True, kw_only=True)
class AskedSampling:
    """What a user asks of sampling; None: as the policy is best sampled, see `generation.recommended`."""

    sampling: str = option(
        "recommended",
        "Values for what is not asked for below: `recommended` by the model's generation_config.json (else temperature "
        "0.7 and top_p 0.95 for a chat model), or `own`, the model's own distribution.",
        choices=("recommended", "own"),
        panel=SAMPLING,
    )
    temperature: float | None = option(None, "0 is greedy.", least=0, panel=SAMPLING)
    top_p: float | None = option(None, "Nucleus sampling (1: off).", above=0, most=1, panel=SAMPLING)
    top_k: int | None = option(None, "Draw from this many of the likeliest tokens (0: all).", least=0, panel=SAMPLING)
    min_p: float | None = option(
        None, "Exclude tokens less likely than this fraction of the likeliest.", least=0, most=1, panel=SAMPLING
    )
    repetition_penalty: float | None = option(
        None,
        "Divide the positive logits of tokens that occur in prompt or response by this, multiply negative ones "
        "(1: off).",
        above=0,
        panel=SAMPLING,
    )


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Settings of drawing responses, whatever tokens are drawn with."""

    max_new_tokens: int = option(256, "Longest response.", least=1, panel=SAMPLING)
    guidance: float = option(
        1.0,
        "S in log p(none) + S (log p(target) - log p(none)); 1 is no guidance, 2 about doubles the pull.",
        least=0,
        panel=SAMPLING,
    )
    batch_size: int = option(
        64, "Sequences in one batch (with --guidance a response takes two).", least=1, panel=SAMPLING
    )
    seed: int = option(0, SEED, least=0, panel=SAMPLING)


@dataclass(frozen=True, kw_only=True)
class Sampling(Drawing):
    """Values that tokens are drawn with; `left`: those that a server chooses, unknown here.

    `columns`: the most tokens that prompt, condition and response have together in all that is drawn, for an engine
    that makes room before it draws (see `requests.columns`); 0: unknown.

    By default the model's own distribution, without guidance: what is measured, or learned from, is drawn so.
    """

    temperature: float = option(1.0, "", least=0)
    top_p: float = option(1.0, "", above=0, most=1)
    top_k: int = option(0, "", least=0)
    min_p: float = option(0.0, "", least=0, most=1)
    repetition_penalty: float = option(1.0, "", above=0)
    left: tuple[str, ...] = ()
    columns: int = 0


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Drawing, AskedSampling):
    """Settings of answering prompts: at which targets, how often, by which engine, and which responses are kept."""

    target: tuple[str, ...] = option(
        (),
        "`helpful=5 verbosity=low`, `warmth=2..4`, `helpful>=4`, `best` or `none`; repeat for several side by side. "
        "Default: the best of the attributes of which one end is better; if there is none, no condition.",
        panel=TARGETS,
    )
    allow_unsupported: bool = option(False, "Allow targets that the data does not support.", panel=TARGETS)
    against: str = option(
        "none",
        "What --guidance moves away from: `none`, `opposite`, or a target.",
        needs=("guidance",),
        panel=SAMPLING,
    )
    n: int = option(1, "Responses per prompt and target.", least=1, panel=TARGETS)
    best_of: int = option(1, "Draw this many for each of them and keep one.", least=1, panel=TARGETS)
    rerank: str = option(
        "reward",
        "With --best-of: keep the one with the highest reward, or the one nearest to its target.",
        choices=("reward", "target"),
        needs=("best_of",),
        panel=TARGETS,
    )
    scorer: str = option(
        "",
        "With --best-of and --score: scores the responses, as in `steer label`; default: what labelled the policy.",
        needs=("best_of", "score"),
        panel=TARGETS,
    )
    score: bool = option(
        False, "Show what each response obtained beside its target; rows are labelled with it.", panel=TARGETS
    )
    engine: str = option(
        "hf",
        "Draw with transformers, or with vLLM where it is installed, on the visible GPUs together.",
        choices=ENGINES,
        panel=ENGINE,
    )
    server: str = option(
        "",
        "Draw from an OpenAI-compatible server that has the policy, by its address (`http://.../v1`), instead of "
        "loading the weights; several addresses with a space between share the requests.",
        panel=ENGINE,
    )
    server_model: str = option(
        "", "What --server calls the policy; default: its only model.", needs=("server",), panel=ENGINE
    )
    dtype: str = option("auto", DTYPE, choices=DTYPES, panel=ENGINE)
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE, panel=ENGINE)
    split: str = option(
        "",
        "Take only prompts of this split (`test`: those kept for evaluation) from rows.",
        choices=("", "train", "test"),
        panel=PROMPTS,
    )
    held_out: float = option(SHARE, HELD_OUT, least=0, most=1, panel=PROMPTS)
    limit: int = option(0, "Use only this many prompts of rows, the first ones (0: all).", least=0, panel=PROMPTS)
    shard_size: int = option(512, SHARD_SIZE, least=1, panel=SPEED)
    num_proc: int = option(
        1, "Processes that draw at the same time, each with the policy on its GPU; with --output.", least=1, panel=SPEED
    )
    workers: str = option("processes", WORKERS, choices=WHICH_WORKERS, panel=SPEED)
