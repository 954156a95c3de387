"""Claims of the field against the results, each judged by paired differences, all of them as one family: pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.special import log_ndtr

from steer.evaluation.statistics import Interval, Repeated, Seeds, best_of_n_kl, holm, smallest
from steer.report.cells import ALPHA

Rewards = NDArray[np.float64]
TAKEN = (2, 4, 8)  # n of best of n
EQUAL = 0.05  # sd of the logs, up to which two rewards count as equal where a claim says that nothing changes
NEAR = 0.1  # share by which an order statistic may be off
RESAMPLES = 4000  # so that no p-value is too coarse for Holm's correction


class Judged(NamedTuple):
    """Rewards of a run's answers, by repetition: [S][P], the prompts in one order; `bases`: the base of each."""

    each: list[Rewards]
    bases: Sequence[int] = ()

    @property
    def repeated(self) -> Seeds:
        """Mean over repetitions and prompts; the seeds on one base are no repetitions of each other's base."""
        return Seeds([(x, np.arange(len(x))) for x in self.each], bases=self.bases, resamples=RESAMPLES)

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return self.repeated.interval()

    @property
    def mean(self) -> float:
        """Mean over repetitions and prompts."""
        return float(np.mean([np.nanmean(x) for x in self.each]))


class Margin(NamedTuple):
    """A difference that must be above 0 if a claim is true.

    `p`: of no difference, two-sided. `errors`: standard errors with degrees of freedom, as in `Repeated`.
    """

    interval: Interval
    p: float
    errors: Sequence[tuple[float, float]]

    @staticmethod
    def of(figure: Repeated) -> Margin:
        """Judge a figure by itself."""
        return Margin(figure.interval(), figure.p_value(), figure.errors)


class Claim(NamedTuple):
    """A statement of the field, the figures it is about, and the differences that must be above 0 if it is true."""

    text: str
    values: Sequence[float]
    margins: Sequence[Margin]

    @property
    def below(self) -> list[Margin]:
        """Margins on the wrong side of 0; where there is one, the claim cannot come out."""
        return [m for m in self.margins if m.interval.mean < 0]

    @property
    def p(self) -> float:
        """P-value of the verdict that the means point to; NaN where a margin's is unknown.

        That all margins are above 0 is as sure as the least sure of them; that some margin is below 0 is found by
        looking at all, so the surest counts as many times (Bonferroni).
        """
        if not self.below:
            return float(np.max([m.p for m in self.margins]))
        return min(1.0, len(self.margins) * float(np.min([m.p for m in self.below])))

    def verdict(self, p: float) -> str:
        """`yes` or `no` by a p-value of the claim, its own or one that is corrected; else `not told apart`."""
        if not p < ALPHA:  # NaN is no verdict
            return "not told apart"
        return "no" if self.below else "yes"

    def least(self, claims: int) -> float:
        """Smallest true difference that every margin would have shown with a chance of 80 %, by Holm's first level."""
        return max(smallest(m.errors, ALPHA / claims) for m in self.margins)


class Curve(NamedTuple):
    """Rewards of an on-policy method by steps: under the scorer that it trains on, and under gold."""

    proxy: Sequence[Judged]
    gold: Sequence[Judged]


def margin(*parts: tuple[float, Judged], plus: float = 0.0) -> Margin:
    """A weighted sum of runs and a constant, paired by repetition and prompt.

    Only repetitions that all runs have are used.
    """
    shared = min(len(run.each) for _, run in parts)
    sums = [plus + np.sum([weight * run.each[i] for weight, run in parts], axis=0) for i in range(shared)]
    return Margin.of(Judged(sums, parts[0][1].bases[:shared]).repeated)


def above(better: Judged, worse: Judged, plus: float = 0.0) -> Margin:
    """How far one run is above another."""
    return margin((1, better), (-1, worse), plus=plus)


def rising(runs: Sequence[Judged]) -> list[Margin]:
    """How far each run is above the one before."""
    return [above(after, before) for before, after in pairwise(runs)]


def fall(curve: Curve, plus: float, sign: int = 1) -> Margin:
    """How far gold, where the proxy is highest, is below its best point before: times `sign`, plus `plus`.

    Both points are chosen by their means, which favours a fall.
    """
    at = max(range(len(curve.proxy)), key=lambda i: curve.proxy[i].mean)
    peak = max(range(at), key=lambda i: curve.gold[i].mean, default=at)
    return margin((sign, curve.gold[peak]), (-sign, curve.gold[at]), plus=plus)


