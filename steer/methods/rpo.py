"""Reward-aware preference optimisation (RPO, Nemotron-4, 2406.11704; 2502.00203): margins aim at gaps of reward.

KL(sigmoid(eta (r_w - r_l)) || sigmoid(beta delta)) of two coins, delta as in dpo and r the reward, averaged over pairs:
the margin aims at the gap of the rewards and stops there, where that of dpo goes on.
Differs from the official code: of NeMo-Aligner's three distances this is `rpo_bwd_kl`; rewards are the standardised
ones of `steer label`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, gains
from steer.methods.groups import one_gap
from steer.methods.preferences import PairSettings, unsure
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of rpo."""

    beta: float = option(0.1, "Strength of the pull to the reference.", above=0)
    eta: float = option(1.0, "Log-odds of a win for a gap of one standard deviation of the reward.", above=0)


def divergence(aim: Tensor, margin: Tensor) -> Tensor:
    """KL between the coins whose log-odds are `aim` and `margin`: sum over both sides of p (log p - log q)."""
    from torch.nn.functional import logsigmoid

    heads = aim.sigmoid() * (logsigmoid(aim) - logsigmoid(margin))
    return heads + (-aim).sigmoid() * (logsigmoid(-aim) - logsigmoid(-margin))


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """KL(sigmoid(eta (r_w - r_l)) || sigmoid(beta delta)): [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    margin = s.beta * (gain[:, 0] - gain[:, 1])
    aim = s.eta * (c.reward[:, 0] - c.reward[:, 1])
    return unsure(divergence(aim, margin), divergence(aim, -margin), s)


METHOD = Method(
    rows="several",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref"},
    rate=0.05,
    caveat=one_gap,
)
