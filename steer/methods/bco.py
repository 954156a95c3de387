"""Binary classifier optimisation (BCO, 2404.04656): a classifier of thumbs up and down whose logit is the gain.

-log sigmoid(beta (gain - m)) for a good response, -log sigmoid(beta (m - gain)) for a bad one, averaged over responses;
gain = lp - ref. m, the reward shift, lies in the middle of the mean gains of good and of bad responses, and moves over
the steps so far. Good is as in kto, and so is `ratio`.
Differs from the official code: TRL's, beside which none is known; the paper's matching of the prompts of good and bad
responses by a second classifier is left out; m is of the steps before this one, so that it does not depend on how a
step is cut; TRL's is the mean over all responses so far, which the commoner kind decides, as it does the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.methods import kto
from steer.methods.base import Candidates, Method, gains
from steer.methods.preferences import FlipSettings, logistic

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(FlipSettings, kto.Settings):
    """Settings of bco: those of kto, for thumbs of which some may be wrong."""


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """-w log sigmoid(beta (gain - m)), the sign turned for bad responses: [B, K, T] -> [B, K]."""
    margin, weight = kto.signed(c, gains(logps, c))
    return weight * logistic(s.beta * margin, s)


METHOD = Method(
    rows="rewards", groups=kto.groups, loss=loss, settings=Settings, per="response", needs={"ref", "middle"}, rate=0.05
)
