"""Does the over-optimisation guard stop in time? `python benchmarks/guard.py WORLD OUT [SEEDS [FIRST [RATINGS]]]`.

WORLD is the folder of `steer world`, OUT that of the runs. Every seed has two loops of raft, the best of 8 responses of
100 prompts a round: against a proxy that extrapolates, fitted on a few ratings of its own, and against a clean one,
fitted on all. Each loop runs first without guards, which tells where gold peaks on the held-out prompts, and then with
the default ones. Two more verdicts on the same rounds are shown: by the guard of gold alone, and by all guards with a
scorer fitted on 1000 other ratings in the place of gold. A second call resumes where it stopped. Prints Markdown.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from steer.config.iteration import IterateConfig
from steer.config.labelling import FitConfig
from steer.evaluation.systems import RewardScale
from steer.iteration.command import iterate_command
from steer.iteration.guards import Figures, Limits, alarm, best, limits
from steer.iteration.watch import figures
from steer.labelling.command import fit_command
from steer.labelling.scorer import load_scorer
from steer.report.circumstances import circumstances
from steer.rows import read_back, read_rows, write_rows
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import read_json, write_json

GOLD = "data_recipes.world_text:Gold"
SECOND = 1000  # ratings of the scorer that watches beside it
ROUNDS, PROMPTS, N, STEPS = 6, 100, 8, 60
BAR = 4  # of five seeds
WATCHERS = (
    "All guards, gold scores watch",
    "Only the guard of gold",
    f"All guards, a second scorer watches, fitted on {SECOND} other ratings",
)


class Arm(NamedTuple):
    """One loop: its proxy (`few` or `clean`), its seed, and how many ratings the proxy `few` was fitted on."""

    proxy: str
    seed: int
    ratings: int


class Verdict(NamedTuple):
    """Result of a loop: mean gold reward by round, why a guard stopped it, the last round run, and the round kept."""

    gold: list[float]
    stopped: str
    last: int
    kept: int

    @property
    def peak(self) -> int:
        """Return the round with the highest gold reward."""
        return int(np.argmax(self.gold))


def scorers(demo: Path, out: Path, seed: int, few: int) -> tuple[str, str]:
    """Fit the proxy on few ratings and a second scorer on other ratings; return their folders."""
    logs = read_rows(demo / "logs")
    rated = [r for r in logs if r["split"] == "train" and any(s is not None for s in r["scores"].values())]
    order = np.random.default_rng(seed).permutation(len(rated))
    for name, part in (("few", order[:few]), ("second", order[few : few + SECOND])):
        rows = out / f"{name}-{seed}-ratings"
        if not (rows / "schema.json").is_file():
            write_rows([rated[i] for i in part], rows / "rows.jsonl")
            Schema.load(demo / "logs" / "schema.json").save(rows / "schema.json")
        fit_command(FitConfig(str(rows), str(out / f"{name}-{seed}")))
    return str(out / f"few-{seed}"), str(out / f"second-{seed}")


def loop(demo: Path, out: Path, arm: Arm) -> list[Verdict]:
    """Run a loop without and with guards; return a verdict for each of WATCHERS."""
    torch.set_num_threads(1)
    few, second = scorers(demo, out, arm.seed, arm.ratings)
    lora = {"lora_r": 16, "lora_alpha": 32, "learning_rate": 4e-3, "batch_size": 16, "micro_batch_tokens": 1024}
    train, folder = out / "train.json", out / f"{arm.proxy}-{arm.seed}-loop"
    write_json(train, {**lora, "max_steps": STEPS})
    seen: list[Figures] = []
    for guard in (("off",), ()):
        iterate_command(
            IterateConfig(
                str(demo / "labels"),
                str(demo / "base"),
                few if arm.proxy == "few" else str(demo / "scorer"),
                str(folder),
                method="raft",
                gold=GOLD,
                guard=guard,
                rounds=ROUNDS,
                prompts_per_round=PROMPTS,
                n=N,
                max_new_tokens=120,
                batch_size=128,
                train=str(train),
                seed=arm.seed,
            )
        )
        done = read_json(folder / "done.json")
        if guard:
            rounds = [folder / facts["folder"] for facts in done["rounds"]]
            seen = [figures(read_json(path / "watched.json")) for path in rounds]
    gold = [float(np.nanmean(f.gold or [])) for f in seen]
    labels, scorer = str(demo / "labels"), load_scorer(second)
    schema, logs = (
        Labelled.without_rows(labels).schema,
        [row for row in Labelled.read(labels).rows if row["split"] == "train"],
    )
    judge, words = (
        RewardScale.of(schema, scorer.score(logs, schema.own)),
        [len(row["response"].split()) for row in logs],
    )
    answers = [read_back(path / "held-out" / "answers.jsonl") for path in rounds]
    held = [f._replace(gold=judge.reward(scorer.score(x, schema.own)).tolist()) for f, x in zip(seen, answers)]
    return [
        Verdict(gold, done["stopped"], done["rounds"][-1]["round"], done["kept"]),
        verdict(gold, seen, replace(limits(("off",)), gold=Limits().gold), words),
        verdict(gold, held, limits(()), words),
    ]


def verdict(gold: list[float], seen: list[Figures], bounds: Limits, words: list[int]) -> Verdict:
    """Apply guards to rounds that have been run; return where they would have stopped."""
    for last in range(1, len(seen)):
        if stopped := alarm(seen[: last + 1], bounds, ROUNDS, words):
            return Verdict(gold, stopped, last, best(seen[:last]))
    return Verdict(gold, "", len(seen) - 1, best(seen))


def table(title: str, arms: list[Arm], verdicts: list[Verdict], proxy: str) -> list[str]:
    """One table: every seed of one proxy under one watcher."""
    lines = [
        f"\n**{title}**\n",
        "| seed | gold by round, sd | peak | stopped after | kept | gold kept, of the peak's | why |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm, v in zip(arms, verdicts):
        if arm.proxy == proxy:
            curve = " ".join(f"{x:.2f}" for x in v.gold)
            end = str(v.last) if v.stopped else f"all {v.last}"
            share = f"{v.gold[v.kept]:.2f} of {max(v.gold):.2f}"
            lines.append(f"| {arm.seed} | {curve} | {v.peak} | {end} | {v.kept} | {share} | {v.stopped or '-'} |")
    return lines


def main(demo: Path, out: Path, seeds: int = 5, first: int = 0, ratings: int = 100) -> None:
    """Run all loops and print the tables."""
    out.mkdir(parents=True, exist_ok=True)
    arms = [Arm(proxy, seed, ratings) for seed in range(first, first + seeds) for proxy in ("few", "clean")]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as workers:
        found = list(workers.map(loop, [demo] * len(arms), [out] * len(arms), arms))
    about = circumstances("guard")
    print(
        f"{about['created']}, commit {about['commit']}, {about['machine']}, {os.cpu_count()} cores, "
        f"{seeds} seeds; raft, {ROUNDS} rounds of {PROMPTS} prompts x {N} responses, {STEPS} steps each from the base; "
        "rewards in standard deviations of the logs, on the same held-out prompts in every round."
    )
    for i, watcher in enumerate(WATCHERS):
        verdicts = [pair[i] for pair in found]
        near = [bool(v.stopped) and abs(v.last - v.peak) <= 1 for a, v in zip(arms, verdicts) if a.proxy == "few"]
        kept = [abs(v.kept - v.peak) <= 1 for a, v in zip(arms, verdicts) if a.proxy == "few"]
        false = [bool(v.stopped) for a, v in zip(arms, verdicts) if a.proxy == "clean"]
        print(f"\n### {watcher}")
        print("\n".join(table(f"Proxy on {ratings} ratings, which extrapolates", arms, verdicts, "few")))
        print(f"\nStopped within one round of the gold peak: {sum(near)} of {len(near)} (bar: {BAR} of 5).")
        print(f"Kept a round within one of the peak: {sum(kept)} of {len(kept)}.")
        print("\n".join(table("Proxy on all ratings, clean", arms, verdicts, "clean")))
        print(f"\nClean loops stopped: {sum(false)} of {len(false)} (bar: 0).")


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), *map(int, sys.argv[3:6]))
