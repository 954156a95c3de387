"""Advantage-leftover lunch (2305.14718): responses that are better than expected, by advantage and importance.

-a rho (1 + log(p / ref) - log rho) of responses whose advantage a = r - V(x) is above 0 (the others are left out),
rho = p / ref of the whole response, clamped to 1 - clip and 1 + clip and without a gradient: -a p / ref between the
bounds and a straight line beyond them, with the gradient of -a rho log p(y | x). `clip=0` is A-LoL ref-free. The
reference is the policy that training starts from, in the paper one that learned all logs by likelihood: `after=mle`.
Differs from the official code: its value is -a rho log p, a surrogate that can rise while its gradient improves the
policy; V is a ridge on the prompt's words, as that of `awr`, there a head on the hidden states of the
reference, fitted on what it answers to other prompts; advantages are scaled to mean 1; the sum over the tokens of a
step is divided by their number, there by that of responses; every response is seen as often, there more often with a
larger advantage, by which its loss is multiplied too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.awr import values
from steer.methods.base import Candidates, Method, gains, weighted_nll
from steer.methods.groups import Group, rewarded
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of a-lol."""

    clip: float = option(0.9, "How far the importance of a response may be from 1; 0: all are 1.", least=0, most=1)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Responses with a positive advantage, weighted by it: weights of mean 1."""
    scored = rewarded(rows)
    better = [(row, row["reward"] - v) for row, v in zip(scored, values(scored)) if row["reward"] > v]
    mean = sum(advantage for _, advantage in better) / max(1, len(better))
    return [Group((row,), (advantage / mean,)) for row, advantage in better]


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-a rho (1 + gain - log rho), a the weight of the response, shared out to its tokens: [B, 1, T] -> [B, 1, T]."""
    import torch

    gain = gains(logps, c)
    rho = gain.detach().exp().clamp(1 - s.clip, 1 + s.clip)
    reached = rho * (1 + gain) - torch.xlogy(rho, rho)
    each = reached / c.mask.sum(-1).clamp(min=1)
    return weighted_nll(each[..., None].expand_as(logps), c)


METHOD = Method(rows="rewards", groups=groups, loss=loss, settings=Settings, per="token", needs={"ref"})
