"""Direct preference optimisation (2305.18290, equation 7); with scored groups also Zephyr's (2310.16944).

-log sigmoid(beta [(lp_w - ref_w) - (lp_l - ref_l)]), averaged over pairs.
Differs from the official code: pairs are made from rewards; of responses that people compared, only the pairs that they
compared. Ties and pairs of equal texts are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, gains
from steer.methods.groups import Group, pairs
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of dpo."""

    beta: float = option(0.1, "Strength of the pull to the reference.", above=0)
    pairing: str = option("best-random", "Pairs of a prompt: best-worst, best-random (Zephyr) or all.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Pairs of a prompt's candidates."""
    return pairs(rows, settings.pairing)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-log sigmoid(beta * the margin of the better response over the worse): [B, 2, T] -> [B]."""
    from torch.nn.functional import logsigmoid

    gain = gains(logps, c)
    return -logsigmoid(s.beta * (gain[:, 0] - gain[:, 1]))


METHOD = Method(
    groups=groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref"},
    fresh="rounds",
    rate=0.05,  # 1e-6 beside 2e-5 in AlpacaFarm
)
