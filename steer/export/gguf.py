"""Write an exported policy as a GGUF file for llama.cpp, with llama.cpp's own converter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from steer.errors import SteerError
from steer.progress import progress

CONVERTER = "convert_hf_to_gguf.py"
FILE = "model.gguf"


def converter(path: str = "") -> Path:
    """Find llama.cpp's converter: the file at `path`, else the one on PATH; SteerError if there is none."""
    found = path or shutil.which(CONVERTER)
    if found and Path(found).is_file():
        return Path(found)
    problem = f"--converter {path}: no such file" if path else f"--format gguf: {CONVERTER} is not on PATH"
    raise SteerError(
        f"{problem}. Get llama.cpp (git clone https://github.com/ggml-org/llama.cpp), install its "
        f"requirements/requirements-convert_hf_to_gguf.txt, and name the file: --converter llama.cpp/{CONVERTER}."
    )


def convert(folder: Path, script: Path) -> Path:
    """Write `model.gguf` into a folder of weights that has none yet; SteerError with what the converter says last."""
    target, temporary = folder / FILE, folder / f".{FILE}.tmp"
    if target.is_file():
        return target
    own = (
        [str(script)]
        if os.access(script, os.X_OK) and script.read_bytes()[:2] == b"#!"
        else [sys.executable, str(script)]
    )
    command = [*own, str(folder), "--outfile", str(temporary), "--outtype", "auto"]
    with progress(what=f"convert {folder} to GGUF", unit=""):
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise SteerError(f"{script}: cannot be run ({error.strerror}). Check --converter.") from None
    if done.returncode or not temporary.is_file():
        temporary.unlink(missing_ok=True)
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise SteerError(
            f"{script}: does not convert {folder} (it says: {said[:300]}). Install its requirements, or take a version "
            "of llama.cpp that knows this model; the rest of the export is whole."
        )
    os.replace(temporary, target)
    return target
