"""ReMax (2310.10505, algorithm 1): REINFORCE with the reward of the greedy response as baseline.

-sg(clip(r(y) - r(greedy)) - kl [log p(y) - ref(y)]) log p(y), averaged over tokens as in the official code; ref is the
policy that training starts from.
Differs from the official code: there each token carries its own KL, kl [log p(y_t) - ref(y_t)]; here all carry the sum
over the response, so that the gradient is that of the KL. On T tokens the same `kl` is about T times as strong, and the
default is the original's 0.05 at T = 100. There the difference of rewards also shrinks by .99 (`--gamma` of its
scripts) for every token behind; here, as in the paper, every token carries the whole. The original draws with top-p .9
instead of from the whole distribution, and responses without an end keep their reward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steer.methods.base import Candidates, Method, drift, weighted_nll
from steer.methods.groups import prompts
from steer.settings import Checked, option


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of remax."""

    k: int = option(1, "Responses to a prompt.", least=1)
    kl: float = option(0.0005, "Weight of the KL.", least=0)
    clip: float = option(5.0, "Bound of r(y) - r(greedy), either way.", above=0, most=math.inf)
    missing_end: float = option(1.0, "Loss of reward without an end, in its standard deviations.", least=0)


def weigh(c: Candidates, s: Settings) -> Candidates:
    """Weigh by advantages: clip(r(y) - r(greedy)) less the KL."""
    assert c.greedy is not None
    return c._replace(weight=(c.reward - c.greedy[:, None]).clamp(-s.clip, s.clip) - s.kl * drift(c))


METHOD = Method(
    rows="prompts",
    groups=prompts,
    loss=weighted_nll,
    settings=Settings,
    per="token",
    needs={"ref", "greedy"},
    fresh="step",
    weigh=weigh,
    rate=0.25,  # as tuned in the embedded world; the authors' 1e-6 beside 2e-5 is .05
)
