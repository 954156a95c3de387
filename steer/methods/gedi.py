"""Generative-discriminative training (GeDi, 2009.06367, eq. 5 to 7): each response tells its own levels from others.

-1/T log p(y | x, levels) - weight log p(levels | x, y), where by Bayes' rule p(levels | x, y) = p(y | x, levels) /
(p(y | x, levels) + p(y | x, other levels)). What is common to both conditions cancels, so the second term learns only
what a level changes. It costs a second pass over the response.
Differs from the official code: the posterior takes the whole log-probability of a response where GeDi divides it by its
length and learns a scale, so its weight (.8 and .2 in its script, here .25) is in other units than ours; the other
levels differ in one attribute of the condition, drawn uniformly from the levels of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, averaged, levels, summed
from steer.methods.groups import Group, levelled
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of gedi."""

    weight: float = option(0.3, "How much telling levels apart counts beside the likelihood.", least=0)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Every row that has levels, beside itself under another level of one attribute."""
    labelled = levelled(rows)
    seen = {n: sorted({r["levels"][n] for r in labelled if n in r["levels"]}) for r in labelled for n in r["levels"]}
    found = []
    for row in labelled:
        rng = np.random.default_rng(crc32(row["id"].encode()))  # groups are a pure function of the rows
        others = [(n, x) for n, level in row["levels"].items() for x in seen[n] if x != level]
        names = sorted({n for n, _ in others})
        if not names:
            continue
        name = names[rng.integers(len(names))]
        choices = [x for n, x in others if n == name]
        other = choices[rng.integers(len(choices))]
        found.append(Group((row, row | {"levels": {**row["levels"], name: other}}), (1.0, 1.0)))
    if not found:
        raise SteerError(
            "every attribute has one level only, so there is none to tell from another. Cut scores finer with "
            '"steer label ROWS --bins quantile", or condition on other attributes.'
        )
    return found


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-mean log p + weight softplus(log p under the other levels - log p): [B, 2, T] -> [B], one term per prompt."""
    from torch.nn.functional import softplus

    whole = summed(logps, c.mask)  # [B, 2]
    return -averaged(logps, c.mask)[:, 0] + s.weight * softplus(whole[:, 1] - whole[:, 0])


METHOD = Method(
    rows="levels",
    groups=groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"named levels"},
    condition=levels,
)
