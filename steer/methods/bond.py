"""Best-of-N distillation (BOND, 2407.14622, equations 4, 11): a policy that draws what the best of n would be.

(1 - backward) KL(t || q) + backward KL(q || t) over the K responses to a prompt that its last round drew and that
ended, averaged over prompts. t, the chance that each would be the best of n (`target_n`) draws from the reference, is
P(r <= r_i)^n - P(r < r_i)^n with the shares of the K responses for P, equal ones too; q is the policy's own,
softmax(lp - ref). Both hold for draws of the reference only: rows drawn at another temperature or from some of the
tokens are refused, and so are rounds that choose among the draws.
Differs from the official code: none was released; the paper estimates KL(t || q) by the likelihood of the best of n and
KL(q || t) by a policy gradient, both on new draws at every step, and leaves out the factor for equal draws; here both
are sums over the K. Its J-BOND moves the reference along with the policy: here rounds do, each of which starts from the
policy that drew. Rounds drop responses that were cut off and, without `--any-form`, malformed ones, so the shares are
those of the reference among the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, existing, gains
from steer.methods.groups import Group, check_untouched, ranked
from steer.rows import Row
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-30  # the smallest chance to be the best that counts


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of bond."""

    target_n: int = option(16, "The best of how many draws is aimed at, however many there are.", least=2)
    backward: float = option(0.5, "Share of the backward KL, which seeks modes (0.5: Jeffreys).", least=0, most=1)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """All responses, equal ones too, of every prompt that has two with different rewards."""
    found = ranked(rows, repeated=True)
    for group in found:
        for row in group.rows:
            check_untouched(row)
    return found


def best_of(reward: Tensor, real: Tensor, n: int) -> Tensor:
    """Chance of each response to be the best of n draws, with replacement, from those of its prompt: [B, K] -> [B, K].

    Ties share theirs.
    """
    import torch

    other, own, count = reward[:, None, :], reward[:, :, None], real.sum(-1, keepdim=True).clamp(min=1)
    below, ties = (((test) & real[:, None, :]).sum(-1) for test in (other < own, other == own))
    high, low = ((below + ties) / count) ** n, (below / count) ** n
    return torch.where(real, (high - low) / ties.clamp(min=1), 0.0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """The two divergences of the policy from the best of n: [B, K, T] -> [B]."""
    real = existing(c.mask)
    gain = gains(logps, c).masked_fill(~real, -math.inf)
    gain = gain.masked_fill(~real.any(-1, keepdim=True), 0.0)
    q = gain.log_softmax(-1).masked_fill(~real, 0.0)
    t = best_of(c.reward, real, s.target_n).to(q.dtype)
    log_t = t.clamp(min=LEAST).log()
    forward = (t * (log_t - q)).sum(-1)
    backward = (q.exp() * (q - log_t)).masked_fill(~real, 0.0).sum(-1)
    return (1 - s.backward) * forward + s.backward * backward


METHOD = Method(
    rows="several drawn",
    groups=groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref", "draws", "drawer", "untouched"},
    pool="last",
    rate=0.05,
)
