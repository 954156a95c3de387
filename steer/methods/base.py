"""What a loss reads (Candidates), and what a method is (Method)."""

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

    `groups(rows, settings)` makes the groups; `loss(logps [B, K, T], candidates, settings)` is arithmetic, and returns
    one term per token [B, K, T], response [B, K] or prompt [B], as `per` says: training averages over those of a whole
    optimizer step;
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
    loss: Callable[[Tensor, Candidates, Any], Tensor]
    settings: type[Any]
    per: str
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

    def counted(self, mask: Tensor) -> Tensor:
        """Which terms of the loss count: [B, K, T] -> tokens [B, K, T], responses [B, K] or prompts [B].

        A prompt counts where it has two responses to compare.
        """
        responses = existing(mask)
        return {"token": mask, "response": responses, "prompt": responses.sum(-1) > 1}[self.per]

    def total(self, logps: Tensor, c: Candidates, settings: Any) -> Tensor:
        """Sum of the terms that count."""
        terms, counted = self.loss(logps, c, settings), self.counted(c.mask)
        if terms.shape != counted.shape:
            wanted, found = (list(x.shape) for x in (counted, terms))
            raise ValueError(f"a loss per {self.per} returns {wanted} here, one term for each, not {found}")
        return terms.masked_fill(~counted, 0.0).sum()


def summed(logps: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each response: [B, K, T] -> [B, K]. What stands under the mask, even -inf, does not count."""
    return logps.masked_fill(~mask, 0.0).sum(-1)


def averaged(logps: Tensor, mask: Tensor) -> Tensor:
    """Mean log-probability of the tokens of each response: [B, K, T] -> [B, K]; 0 for one that only pads."""
    return summed(logps, mask) / mask.sum(-1).clamp(min=1)


def gains(logps: Tensor, c: Candidates) -> Tensor:
    """Log-probability of each response less that of the reference: [B, K, T] -> [B, K]."""
    if c.ref is None:
        raise ValueError("the loss needs reference log-probabilities")
    return summed(logps, c.mask) - c.ref


def existing(mask: Tensor) -> Tensor:
    """Which candidates exist and are not padding alone: [B, K, T] -> [B, K]."""
    return mask.any(-1)


def weighted_nll(logps: Tensor, c: Candidates, settings: Any = None) -> Tensor:
    """-w log p of each token, w the weight of its response: [B, K, T] -> [B, K, T]."""
    return -logps if c.weight is None else -c.weight[..., None] * logps
