"""Load a causal language model and its tokenizer from a folder or the hub, ready for batches and generation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from attribute_models.bases import Weights, keep_unpacked
from steer import device
from steer.conditioning.chat import PLAIN
from steer.errors import SteerError
from steer.hub import online
from steer.models import attention
from steer.models.lora import refuse_nan
from steer.models.quantization import is_quantised, left_whole, quantised
from steer.models.tokenization import limit_tokens
from steer.progress import note, note_once, progress, quiet

T = TypeVar("T")
# What a model's generation_config.json recommends of sampling.
SAMPLED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Loading:
    """Options of loading weights.

    `quantised`: "nf4", "int8" or "" (None: as the policy was trained). `base`: another than the recorded one.
    `revision`: the commit of a model on the hub; empty means the newest. On the device "meta" no weights are loaded:
    such a model knows its end tokens and how many positions it has.
    """

    dtype: str = "auto"
    trust_remote_code: bool = False
    quantised: str | None = None
    base: str = ""
    device: str = ""
    revision: str = ""
    attn_implementation: str = ""


def pretrained(name: str, loading: Loading) -> tuple[Any, Any]:
    """Load model and tokenizer; SteerError for what cannot be read, trained on or generated from."""
    weights = _weights(name, loading)
    _check_folder(name, weights)
    with progress(what=f"load {name}", unit="") as bar, quiet(), _counted(bar):
        from transformers import AutoConfig, AutoTokenizer

        folder = Path(weights.place).is_dir()
        connected = not folder and online()
        source: dict[str, Any] = {"trust_remote_code": loading.trust_remote_code, "local_files_only": not connected}
        source |= {"revision": loading.revision} if loading.revision else {}
        place, dtype = loading.device or device.own(), device.dtype_of(loading.dtype)
        try:
            tokenizer = AutoTokenizer.from_pretrained(**weights.source, **source)
            config = AutoConfig.from_pretrained(**weights.source, **source)
            if place == "meta":
                model, left = _readable(config, lambda part: _weightless(weights, part, dtype, source))
            else:
                fewer_bits = quantised(loading.quantised, dtype, place) if loading.quantised else {}
                settings = {"dtype": dtype, "output_loading_info": True, **source, **fewer_bits}

                def loaded(part: Any) -> Any:
                    own = {} if part is config else {"config": part}
                    return _kind(part).from_pretrained(**weights.whole, **settings, **own)

                (model, info), left = _readable(config, loaded)
                if missing := sorted(info["missing_keys"]):  # they would be drawn at random
                    raise ValueError(f"its files lack {len(missing)} weights, such as {missing[0]}")
        except Exception as error:  # noqa: BLE001  # a damaged tokenizer.json raises no narrower kind
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" :.")
            if folder:
                problem = f"the folder holds no model that can be read ({reason})"
            elif connected:
                problem = f"is no folder here, and the hub does not give it ({reason})"
            else:
                problem = "is no folder here, nor in the hub's cache, and the hub cannot be reached"
            advice = "Give a folder with config.json, weights and tokenizer, or the name of a model on the hub."
            commit = f" at commit {loading.revision}, which is on record" if loading.revision else ""
            raise SteerError(f"model '{name}'{commit}: {problem}. {advice}") from None
        if left and place != "meta":
            note_once(f"{name}: {left}.")
        refuse_nan(model.named_parameters(), f"model '{name}'")
        if is_quantised(model):  # also a base that is stored so
            keep_unpacked(model)
            if loading.quantised and (whole := left_whole(model)):
                note(f"{name}: {whole:,} parameters of its experts stay in full precision.")
        else:
            model.to(place)
        if loading.attn_implementation:
            if loading.attn_implementation == attention.IN_BLOCKS and model.device.type == "cpu":
                raise SteerError(f"--attn-implementation {attention.IN_BLOCKS}: cannot train on a CPU. Leave it out.")
            try:
                attention.choose(model, loading.attn_implementation)
            except (ValueError, ImportError) as error:
                reason = str(error).splitlines()[0]
                raise SteerError(f"--attn-implementation {loading.attn_implementation}: {reason}") from None
        model.generation_config = _generation_config(model, name)
    _complete(tokenizer, model, name)
    return model, tokenizer


def _check_folder(name: str, weights: Weights) -> None:
    """Refuse a folder without the file that says what model is in it; name one inside that has it."""
    folder = Path(weights.place)
    if weights.file or not folder.is_dir() or (folder / "config.json").is_file():
        return
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    advice = f"Give {inside[0]}, which has one." if inside else "Give a folder with config.json, weights and tokenizer."
    raise SteerError(f"model '{name}': the folder has no config.json, so it holds no model that can be read. {advice}")


def _weights(name: str, loading: Loading) -> Weights:
    """Find a model's weights, and say if they are dequantised; SteerError for GGUF that is to be loaded in 4 bits."""
    try:
        weights = Weights.of(name)
        _ = weights.source
    except ValueError as error:
        raise SteerError(str(error)) from None
    if weights.file and loading.quantised:
        raise SteerError(
            f"model '{name}': GGUF weights cannot be quantised again. Take --adapter lora, or other weights."
        )
    if weights.file and loading.device != "meta":
        note_once(weights.note(name))
    return weights


