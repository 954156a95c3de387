"""What a loss sees (Candidates), what it returns (Terms), and what a method is (Method)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from steer.methods.groups import Group

if TYPE_CHECKING:
    from torch import Tensor

    from steer.rows.schema import Schema

Array = np.ndarray[Any, Any]


class Candidates(NamedTuple):
    """K responses to each of B prompts, better first.

    `mask` [B, K, T] is true on response tokens incl. EOS, all false for a candidate that only pads; `reward` [B, K];
    `ref` [B, K] sums of reference log-probs (None where a method needs none); `weight` [B, K] (None: all 1). Where a
    method asks for them also, per token [B, K, T]: log-probs when the responses were drawn (`old`), with a value head
    advantages, returns, and values now, or KL from the base model and entropy over the vocabulary.
    """

    mask: Tensor
    reward: Tensor
    ref: Tensor | None = None
    weight: Tensor | None = None
    old: Tensor | None = None
    advantage: Tensor | None = None
    returns: Tensor | None = None
    value: Tensor | None = None
    kl: Tensor | None = None
    entropy: Tensor | None = None


class Terms(NamedTuple):
    """A sum and what to divide it by once per optimizer step; both scalars, summed over micro-batches and ranks.

    The weight is known before any log-probability is: it depends on the candidates alone.
    """

    total: Tensor
    weight: Tensor


@dataclass(frozen=True)
class OnPolicy:
    """How a method that draws its own responses at every step turns rewards into what its loss reads.

    Either one number per response, `advantage(rewards [B, K], greedy [B] or None, settings, penalty [B, K])
    -> [B, K]`, the penalty one for the KL (`greedy`: a greedy response of every prompt is drawn and scored too); or,
    with a value head, one per token: `targets(rewards, old, ref, values, settings)` -> advantages and returns. The
    method's settings hold `k`, responses per prompt, `kl`, and `missing_end`, what a response without an end loses of
    its reward; those of some `epochs`, steps on the same responses.
    """

    advantage: Callable[[Array, Array | None, Any, Array], Array] | None = None
    greedy: bool = False
    targets: Callable[..., tuple[list[Array], list[Array]]] | None = None


@dataclass(frozen=True)
class Method:
    """Groups, a loss on log-probabilities, and what they need.

    `groups(rows, settings)` makes the groups; `loss(logps [B, K, T], candidates, settings)` is arithmetic;
    `conditioned`: the condition stands before the response; `reference`: reference log-probs are computed;
    `fresh`: when new responses are drawn (`never`, `rounds` or `step`); `pool`: what a round of `steer iterate` trains
    on, the logs and all fresh responses (`all`), those of all rounds (`rounds`) or of the last one (`last`);
    `curriculum`: the groups stand easy first, and steps go from easy to hard; `importance(candidates, settings) ->
    [B, K]`: the weights of candidates that the starting policy drew, whose log-probs are then computed (`old`);
    `divergence`: KL from the base and entropy are computed; `reframe(rows, schema, settings)`: rows and schema for
    conditions that say something else than obtained levels; `relative`: its rounds cut the pool into quantiles and ask
    for the best one; `whole`: no part of a condition is ever left out; `rate`: the share of the learning rate of
    likelihood methods at which it trains where the user gives none.
    """

    groups: Callable[[Sequence[dict[str, Any]], Any], list[Group]]
    loss: Callable[[Tensor, Candidates, Any], Terms]
    settings: type[Any]
    conditioned: bool = False
    reference: bool = False
    fresh: str = "never"
    pool: str = "all"
    curriculum: bool = False
    on_policy: OnPolicy | None = None
    importance: Callable[[Candidates, Any], Tensor] | None = None
    divergence: bool = False
    reframe: Callable[..., tuple[list[dict[str, Any]], Schema]] | None = None
    relative: bool = False
    whole: bool = False
    rate: float = 1.0

    @property
    def still(self) -> bool:
        """Whether log-probs are compared with those of a frozen policy, so that training may drop nothing at random."""
        return bool(self.reference or self.importance or self.divergence or self.on_policy)


def summed(logps: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each response: [B, K, T] -> [B, K]. What stands under the mask, even -inf, does not count."""
    return logps.masked_fill(~mask, 0.0).sum(-1)


def weighted_nll(logps: Tensor, c: Candidates) -> Terms:
    """-w log p summed over responses, divided by response tokens: token-mean likelihood, weighted by response."""
    logp = summed(logps, c.mask)
    weight = 1.0 if c.weight is None else c.weight
    return Terms(-(weight * logp).sum(), c.mask.sum().to(logps.dtype))


def policy_gradient(logps: Tensor, c: Candidates) -> Terms:
    """-a log p, a the advantage in `weight`, averaged over responses (REINFORCE)."""
    weight = 1.0 if c.weight is None else c.weight
    return Terms(-(weight * summed(logps, c.mask)).sum(), existing(c.mask).sum().to(logps.dtype))


def existing(mask: Tensor) -> Tensor:
    """Which candidates are there and do not only pad: [B, K, T] -> [B, K]."""
    return mask.any(-1)


def per_token(logps: Tensor, mask: Tensor) -> Tensor:
    """Mean log-probability of the tokens of each response: [B, K, T] -> [B, K]; 0 for one that only pads."""
    return summed(logps, mask) / mask.sum(-1).clamp(min=1)


def margins(logps: Tensor, c: Candidates, *, reference: bool) -> tuple[Tensor, Tensor]:
    """Log-probability of chosen (candidate 0) less rejected (1), less the same of the reference: [B]; which exist: [B].

    Where one of the two only pads the margin is 0.
    """
    both = existing(c.mask)[:, :2].all(-1)
    value = summed(logps, c.mask)
    if reference:
        if c.ref is None:
            raise ValueError("the loss needs reference log-probabilities")
        value = value - c.ref
    margin = value[:, 0] - value[:, 1]
    return margin.masked_fill(~both, 0.0), both


def per_prompt(values: Tensor, counted: Tensor) -> Terms:
    """A mean over prompts: values [B] of those that are counted [B]."""
    return Terms(values.masked_fill(~counted, 0.0).sum(), counted.sum().to(values.dtype))
