"""Claims of the field (METHODS.md, section 4) against the means that came out: pure functions on figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steer.evaluate.statistics import Interval, across_seeds, best_of, best_of_n_kl, best_of_n_mean

Rewards = NDArray[np.float64]


class Judged(NamedTuple):
    """Rewards of a run's answers, by seed: [S][P]."""

    each: list[Rewards]

    @property
    def interval(self) -> Interval:
        """Mean over seeds and prompts."""
        return across_seeds([(x, np.arange(len(x))) for x in self.each])

    @property
    def mean(self) -> float:
        """Mean over seeds and prompts."""
        return self.interval.mean


class Claim(NamedTuple):
    """What the field says, the figures it is about, and whether they are so."""

    text: str
    values: Sequence[float]
    out: bool


class Curve(NamedTuple):
    """Means of an on-policy method by steps, by the scorer it trains on and by gold."""

    proxy: list[float]
    gold: list[float]


def claims(
    gold: Mapping[str, float],
    proxy: Mapping[str, float],
    rounds: Mapping[str, list[float]],
    curves: Mapping[str, Curve],
    ppo: float,
    drawn: Rewards,
    losses: Sequence[str],
) -> list[Claim]:
    """What came out.

    `gold`, `proxy`: means of the runs (offline ones by the proxy); `rounds`: of rounds 1, 2, ... by gold; `ppo`: by the
    proxy; `drawn`: rewards [P, K] of K responses to each of P prompts.
    """

    def means(*names: str) -> list[float]:
        return [gold[name] for name in names]

    raft = means(*(f"raft-k{k}" for k in (1, 2, 4, 8)))
    rwr = means(*(f"rwr-beta{beta}" for beta in ("3", "1", "0.5")))
    sources = {loss: means(*(f"{loss}-{s}" for s in ("logs", "policy", "rso"))) for loss in losses}
    last = [rounds[f"rounds-{name}"][-1] for name in ("absolute", "relative")]
    ranked, off = rounds["rounds-rrhf"], [abs(got / told - 1) for _, got, told in order_statistics(drawn)]
    steered, permuted, short, beyond = means("reward", "permuted", "short", "beyond")
    alone, logs, mle = means("rrhf-no-sft", "rrhf-logs", "mle")
    fresh, offline = [curves["clean"].proxy[-1], ppo], max(proxy.values())
    accepted = means(*(f"{loss}-rso" for loss in losses))
    few, clean = curves["few"], curves["clean"]
    return [
        Claim("raft gains with K = 1, 2, 4, 8", raft, rising(raft)),
        Claim("rwr gains with 1/beta = 1/3, 1, 2", rwr, rising(rwr)),
        *(Claim(f"{loss}: logs <= policy samples <= rso samples", x, rising(x)) for loss, x in sources.items()),
        Claim("sigmoid-norm and hinge-norm above hinge (rso samples)", accepted, min(accepted[:-1]) > accepted[-1]),
        Claim("rrhf gains with rounds 1, 2, 3", ranked, rising(ranked)),
        Claim("three rounds of rrhf above rrhf on the logs' pairs", [logs, ranked[-1]], ranked[-1] > logs),
        Claim("rrhf without its sft term falls below mle", [alone, mle], alone < mle),
        Claim(
            "permuted labels: less than a tenth of the gain",
            [steered, permuted, mle],
            permuted - mle < (steered - mle) / 10,
        ),
        Claim("a level that the data lacks: no gain over the highest it has", [short, beyond], beyond <= short + 0.05),
        Claim("relative levels above absolute ones after three rounds", last, rising(last)),
        Claim("best of n within 10 % of order statistics (largest error)", [max(off)], max(off) <= 0.1),
        Claim("remax and ppo above every offline run on the proxy", [offline, *fresh], min(fresh) > offline),
        Claim("a proxy on few ratings: gold falls while the proxy rises", few.gold, fallen(few)),
        Claim("a proxy on all ratings: gold does not fall while the proxy rises", clean.gold, not fallen(clean)),
    ]


def rising(values: Sequence[float]) -> bool:
    """Whether none is below the one before."""
    return all(a <= b for a, b in pairwise(values))


def fallen(curve: Curve) -> bool:
    """Whether gold, where the proxy is at its highest, is more than .05 sd below a peak that came before."""
    at = max(range(len(curve.proxy)), key=curve.proxy.__getitem__)
    return curve.gold[at] < max(curve.gold[: at + 1]) - 0.05


def order_statistics(drawn: Rewards) -> list[tuple[int, float, float]]:
    """n, gain of the best of n over one draw, and what it is for normal rewards; in sd within a prompt of [P, K]."""
    mean, sd = float(drawn.mean()), float(np.sqrt(drawn.var(axis=1, ddof=1).mean()))
    return [(n, (float(best_of(drawn, n).mean()) - mean) / sd, best_of_n_mean(n)) for n in (2, 4, 8)]


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def claimed(found: Sequence[Claim]) -> str:
    """The claims as Markdown."""
    lines = [(c.text, ", ".join(f"{v:.2f}" for v in c.values), "yes" if c.out else "**no**") for c in found]
    return grid(("claim", "means", "came out"), lines)


def best_of_table(drawn: Rewards) -> str:
    """Order statistics of the pool as Markdown."""
    lines = [
        (str(n), f"{got:.2f}", f"{told:.2f}", f"{best_of_n_kl(n):.2f}") for n, got, told in order_statistics(drawn)
    ]
    return grid(("best of n", "gain, sd within a prompt", "normal order statistic", "KL, nats"), lines)
