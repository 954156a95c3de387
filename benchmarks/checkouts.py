"""Time label, train and generate of two checkouts in pairs: `python benchmarks/checkouts.py BEFORE [NOW]`.

Each stage runs as `python -m steer` on the same input, the order alternating; prints medians of now over before.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

PAIRS = 3
BASE = "import sys; from pathlib import Path; from data_recipes import world_model as m; m.save(Path(sys.argv[1]))"
GOLD = "data_recipes.world_text:Gold"
SHORT = ["--adapter", "none", "--batch-size", "32"]
STAGES = {
    "label": ["label", "data", "--scorer", "countable:words,repetition,sentences"],
    "train conditional": ["train", "labels", "--model", "base", *SHORT, "--max-steps", "60"],
    "train dpo": ["train", "labels", "--model", "base", "--method", "dpo", *SHORT, "--max-steps", "25"],
    "generate": ["generate", "train-conditional-0", "--input", "labels/rows.jsonl", "--limit", "60", "--n", "4"],
}


def seconds(checkout: Path, folder: Path, *args: str) -> float:
    """Run Python with a checkout's packages in a folder; return its wall time."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begun


def main(checkouts: list[Path]) -> None:
    """Prepare the same rows and base for both, then time every stage in pairs."""
    with TemporaryDirectory() as temporary:
        folders = [Path(temporary) / name for name in ("before", "now")]
        sides = list(zip(checkouts, folders))
        for checkout, folder in sides:
            folder.mkdir()
            seconds(checkout, folder, "-m", "steer", "data", "world", "--size", "3000", "--output", "data")
            seconds(checkout, folder, "-m", "steer", "label", "data", "--scorer", GOLD, "--output", "labels")
            seconds(checkout, folder, "-c", BASE, "base")
        for stage, args in STAGES.items():
            ratios = []
            for i in range(PAIRS):
                output = f"{stage.replace(' ', '-')}-{i}"
                order = sides if i % 2 == 0 else sides[::-1]
                took = {f.name: seconds(c, f, "-m", "steer", *args, "--output", output) for c, f in order}
                ratios.append(took["now"] / took["before"])
            print(f"{stage:18} now / before {statistics.median(ratios):.2f} of {PAIRS} pairs", flush=True)


if __name__ == "__main__":
    main([Path(path).resolve() for path in [*sys.argv[1:], "."][:2]])
