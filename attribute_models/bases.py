"""Weights of language models on disk: digests, whether they have changed, what to do with GGUF, loading in 4 bits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from attribute_models import device

CONVERT = (
    "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; a = {folder!r}; f = {file!r}; "
    "m = M.from_pretrained(a, gguf_file=f); m.hf_quantizer = None; vars(m.config).pop('quantization_config', None); "
    "m.save_pretrained('OUT'); T.from_pretrained(a, gguf_file=f).save_pretrained('OUT')"
)
HEADS = ["lm_head", "score", "classifier", "pre_classifier"]  # not quantised: they are new, or small


def digest(name: str, model: Any = None) -> str:
    """Digest of the files in a folder, or the commit of a model from the hub."""
    folder = Path(name)
    if not folder.is_dir():
        return str(getattr(model.config, "_commit_hash", None) or "") if model is not None else ""
    hashed = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model", ".txt", ".bin")):
        hashed.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()


def unchanged(name: str, saved: str) -> None:
    """ValueError if the folder of a base model is gone, or its digest is another than `saved`."""
    if saved and Path(name).is_absolute() and not Path(name).is_dir():
        raise ValueError(f"base model {name} is gone. Put it back there or fit again.")
    if Path(name).is_dir() and digest(name) != saved:
        raise ValueError(f"base model {name} has changed since the fit. Restore it or fit again.")


def gguf(name: str) -> str:
    """Say what to do with a file of GGUF weights, or a folder that holds no others; empty for any other model."""
    path = Path(name)
    if path.is_file() and path.suffix == ".gguf":
        folder, file = path.parent, path
    elif path.is_dir() and (files := sorted(path.glob("*.gguf"))):
        if any(p.suffix in (".safetensors", ".bin") for p in path.iterdir()):
            return ""
        folder, file = path, files[0]
    else:
        return ""
    code = CONVERT.format(folder=str(folder), file=file.name)
    return (
        f"model '{name}': its weights are GGUF, which cannot be trained or steered. Give the original weights, or the "
        f'folder OUT that this writes (it needs "pip install gguf"): python -c "{code}"'
    )


def placed(name: str) -> str:
    """Make a folder's path absolute, so that a saved model finds it from anywhere; a name on the hub stays."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def nf4() -> dict[str, Any]:
    """Arguments of `from_pretrained` that load linear layers in 4 bits: NF4, twice quantised (QLoRA, 2305.14314)."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if device.has_bfloat16() else torch.float32,
        llm_int8_skip_modules=HEADS,
    )
    return {"quantization_config": config, "device_map": {"": device.own()}}


def trainable(model: Any) -> Any:
    """Prepare a model in 4 bits for adapters: frozen, the rest in float32, and no layer that repacks itself.

    On a CPU with bfloat16, an evaluation forward repacks 4-bit weights in place, and packed ones have no gradient
    (bitsandbytes 0.50).
    """
    import bitsandbytes
    from peft import prepare_model_for_kbit_training

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
