"""Quantized reward konditioning (Quark, 2205.13636, equation 2): likelihood conditioned on a quantile, near the base.

-log p(y | x, level) + kl KL(p0 || p) - entropy H(p), averaged over tokens; p0 is the starting policy on the prompt
without a condition, and KL and H are over the whole vocabulary. Its rounds are `steer iterate --relative-levels
--explore 1`: each cuts the pool of all rounds into quantiles and asks for the best one.
Differs from the official code: KL(p0 || p) as the paper prints it, where the authors' code and AlpacaFarm's compute
KL(p || p0); levels may be of any attributes (`--attribute reward` for the paper's); conditions are dropped at random as
in every conditioned method here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import conditional
from steer.methods.base import Candidates, Method, levels
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of quark."""

    kl: float = option(0.05, "Weight of the KL from the base.", least=0)
    entropy: float = option(0.06, "Weight of the entropy.", least=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-log p + kl KL - entropy H of each token: [B, 1, T] -> [B, 1, T]; without a forward pass -log p alone."""
    if c.kl is None or c.entropy is None:
        return -logps
    return -logps + s.kl * c.kl - s.entropy * c.entropy


METHOD = Method(
    rows="levels",
    groups=conditional.groups,
    loss=loss,
    settings=Settings,
    per="token",
    needs={"kl", "entropy", "quantiles"},
    condition=levels,
    rate=0.15,  # 3e-6 beside 2e-5 in AlpacaFarm
)
