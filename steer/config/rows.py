"""Of the commands that make rows, scorers and labels."""

from __future__ import annotations

from dataclasses import dataclass

from steer.labelling.settings import FitSettings, LabelSettings
from steer.settings import LIMIT, OUTPUT, OVERWRITE, SEED, argument, option


@dataclass(frozen=True)
class DataConfig:
    """`steer data`."""

    source: str = argument(
        "`world`, a file or folder with rows in any known layout, `hf:OWNER/NAME[/FOLDER][:CONFIG][@REVISION][#SPLIT]`."
    )
    output: str = option(..., OUTPUT)
    mix: tuple[str, ...] = option((), "Another source, as SOURCE (repeat the flag).")
    weight: tuple[str, ...] = option(
        (), "Proportion of each source's rows, SOURCE first (repeat the flag); default: all rows."
    )
    map: tuple[str, ...] = option(
        (),
        "NAME=COLUMN or NAME=DOTTED.PATH: prompt, response, messages, a score, ... (repeat).",
    )
    prompt: str = option("", "Prompt of rows that have a response and no prompt.")
    requests: str = option("", "File of the requests that the source's batch results answer (OpenAI, vLLM).")
    range: tuple[str, ...] = option((), "NAME=LOW:HIGH; a score outside is refused (repeat the flag).")
    bad: str = option(
        "stop", "What cannot be used: stop there, or skip it, count it and name it.", choices=("stop", "skip")
    )
    resplit: bool = option(False, "Split by prompt anew, whatever the rows say.")
    duplicates: str = option(
        "keep",
        "Leave out of training what is also held out: prompts that are the same but for case and marks, or alike; "
        "and rows that repeat another.",
        choices=("keep", "exact", "near"),
    )
    similarity: float = option(0.8, "Share of word triples that alike prompts have in common.", above=0, most=1)
    merge_raters: bool = option(
        False, "Rows with the same prompt and response are several raters': one row, with the mean and all in `raters`."
    )
    export: tuple[str, ...] = option(
        (),
        "Also write the rows for other trainers: trl-prompt-completion, trl-preference or steerlm (repeat the flag).",
    )
    by: str = option("", "What orders candidates in trl-preference; with - in front, lower is better.")
    size: int = option(8000, "world: rows to simulate.", least=1)
    spread: float = option(1.0, "world: how far behaviours and answers differ; 0 makes all alike.", least=0)
    rated: float = option(0.5, "world: share of rows that simulated annotators rate.", least=0, most=1)
    noise: float = option(0.5, "world: standard deviation of an annotator's noise.", least=0)
    per_prompt: int = option(2, "world: responses logged for one prompt.", least=1)
    primer: float = option(
        0.0, "world: share of rows with plain facts and tags, to train a model from scratch on.", least=0, most=1
    )
    held_out: float = option(0.1, "Share of prompts kept for evaluation.", least=0, most=1)
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0)
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class FitConfig(FitSettings):
    """`steer fit`."""

    rows: str = argument("Rows with human scores.")
    output: str = option(..., OUTPUT)
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class LabelConfig(LabelSettings):
    """`steer label`."""

    rows: str = argument("Rows to label, in any known layout.")
    output: str = option(..., OUTPUT)
    scorer: str = option(
        "human",
        "Folder of `steer fit`, `countable:words,...`, `classifier:NAME` (any sequence-classification model), "
        "`judge:FILE`, `module:NAME` (a class or function of yours), or `human` for the scores in the rows.",
    )
    shard: str = option("", "Score only share i of n, `i/n`, of the resume points: for several machines on one folder.")
    overwrite: bool = option(False, OVERWRITE)
