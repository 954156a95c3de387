"""Decide when rounds should stop and which one to keep: pure functions on the figures of the rounds.

The proxy that rounds optimise keeps rising after the responses have stopped improving (Gao et al. 2210.10760), so they
are stopped by a second scorer that training never sees, and by signs of degenerate text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from steer.errors import SteerError
from steer.settings import overridden

SHARES = {
    "repeated": "repeated trigrams",
    "leaked": "responses with condition text",
    "unfinished": "responses that do not end",
}


@dataclass(frozen=True)
class Limits:
    """Limits of the guards; 0 turns a guard off.

    `gold`: chance of a false alarm over all rounds, shared by the tests `fell` and `outrun`; `kl`: nats from the base
    per response token; `length`: share of the logged responses that are longer, or shorter, than the mean response;
    `distinct`: distinct-2 as a share of the first round's. The others are how much a share may rise from the first
    round: `repeated`, trigrams that occurred in the same response before; `leaked`, responses with condition text;
    `unfinished`, responses without an end.
    """

    gold: float = 0.05
    kl: float = 1.0
    length: float = 0.005
    distinct: float = 0.5
    repeated: float = 0.2
    leaked: float = 0.01
    unfinished: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf or (value >= 1 and field.name not in ("kl", "gold")) or self.gold > 0.5:
                raise SteerError(f"--guard {field.name}={value:g}: wanted a share below 1 (0: off), gold at most 0.5.")


def limits(pairs: Sequence[str]) -> Limits:
    """Parse NAME=LIMIT texts; `off` alone turns all guards off."""
    if tuple(pairs) == ("off",):
        return Limits(**{field.name: 0.0 for field in fields(Limits)})
    return overridden(Limits, pairs, "--guard")


class Figures(NamedTuple):
    """Figures of one round on the held-out prompts; round 0 is the policy that the rounds start from.

    `proxy` and `gold`: reward per prompt [P], NaN unknown, the same prompts in every round; `kl`: nats per response
    token (NaN unknown); `words`: mean length; `earlier`: rewards that this round's proxy gives the answers of each
    round before, where the proxy is refitted; the others as in `Limits`.
    """

    proxy: Sequence[float]
    gold: Sequence[float] | None = None
    kl: float = math.nan
    words: float = math.nan
    distinct: float = math.nan
    repeated: float = 0.0
    leaked: float = 0.0
    unfinished: float = 0.0
    earlier: Sequence[Sequence[float]] = ()


def alarm(rounds: Sequence[Figures], limits: Limits, planned: int, logged: Sequence[float] = ()) -> str:
    """Reason to stop after the last of `rounds`, of `planned` ones; empty to continue.

    `logged`: words of the logged responses. A figure that is out of bounds before the first round never stops them.
    """
    if len(rounds) < 2:
        return ""
    chance = limits.gold / planned / 2
    reasons = [fell(rounds, chance), outrun(rounds, chance)] if limits.gold else []
    before = degenerate(rounds[0], rounds[0], limits, logged)
    reasons += [text for name, text in degenerate(rounds[-1], rounds[0], limits, logged).items() if name not in before]
    return "; ".join(filter(None, reasons))


def degenerate(now: Figures, first: Figures, limits: Limits, logged: Sequence[float]) -> dict[str, str]:
    """Reasons by the name of their limit: figures of the responses' form that are out of bounds."""
    reasons = {}
    if limits.kl and now.kl > limits.kl:
        reasons["kl"] = f"the KL from the base is {now.kl:.2f} nats per token, above {limits.kl:g}"
    if limits.length and len(logged):
        low, high = np.quantile(logged, [limits.length, 1 - limits.length])
        if now.words < low or now.words > high:
            than = "shorter" if now.words < low else "longer"
            reasons["length"] = f"responses have {now.words:.0f} words, {than} than {1 - limits.length:.1%} of the logs"
    if limits.distinct and now.distinct < limits.distinct * first.distinct:
        reasons["distinct"] = (
            f"distinct-2 fell to {now.distinct:.2f}, below {limits.distinct:g} of {first.distinct:.2f}"
        )
    for name, noun in SHARES.items():
        value, before, most = getattr(now, name), getattr(first, name), getattr(limits, name)
        if most and value - before > most:
            reasons[name] = f"the share of {noun} rose from {before:.1%} to {value:.1%}, by more than {most:.1%}"
    return reasons


def fell(rounds: Sequence[Figures], chance: float) -> str:
    """Reason to stop if gold fell in the last round below its best before, prompt by prompt, beyond chance."""
    top = best(rounds[:-1])
    now, before = rounds[-1].gold, rounds[top].gold
    if now is None or before is None:
        return ""
    mean, least = tested(np.subtract(before, now), chance / (len(rounds) - 1))
    return f"gold fell by {mean:.2f} sd from round {top}, more than the {least:.2f} of chance" if mean > least else ""


def outrun(rounds: Sequence[Figures], chance: float) -> str:
    """Reason to stop if the proxy rose from the round with the best gold to the last, beyond chance, and gold did not.

    This is over-optimisation before gold has fallen beyond the noise of its mean. Both the proxy's rise and its excess
    over gold's must be beyond chance; the noise of a response, which both scorers see, cancels in the excess. A
    refitted proxy is that of the last round for both rounds: two scorers, each standardised on its own, do not compare.
    """
    top = best(rounds[:-1])
    now, before = rounds[-1], rounds[top]
    if now.gold is None or before.gold is None:
        return ""
    start = now.earlier[top] if now.earlier else before.proxy
    proxy, gold = np.subtract(now.proxy, start), np.subtract(now.gold, before.gold)
    share = chance / (len(rounds) - 1)
    (rise, least), (excess, most) = tested(proxy, share), tested(proxy - gold, share)
    gain = float(np.nanmean(gold))
    if gain > 0 or not (rise > least and excess > most):
        return ""
    return f"the proxy rose by {rise:.2f} sd from round {top}, and gold by {gain:.2f}"


def tested(gains: ArrayLike, chance: float) -> tuple[float, float]:
    """Mean of gains per prompt (NaN unknown), and the critical value of a one-sided paired t test, else infinity.

    Callers share the chance of a false alarm in a round among the earlier rounds, because the best of them is chosen
    by looking (Bonferroni).
    """
    from scipy.special import stdtrit

    values = np.asarray(gains, float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return 0.0, math.inf
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(stdtrit(len(values) - 1, 1 - chance)) * error


def best(rounds: Sequence[Figures]) -> int:
    """Number of the round with the highest mean gold, or proxy where there is no gold; the first of equals."""
    means = [float(np.nanmean(r.proxy if r.gold is None else r.gold)) for r in rounds]
    return int(np.argmax(means))
