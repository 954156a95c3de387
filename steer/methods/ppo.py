"""Proximal policy optimisation (1707.06347, equation 7) on responses, as in InstructGPT and AlpacaFarm (2305.14387).

max(-A rho, -A clip(rho, 1 -+ clip)) + vf (V - R)^2 on every token, rho = p / p_old, averaged over the tokens of a step.
The reward stands on the last token, -kl [log p_old - ref] on each; R is the reward-to-go and A = R - V, whitened over
the responses of a draw (of each process its own): generalised advantage estimation with gamma = lambda = 1. ref is the
policy that training starts from.
Differs from the official code (AlpacaFarm's): the value head is linear on the policy's hidden states and sends no
gradient into them, where the original is a model of its own that starts as the reward model; values are not clipped and
their loss is not halved (vf = .1 is its .2); the KL of a token is signed, not clamped at 0; rewards are not whitened
(those of `steer label` have sd 1); padding counts in no mean; a response without an end loses `missing_end`, where the
original leaves it its reward, or gives -1 with `truncate_tokens`; kl is .02, in its script .0067.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods.base import Candidates, Method, surrogate
from steer.methods.groups import prompts
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of ppo."""

    k: int = option(1, "Responses to a prompt.", least=1)
    epochs: int = option(2, "Optimizer steps on the same responses.", least=1)
    clip: float = option(0.2, "Bound of the ratio, 1 -+ clip.", above=0, most=math.inf)
    vf: float = option(0.1, "Weight of the error of the values.", least=0)
    kl: float = option(0.02, "Weight of the KL in the reward.", least=0)
    missing_end: float = option(1.0, "Loss of reward without an end, in its standard deviations.", least=0)


def weigh(c: Candidates, s: Settings) -> Candidates:
    """Add advantages and returns of every token."""
    assert c.old is not None
    assert c.ref is not None
    assert c.value is not None
    each = (-s.kl * (c.old - c.ref)).masked_fill(~c.mask, 0.0)
    each = each.scatter_add(-1, c.mask.sum(-1, keepdim=True) - 1, c.reward[..., None])
    returns = each.flip(-1).cumsum(-1).flip(-1)
    raw = returns - c.value
    every = raw[c.mask]
    return c._replace(advantage=(raw - every.mean()) / (every.std(correction=0) + 1e-8), returns=returns)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """The clipped surrogate and the error of the value of each token: [B, K, T] -> [B, K, T].

    Without a draw A is `weight` and p_old is p.
    """
    import torch

    if c.advantage is not None:
        advantage = c.advantage
    else:
        advantage = torch.ones_like(logps) if c.weight is None else c.weight[..., None].expand_as(logps)
    terms = surrogate(logps, c, advantage, s.clip, s.clip)
    if c.value is not None and c.returns is not None:
        terms = terms + s.vf * (c.value - c.returns) ** 2
    return terms


METHOD = Method(
    rows="prompts",
    groups=prompts,
    loss=loss,
    settings=Settings,
    per="token",
    needs={"ref", "old", "value"},
    fresh="step",
    weigh=weigh,
    rate=0.25,  # as tuned in the embedded world; 1e-5 in AlpacaFarm, whose 2e-5 for likelihood makes it .5
)
