"""The command line of `steer export`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from steer.settings import HELD_OUT, INPUTS, LIMIT, SEED, SHARE, TRUST_REMOTE_CODE, argument, option


@dataclass(frozen=True)
class ExportConfig:
    """`steer export`."""

    source: str = argument(
        "Policy of `steer train`; a regression of `steer fit`; or labelled rows, to be trained on by `trl sft`."
    )
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
    format: str = option(
        "hf",
        "Policies: a Hugging Face folder; gguf: with a file for llama.cpp and Ollama's Modelfile in it.",
        choices=("hf", "gguf"),
        panel="Policies",
    )
    converter: str = option("", "llama.cpp's convert_hf_to_gguf.py; default: that on PATH.", panel="Policies")
    target: str = option(
        "", "The target of Ollama's Modelfile, such as `helpful=5`; default: the one nobody asks for.", panel="Policies"
    )
    push_to_hub: str = option(
        "",
        "Upload the export to the Hugging Face hub as OWNER/NAME, with a card; rows without --model as they are.",
        panel="Hub",
    )
    private: bool = option(False, "Make a new repository private; default: as the account has it.", panel="Hub")
    evaluation: str = option("", "Folder of `steer evaluate` whose dial the card of a policy shows.", panel="Hub")
    attribute: tuple[str, ...] = option(
        (), "Rows: condition on these (repeat the flag); default: all that are scored.", panel="Rows"
    )
    template: str = option(
        "tags", "Rows: how a condition is written.", choices=("tags", "words", "steerlm", "reward-bins"), panel="Rows"
    )
    attribute_dropout: float = option(
        0.1, "Rows: chance that one attribute is left out.", least=0, most=1, panel="Rows"
    )
    condition_dropout: float = option(
        0.05, "Rows: chance that the whole condition is left out.", least=0, most=1, panel="Rows"
    )
    held_out: float = option(SHARE, HELD_OUT, least=0, most=1, panel="Rows")
    seed: int = option(0, SEED, least=0)
    limit: int = option(0, LIMIT, least=0, panel="Rows")
    trust_remote_code: bool = option(False, TRUST_REMOTE_CODE, panel=INPUTS)
    overwrite: bool = option(False, "Replace an earlier export.")


@dataclass(frozen=True)
class SoupConfig:
    """`steer soup`."""

    policies: tuple[str, ...] = argument(
        "Policies of `steer train` with adapters on one base, each for another reward."
    )
    _: KW_ONLY
    output: str = option(..., "Folder to write; it must not hold anything else.")
    share: tuple[str, ...] = option((), "Weight of a policy, in their order (repeat the flag); default: equal.")
    overwrite: bool = option(False, "Replace an earlier soup.")
