"""Conditional fine-tuning: likelihood of every response, conditioned on its own levels."""

import pytest
import torch

from steer.errors import SteerError
from steer.methods import conditional
from steer.methods.base import Candidates
from tests.conftest import mean


def test_conditional_is_the_likelihood_of_the_response_alone() -> None:
    # The condition is no part of the mask, so the loss is that of mle on other log-probs.
    logps = torch.tensor([[[-1.0, -3.0]], [[-2.0, 0.0]]])
    mask = torch.tensor([[[True, True]], [[True, False]]])
    assert mean(conditional.METHOD, logps, Candidates(mask, torch.zeros(2, 1))) == pytest.approx((1.0 + 3.0 + 2.0) / 3)


def test_rows_with_levels_are_taken_and_others_left_out() -> None:
    rows = [{"id": "a", "levels": {"quality": 0}}, {"id": "b", "levels": {}}, {"id": "c"}]
    groups = conditional.groups(rows)
    assert [g.rows[0]["id"] for g in groups] == ["a"]
    with pytest.raises(SteerError, match=r'none of the 2 rows has levels\. Run "steer label" first'):
        conditional.groups(rows[1:])


def test_conditional_says_that_it_reads_a_condition() -> None:
    assert conditional.METHOD.conditioned
    assert not conditional.METHOD.needs
