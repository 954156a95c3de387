"""The guidance curve: measured with the same jobs and seeds at every strength, and shown in the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steer.conditioning.targets import factorial
from steer.errors import SteerError
from steer.evaluation.guidance import Trial
from steer.generation.engines import respond
from steer.generation.generate import held_out_prompts
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.labelling.scorer import load_scorer
from steer.models.policy import Policy, load_policy
from steer.report import page
from steer.report.guided import guided


def test_the_curve_is_measured_and_shown(policy: Policy, base: Path, labels: Path) -> None:
    scorer, plain = load_scorer("data_recipes.world_text:Gold"), load_policy(str(base))
    rows = held_out_prompts(str(labels), 0.1, 0, 6)
    trial = Trial(policy, plain, scorer, rows, responses=24, max_new_tokens=20)
    curve = trial.curve((0.0, 1.0, 3.0))
    assert [p["guidance"] for p in curve["points"]] == [0.0, 1.0, 3.0]
    assert (curve["responses"], curve["prompts"]) == (24, len(rows))
    assert policy.card is not None
    assert policy.card.schema is not None
    schema, names = policy.card.schema, list(policy.card.attributes)
    # By hand, without guidance: the distance between levels asked for and obtained.
    aims = factorial(schema, names, 24, 0)
    jobs = [Request(rows[i % len(rows)], aim) for i, aim in enumerate(aims)]
    drawn = respond(policy, jobs, Sampling(max_new_tokens=20))
    scores = scorer.score([{**job.row, "response": r.text} for job, r in zip(jobs, drawn)], names)
    got = np.column_stack([schema[n].position(scores[:, j]) for j, n in enumerate(names)])
    gaps = np.abs(got - [[aim[n] for n in names] for aim in aims])
    assert curve["points"][1]["distance"]["mean"] == pytest.approx(gaps.mean())
    assert curve["points"][1]["cut"] == pytest.approx(np.mean([not r.finished for r in drawn]))
    said, charts, table = guided(curve)
    assert "highest at S = " in str(said)
    assert page.markdown("t", [], [("Guidance", [said, charts, table])]).count("\n| ") >= 4
    assert page.html("t", "", ["l"], [("Guidance", [said, charts, table])], warned=False).count("<svg") == 4


def test_a_policy_without_condition_has_no_curve(base: Path, labels: Path) -> None:
    plain = load_policy(str(base))
    rows = held_out_prompts(str(labels), 0.1, 0, 2)
    with pytest.raises(SteerError, match="there is nothing to guide"):
        Trial(plain, plain, load_scorer("data_recipes.world_text:Gold"), rows).curve()
