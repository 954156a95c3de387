"""Of the commands that make rows, scorers and labels."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import HELD_OUT, LIMIT, OUTPUT, OVERWRITE, SEED, argument, option


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
class FitConfig:
    """`steer fit`."""

    rows: str = argument("Rows with human scores.")
    output: str = option(..., OUTPUT)
    model: str = option("linear", "Attribute model: linear, embeddings, regression, bradley-terry, labeller, ensemble.")
    set: tuple[str, ...] = option((), "A setting of the model, NAME=VALUE (repeat the flag).")
    calibration: str = option(
        "quantile",
        "Onto the scale of the scores, out of fold: quantile and spread give predictions the spread of the scores, "
        "affine and isotonic are right on average and shrink towards it.",
        choices=("quantile", "spread", "isotonic", "affine", "none"),
    )
    debias: str = option(
        "", "Take the liking for this out of the others: a scored attribute such as verbosity, or a countable: words."
    )
    attribute: tuple[str, ...] = option((), "Fit these only (repeat the flag); default: all that have scores.")
    schema: str = option(
        "", "schema.json with ranges and directions; default: the one beside the rows, else from the scores."
    )
    lower: tuple[str, ...] = option((), "Attributes where lower is better (repeat the flag).")
    neither: tuple[str, ...] = option((), "Attributes without a better end (repeat the flag).")
    held_out: float = option(0.1, HELD_OUT, least=0, most=1)
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0)
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class LabelConfig:
    """`steer label`."""

    rows: str = argument("Rows to label, in any known layout.")
    output: str = option(..., OUTPUT)
    scorer: str = option(
        "human",
        "Folder of `steer fit`, `countable:words,...`, `classifier:NAME` (any sequence-classification model), "
        "`judge:FILE`, `module:NAME` (a class or function of yours), or `human` for the scores in the rows.",
    )
    prefer: str = option(
        "predicted", "Which scores make the levels where both are known.", choices=("predicted", "human")
    )
    bins: str = option(
        "native",
        "Levels: the attribute's integer grid, equal widths or equal counts.",
        choices=("native", "uniform", "quantile"),
    )
    levels: int = option(5, "Levels where there is no native grid.", least=2)
    edges: tuple[str, ...] = option(
        (), "NAME=EDGE,EDGE,...: where the levels of an attribute meet; a score on an edge is above (repeat the flag)."
    )
    min_support: int = option(5, "Rows that a combination of levels needs to count as supported.", least=1)
    schema: str = option("", "schema.json of an earlier labelling whose levels are kept as they are.")
    lower: tuple[str, ...] = option((), "Attributes where lower is better (repeat the flag).")
    neither: tuple[str, ...] = option((), "Attributes without a better end (repeat the flag).")
    held_out: float = option(0.1, HELD_OUT, least=0, most=1)
    shard_size: int = option(2000, "Rows scored between two resume points.", least=1)
    num_proc: int = option(1, "Processes that score at the same time.", least=1)
    workers: str = option(
        "processes",
        "Where --num-proc counts: processes of this machine, or actors of a Ray cluster.",
        choices=("processes", "ray"),
    )
    shard: str = option("", "Score only share i of n, `i/n`, of the resume points: for several machines on one folder.")
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0)
    overwrite: bool = option(False, OVERWRITE)
