"""ReST-EM (2312.06585, algorithm 1): likelihood of the last round's responses that are good enough.

-log p(y | x), averaged over tokens, of responses with a reward of at least `threshold`, at most `most` of a prompt so
that easy ones do not crowd out the others; every round starts from the base.
Differs from the official code: none was released. The paper weighs by a reward that is 0 or 1, here any reward is held
against the threshold; it stops training where the reward on validation prompts no longer rises, here after the steps
that were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steer.errors import SteerError
from steer.methods.base import Method, weighted_nll
from steer.methods.groups import Group, random_of, rewarded, singles
from steer.rows import Row, prompt_key
from steer.settings import Checked, option


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of rest-em."""

    threshold: float = option(0.0, "Lowest reward of a response, in standard deviations of the logs.")
    most: int = option(10, "Responses of a prompt at most, drawn at random.", least=1)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Responses that are good enough."""
    prompts: dict[str, list[Row]] = {}
    for row in rewarded(rows, differ=False):
        prompts.setdefault(prompt_key(row), []).append(row)
    chosen: list[Row] = []
    for candidates in prompts.values():
        good = sorted((r for r in candidates if r["reward"] >= settings.threshold), key=lambda r: -r["reward"])
        if good:
            chosen += [good[i] for i in random_of(good[0]).permutation(len(good))[: settings.most]]
    if not chosen:
        raise SteerError(f"no response has a reward of {settings.threshold:g} or more. Lower --set threshold.")
    return singles(chosen)


METHOD = Method(
    rows="drawn",
    groups=groups,
    loss=weighted_nll,
    settings=Settings,
    per="token",
    needs={"draws"},
    pool="last",
)