def claims(
    gold: Mapping[str, Judged],
    proxy: Mapping[str, Judged],
    rounds: Mapping[str, Sequence[Judged]],
    curves: Mapping[str, Curve],
    ppo: Judged,
    drawn: Sequence[Rewards],
    losses: Sequence[str],
) -> list[Claim]:
    """Judge all claims.

    `gold`, `proxy`: the runs (offline ones by the proxy); `rounds`: of rounds 1, 2, ... by gold; `ppo`: by the proxy;
    `drawn`: rewards [P, K] of K responses to each of P prompts, by repetition.
    """

    def claim(text: str, names: Sequence[str], *margins: Margin) -> Claim:
        return Claim(text, [gold[name].mean for name in names], margins)

    def order(text: str, *names: str) -> Claim:
        return claim(text, names, *rising([gold[name] for name in names]))

    last = [rounds[f"rounds-{name}"][-1] for name in ("absolute", "relative")]
    ranked, clean, few = rounds["rounds-rrhf"], curves["clean"], curves["few"]
    steered, permuted, mle = gold["reward"], gold["permuted"], gold["mle"]
    best = max(proxy.values(), key=lambda run: run.mean)
    fresh = [clean.proxy[-1], ppo]
    accepted = [f"{loss}-rso" for loss in losses]
    return [
        order("raft gains with K = 1, 2, 4, 8", *(f"raft-k{k}" for k in (1, 2, 4, 8))),
        order("rwr gains with 1/beta = 1/3, 1, 2", *(f"rwr-beta{beta}" for beta in ("3", "1", "0.5"))),
        *(
            order(f"{loss}: logs < policy samples < rso samples", *(f"{loss}-{s}" for s in ("logs", "policy", "rso")))
            for loss in losses
        ),
        claim(
            "sigmoid-norm and hinge-norm above hinge (rso samples)",
            accepted,
            *(above(gold[name], gold[accepted[-1]]) for name in accepted[:-1]),
        ),
        Claim("rrhf gains with rounds", [x.mean for x in ranked], rising(ranked)),
        Claim(
            "rounds of rrhf above rrhf on the logs' pairs",
            [gold["rrhf-logs"].mean, ranked[-1].mean],
            [above(ranked[-1], gold["rrhf-logs"])],
        ),
        order("rrhf without its sft term falls below mle", "rrhf-no-sft", "mle"),
        claim(
            "permuted labels: less than a tenth of the gain",
            ("reward", "permuted", "mle"),
            margin((0.1, steered), (0.9, mle), (-1, permuted)),
        ),
        claim(
            f"a level that the data lacks: no gain (above {EQUAL}) over the highest it has",
            ("short", "beyond"),
            above(gold["short"], gold["beyond"], EQUAL),
        ),
        Claim("relative levels above absolute ones after the rounds", [x.mean for x in last], rising(last)),
        Claim(
            f"best of n within {NEAR:.0%} of order statistics (error of each n)",
            [x.mean for x in best_of_errors(drawn)],
            near_order_statistics(drawn),
        ),
        Claim(
            "remax and ppo above every offline run on the proxy",
            [best.mean, *(x.mean for x in fresh)],
            [above(x, best) for x in fresh],
        ),
        Claim(
            f"a proxy on few ratings: gold falls (more than {EQUAL}) while the proxy rises",
            [x.mean for x in few.gold],
            [fall(few, -EQUAL)],
        ),
        Claim(
            f"a proxy on all ratings: gold does not fall (more than {EQUAL}) while the proxy rises",
            [x.mean for x in clean.gold],
            [fall(clean, EQUAL, -1)],
        ),
    ]


def best_of_errors(drawn: Sequence[Rewards]) -> list[Interval]:
    """Relative error of normal order statistics as the gain of the best of n over one draw, over prompts and bases."""
    return [figure(0.0, 1.0).interval() for figure in _errors(drawn)]


def near_order_statistics(drawn: Sequence[Rewards]) -> list[Margin]:
    """How far each error is inside of NEAR, on the side that it is nearer to."""
    return [Margin.of(figure(NEAR, -1.0 if figure(0.0, 1.0).mean > 0 else 1.0)) for figure in _errors(drawn)]


