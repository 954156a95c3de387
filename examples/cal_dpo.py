"""A method of your own from scratch: Cal-DPO (2412.14516), then every command of steer, which knows it now.

python cal_dpo.py train LABELS --model MODEL --output POLICY --method cal-dpo --set beta=0.01
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from steer.cli import main
from steer.methods import METHODS
from steer.methods.base import Candidates, Method, gains
from steer.methods.groups import Group, Row, pairs


@dataclass(frozen=True)
class Settings:
    """`beta`: log-probability that the better response gains and the worse one loses is 1 / (2 beta)."""

    beta: float = 0.01


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Chosen and rejected responses of a prompt."""
    return pairs(rows, "best-random")


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-log sigmoid(gain_w - gain_l) + (gain_w - 1 / (2 beta))^2 + (gain_l + 1 / (2 beta))^2: [B, 2, T] -> [B].

    The official code takes half of the squares.
    """
    gain, goal = gains(logps, c), 1 / (2 * s.beta)
    return -logsigmoid(gain[:, 0] - gain[:, 1]) + (gain[:, 0] - goal) ** 2 + (gain[:, 1] + goal) ** 2


METHODS["cal-dpo"] = Method(groups=groups, loss=loss, settings=Settings, per="prompt", needs={"ref"}, rate=0.05)

if __name__ == "__main__":
    main()
