"""ReMax (2310.10505, algorithm 1): REINFORCE with the reward of the greedy response as baseline.

-sg(clip(r(y) - r(greedy)) - kl [log p(y) - ref(y)]) log p(y), averaged over tokens as in the official code; ref is the
policy that training starts from.
Differs from the official code: there each token carries its own KL, kl [log p(y_t) - ref(y_t)]; here all carry the sum
over the response, so that the gradient is that of the KL. On T tokens the same `kl` is about T times as strong, and the
default is the original's 0.05 at T = 100. The original draws with top-p .9 instead of from the whole distribution, and
responses without an end keep their reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, drift, weighted_nll
from steer.methods.groups import Group, prompts
from steer.rows import Row


@dataclass(frozen=True)
class Settings:
    """`k` responses per prompt; `kl`: weight of the penalty; `clip`: of r(y) - r(greedy), to +-clip.

    `missing_end`: what a response without an end loses of its reward, in the reward's standard deviations.
    """

    k: int = 1
    kl: float = 0.0005
    clip: float = 5.0
    missing_end: float = 1.0

    def __post_init__(self) -> None:
        if not (self.k >= 1 and self.kl >= 0 and self.clip > 0 and self.missing_end >= 0):
            raise SteerError("k is 1 or more, kl and missing_end are not negative, and clip is positive.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """A row of every prompt; its response is not used."""
    return prompts(rows)


def weigh(c: Candidates, s: Settings) -> Candidates:
    """With advantages: clip(r(y) - r(greedy)) less the KL."""
    assert c.greedy is not None
    return c._replace(weight=(c.reward - c.greedy[:, None]).clamp(-s.clip, s.clip) - s.kl * drift(c))


METHOD = Method(
    groups=groups,
    loss=weighted_nll,
    settings=Settings,
    per="token",
    needs={"ref", "greedy"},
    fresh="step",
    weigh=weigh,
    rate=0.25,
)