def _errors(drawn: Sequence[Rewards]) -> list[Callable[[float, float], Repeated]]:
    """For each n, a function of `plus` and `times`: plus + times x the relative error, of each base's draws [P, K]."""
    size = max(map(len, drawn))

    def sums(x: Rewards) -> Rewards:
        best = [best_of(x, n) for n in TAKEN]
        found = np.zeros((size, 3 + len(TAKEN)))  # a prompt without draws counts nothing
        found[: len(x)] = np.column_stack([x.mean(axis=1), x.var(axis=1, ddof=1), *best, np.ones(len(x))])
        return found

    each = [sums(x) for x in drawn]

    def errors(weights: Rewards, i: int) -> Rewards:
        means = np.stack([(weights @ x)[:, :-1] / (weights @ x)[:, -1:] for x in each])  # [S, R, 2 + TAKEN]
        off: Rewards = (means[..., 2 + i] - means[..., 0]) / np.sqrt(means[..., 1]) / best_of_n_mean(TAKEN[i]) - 1
        return off.T

    def figure(i: int, plus: float, times: float) -> Repeated:
        bases = range(len(drawn))
        return Repeated.of(lambda w: plus + times * errors(w, i), size, size, bases=bases, resamples=RESAMPLES)

    return [partial(figure, i) for i in range(len(TAKEN))]


def order_statistics(drawn: Sequence[Rewards]) -> list[tuple[int, float, float]]:
    """n, gain of the best of n over one draw, and that of normal rewards; in sd within a prompt of [S][P, K]."""
    every = np.concatenate(list(drawn))
    mean, sd = float(every.mean()), float(np.sqrt(every.var(axis=1, ddof=1).mean()))
    return [(n, (float(best_of(every, n).mean()) - mean) / sd, best_of_n_mean(n)) for n in TAKEN]


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def verdicts(judged: Sequence[Claim]) -> list[tuple[str, float]]:
    """Verdict of each claim with its p-value, after Holm's correction over all of them."""
    return [(claim.verdict(p), p) for claim, p in zip(judged, holm([claim.p for claim in judged]))]


def claimed(judged: Sequence[Claim]) -> str:
    """The claims as a Markdown table."""
    lines = []
    for claim, (verdict, p) in zip(judged, verdicts(judged)):
        alone, least = claim.verdict(claim.p), claim.least(len(judged))
        before = "" if alone == verdict else f", {alone} before Holm"
        lines.append(
            (
                claim.text,
                ", ".join(f"{v:.2f}" for v in claim.values),
                "; ".join(m.interval.text() for m in claim.margins),
                "-" if math.isnan(p) else f"{p:.3f}",
                "-" if math.isnan(least) else f"{least:.2f}",
                ("yes" if verdict == "yes" else f"**{verdict}**") + before,
            )
        )
    return grid(("claim", "means", "must be above 0", "p, Holm", "power from", "came out"), lines)


def best_of_table(drawn: Sequence[Rewards]) -> str:
    """Order statistics of the pools as a Markdown table."""
    lines = [
        (str(n), f"{gain:.2f}", f"{normal:.2f}", f"{best_of_n_kl(n):.2f}")
        for n, gain, normal in order_statistics(drawn)
    ]
    return grid(("best of n", "gain, sd within a prompt", "normal order statistic", "KL, nats"), lines)


def best_of_n_mean(n: int) -> float:
    """Expected maximum of n standard normals: the gain of best-of-n in standard deviations of the reward.

    >>> round(best_of_n_mean(2), 6) == round(1 / math.pi**0.5, 6)
    True
    """
    # E max = int_0^inf (1 - F^n) - int_-inf^0 F^n; beyond 40 sd both integrands are 0 in floating point.
    above, _ = quad(lambda x: -math.expm1(n * log_ndtr(x)), 0, 40, epsabs=1e-12, limit=200)
    below, _ = quad(lambda x: math.exp(n * log_ndtr(-x)), 0, 40, epsabs=1e-12, limit=200)
    return float(above - below)


def best_of(scores: ArrayLike, n: int) -> NDArray[np.float64]:
    """Mean score of the best of `n`, estimated without bias from N >= n draws a prompt: [P, N] -> [P].

    The i-th smallest of N is the best of C(i - 1, n - 1) of the C(N, n) subsets (as in WebGPT, 2112.09332).
    """
    ordered = np.sort(np.asarray(scores, dtype=float), axis=-1)
    size = ordered.shape[-1]
    if not 1 <= n <= size:
        raise ValueError(f"the best of {n} cannot be estimated from {size} draws")
    weights = [math.comb(i, n - 1) / math.comb(size, n) for i in range(size)]
    return np.asarray(ordered @ np.array(weights))
