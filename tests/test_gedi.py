"""GeDi: likelihood of a response, and how well it tells its own levels from others."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from steer.errors import SteerError
from steer.methods import gedi
from steer.methods.base import Candidates
from steer.rows.labelled import Labelled
from steer.training.prepare import conditioned, grouped
from steer.training.settings import TrainSettings
from tests.conftest import mean

OWN, OTHER = [-1.0, -0.25, -0.5], [-2.0, -0.1, -0.9]


def rows(*levels: dict[str, int]) -> list[dict[str, object]]:
    return [{"id": str(i), "prompt": [], "response": "x", "levels": each} for i, each in enumerate(levels)]


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_the_loss_is_likelihood_and_posterior(weight: float) -> None:
    logps = torch.tensor([[OWN, OTHER]], dtype=torch.float64)
    c = Candidates(torch.ones(1, 2, 3, dtype=torch.bool), torch.zeros(1, 2))
    posterior = math.exp(sum(OWN)) / (math.exp(sum(OWN)) + math.exp(sum(OTHER)))
    expected = -sum(OWN) / 3 - weight * math.log(posterior)
    assert mean(gedi.METHOD, logps, c, weight=weight) == pytest.approx(expected)


def test_the_other_levels_differ_in_one_attribute_and_exist() -> None:
    labelled = rows(*({"words": i % 3, "warmth": i % 2} for i in range(40)), {"words": 1}, {})
    groups = gedi.groups(labelled, gedi.Settings())
    assert [g.rows[0] for g in groups] == labelled[:-1]
    changed = set()
    for g in groups:
        own, other = (row["levels"] for row in g.rows)
        [name] = [n for n in own if own[n] != other[n]]
        assert other.keys() == own.keys()
        assert other[name] in {"words": (0, 1, 2), "warmth": (0, 1)}[name]
        changed.add((name, own[name], other[name]))
        assert g.weights == (1.0, 1.0), "every row counts alike, and so does its effective number"
    assert len(changed) == 8  # every change of one level occurs
    assert groups == gedi.groups(labelled, gedi.Settings())


def test_levels_that_never_vary_are_refused() -> None:
    with pytest.raises(SteerError, match=r"one level only.*\"steer label ROWS --bins quantile\""):
        gedi.groups(rows({"words": 1}, {"words": 1}), gedi.Settings())
    with pytest.raises(SteerError, match="weight"):
        gedi.Settings(-1.0)


def test_the_other_levels_are_of_an_attribute_that_the_condition_names(labels: Path) -> None:
    """Else both conditions would read alike, and the row be lost."""
    labelled = Labelled.of(labels)
    told = conditioned(labelled, gedi.METHOD, TrainSettings(template="tags", attribute=("warmth",)))
    given = list(labelled.rows)
    _, groups, _ = grouped(given, gedi.METHOD, gedi.Settings(), told, "gedi")
    assert len(groups) == sum("warmth" in row["levels"] for row in given)
    assert all(a["levels"].keys() == {"warmth"} and a["levels"] != b["levels"] for a, b in (g.rows for g in groups))
