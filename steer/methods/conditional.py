"""Attribute-conditioned supervised fine-tuning: SteerLM (2310.05344, step 3).

-log p(y | x, levels): likelihood of every response, conditioned on the levels that it *obtained*. With the attribute
`reward` and the template `decision-transformer`, which prints every row's own return, it is the Decision Transformer
for text (2308.12050); `reward-bins` prints the mean of the row's level.
Differs from the official code: there a condition stands between assistant marker and response, as here in tags; with
the template `words` it ends the turn that is answered. Whole conditions and single attributes are dropped at random, so
that any subset can be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steer.methods.base import Method, NoSettings, levels, weighted_nll
from steer.methods.groups import Group, levelled, singles
from steer.rows import Row


def groups(rows: Sequence[Row], settings: Any = None) -> list[Group]:
    """Every row that has levels."""
    return singles(levelled(rows))


METHOD = Method(rows="levels", groups=groups, loss=weighted_nll, settings=NoSettings, per="token", condition=levels)
