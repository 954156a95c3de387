"""Direct preference optimisation (2305.18290, equation 7); with scored groups also Zephyr's (2310.16944).

-log sigmoid(beta [(lp_w - ref_w) - (lp_l - ref_l)]), averaged over pairs; plus sft times -log p of a token of the
chosen response: sft = 1 is iterative reasoning preference optimisation (2404.19733).
Differs from the official code: pairs are made from rewards; of responses that people compared, only the pairs that they
compared. Ties and pairs of equal texts are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import preferences
from steer.methods.base import Candidates, Method, averaged, gains
from steer.methods.preferences import PairSettings, logistic
from steer.settings import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(PairSettings):
    """Settings of dpo."""

    beta: float = option(0.1, "Strength of the pull to the reference.", above=0)
    sft: float = option(0.0, "Weight of the likelihood of the chosen response, by token.", least=0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-log sigmoid(beta * the margin of the better response over the worse), and its likelihood: [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    margin = s.beta * (gain[:, 0] - gain[:, 1])
    return logistic(margin, s) - s.sft * averaged(logps, c.mask)[:, 0]


METHOD = Method(
    rows="pairs",
    groups=preferences.groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref"},
    rate=0.05,  # 1e-6 beside 2e-5 in AlpacaFarm
)
