"""Define Candidates (the input of a loss), Method, and the sums that losses are built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from steer.methods.groups import Group

if TYPE_CHECKING:
    from torch import Tensor

    from steer.rows.schema import Schema

Array = np.ndarray[Any, Any]
CERTAIN = -1e-6  # log p counts at most as this in log(1 - p), which is infinite where p is 1


class Candidates(NamedTuple):
    """K responses to each of B prompts, better first; a column that no method needs is None."""

    mask: Tensor  # [B, K, T] true on response tokens incl. EOS, false for all of a candidate that only pads
    reward: Tensor  # [B, K]
    ref: Tensor | None = None  # [B, K] log-probs under the starting policy; [B, K, T] of responses drawn at this step
    weight: Tensor | None = None  # [B, K]; None: all 1
    old: Tensor | None = None  # [B, K, T] log-probs when the responses were drawn
    advantage: Tensor | None = None  # [B, K, T]
    returns: Tensor | None = None  # [B, K, T]
    value: Tensor | None = None  # [B, K, T] under the value head as it is
    kl: Tensor | None = None  # [B, K, T] KL(starting policy || policy) over the vocabulary
    entropy: Tensor | None = None  # [B, K, T]
    greedy: Tensor | None = None  # [B] reward of a greedy response
    share: Tensor | None = None  # [B, K] weight that each row has by itself, of mean 1; None: all 1
    baseline: Tensor | None = None  # [B] figure of the whole step that gains are compared with; None: 0
    length: Tensor | None = None  # [B] mean tokens of the responses drawn at this step, in all processes


# What training and rounds provide for a method that needs it.
NEEDS = {
    "ref": "log-probabilities of the responses under the starting policy, without a condition",
    "old": "log-probability of every token under the policy that drew the responses",
    "greedy": "reward of a greedy response to every prompt, where responses are drawn at every step",
    "length": "mean number of tokens of the responses drawn at a step, in all processes",
    "value": "value of every token, by a head that is trained beside the policy",
    "kl": "KL from the starting policy at every token, over the vocabulary",
    "entropy": "entropy of the policy at every token",
    "whole condition": "conditions of which no part is dropped at random",
    "named levels": "levels of the attributes that the condition names, and of no others",
    "curriculum": "steps that go through the groups from the first, the easiest, to the last",
    "mismatched": "mean gain of responses to other prompts of the step, over the whole step",
    "middle": "middle of the mean gains of good and of bad responses, over the steps so far",
    "quantiles": "rounds that cut the pool into quantiles and ask for the best one",
    "draws": "responses that the policy drew, in rounds where there are none yet",
    "untouched": "draws at temperature 1, without --dedupe and --keep-above: their shares say how likely each is",
    "drawer": "rounds that start from the policy that drew, so that it is the reference",
}

# Kinds of rows that methods want.
ROWS = {
    "any": "any",
    "rewards": "rewards",
    "several": "several rewarded responses a prompt",
    "drawn": "rewarded responses that the policy drew",
    "pairs": "pairs, or several rewarded responses a prompt",
    "several drawn": "several rewarded responses a prompt that the policy drew",
    "logs and draws": "logged responses, and responses that the policy drew",
    "prompts": "prompts, and a scorer",
    "levels": "levels",
    "levels and rewards": "levels and rewards",
    "levelled pairs": "pairs with levels, or several rewarded responses a prompt",
    "scores": "several scored responses a prompt",
    "drawn at a target": "several responses a prompt that the policy drew at a target",
}

# Of these kinds: those that are compared, or chosen among, within a prompt.
COMPARED = ("several", "drawn", "pairs", "several drawn", "levelled pairs", "scores", "drawn at a target")
DRAWN = ("drawn", "several drawn", "logs and draws", "drawn at a target")  # of these kinds: those that a policy drew

Rows = Sequence[dict[str, Any]]


def levels(rows: Rows, schema: Schema, settings: Any) -> tuple[list[dict[str, Any]], Schema]:
    """Condition on the levels in the rows."""
    return list(rows), schema


@dataclass(frozen=True, kw_only=True)
class Method:
    """A training method: how rows are grouped, its loss on log-probabilities, and what both need."""

    # groups(rows, settings): which responses the loss sees together
    groups: Callable[[Rows, Any], list[Group]]
    # loss(logps [B, K, T], candidates, settings): one term per token [B, K, T], response [B, K] or prompt [B]; a term
    # may depend only on its own prompt's candidates, for a loss sees no more than a micro-batch of one process
    loss: Callable[[Tensor, Candidates, Any], Tensor]
    settings: type[Any]
    # what the terms of a whole optimizer step are averaged over
    per: Literal["token", "response", "prompt"]
    # names in NEEDS
    needs: Set[str] = frozenset()
    # condition(rows, schema, settings): rows and schema of the conditions; None: unconditioned
    condition: Callable[[Rows, Schema, Any], tuple[list[dict[str, Any]], Schema]] | None = None
    # when new responses are drawn: in rounds of `steer iterate`, if the user wants any, or at every step; a method with
    # "step" has `weigh`, and settings with k, kl and missing_end
    fresh: Literal["rounds", "step"] = "rounds"
    # responses a prompt and round in a comparison that names no number, where it is another one than others have
    draws: int = 0
    # responses a round of `steer iterate` trains on. all: logs and all fresh; rounds: fresh of all rounds; last: fresh
    # of the last round
    pool: Literal["all", "rounds", "last"] = "all"
    # weigh(candidates, settings): candidates with weights, or advantages and returns. Called at every step if fresh is
    # "step", else once before training, on groups whose weights are logarithms.
    weigh: Callable[[Candidates, Any], Candidates] | None = None
    # which rows it wants, a name in ROWS
    rows: str = "any"
    # caveat(groups): what the method does not get of these groups, though it can train on them; empty: nothing
    caveat: Callable[[Sequence[Group]], str] | None = None
    # learning rate if the user gives none, as a share of that of likelihood methods
    rate: float = 1.0

    def __post_init__(self) -> None:
        if unknown := self.needs - NEEDS.keys():
            raise ValueError(f"a method needs {', '.join(sorted(unknown))}; known: {', '.join(NEEDS)}")
        if self.rows not in ROWS:
            raise ValueError(f"a method wants rows '{self.rows}'; known: {', '.join(ROWS)}")

    @property
    def conditioned(self) -> bool:
        """Whether it conditions responses."""
        return self.condition is not None

    @property
    def reframes(self) -> bool:
        """Whether it conditions on something other than obtained levels."""
        return self.conditioned and self.condition is not levels

    @property
    def on_policy(self) -> bool:
        """Whether it draws its own responses at every step."""
        return self.fresh == "step"

    @property
    def compares(self) -> bool:
        """Whether it compares the responses to a prompt or chooses among them."""
        return self.rows in COMPARED

    @property
    def wants_draws(self) -> bool:
        """Whether it wants responses that the policy drew."""
        return self.rows in DRAWN

    @property
    def importance(self) -> bool:
        """Whether it weighs responses that the starting policy drew before training."""
        return self.weigh is not None and not self.on_policy

    @property
    def still(self) -> bool:
        """Whether the loss compares with a frozen policy: dropout is then off, because it would look like a change."""
        return bool(self.needs & {"ref", "kl"})

    def counted(self, mask: Tensor) -> Tensor:
        """Mask of the terms that count: [B, K, T] -> tokens [B, K, T], responses [B, K] or prompts [B].

        A prompt counts if it has two responses to compare.
        """
        responses = existing(mask)
        return {"token": mask, "response": responses, "prompt": responses.sum(-1) > 1}[self.per]

    def total(self, logps: Tensor, c: Candidates, settings: Any) -> Tensor:
        """Sum the terms of the loss that count; training divides by their number in the whole step."""
        terms, counted = self.loss(logps, c, settings), self.counted(c.mask)
        if terms.shape != counted.shape:
            wanted, shape = (list(x.shape) for x in (counted, terms))
            raise ValueError(f"a loss per {self.per} returns {wanted} here, one term for each, not {shape}")
        terms = terms.masked_fill(~counted, 0.0)
        if c.share is not None:
            terms = terms * self._shares(c.share, c.mask)
        return terms.sum()

    def _shares(self, share: Tensor, mask: Tensor) -> Tensor:
        """Weight of every term: [B, K] -> [B, K, 1], [B, K] or [B]; that of a prompt is the mean of its responses'."""
        here = existing(mask)
        mean = share.masked_fill(~here, 0.0).sum(-1) / here.sum(-1).clamp(min=1)
        return {"token": share[..., None], "response": share, "prompt": mean}[self.per]


