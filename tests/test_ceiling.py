"""How well people agree: the formulas, and real ratings by several people."""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from attribute_models.ceiling import ceiling, ratings
from attribute_models.metrics import report, table


def test_agreement_is_the_intraclass_correlation_of_the_paper() -> None:
    """The six targets and four judges of Shrout and Fleiss (1979), table 2: ICC(1,1) = .17, ICC(1,4) = .44."""
    said = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    found = ceiling(said)
    assert found["agreement"] == pytest.approx(0.17, abs=0.005)
    assert found["ceiling"] ** 2 == pytest.approx(0.44, abs=0.005)
    assert found["raters"] == 4


def test_the_ceiling_is_reached_by_a_scorer_that_knows_the_truth() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=4000)
    said = [(t + rng.normal(size=2 + i % 3)).tolist() for i, t in enumerate(true)]
    found = ceiling([*said, [1.0], []])  # rows with fewer than two ratings say nothing
    assert found["agreement"] == pytest.approx(0.5, abs=0.03)
    assert found["rated_rows"] == 4000
    means = np.asarray([sum(row) / len(row) for row in said])
    assert np.corrcoef(true, means)[0, 1] == pytest.approx(found["ceiling"], abs=0.02)
    assert found["human"] < found["ceiling"]


@pytest.mark.parametrize(
    "said",
    [
        [[3, 4], [4, 3]],
        [[1, 3], [3, 1], [2, 2]],
        [[1, 2, 3], [3, 2, 1]],
        [[3, 3], [2, 4], [4, 2, 4, 4, 1, 3, 2, 3], [3, 4]],
    ],
)
def test_raters_who_agree_no_better_than_by_chance_bound_a_scorer_at_nothing(said: list[list[float]]) -> None:
    found = ceiling(said)
    assert found["agreement"] < 0
    assert found["ceiling"] == 0


def test_one_rating_a_row_says_nothing() -> None:
    assert ceiling([[1.0], [2.0], []]) == {}
    assert ceiling([[3.0, 3.0]] * 5)["human"] is None


def test_what_is_no_rating_is_refused() -> None:
    assert ratings(None, "quality") == []
    assert ratings({"quality": None}, "quality") == []
    assert ratings({"other": [1]}, "quality") == []
    assert ratings({"quality": [1, None, 2]}, "quality") == [1.0, 2.0]
    for wrong in ({"quality": 3}, {"quality": ["3"]}, {"quality": [math.nan]}, [1, 2]):
        with pytest.raises(ValueError, match="raters"):
            ratings(wrong, "quality")


def test_real_annotators_bound_what_a_scorer_can_reach(shared: Path) -> None:
    """OpenInstruct's experts saw some responses more than once; the table shows how far they agree."""
    said = defaultdict(list)
    with gzip.open(shared / "data" / "open_instruct_human.jsonl.gz", "rt", encoding="utf-8") as lines:
        for raw in map(json.loads, lines):
            for side in ("a", "b"):
                known = raw["attributes"][f"acceptable_{side}"]
                said[raw["prompt"], raw[f"response_{side}"], raw[f"model_{side}"]].append(float(known))
    rows = list(said.values())
    truth = np.asarray([[np.mean(row)] for row in rows])
    (found,) = report(truth, truth, ("acceptable",), range(len(rows)), raters=[{"acceptable": row} for row in rows])
    assert found["rated_rows"] > 300
    assert 0.1 < found["human"] < 1
    assert found["human"] < found["ceiling"] < 1
    assert "one human" in table([found])
