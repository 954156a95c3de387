"""Binary FeedME (AlpacaFarm, 2305.14387, appendix A.1): likelihood of the chosen response of every pair.

FeedME itself (OpenAI's instruct models of 2022) trains on responses of the model that people gave the highest rating;
here that is the best response of every prompt whose responses differ in reward. It trains on from a supervised policy,
`after=mle` in a comparison.
Differs from the official code: none of this method was released; the paper's pairs hold two responses each, and of
more than two that were scored together the best one is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steer.methods.base import Method, NoSettings, weighted_nll
from steer.methods.groups import Group, ranked, singles
from steer.rows import Row


def groups(rows: Sequence[Row], settings: Any = None) -> list[Group]:
    """The chosen response of every comparison; one that was chosen in several comparisons stands in each."""
    return singles([group.rows[0] for group in ranked(rows)])


METHOD = Method(rows="pairs", groups=groups, loss=weighted_nll, settings=NoSettings, per="token")
