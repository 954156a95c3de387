"""Of the commands that train, use and serve a policy."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from steer.generation.settings import PROMPTS, SAMPLING, GenerateSettings
from steer.serve.settings import ADDRESS, ServeSettings
from steer.settings import (
    HELD_OUT,
    INPUTS,
    LIMIT,
    OUTPUT,
    OVERWRITE,
    SEED,
    TRUST_REMOTE_CODE,
    argument,
    option,
)
from steer.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainConfig(TrainSettings):
    """`steer train`."""

    rows: str = argument("Labelled rows (plain rows do for mle).")
    model: str = option(..., "Base model: Hugging Face name or folder.", panel=INPUTS)
    output: str = option(..., OUTPUT)
    method: str = option("conditional", "What to optimise; `steer methods` lists them.", panel=INPUTS)
    _: KW_ONLY
    dry_run: bool = option(False, "Print the plan and the first sample with its loss mask; train and write nothing.")
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class GenerateConfig(GenerateSettings):
    """`steer generate`."""

    policy: str = argument("Folder of `steer train`, or any Hugging Face model (then without targets).")
    _: KW_ONLY
    prompt: tuple[str, ...] = option((), "A prompt to answer (repeat the flag).", panel=PROMPTS)
    input: str = option("", "File with prompts: rows, or text with one a line.", panel=PROMPTS)
    output: str = option("", "Folder for the responses as rows; default: print them.")
    stream: bool = option(False, "Print responses while they are drawn, one after the other.", panel=SAMPLING)
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class TargetsConfig:
    """`steer targets`."""

    policy: str = argument("Folder of `steer train`, or of `steer label`.")
    target: str = option("", "Count only rows at these levels: what is supported beside them.")
    weights: str = option(
        "", "Preferences such as `helpful=.7,verbosity=-.3`: prints the best supported trade-offs for them."
    )
    top: int = option(10, "Combinations to print.", least=1)


@dataclass(frozen=True)
class ServeConfig(ServeSettings):
    """`steer serve`."""

    policy: str = argument("Folder of `steer train`, or any Hugging Face model (then without targets).")
    _: KW_ONLY
    host: str = option(
        "127.0.0.1", "Address to listen on; others than this machine's own need --api-key.", panel=ADDRESS
    )
    port: int = option(8000, "Port to listen on (0: any free one).", least=0, most=65535, panel=ADDRESS)
    api_key: str = option("", "Key that clients must send; better in the variable STEER_API_KEY.", panel=ADDRESS)


@dataclass(frozen=True)
class ExportConfig:
    """`steer export`."""

    source: str = argument("Policy of `steer train`; or labelled rows, to be trained on by `trl sft`.")
    output: str = option(..., "Folder to write; it must not hold anything else.")
    _: KW_ONLY
    model: str = option(
        "",
        "Policies: merge into this base instead of the one trained on. Rows: the model that will be trained.",
        panel=INPUTS,
    )
    dtype: str = option(
        "auto", "auto: as the base is stored.", choices=("auto", "float32", "bfloat16", "float16"), panel=INPUTS
    )
    attribute: tuple[str, ...] = option(
        (), "Rows: condition on these (repeat the flag); default: all that are scored.", panel="Rows"
    )
    template: str = option(
        "tags", "Rows: how a condition is written.", choices=("tags", "steerlm", "reward-bins"), panel="Rows"
    )
    attribute_dropout: float = option(
        0.1, "Rows: chance that one attribute is left out.", least=0, most=1, panel="Rows"
    )
    condition_dropout: float = option(
        0.05, "Rows: chance that the whole condition is left out.", least=0, most=1, panel="Rows"
    )
    held_out: float = option(0.1, HELD_OUT, least=0, most=1, panel="Rows")
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0, panel="Rows")
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE, panel=INPUTS)
    overwrite: bool = option(False, "Replace an earlier export.")
