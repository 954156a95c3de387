"""Whatever a result depends on is part of its identity: a folder never gives what was made of something else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from attribute_models.own import code_of
from steer.annotation.annotate import annotate
from steer.errors import SteerError
from steer.evaluation.evaluate import evaluate
from steer.labelling.fit import fit
from steer.labelling.label import label
from steer.labelling.scorer import load_scorer
from steer.rows.labelled import Labelled
from steer.training.train import train

GOLD = "data_recipes.world_text:Gold"
OTHER = r"holds a run with other settings \(inputs\)"
ROWS = [
    {"prompt": f"p{i // 2}", "response": "word " * (i % 5 + 1), "scores": {"words": float(i % 5 + 1)}}
    for i in range(40)
]


def turned(labelled: Labelled, name: str) -> Labelled:
    """The same rows, where less of an attribute is better."""
    return replace(labelled, schema=labelled.schema.turned({name: (-1, 1.0)}))


def twice(call: Callable[[Any], Any], first: Any, second: Any) -> None:
    """The same is made again; what is made of something else is refused."""
    assert call(first) is not None
    assert call(first) is not None
    with pytest.raises(SteerError, match=OTHER):
        call(second)


def test_a_scorer_is_fitted_again_where_the_schema_is_another(tmp_path: Path) -> None:
    rows = label(ROWS, min_support=1)
    twice(partial(fit, folder=tmp_path / "fit"), rows, turned(rows, "words"))


def test_votes_that_weighed_otherwise_are_not_taken(labels: Path, tmp_path: Path) -> None:
    rows = Labelled.read(labels)
    some = replace(rows, rows=rows.rows[:60])
    twice(partial(annotate, annotator=GOLD, folder=tmp_path / "votes"), some, turned(some, "verbosity"))


def test_an_evaluation_knows_the_schema_of_rows_in_memory(labels: Path, tmp_path: Path) -> None:
    rows = Labelled.read(labels)
    answers = [{**row, "split": "test"} for row in rows.rows if row["split"] == "test"][:8]

    def judged(prompts: Labelled) -> Any:
        return evaluate({"logs": answers}, prompts=prompts, gold=GOLD, folder=tmp_path / "out", resamples=20)

    twice(judged, rows, turned(rows, "verbosity"))


def words(row: Any, times: float = 1) -> float:
    return times * len(row["response"].split())


def doubled(row: Any) -> float:
    return 2 * words(row)


doubled.__name__ = "words"


@dataclass
class Weighed:
    """Words, each with a weight."""

    weight: float
    attributes: tuple[str, ...] = ("words",)

    def score(self, rows: Any) -> np.ndarray:
        return np.array([[self.weight * len(row["response"].split())] for row in rows])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (words, doubled),
        (lambda row: len(row["response"]), lambda row: -len(row["response"])),
        (Weighed(1.0), Weighed(2.0)),
    ],
    ids=["functions", "lambdas", "objects"],
)
def test_scores_of_code_that_was_edited_are_not_taken(first: Any, second: Any, tmp_path: Path) -> None:
    assert load_scorer(first).id == load_scorer(second).id
    plain = [{name: value for name, value in row.items() if name != "scores"} for row in ROWS]
    twice(lambda scorer: label(plain, scorer=scorer, folder=tmp_path / "labels", min_support=1), first, second)


def test_the_hash_of_code_follows_what_it_does_and_holds() -> None:
    def made(value: Any) -> Callable[[Any], Any]:
        return lambda row: value

    different = [words, doubled, partial(words, times=2), partial(words, times=3), made(1), made([2]), Weighed(1.0)]
    assert len({code_of(each) for each in different}) == len(different)
    assert code_of(made([2])) == code_of(made([2]))
    assert code_of(Weighed(1.0)) == code_of(Weighed(1.0))
    changing = Weighed(1.0)
    changing.identity = "the judge of May"  # type: ignore[attr-defined]
    before = code_of(changing)
    changing.weight += 1
    assert code_of(changing) == before


def test_a_training_by_another_scorer_does_not_go_on(
    labels: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", mine)

    def stopped(*_: Any) -> None:
        raise SteerError("stopped")

    monkeypatch.setattr("steer.training.train.prepare", stopped)
    for scorer, message in ((words, "stopped"), (words, "stopped"), (doubled, OTHER)):
        mine.quality = scorer  # type: ignore[attr-defined]
        with pytest.raises(SteerError, match=message):
            train(labels, model=str(base), method="rloo", scorer="mine:quality", folder=tmp_path / "policy")
