"""The order of AlpacaFarm's Table 2 (2305.14387) in the embedded world: `bash benchmarks/alpacafarm.sh OUTPUT`.

What the script made is judged here: every system by the share of held-out prompts on which the evaluation annotators,
who flip nothing, prefer its answer to a fixed one. The fixed answer is the better, by the truth, of the two logged
answers to the prompt, so a copy of the logs wins a third: the paper's SFT wins 37 % against Davinci003.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from data_recipes.world_text import WEIGHTS, Gold
from steer.evaluation.annotators import annotator
from steer.evaluation.statistics import FloatArray, Interval, Repeated, across_seeds
from steer.report.circumstances import circumstances
from steer.rows import Row, prompt_key, read_back, read_rows
from steer.rows.labelled import Labelled

# Simulated win-rates against Davinci003, in per cent: Table 2 of the paper, as the picture in the official repository
# has it (assets/results_table.png of tatsu-lab/alpaca_farm at 30717dd). DPO stands in the table of the paper's later
# versions only; its figure was read from lecture notes that copy that table, not from the paper.
PUBLISHED = {
    "ppo": ("PPO", 46.8),
    "dpo": ("DPO (later versions)", 46.8),
    "prompted": ("Best-of-n", 45.0),
    "expert-iteration": ("Expert Iteration", 41.9),
    "base": ("SFT 10k", 36.7),
    "feedme": ("Binary FeedME", 36.6),
    "quark": ("Quark", 35.6),
    "binary-reward-conditioning": ("Binary Reward Conditioning", 32.4),
}
SFT = "base"
Wins = Mapping[str, FloatArray]  # method -> share of its answer on each prompt [P], the prompts in one order


class Truth:
    """The world's reward as one attribute, `preference`, beside which a reward model of pairs can stand."""

    attributes = ("preference",)

    def score(self, rows: Sequence[Row]) -> FloatArray:
        """Return the weighted sum of the exact scores [n, 1]."""
        return np.asarray(Gold().score(rows) @ np.array(list(WEIGHTS.values())))[:, None]


