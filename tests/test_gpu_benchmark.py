"""The benchmark that waits for a GPU: all its systems run at toy size on what is here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CASES = ("tiny-lora", "tiny-qlora", "tiny-draw", "tiny-label")


@pytest.mark.slow
def test_every_system_of_the_gpu_benchmark_runs() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--peer", "transformers"]
    command += ["--steps", "1", "--batch-size", "1", "--rows", "2", *(x for case in CASES for x in ("--case", case))]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    table = [line.split(" | ") for line in ran.stdout.splitlines() if line.startswith("| tiny")]
    assert not ran.stderr, ran.stderr
    found = {(cells[0].removeprefix("| "), cells[1]): cells[-1].removesuffix(" |") for cells in table}
    assert {name for name, _ in found} == {*CASES}
    # One pass of ours and of transformers on the same sequences, and one scorer read by both.
    assert found["tiny-lora", "steer"] == found["tiny-lora", "transformers"]
    assert found["tiny-label", "steer"] == found["tiny-label", "transformers"]
    assert float(found["tiny-draw", "steer"].split()[0]) > 1
