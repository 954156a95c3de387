"""Settings of fitting an attribute model and of labelling rows."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import (
    HELD_OUT,
    INPUTS,
    LIMIT,
    SEED,
    SHARE,
    TRUST_REMOTE_CODE,
    TURNS,
    WHICH_TURNS,
    WHICH_WORKERS,
    WORKERS,
    option,
)

HIGHER = "Attributes where higher is better (repeat the flag)."
LOWER = "Attributes where lower is better (repeat the flag)."
NEITHER = "Attributes without a better end (repeat the flag)."


# Panels of --help.
MODEL, ROWS, DIRECTIONS, LEVELS, SPEED = "Attribute model", "Rows", "Directions and scales", "Levels", "Speed"


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of `fit`, apart from its rows."""

    kind: str = option(
        "linear",
        "Attribute model: linear (words, no download), embeddings (linear on a frozen model), regression (a fine-tuned "
        "model), bradley-terry (a reward from pairs), labeller (a fine-tuned model that writes levels), ensemble.",
        panel=MODEL,
    )
    model: str = option(
        "",
        "Encoder or language model that embeddings, regression, labeller and, if given, bradley-terry read rows with: "
        "Hugging Face name or folder, such as answerdotai/ModernBERT-base.",
        panel=MODEL,
    )
    set: tuple[str, ...] = option((), "A setting of the attribute model, NAME=VALUE (repeat the flag).", panel=MODEL)
    calibration: str = option(
        "quantile",
        "Onto the scale of the scores, out of fold: quantile and spread give predictions the spread of the scores, "
        "affine and isotonic are right on average and shrink towards it.",
        choices=("quantile", "spread", "isotonic", "affine", "none"),
        panel=MODEL,
    )
    debias: str = option(
        "",
        "Remove the correlation of all other attributes with this one: a scored attribute such as verbosity, or a "
        "countable one: words.",
        panel=MODEL,
    )
    attribute: tuple[str, ...] = option(
        (), "Fit these only (repeat the flag); default: all that have scores.", panel=ROWS
    )
    schema: str = option(
        "",
        "schema.json with ranges and directions; default: the one beside the rows, else from the scores.",
        panel=DIRECTIONS,
    )
    higher: tuple[str, ...] = option((), HIGHER, panel=DIRECTIONS)
    lower: tuple[str, ...] = option((), LOWER, panel=DIRECTIONS)
    neither: tuple[str, ...] = option((), NEITHER, panel=DIRECTIONS)
    held_out: float = option(SHARE, HELD_OUT, least=0, most=1, panel=ROWS)
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0, panel=ROWS)


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Settings of `label`, apart from its rows and scorer."""

    prefer: str = option(
        "predicted", "Which scores make the levels where both are known.", choices=("predicted", "human"), panel=LEVELS
    )
    bins: str = option(
        "native",
        "Levels: the attribute's integer grid (equal counts where it has none), equal widths or equal counts.",
        choices=("native", "uniform", "quantile"),
        panel=LEVELS,
    )
    levels: int = option(5, "Number of levels where there is no native grid.", least=2, panel=LEVELS)
    edges: tuple[str, ...] = option(
        (),
        "NAME=EDGE,EDGE,...: where the levels of an attribute meet; a score on an edge is above (repeat the flag).",
        panel=LEVELS,
    )
    min_support: int = option(
        5, "Rows that a combination of levels needs to count as supported.", least=1, panel=LEVELS
    )
    engine: str = option(
        "",
        "Address of a vLLM server, http://HOST:PORT, that scores with the model of `classifier:` "
        "(`vllm serve MODEL --runner pooling`).",
        panel=INPUTS,
    )
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE, panel=INPUTS)
    schema: str = option("", "schema.json of an earlier labelling whose levels are kept as they are.", panel=DIRECTIONS)
    higher: tuple[str, ...] = option((), HIGHER, panel=DIRECTIONS)
    lower: tuple[str, ...] = option((), LOWER, panel=DIRECTIONS)
    neither: tuple[str, ...] = option((), NEITHER, panel=DIRECTIONS)
    turns: str = option("last", TURNS, choices=WHICH_TURNS, panel=ROWS)
    held_out: float = option(SHARE, HELD_OUT, least=0, most=1, panel=ROWS)
    shard_size: int = option(2000, "Rows scored between two resume points.", least=1, panel=SPEED)
    num_proc: int = option(1, "Processes that read, score and write rows at the same time.", least=1, panel=SPEED)
    workers: str = option("processes", WORKERS, choices=WHICH_WORKERS, panel=SPEED)
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0, panel=ROWS)
