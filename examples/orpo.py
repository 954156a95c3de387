"""A method of your own from scratch: ORPO (2403.07691), then every command of steer, which knows it now.

python orpo.py train LABELS --model MODEL --output POLICY --method orpo --set weight=0.2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from steer.cli import main
from steer.methods import METHODS
from steer.methods.base import Candidates, Method, averaged
from steer.methods.groups import Group, Row, pairs


@dataclass(frozen=True)
class Settings:
    """`weight`: of the odds ratio (lambda in the paper)."""

    weight: float = 0.1


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Chosen and rejected responses of a prompt."""
    return pairs(rows, "best-random")


def log_odds(p: Tensor) -> Tensor:
    """log p / (1 - p) of probabilities given as logarithms."""
    return p - torch.log(-torch.expm1(p.clamp(max=-1e-6)))


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-p_w - weight log sigmoid(log odds_w - log odds_l), p the mean log-probability of a token (equations 6 and 7)."""
    p = averaged(logps, c.mask)
    ratio = log_odds(p[:, 0]) - log_odds(p[:, 1])
    return -p[:, 0] - s.weight * logsigmoid(ratio)


METHODS["orpo"] = Method(groups=groups, loss=loss, settings=Settings, per="prompt")

if __name__ == "__main__":
    main()
