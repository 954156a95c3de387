"""The example of a method of one's own: its formula, and that the commands know it."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from steer.methods import METHODS
from steer.methods.base import Candidates
from steer.run_folder import read_json

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "cal_dpo.py"


@pytest.fixture
def cal_dpo() -> Iterator[ModuleType]:
    """The example as a module; METHODS is left as it was."""
    spec = importlib.util.spec_from_file_location("cal_dpo_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cal_dpo_example"] = module
    spec.loader.exec_module(module)
    yield module
    del METHODS["cal-dpo"], sys.modules["cal_dpo_example"]


def test_the_loss_is_what_the_paper_prints(cal_dpo: ModuleType) -> None:
    logps = torch.tensor([[[-1.0, -2.0], [-0.5, 9.0]]], dtype=torch.float64)
    mask = torch.tensor([[[True, True], [True, False]]])
    ref = torch.tensor([[-5.0, -1.0]], dtype=torch.float64)
    [term] = cal_dpo.loss(logps, Candidates(mask, torch.zeros(1, 2), ref), cal_dpo.Settings(beta=0.2))
    margin = (-3.0 + 5.0) - (-0.5 + 1.0)
    assert float(term) == pytest.approx(math.log(1 + math.exp(-margin)) + (2.0 - 2.5) ** 2 + (0.5 + 2.5) ** 2)


# The example's own commands, in one process.
BOTH = """
import contextlib, runpy, sys
example, *train = sys.argv[1:]
for words in (["methods"], train):
    sys.argv = [example, *words]
    with contextlib.suppress(SystemExit):
        runpy.run_path(example, run_name="__main__")
"""


def test_the_commands_know_it(labels: Path, base: Path, tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
    flags = ["--model", str(base), "--output", str(tmp_path / "policy"), "--max-steps", "2"]
    words = ["train", str(labels), *flags, "--method", "cal-dpo", "--set", "beta=0.1"]
    run = [sys.executable, "-c", BOTH, str(EXAMPLE), *words]
    listed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "beta=0.01" in next(line for line in listed.splitlines() if line.startswith("cal-dpo"))
    assert "Rejection sampling fine-tuning of Llama 2" in listed
    assert read_json(tmp_path / "policy" / "steer.json")["settings"] == {"beta": 0.1}
