"""Maximum likelihood in plain arithmetic."""

import pytest
import torch

from steer.methods import mle
from steer.methods.base import Candidates
from tests.conftest import mean


def test_mle_is_the_mean_negative_log_likelihood_of_the_tokens() -> None:
    logps = torch.tensor([[[-1.0, -2.0, -4.0]], [[-0.5, 9.0, 9.0]]])  # two prompts, one response each
    mask = torch.tensor([[[True, True, True]], [[True, False, False]]])
    # Over tokens, not over responses: those would give ((1 + 2 + 4) / 3 + .5) / 2.
    assert mean(mle.METHOD, logps, Candidates(mask, torch.zeros(2, 1))) == pytest.approx((1.0 + 2.0 + 4.0 + 0.5) / 4)


def test_mle_takes_every_row_whatever_its_reward() -> None:
    rows = [{"id": "a"}, {"id": "b", "reward": -9.0}, {"id": "c", "reward": None}]
    groups = mle.METHOD.groups(rows, None)
    assert [(g.rows[0]["id"], g.weights) for g in groups] == [("a", (1.0,)), ("b", (1.0,)), ("c", (1.0,))]
