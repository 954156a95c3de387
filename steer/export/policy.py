"""Export a policy as a plain Hugging Face folder: adapter merged, and a chat template that prints the condition."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steer.conditioning.condition import markers
from steer.errors import SteerError
from steer.export.template import finishing, fitting
from steer.models.card import MERGED, Card
from steer.models.policy import Policy, end_tokens, load_policy
from steer.models.quantization import is_quantised
from steer.models.tokenization import plain_ids
from steer.progress import progress, quiet
from steer.run_folder import fingerprint, folder_errors, identity, locked, read_json, write_json

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
MARK = "export.json"  # inputs and facts of the export; a folder that has it is complete


@dataclass(frozen=True)
class Exported:
    """Facts of an exported policy.

    `adapter`: the one that was merged; `differing`: conditions that a server tokenises differently from training.
    """

    card: Card
    adapter: str
    dtype: str
    differing: int
    parameters: int


def export_policy(
    source: str | Path,
    folder: str | Path,
    *,
    base: str = "",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write the policy in a folder as a plain Hugging Face folder that any server steers.

    `base`: merge the adapter into this model instead of the one it was trained on. `dtype`: "auto" (as the base is
    stored), "float32", "bfloat16" or "float16". `trust_remote_code`: run code that comes with the base. The folder
    appears whole or not at all; one that holds the same export stays as it is, another export is replaced only with
    `overwrite`. SteerError for a folder that holds anything else, or a base that is stored quantised.
    """
    origin, target = Path(source), Path(folder)
    inputs = {"source": fingerprint(origin), "model": base and f"{base} {identity(base)}".rstrip(), "dtype": dtype}
    if facts := finished(target, inputs, overwrite=overwrite):
        return Exported(Card.load(target), **facts)
    if origin.resolve().is_relative_to(target.resolve()):
        raise SteerError(f"{target}: holds the policy itself. Choose another folder.")
    stored = "stored" if dtype == "auto" else dtype
    policy, adapter = _merged(str(source), base, stored, trust_remote_code)
    assert policy.card is not None
    facts = {"adapter": adapter, "dtype": str(policy.model.dtype).removeprefix("torch."), "differing": 0}
    facts["parameters"] = sum(p.numel() for p in policy.model.parameters())
    if policy.card.attributes and (schema := policy.card.schema):
        template, facts["differing"] = fitting(
            policy.tokenizer, schema, policy.card.attributes, policy.card.template, policy.thinking
        )
        policy.tokenizer.chat_template = template
    elif policy.chats:
        policy.tokenizer.chat_template = finishing(policy.tokenizer, policy.thinking)
    with replacing(target) as temporary:
        policy.save(temporary)
        _copy_processor(base or policy.card.base, temporary)
        write_json(temporary / MARK, {**inputs, "facts": facts})
    return Exported(policy.card, **facts)


def finished(target: Path, inputs: Mapping[str, str], *, overwrite: bool) -> dict[str, Any]:
    """Return the facts of the same export if it is done; SteerError for a folder that holds anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return {}
    if not (target / MARK).is_file():
        raise SteerError(f"{target}: holds files that are no export of steer. Choose another folder.")
    mark = read_json(target / MARK)
    if not isinstance(mark, dict) or not isinstance(mark.get("facts"), dict):
        raise SteerError(f"{target / MARK}: not what steer export writes. Remove the folder, or choose another.")
    if all(mark.get(name) == value for name, value in inputs.items()):
        return dict(mark["facts"])
    if not overwrite:
        raise SteerError(f"{target}: holds another export. Choose another folder, or --overwrite to replace it.")
    return {}


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `target` at the end, or is removed after an error."""
    temporary = target.with_name(f".{target.name}.tmp")
    with folder_errors(target):
        temporary.mkdir(parents=True, exist_ok=True)
        with locked(temporary), quiet():
            try:
                for file in temporary.iterdir():  # left by a killed process; an export holds no folders
                    file.unlink()
                yield temporary
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _merged(source: str, base: str, dtype: str, trust_remote_code: bool) -> tuple[Policy, str]:
    """Load a policy on the CPU with its adapter merged into the unquantised base; also return which adapter it was."""
    policy = load_policy(
        source, dtype=dtype, trust_remote_code=trust_remote_code, quantised="", base=base, device="cpu"
    )
    model, tokenizer, card = policy.model, policy.tokenizer, policy.card
    assert card is not None
    if card.init_lora_weights == "loftq":
        raise SteerError(
            f"{source}: its adapter corrects the 4-bit base that it was trained on (LoftQ), so it cannot be merged "
            "into the whole one. Use it with that base, or train without --init-lora-weights loftq."
        )
    if is_quantised(model):
        raise SteerError(f"{source}: its base is stored quantised. Name the whole one: --model FOLDER.")
    if hasattr(model, "merge_and_unload"):
        with quiet(), progress(what=f"merge {source}", unit=""):
            model = model.merge_and_unload()
    model.generation_config.eos_token_id = sorted(end_tokens(policy))
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if card.attributes:
        _block(model.generation_config, card, tokenizer)
    return replace(policy, model=model, card=replace(card, adapter=MERGED)), card.adapter


def _copy_processor(base: str, folder: Path) -> None:
    """Copy what a multimodal base says of images, sound and video: a server reads it beside the tokenizer."""
    from transformers.utils.hub import cached_file

    for name in PROCESSORS if not base.endswith(".gguf") else ():  # those hold text models
        if file := cached_file(base, name, local_files_only=True, _raise_exceptions_for_missing_entries=False):
            shutil.copyfile(file, folder / name)


def _block(generation: Any, card: Card, tokenizer: Any) -> None:
    """Block condition markers in `generate` of transformers; only some other servers read this too."""
    if controls := [t for levels in card.control_tokens() for t in levels]:
        generation.suppress_tokens = tokenizer.convert_tokens_to_ids(controls)
    starts = [space + marker for marker in markers(card.attributes, card.template) for space in ("", " ")]
    generation.bad_words_ids = plain_ids(starts, tokenizer, only_text=True)
