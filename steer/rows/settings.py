"""Settings of `steer data`: reading, splitting, mixing and writing rows, with defaults and help."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import LIMIT, SEED, SHARE, TURNS, WHICH_TURNS, option

READING, SPLIT = "Reading records", "Split and duplicates"
MIXING, EXPORT, WORLD = "Several sources", "Other trainers", "The embedded world"
EXPORTS = ("trl-prompt-completion", "trl-preference", "steerlm")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings of `steer data`."""

    map: tuple[str, ...] = option(
        (), "NAME=COLUMN or NAME=DOTTED.PATH: prompt, response, messages, a score, ... (repeat).", panel=READING
    )
    default_prompt: str = option("", "Prompt of rows that have a response and no prompt.", panel=READING)
    requests: str = option(
        "", "File of the requests that the source's batch results answer (OpenAI, vLLM).", panel=READING
    )
    scores: str = option("", "File of the scores of the source's observations or traces (Langfuse).", panel=READING)
    range: tuple[str, ...] = option((), "NAME=LOW:HIGH; a score outside is refused (repeat the flag).", panel=READING)
    bad: str = option(
        "stop",
        "Records that cannot be used: stop at the first, or skip, count and list them.",
        choices=("stop", "skip"),
        panel=READING,
    )
    merge_raters: bool = option(
        False,
        "Rows with the same prompt and response are several raters': one row, with the mean and all in `raters`.",
        panel=READING,
    )
    turns: str = option("last", TURNS, choices=WHICH_TURNS, panel=READING)
    limit: int = option(0, LIMIT, least=0, panel=READING)
    num_proc: int = option(
        1,
        "Processes that read records at the same time, beside the one that puts them in order.",
        least=1,
        panel=READING,
    )
    held_out: float = option(SHARE, "Share of prompts kept for evaluation.", least=0, most=1, panel=SPLIT)
    resplit: bool = option(False, "Split by prompt again, whatever the rows say.", panel=SPLIT)
    duplicates: str = option(
        "keep",
        "Drop from training what is also held out (prompts that are the same but for case and marks, or alike) and "
        "rows that repeat another.",
        choices=("keep", "exact", "near"),
        panel=SPLIT,
    )
    similarity: float = option(
        0.8, "Share of word triples that alike prompts have in common.", above=0, most=1, panel=SPLIT
    )
    mix: tuple[str, ...] = option((), "Another source, as SOURCE (repeat the flag).", panel=MIXING)
    weight: tuple[str, ...] = option(
        (), "Proportion of each source's rows, SOURCE first (repeat the flag); default: all rows.", panel=MIXING
    )
    export: tuple[str, ...] = option(
        (),
        "Also write the rows for other trainers: trl-prompt-completion, trl-preference or steerlm (repeat the flag).",
        panel=EXPORT,
    )
    by: str = option("", "What orders candidates in trl-preference; with - in front, lower is better.", panel=EXPORT)
    size: int = option(8000, "Rows to simulate.", least=1, panel=WORLD)
    spread: float = option(1.0, "How far behaviours and answers differ; 0 makes all alike.", least=0, panel=WORLD)
    rated: float = option(0.5, "Share of rows that simulated annotators rate.", least=0, most=1, panel=WORLD)
    noise: float = option(0.5, "Standard deviation of an annotator's noise.", least=0, panel=WORLD)
    per_prompt: int = option(2, "Responses logged for one prompt.", least=1, panel=WORLD)
    primer: float = option(
        0.0, "Share of rows with plain facts and tags, to train a model from scratch on.", least=0, most=1, panel=WORLD
    )
    seed: int = option(0, SEED, least=0)
