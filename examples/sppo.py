"""A method of your own from scratch: SPPO (2405.00675), then every command of steer, which knows it now.

python sppo.py train LABELS --model MODEL --output POLICY --method sppo --set eta=100
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from steer.cli import main
from steer.methods import METHODS
from steer.methods.base import Candidates, Method, gains
from steer.methods.groups import Group, Row, pairs


@dataclass(frozen=True)
class Settings:
    """`eta`: log-probability that a certain win is worth, twice over."""

    eta: float = 1000.0


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Chosen and rejected responses of a prompt."""
    return pairs(rows, "best-random")


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """(gain_w - eta / 2)^2 + (gain_l + eta / 2)^2: equation 4.7 where the winner wins for certain: [B, 2, T] -> [B]."""
    gain = gains(logps, c)
    return (gain[:, 0] - s.eta / 2) ** 2 + (gain[:, 1] + s.eta / 2) ** 2


METHODS["sppo"] = Method(groups=groups, loss=loss, settings=Settings, per="prompt", needs={"ref"}, rate=0.05)

if __name__ == "__main__":
    main()
