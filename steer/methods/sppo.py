"""Self-play preference optimization (SPPO, 2405.00675, algorithm 1): log-probabilities follow the chance to win.

(gain - eta (P - 1/2))^2 of each response, averaged over those to a prompt and then over prompts; P, the chance that
the response is better than another draw of the same policy, is the mean of sigmoid(r - r') over the draws r' to its
prompt, itself among them, r the reward. 1/2, the mean of P over the draws, is the paper's estimate of log Z / eta, Z
what normalises the policy times exp(eta P). The reference is the policy that drew, from which every round starts.
Differs from the official code: that trains on a prompt's best and worst draw only (`ends=True`), and its r is what
PairRM gives, here the standardised reward of `steer label`; it draws at temperature 0.7 and top_p 0.9, here as the
round says; prompts whose draws all have one reward are left out; rounds drop responses that were cut off and, without
`--any-form`, malformed ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, existing, gains
from steer.methods.groups import Group, one_gap, ranked
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of sppo."""

    eta: float = option(1000.0, "Change of log-probability for a chance to win of 1 rather than 0.", above=0)
    ends: bool = option(False, "Train on the best and the worst draw of a prompt only, as the official code does.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """All draws, equal ones too, of every prompt that has two with different rewards."""
    return ranked(rows, repeated=True)


def wins(reward: Tensor, real: Tensor) -> Tensor:
    """Chance of each response to be better than a draw from those of its prompt (Bradley-Terry): [B, K] -> [B, K]."""
    beats = (reward[:, :, None] - reward[:, None, :]).sigmoid()
    return beats.masked_fill(~real[:, None, :], 0.0).sum(-1) / real.sum(-1, keepdim=True).clamp(min=1)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """Squared error of the gains, averaged over the responses to a prompt: [B, K, T] -> [B]."""
    real = existing(c.mask)
    errors = (gains(logps, c) - s.eta * (wins(c.reward, real) - 0.5)).masked_fill(~real, 0.0) ** 2
    if not s.ends:
        return errors.sum(-1) / real.sum(-1).clamp(min=1)
    last = (real.sum(-1, keepdim=True) - 1).clamp(min=0)
    return (errors[:, 0] + errors.gather(-1, last)[:, 0]) / 2  # the best stands first, the worst last


METHOD = Method(
    rows="several drawn",
    groups=groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref", "draws", "drawer"},
    pool="last",
    draws=5,  # as in the paper
    rate=0.05,  # as tuned in the embedded world; 5e-7 beside 2e-5 in the official script is .025
    caveat=one_gap,
)