def _generation_config(model: Any, name: str) -> Any:
    """Keep of a model's generation config what ends responses and what sampling it recommends; nothing else."""
    from transformers import GenerationConfig

    written = model.generation_config.to_diff_dict() if model.generation_config else {}
    ends, advice = written.get("eos_token_id"), {n: x for n in SAMPLED if (x := written.get(n)) is not None}
    odd = {n: x for n, x in advice.items() if type(x) not in (int, float)}
    if not all(end is None or type(end) is int for end in (ends if isinstance(ends, list) else [ends])):
        odd["eos_token_id"] = ends
    for key, value in odd.items():
        raise SteerError(f"model '{name}': generation_config.json has the {key} {value!r:.40}. Restore it.")
    sampled = written.get("do_sample") or set(advice) - {"repetition_penalty"}
    return GenerationConfig(eos_token_id=ends, do_sample=True if sampled else None, **advice)


@contextmanager
def _counted(bar: Any) -> Iterator[None]:
    """Count the weights that transformers loads, and on a terminal let the hub's client show its downloads."""
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging

    def hook(factory: Any, items: Any, options: Mapping[str, Any]) -> Any:
        return bar.over(items[0], "weights") if items else factory(*items, **options)

    if sys.stderr.isatty():
        enable_progress_bars()
    if not hasattr(logging, "set_tqdm_hook"):  # an earlier transformers
        yield
        return
    before = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def hub_commit(name: str) -> str:
    """Return the commit of a model that was loaded from the hub; empty for a folder."""
    from huggingface_hub import try_to_load_from_cache

    weights = Weights.of(name)
    path = (
        None if Path(weights.place).is_dir() else try_to_load_from_cache(weights.place, weights.file or "config.json")
    )
    return Path(path).parent.name if isinstance(path, str) else ""


def _kind(config: Any) -> Any:
    """Return the class of transformers that loads a model whole: a multimodal one with what reads images or sound."""
    import transformers

    kinds = [(transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, transformers.AutoModelForImageTextToText)]
    if hasattr(transformers, "AutoModelForMultimodalLM"):  # those that read sound and no images
        kinds.append((transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING, transformers.AutoModelForMultimodalLM))
    text = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    for mapping, kind in kinds:
        whole = mapping.get(type(config), None)
        if whole and (text is None or whole.__name__ in (config.architectures or ())):
            return kind
    return transformers.AutoModelForCausalLM


def _readable(config: Any, load: Callable[[Any], T]) -> tuple[T, str]:
    """Load the part of a model that reads and writes text, by its config; also say what is left out, if anything is.

    Of a model that speaks it is the part that thinks. Where a library is missing that its other parts need, it is the
    text model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if thinker := getattr(config, "thinker_config", None):
        return load(thinker), "what writes text is loaded, and not what speaks"
    try:
        return load(config), ""
    except ImportError as error:
        text = config.get_text_config()
        if text is config or type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise
        reason = next(line for line in str(error).splitlines() if line.strip())
        return load(text), f"its text model is loaded alone, for the rest lacks a library ({reason[:200]})"


def _weightless(weights: Weights, config: Any, dtype: Any, source: Mapping[str, Any]) -> Any:
    from transformers import GenerationConfig

    with torch.device("meta"):
        model = _kind(config).from_config(config, dtype=dtype, trust_remote_code=source["trust_remote_code"])
    files = {k: v for k, v in source.items() if k != "trust_remote_code"}
    with suppress(OSError):  # not every model has one
        model.generation_config = GenerationConfig.from_pretrained(weights.place, **files)
    return model


def _complete(tokenizer: Any, model: Any, name: str) -> None:
    """Give the tokenizer a pad token and a chat template, as batching and generation need; refuse one without EOS."""
    if tokenizer.eos_token_id is None:
        raise SteerError(
            f"model '{name}': its tokenizer has no EOS token, so responses cannot end. Set one and save it."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN
    limit_tokens(tokenizer, model)