def fixed(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the best logged answer to each prompt, by the truth."""
    best: dict[str, tuple[float, Row]] = {}
    for row, value in zip(rows, Truth().score(rows)[:, 0].tolist()):
        key = prompt_key(row)
        if key not in best or value > best[key][0]:
            best[key] = (value, row)
    return {key: row for key, (_, row) in best.items()}


def answers(base: Path, method: str, seed: int) -> Path:
    """Return the answers of a method; of best of n those with the most candidates."""
    found = [*base.glob(f"*/runs/{method}*-seed{seed}/answers-*/answers.jsonl")]
    found += base.glob(f"direct/runs/{method}-seed{seed}/answers.jsonl")  # of the base itself
    if not found:
        raise SystemExit(f"{base}: {method} with seed {seed} has no answers; the report of its comparison says why.")
    return max(found, key=lambda path: int((re.findall(r"best_of=(\d+)", str(path)) or ["1"])[0]))


def judged(out: Path, pool: str) -> tuple[list[Wins], list[int], str, int]:
    """Return the wins of every repetition on the prompts of all, its base, what best of n was, and prompts left out.

    A base whose two answers to a prompt gave no pair has no such prompt.
    """
    logs = out / "logs"
    against = fixed(read_rows(logs))
    prefer = annotator(f"simulated:{pool}", Labelled.without_rows(str(logs)).schema).prefer
    answered: list[dict[str, dict[str, Row]]] = []  # of every repetition: method -> prompt -> answer
    bases, most = [], ""
    for number in takewhile(lambda i: (out / f"base-{i}").is_dir(), count()):
        base = out / f"base-{number}"
        for seed in range(len([*base.glob("direct/runs/base-seed*")])):
            paths = {method: answers(base, method, seed) for method in PUBLISHED}
            answered.append({m: {prompt_key(row): row for row in read_back(path)} for m, path in paths.items()})
            most = paths["prompted"].parent.name.removeprefix("answers-none-")
            bases.append(number)
    asked = [set(rows) for methods in answered for rows in methods.values()]
    prompts = sorted(set.intersection(*asked))
    others = [against[key] for key in prompts]
    wins: list[Wins] = []
    for methods in answered:
        wins.append({m: prefer([rows[key] for key in prompts], others) for m, rows in methods.items()})
    return wins, bases, most, len(set.union(*asked)) - len(prompts)


def order(repetitions: Sequence[Wins], bases: Sequence[int], methods: Sequence[str]) -> Interval:
    """Spearman correlation of the win-rates of a repetition with the published ones, over prompts and repetitions.

    Resampled win-rates are noisier than the win-rates, which shuffles an order: the interval reaches too low rather
    than too high, and is widened where it would leave out the figure itself.
    """
    published = _ranks(np.array([[PUBLISHED[m][1] for m in methods]]))
    table = [np.column_stack([wins[m] for m in methods]) for wins in repetitions]  # [S][P, M]

    def spearman(weights: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):  # methods that all win alike have no order
            return np.stack([(_ranks(weights @ each) * published).sum(1) for each in table], axis=1)

    size = len(table[0])
    found = Repeated.of(spearman, size, size * len(table), bases=bases).interval().within(-1.0, 1.0)
    return found._replace(low=min(found.low, found.mean), high=max(found.high, found.mean))


def of_means(repetitions: Sequence[Wins], methods: Sequence[str]) -> float:
    """Spearman correlation of the mean win-rates over repetitions with the published ones."""
    means = [np.mean([wins[m].mean() for wins in repetitions]) for m in methods]
    here, published = _ranks(np.array([means, [PUBLISHED[m][1] for m in methods]]))
    return float(here @ published)


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks of each row, centred and of length 1; equal values share a rank."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    return np.asarray(ranks / np.linalg.norm(ranks, axis=1, keepdims=True))


def table(repetitions: Sequence[Wins], bases: Sequence[int], most: str) -> str:
    """Win-rates side by side with the published ones, in Markdown."""

    def percent(*parts: tuple[float, str]) -> str:
        each = [100 * np.sum([w * wins[m] for w, m in parts], axis=0) for wins in repetitions]
        least = 0.0 if len(parts) == 1 else -100.0  # of a share, and of a difference of two
        return across_seeds([(x, np.arange(len(x))) for x in each], bases=bases).within(least, 100.0).text(1)

    lines = ["| method | published, % | less SFT | here, % | less SFT |", "| --- | --- | --- | --- | --- |"]
    for method, (name, value) in PUBLISHED.items():
        more = "-" if method == SFT else f"{value - PUBLISHED[SFT][1]:+.1f}"
        here = "-" if method == SFT else percent((1, method), (-1, SFT))
        shown = f"{name}, {most}" if method == "prompted" else name
        lines.append(f"| {shown} | {value} | {more} | {percent((1, method))} | {here} |")
    return "\n".join(lines)


def report(out: Path, pool: str) -> str:
    """Return the table, the correlation of the two orders, and where it was made."""
    repetitions, bases, most, lacking = judged(out, pool)
    about, prompts = circumstances("compare"), len(next(iter(repetitions[0].values())))
    without = [m for m in PUBLISHED if m != "dpo"]
    return "\n\n".join(
        [
            f"{about['created']}, commit {about['commit']}, {about['machine']}; {len(set(bases))} bases, "
            f"{len(bases)} repetitions, {prompts} held-out prompts; {lacking} more, to which some base has no answers, "
            "are left out. Intervals are over prompts and bases.",
            table(repetitions, bases, most),
            f"Spearman of the two orders, mean over repetitions: {order(repetitions, bases, [*PUBLISHED]).text()}; "
            f"without DPO {order(repetitions, bases, without).text()}. Of the mean win-rates: "
            f"{of_means(repetitions, [*PUBLISHED]):.2f}; without DPO {of_means(repetitions, without):.2f}.",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(report(Path(sys.argv[1]), sys.argv[2]) + "\n")
