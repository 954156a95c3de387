"""The claims study: train what each claim of the field compares, on the rows at hand, and judge every claim.

Every run trains on the proxy alone and is judged by gold on the same held-out prompts, in standard deviations of the
logs. The learning rates are shares of the one in `--train`, which must suit `mle`, or what `steer compare --tune` chose
on the same rows and bases (`--rates`).
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.claims.runs import (
    LOOPS,
    LOSSES,
    ROUNDS,
    Bench,
    RoundsTask,
    Task,
    chains,
    run_chain,
    run_rounds,
    seeds_of,
)
from benchmarks.claims.table import Curve, Judged, best_of_table, claimed, claims, grid
from steer.comparison.comparison import Comparison
from steer.comparison.runs import FAILED
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.evaluation.result import spread
from steer.evaluation.statistics import POWER
from steer.evaluation.systems import RewardScale
from steer.labelling.scorer import Scorer, load_scorer
from steer.parts import processes
from steer.progress import progress
from steer.report.cells import ALPHA
from steer.report.circumstances import circumstances
from steer.rows import read_back
from steer.rows.schema import REWARD
from steer.run_folder import Run, read_done, read_json, stage, write_json, write_text
from steer.settings import OUTPUT, OVERWRITE, argument, option


@dataclass(frozen=True)
class ClaimsConfig:
    """`python -m benchmarks.claims`: the settings of `steer compare` that the study has a use for."""

    rows: str = argument("Labelled rows with train and test prompts and a reward.")
    model: str = option(..., "Base model: Hugging Face name or folder.")
    output: str = option(..., OUTPUT)
    gold: str = option(..., "Held-out scorer that judges every run: as in `steer label`.")
    base: tuple[str, ...] = option((), "Another base model (repeat the flag).")
    scorer: str = option("", "Scorer that training sees; default: the one that labelled the rows.")
    seeds: int = option(1, "Repetitions with seeds 0, 1, ..., on each base.", least=1)
    num_prompts: int = option(300, "Held-out prompts answered by every run.", least=1)
    temperature: float = option(1.0, "Of all responses but those that on-policy methods draw, at 1.", least=0)
    max_new_tokens: int = option(256, "Longest response; in training too, where --train does not say.", least=1)
    batch_size: int = option(64, "Sequences generated at once.", least=1)
    num_proc: int = option(1, "Runs done at the same time, each in its own process.", least=1)
    train: str = option("", "Config file for training, the same for every run.")
    rates: str = option(
        "",
        "Learning rates as `steer compare --tune` writes them, its folder or rates.json: every method takes what was "
        "chosen there for the settings of a run if they were tuned, else for its method.",
    )
    overwrite: bool = option(False, OVERWRITE)


@stage
def study(config: ClaimsConfig) -> str:
    """Do the missing runs and judge the claims; return the tables, which are in claims.md too. Resumes when killed."""
    shared = Comparison(CompareConfig(**asdict(config)), Path(config.output))
    run = Run(config.output, config, shared.inputs)
    if run.done:
        return str(run.done["summary"])
    _ = shared.examination.court, shared.examination.prompts
    if REWARD not in shared.labelled.schema.names:
        raise SteerError(f"{config.rows}: has no reward to raise. Label rows whose attributes have a better end.")
    run.start()
    bench = Bench(shared)
    began = time.monotonic() - _seconds_before(run.folder)
    tasks = bench.first()
    _run_all(shared, began, jobs_of(tasks, shared.seeds))
    more = bench.offline() + bench.on_policy()
    loops = [(f"{loop.name}, seed {seed}", run_rounds, loop, seed) for loop in LOOPS for seed in shared.seeds]
    _run_all(shared, began, [*loops, *reversed(jobs_of(more, shared.seeds))])
    tables = _judged(bench, [*tasks, *more])
    seconds = time.monotonic() - began
    about = circumstances("compare")
    head = (
        f"`{shlex.join(['python', '-m', 'benchmarks.claims', *sys.argv[1:]])}`\n\n{about['created']}, commit "
        f"{about['commit']}, {about['machine']}; {config.num_proc} processes, {seconds / 60:.0f} minutes.\n\n"
    )
    write_text(run.folder / "claims.md", head + tables + "\n")
    return run.finish(f"{tables}\n\nclaims: {run.folder / 'claims.md'}")


def _seconds_before(folder: Path) -> float:
    """Seconds that earlier, killed attempts took."""
    path = folder / "seconds.json"
    return float(read_json(path)) if path.is_file() else 0.0


def jobs_of(tasks: list[Task], seeds: Sequence[int]) -> list[tuple[str, Any, Any, int]]:
    """Jobs that train: name, function, its argument, seed. Runs that continue each other are one job."""
    return [
        (f"{chain[-1].name}, seed {seed}", run_chain, chain, seed)
        for chain in chains(tasks)
        for seed in seeds_of(chain[-1], seeds)
    ]


def _run_all(shared: Comparison, began: float, jobs: list[tuple[str, Any, Any, int]]) -> None:
    """Do all jobs, in several processes; a failed one does not stop the others, but the tables need all."""
    failed: dict[str, str] = {}
    with processes(shared.config.num_proc) as workers:
        todo: dict[Future[None], str] = {
            workers.submit(work, shared.config, shared.folder, argument, seed): name
            for name, work, argument, seed in jobs
        }
        for future in progress(as_completed(todo), total=len(todo), what="claims", unit="runs"):
            try:
                future.result()
            except FAILED as error:
                failed[todo[future]] = str(error)
                click.echo(f"{todo[future]}: {error}", err=True)
            write_json(shared.folder / "seconds.json", time.monotonic() - began)
    if failed:
        name, reason = next(iter(failed.items()))
        raise SteerError(f"{len(failed)} runs failed, {name} with: {reason} Fix that and run the same command again.")


def _judged(bench: Bench, tasks: list[Task]) -> str:
    """Judge all answers; return Markdown."""
    shared, seeds = bench.shared, bench.shared.seeds
    court = shared.examination.court
    gold, proxy, few = (_judge(bench, scorer) for scorer in (court.gold, court.proxy, load_scorer(bench.few)))

    def run(task: Task, judge: Any = gold) -> Judged:
        return _judged_by(bench, {s: judge(bench.answers(task.name, s)) for s in seeds_of(task, seeds)})

    offline = [task for task in tasks if not task.once]
    by_gold = {task.name: run(task) for task in tasks}
    by_gold["beyond"] = _judged_by(bench, {s: gold(bench.answers("short", s, bench.top)) for s in seeds})
    by_proxy = {task.name: run(task, proxy) for task in tasks if not task.name.startswith("few")}
    by_few = {task.name: run(task, few) for task in tasks if task.name.startswith("few")}
    story = {loop.name: [_round(bench, loop, i, gold) for i in range(ROUNDS + 1)] for loop in LOOPS}
    lines = {name: [f"{name}-{n}" for n in bench.steps] for name in ("clean", "few")}
    judged = by_proxy | by_few
    curves = {name: Curve([judged[x] for x in each], [by_gold[x] for x in each]) for name, each in lines.items()}
    judged_claims = claims(
        by_gold,
        {task.name: by_proxy[task.name] for task in offline},
        {name: each[1:] for name, each in story.items()},
        curves,
        by_proxy[f"ppo-{bench.steps[-1]}"],
        bench.rewards,
        LOSSES,
    )
    base = _judged_by(bench, {s: gold(bench.answers("base", s)) for s in seeds})
    introduction = " ".join(
        [
            f"Seeds: {len(seeds)}, in turn on the bases {', '.join(shared.bases)}; on-policy runs have the first only.",
            f"Held-out prompts: {len(shared.examination.prompts)}. {spread(len(seeds), len(shared.bases))}",
            "A claim came out where every difference that must be above 0 is shown to be, and did not where one is "
            "shown to be below, after Holm's correction over all claims; else the runs are not told apart. P of a "
            "claim is the largest of its differences', or where some are below 0 the smallest of these times their "
            "number. Intervals are those of each difference by itself. Power from: the smallest true difference that "
            f"each would have shown with a chance of {POWER:.0%}, by the standard error that was observed, at Holm's "
            f"first level ({ALPHA} / {len(judged_claims)}).",
            _rated(bench),
            f"Gold reward in sd of the logs; base {base.interval.text()}.",
            f"{shared.settings.max_steps} steps of {shared.settings.batch_size} where none are named.",
            *shared.caveats,
        ]
    )
    rows = [
        (_named(bench, task), by_gold[task.name].interval.text())
        for task in tasks
        if task.name.partition("-")[0] not in lines
    ]
    rows.append(("short, asked for the level it never saw", by_gold["beyond"].interval.text()))
    curved = [
        [str(n), *(x.interval.text() for name, each in lines.items() for x in (judged[each[i]], by_gold[each[i]]))]
        for i, n in enumerate(bench.steps)
    ]
    names = [f"{name}: {scorer}" for name in ("all ratings", "few ratings") for scorer in ("proxy", "gold")]
    parts = [
        introduction,
        claimed(judged_claims),
        best_of_table(bench.rewards),
        grid(("run", "gold reward"), rows),
        grid(("remax, steps", *names), curved),
        grid(
            ("rounds", *map(str, range(ROUNDS + 1))),
            [(name.removeprefix("rounds-"), *(x.interval.text() for x in each)) for name, each in story.items()],
        ),
    ]
    return "\n\n".join(parts)


def _rated(bench: Bench) -> str:
    """Sentence on the learning rates."""
    if not bench.rates:
        return "Every method has its own share of the learning rate, and was not tuned."
    rates = ", ".join(f"{name} x {share:g}" for name, share in bench.rates.items())
    return f"Learning rates were tuned by the proxy; as shares of that of likelihood methods: {rates}."


def _judge(bench: Bench, scorer: Scorer) -> Any:
    """Return what turns answers into rewards by a scorer, in its standard deviations of the logs."""
    own = bench.shared.labelled.schema.own
    judge = RewardScale.of(bench.shared.labelled.schema, scorer.score(bench.shared.examination.court.rows, own))
    return lambda rows: judge.reward(scorer.score(rows, own))


def _round(bench: Bench, loop: RoundsTask, number: int, gold: Any) -> Judged:
    """Rewards of one round of a loop, in all seeds."""
    folders = {s: bench.folder(loop.name, s) for s in bench.shared.seeds}
    paths = {s: next(folder.glob(f"round-{number}-*/held-out/answers.jsonl")) for s, folder in folders.items()}
    return _judged_by(bench, {s: gold(read_back(path)) for s, path in paths.items()})


def _judged_by(bench: Bench, rewards: Mapping[int, Any]) -> Judged:
    """Rewards of a run by seed, each with the number of its base."""
    return Judged([*rewards.values()], [seed % len(bench.shared.bases) for seed in rewards])


def _named(bench: Bench, task: Task) -> str:
    """Name of a run, with its effective sample size where weights make that less than its rows."""
    seeds = seeds_of(task, bench.shared.seeds)
    share = float(np.mean([read_done(bench.folder(task.name, s))["ess"] for s in seeds]))
    return task.name + (f" (effective sample size {share:.0%})" if share < 0.999 else "")
