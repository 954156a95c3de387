"""Kahneman-Tversky optimisation (2402.01306, section 4): single responses with a thumb up or down, no pairs.

w (1 - sigmoid(beta (gain - z))) for a good response, w (1 - sigmoid(beta (z - gain))) for a bad one, averaged over
responses; gain = lp - ref. z is the mean gain of mismatched pairs, the step's prompts with responses to other prompts
of the step, at least 0 and without a gradient. Good is a standardised reward of at least `threshold`. The weights of
one kind are raised until all good ones weigh `ratio` times what all bad ones do (the paper's lambda_D n_D / lambda_U
n_U, for which it advises 1 to 1.5); at 1 that is the rarer kind, at 1.5 the good ones up to a share of .6.
Differs from the official code: z is of the whole optimizer step, there of one micro-batch of every process; a
mismatched pair never has the response's own prompt; there responses are shifted by one in a micro-batch, which sorted
logs turn into other responses to the same prompt. No setting for wrong thumbs: sigmoid(-x) is 1 - sigmoid(x), so at
equal weights of good and bad responses they would only scale this loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, gains
from steer.methods.groups import Group, rewarded, standardised
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of kto."""

    beta: float = option(0.1, "Strength of the pull to the reference.", above=0)
    threshold: float = option(0.0, "Lowest reward of a good response, in standard deviations.")
    ratio: float = option(1.0, "Weight of all good responses over that of all bad ones (0: one each).", least=0)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Every row with a known reward; its weight is positive if it is good, and negative if it is bad."""
    scored = rewarded(rows)
    good = [z >= settings.threshold for z in standardised([row["reward"] for row in scored])]
    up, down = sum(good), len(good) - sum(good)
    if not (up and down):
        raise SteerError(f"all {len(scored)} responses are {'good' if up else 'bad'}: change --set threshold.")
    wanted = settings.ratio * down / up if settings.ratio else 1.0  # of a good one over a bad one
    return [Group((row,), (max(1.0, wanted) if x else -max(1.0, 1 / wanted),)) for row, x in zip(scored, good)]


def signed(c: Candidates, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Margin of each gain over the step's baseline, to be raised, and its weight: [B, K] -> [B, K], [B, K]."""
    import torch

    margin = gain if c.baseline is None else gain - c.baseline[:, None]
    weight = torch.ones_like(gain) if c.weight is None else c.weight
    return torch.where(weight < 0, -margin, margin), weight.abs()


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """w (1 - sigmoid(beta (gain - z))), the sign turned for bad responses: [B, K, T] -> [B, K]."""
    margin, weight = signed(c, gains(logps, c))
    return weight * (-s.beta * margin).sigmoid()


METHOD = Method(
    rows="rewards",
    groups=groups,
    loss=loss,
    settings=Settings,
    per="response",
    needs={"ref", "mismatched"},
    rate=0.25,  # 5e-6 beside 2e-5: the authors advise a rate some times that of dpo
)
