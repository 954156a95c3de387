"""When a loop of rounds should stop, and which round to keep: pure functions on the figures of its rounds.

The proxy that a loop optimises goes on rising after the responses have stopped getting better (Gao et al. 2210.10760),
so what stops it is a second scorer that training never sees, and what degenerate text looks like.
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
    """What stops a loop; 0 turns a guard off.

    `gold`: chance, over all rounds, that it stops a loop whose gold does not fall and whose proxy gains no more than
    gold does, shared by the two tests of `fell` and `outrun`; `kl`: nats from the base per
    response token; `length`: this share of the logged responses is longer, or shorter, than the mean response;
    `distinct`: distinct-2 as a share of the first round's. By how much these may rise from the first round: `repeated`,
    the share of a response's trigrams that stood in it before; `leaked`, that of responses with condition text;
    `unfinished`, that of responses which did not come to an end.
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
    """From NAME=LIMIT texts; `off` alone turns all guards off."""
    if tuple(pairs) == ("off",):
        return Limits(**{field.name: 0.0 for field in fields(Limits)})
    return overridden(Limits, pairs, "--guard")


class Figures(NamedTuple):
    """What was seen of one round on the held-out prompts; round 0 is the policy that the loop starts from.

    `proxy` and `gold`: reward per prompt [P], NaN unknown, the same prompts in every round; `kl`: nats per response
    token (NaN unknown); `words`: mean length; `earlier`: where the proxy is refreshed, what that of this round gives
    the answers of each round before; the others as in `Limits`.
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
    """Why the loop should stop after the last of `rounds`, of `planned` ones; empty if it may go on.

    `logged`: words of the logged responses. What is out of bounds before the first round stops nothing later.
    """
    if len(rounds) < 2:
        return ""
    chance = limits.gold / planned / 2
    found = [fell(rounds, chance), outrun(rounds, chance)] if limits.gold else []
    before = degenerate(rounds[0], rounds[0], limits, logged)
    found += [text for name, text in degenerate(rounds[-1], rounds[0], limits, logged).items() if name not in before]
    return "; ".join(filter(None, found))


def degenerate(now: Figures, first: Figures, limits: Limits, logged: Sequence[float]) -> dict[str, str]:
    """What is out of bounds in the form of the responses, by the name of the limit."""
    found = {}
    if limits.kl and now.kl > limits.kl:
        found["kl"] = f"the KL from the base is {now.kl:.2f} nats per token, above {limits.kl:g}"
    if limits.length and len(logged):
        low, high = np.quantile(logged, [limits.length, 1 - limits.length])
        if now.words < low or now.words > high:
            than = "shorter" if now.words < low else "longer"
            found["length"] = f"responses have {now.words:.0f} words, {than} than {1 - limits.length:.1%} of the logs"
    if limits.distinct and now.distinct < limits.distinct * first.distinct:
        found["distinct"] = f"distinct-2 fell to {now.distinct:.2f}, below {limits.distinct:g} of {first.distinct:.2f}"
    for name, what in SHARES.items():
        value, before, most = getattr(now, name), getattr(first, name), getattr(limits, name)
        if most and value - before > most:
            found[name] = f"the share of {what} rose from {before:.1%} to {value:.1%}, by more than {most:.1%}"
    return found


def fell(rounds: Sequence[Figures], chance: float) -> str:
    """Whether gold fell in the last round below its best before, prompt by prompt; empty: not beyond chance."""
    top = best(rounds[:-1])
    now, before = rounds[-1].gold, rounds[top].gold
    if now is None or before is None:
        return ""
    mean, least = tested(np.subtract(before, now), chance / (len(rounds) - 1))
    return f"gold fell by {mean:.2f} sd from round {top}, more than the {least:.2f} of chance" if mean > least else ""


def outrun(rounds: Sequence[Figures], chance: float) -> str:
    """Whether the proxy rose from the round with the best gold to the last, and gold did not; empty: within chance.

    That is what over-optimisation looks like while gold has not yet fallen beyond the noise of its mean. Both the
    proxy's rise and what it has over gold's must be beyond chance; the noise of a response, which both scorers see, is
    not in the latter. A proxy that is refreshed is that of the last round for both: two scorers, each standardised on
    its own, say nothing of a rise.
    """
    top = best(rounds[:-1])
    now, before = rounds[-1], rounds[top]
    if now.gold is None or before.gold is None:
        return ""
    start = now.earlier[top] if now.earlier else before.proxy
    proxy, gold = np.subtract(now.proxy, start), np.subtract(now.gold, before.gold)
    share = chance / (len(rounds) - 1)
    (rise, least), (gap, widest) = tested(proxy, share), tested(proxy - gold, share)
    gain = float(np.nanmean(gold))
    if gain > 0 or not (rise > least and gap > widest):
        return ""
    return f"the proxy rose by {rise:.2f} sd from round {top}, and gold by {gain:.2f}"


def tested(gains: ArrayLike, chance: float) -> tuple[float, float]:
    """Mean of gains per prompt (NaN unknown), and what it must exceed: one-sided paired t test.

    `chance` of a false alarm in this round is shared among the earlier rounds by the callers, because the best of them
    is chosen by looking (Bonferroni). With fewer than two prompts nothing is beyond it.
    """
    from scipy.special import stdtrit

    known = np.asarray(gains, float)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return 0.0, math.inf
    error = float(known.std(ddof=1)) / math.sqrt(len(known))
    return float(known.mean()), float(stdtrit(len(known) - 1, 1 - chance)) * error


def best(rounds: Sequence[Figures]) -> int:
    """The round with the highest mean gold, of the proxy where no gold scorer watches; the first of equals."""
    means = [float(np.nanmean(r.proxy if r.gold is None else r.gold)) for r in rounds]
    return int(np.argmax(means))
