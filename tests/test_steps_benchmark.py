"""The benchmark of a step against its passes: it times what it says, of a method of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.steps import WARM, timed
from steer.rows.labelled import Labelled
from steer.training.settings import TrainSettings


@pytest.mark.parametrize("name", ["rwr", "dpo", "quark", "rloo"])
def test_a_step_and_its_passes_are_timed(name: str, labels: Path, tiny: Path) -> None:
    options = TrainSettings(max_steps=WARM + 2, batch_size=2, max_new_tokens=8)
    pairs = timed(Labelled.read(str(labels)), str(tiny), name, options, 2)
    assert len(pairs) == 2
    assert all(whole > 0 and passes > 0 for whole, passes in pairs)