@dataclass(frozen=True)
class NoSettings:
    """Settings of a method that has none."""


def summed(logps: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each response: [B, K, T] -> [B, K]; padding never counts, even -inf."""
    return logps.masked_fill(~mask, 0.0).sum(-1)


def averaged(logps: Tensor, mask: Tensor) -> Tensor:
    """Mean log-probability of the tokens of each response: [B, K, T] -> [B, K]; 0 for one that only pads."""
    return summed(logps, mask) / mask.sum(-1).clamp(min=1)


def gains(logps: Tensor, c: Candidates) -> Tensor:
    """Log-probability of each response less that of the reference: [B, K, T] -> [B, K]."""
    if c.ref is None:
        raise ValueError("the loss needs reference log-probabilities")
    return summed(logps, c.mask) - c.ref


def drift(c: Candidates) -> Tensor:
    """Log-probability of drawn responses less that of the reference, whose mean is the KL: [B, K]; 0 if unknown."""
    if c.old is None or c.ref is None:
        return c.reward.new_zeros(c.reward.shape)
    return summed(c.old - c.ref, c.mask)


def existing(mask: Tensor) -> Tensor:
    """Mask of candidates that are more than padding: [B, K, T] -> [B, K]."""
    return mask.any(-1)


def log_not(logps: Tensor) -> Tensor:
    """log(1 - p) of log-probabilities."""
    return (-logps.clamp(max=CERTAIN).expm1()).log()


def surrogate(logps: Tensor, c: Candidates, advantage: Tensor, down: float, up: float) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - down, 1 + up)) of each token, rho = p / p_old (1707.06347, equation 7): [B, K, T].

    Without a draw p_old is p.
    """
    import torch

    logps = logps.masked_fill(~c.mask, 0.0)
    old = logps.detach() if c.old is None else c.old.masked_fill(~c.mask, 0.0)
    ratio = (logps - old).clamp(-20, 20).exp()  # a token that became e^20 times as likely is clipped anyway
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - down, 1 + up))


def weighted_nll(logps: Tensor, c: Candidates, settings: Any = None) -> Tensor:
    """-w log p of each token, w the weight of its response: [B, K, T] -> [B, K, T]."""
    return -logps if c.weight is None else -c.weight[..., None] * logps
