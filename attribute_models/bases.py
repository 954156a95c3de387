"""Weights of language models on disk: where they are, digests, whether they have changed, loading in 4 bits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attribute_models import device

HEADS = ["lm_head", "score", "classifier", "pre_classifier"]  # not quantised: they are new, or small


def digest(name: str, model: Any = None) -> str:
    """Digest of the files in a folder, of a GGUF file, or the commit of a model from the hub."""
    folder = Path(name)
    if not folder.exists():
        return str(getattr(model.config, "_commit_hash", None) or "") if model is not None else ""
    hashed = hashlib.blake2b(digest_size=16)
    kinds = (".json", ".safetensors", ".model", ".txt", ".bin", ".gguf")
    for path in sorted(p for p in folder.iterdir() if p.suffix in kinds) if folder.is_dir() else [folder]:
        hashed.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()


def unchanged(name: str, saved: str) -> None:
    """ValueError if the folder of a base model is gone, or its digest is another than `saved`."""
    if saved and Path(name).is_absolute() and not Path(name).exists():
        raise ValueError(f"base model {name} is gone. Put it back there or fit again.")
    if Path(name).exists() and digest(name) != saved:
        raise ValueError(f"base model {name} has changed since the fit. Restore it or fit again.")


class Weights(NamedTuple):
    """Where a model is: a folder or a name on the hub, and in it the GGUF file that holds weights and tokenizer."""

    place: str
    file: str = ""

    @staticmethod
    def of(name: str) -> Weights:
        """Find a model by a folder, a name on the hub, or a GGUF file in either; ValueError if several may be meant."""
        path, parts = Path(name), name.split("/")
        if path.suffix == ".gguf" and path.is_file():
            return Weights(str(path.parent), path.name)
        if path.suffix == ".gguf" and not path.is_absolute() and len(parts) > 2 and not path.parent.is_dir():
            return Weights("/".join(parts[:2]), "/".join(parts[2:]))
        files = sorted(path.glob("*.gguf")) if path.is_dir() else []
        if not files or any(p.suffix in (".safetensors", ".bin") for p in path.iterdir()):
            return Weights(name)
        if len(files) > 1:
            listed = ", ".join(file.name for file in files[:5]) + ", ..." * (len(files) > 5)
            raise ValueError(f"model '{name}': holds several GGUF files ({listed}). Name one of them: {files[0]}.")
        return Weights(name, files[0].name)

    @property
    def source(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` for tokenizer and config; ValueError if what reads GGUF is not installed."""
        if not self.file:
            return {"pretrained_model_name_or_path": self.place}
        if find_spec("gguf") is None:
            raise ValueError(f"model '{self.place}/{self.file}': reading GGUF needs a package: pip install gguf.")
        return {"pretrained_model_name_or_path": self.place, "gguf_file": self.file}

    @property
    def whole(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` for a model, whose weights are dequantised."""
        import transformers

        if not self.file or not hasattr(transformers, "GgufConfig"):  # an earlier one dequantises always
            return self.source
        return self.source | {"quantization_config": transformers.GgufConfig(dequantize=True)}

    def note(self, name: str) -> str:
        """Say what is done to GGUF weights."""
        return f"{name}: its weights are GGUF; they are dequantised to full size, and stay as exact as in the file."


def placed(name: str) -> str:
    """Make the path of a folder or file absolute, so that it is found from anywhere; a name on the hub stays."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def nf4(dtype: torch.dtype | None = None, place: str = "", whole: Sequence[str] | None = None) -> dict[str, Any]:
    """Make arguments of `from_pretrained` that load linear layers in 4 bits, NF4, twice quantised (2305.14314).

    `dtype`: what products are computed in, by default what the device of this process is fast in. `place`: another
    device. `whole`: names of layers that are not quantised, by default those that transformers leaves out.
    """
    from transformers import BitsAndBytesConfig

    dtype = dtype or (torch.bfloat16 if device.has_bfloat16() else torch.float32)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(whole) if whole else None,
    )
    # Without a map every process of several would quantise on the first GPU.
    return {"quantization_config": config, "device_map": {"": place or device.own()}}


def trainable(model: Any) -> Any:
    """Prepare a model in 4 bits for adapters: frozen, the rest in float32, and no layer that repacks itself."""
    from peft import prepare_model_for_kbit_training

    keep_unpacked(model)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def keep_unpacked(model: Any) -> None:
    """Let 4-bit layers keep their layout in evaluation.

    If a CPU computes in bfloat16, an evaluation forward pass repacks the weights in place; packed layers have no
    gradient, so all training after it would be silently wrong (bitsandbytes 0.50).
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
