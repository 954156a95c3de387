"""Offline maximum likelihood on every logged response: the baseline that ignores quality.

-log p(y | x), averaged over the response tokens of an optimizer step.
Differs from the official code: nothing, it is plain fine-tuning.
"""

from __future__ import annotations

from steer.methods.base import Method, NoSettings, weighted_nll
from steer.methods.groups import singles

METHOD = Method(groups=singles, loss=weighted_nll, settings=NoSettings, per="token")
