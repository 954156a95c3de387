"""Methods x seeds on one split, one base and one budget, judged by a scorer that training never saw; the report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steer import report
from steer.comparison.comparison import RANDOM, Comparison, Outcome, about, case, named
from steer.comparison.entry import Entry, over_budget, unique
from steer.comparison.plan import planned
from steer.comparison.trained import trained
from steer.conditioning.targets import Target, drawn_targets, parse_target
from steer.config import CompareConfig
from steer.errors import SteerError
from steer.evaluation import interop as exports
from steer.evaluation.drawn import Asked, Decoding, drawn
from steer.evaluation.result import result
from steer.evaluation.systems import Answers
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.labelling.scorer import rewarder
from steer.labelling.shards import processes
from steer.methods import METHODS
from steer.models.policy import Policy, load
from steer.progress import progress
from steer.report.cells import counted
from steer.rows import write
from steer.rows.schema import factorial
from steer.run_folder import Run, slug, stage
from steer.training.memory import micro_batch

PLAIN = Decoding()
FAILED = (SteerError, RuntimeError, ValueError, ArithmeticError, OSError, MemoryError)  # what ends a run and no other


@stage
def compare_command(config: CompareConfig) -> str:
    """Run what is missing, then judge everything; the table and the path of the report."""
    shared = Comparison(config, Path(config.output))
    run = Run(config.output, config, shared.inputs)
    if run.done and not config.dry_run:
        return str(run.done["summary"])
    entries = unique(config.method)
    for target in config.target:  # what will be refused is refused before anything is written
        if named(target):
            shared.schema.check(parse_target(target, shared.schema, shared.schema.names))
    _ = shared.court, shared.prompts, [shared.base(i) for i in range(len(shared.bases))], shared.annotators
    over = {entry: over_budget(shared.cost(entry), config) for entry in entries}
    control = [replace(Entry.of("conditional"), permuted=True)] if config.controls else []
    if config.dry_run:
        return planned(shared, over | dict.fromkeys(control, ""))
    run.start()
    for entry, why in over.items():
        if why:
            shared.fail(entry.spec, why)
    final = len(shared.failures)  # no repetition mends these
    allowed = [entry for entry, why in over.items() if not why] + control
    runs = _outcomes(shared, allowed)
    base = {s: _attempt(shared, f"base, seed {s}", partial(_base, shared, s)) for s in shared.seeds}
    judged = case(shared, {s: a for s, a in base.items() if a}, runs)
    told = result(judged, about(shared, runs))
    page = report.write(told, run.folder)
    exports.votes(run.folder, judged)
    lost = f" {counted(len(shared.failures), 'run')} failed; the report says why." if shared.failures else ""
    again = len(shared.failures) > final
    lost += " The same command tries again." if again else ""
    text = (
        f"{report.table(told)}\ncompare: {counted(len(entries), 'method')} x {_repeated(shared)}, "
        f"{len(shared.prompts)} held-out prompts.{lost} Report: {page}"
    )
    return text if again else run.finish(text, failures=final)


def _outcomes(shared: Comparison, entries: Sequence[Entry]) -> dict[Entry, dict[int, Outcome]]:
    """Every run that did not fail, by seed."""
    entries = sorted(entries, key=lambda e: e.turns.rounds if e.turns else 0)  # fewer rounds are on the way to more
    jobs = [(entry, seed) for seed in shared.seeds for entry in entries]
    _ahead(shared, jobs)
    found: dict[Entry, dict[int, Outcome]] = {}
    for entry, seed in jobs:
        one = _attempt(shared, entry.run(seed), partial(_one, shared, entry, seed))
        if one is not None:
            found.setdefault(entry, {})[seed] = one
    return found


def _ahead(shared: Comparison, jobs: Sequence[tuple[Entry, int]]) -> None:
    """Do the work of all runs in several processes; what they write is then read back, what failed is tried again."""
    config = shared.config
    if config.num_proc < 2 or not jobs:
        return
    if any(entry.permuted for entry, _ in jobs):
        permuted(shared)
    together: dict[tuple[str, int], list[Entry]] = {}  # what trains in one folder does so one after the other
    for entry, seed in jobs:
        together.setdefault((entry.start.slug, seed), []).append(entry)
    # What several go on from is trained before them; a failure is told when they ask for it.
    fronts = dict.fromkeys((e.front, s) for e, s in jobs if e.front and e.front.slug != e.start.slug)
    if fronts:
        with processes(min(config.num_proc, len(fronts))) as workers:
            wait([workers.submit(_stage, config, shared.folder, front, seed) for front, seed in fronts if front])
    with processes(min(config.num_proc, len(together))) as workers:
        # Those that go round, or answer over the grid too, take longest, so they go first.
        order = sorted(together.items(), key=lambda x: (-len(x[1]), not METHODS[x[1][0].method].conditioned))
        todo = [workers.submit(_work, config, shared.folder, found, seed) for (_, seed), found in order]
        with progress(total=len(jobs), what="compare", unit="runs") as bar:
            for future in as_completed(todo):
                try:
                    lines = future.result()
                except BrokenProcessPool:  # one was killed, for want of memory as a rule, and took the others along
                    bar.write("compare: a process died; what is missing is done one run after the other.", sys.stderr)
                    return
                bar.update(len(lines))
                bar.write("\n".join(lines), sys.stderr)


def _stage(config: CompareConfig, folder: Path, front: Entry, seed: int) -> None:
    """Train what stands in front of other runs, in a process of its own."""
    trained(Comparison(config, folder), front, seed, config.rows)


def _work(config: CompareConfig, folder: Path, entries: Sequence[Entry], seed: int) -> list[str]:
    """Runs of one policy, or of one loop, in a process of their own: a line each that says how it ended."""
    shared, said = Comparison(config, folder), []
    for entry in entries:
        try:
            said.append(f"[{entry.run(seed)}] {_one(shared, entry, seed).facts['summary']}")
        except FAILED as error:
            said.append(f"[{entry.run(seed)}] {error}")
    return said


def _attempt(shared: Comparison, name: str, work: Callable[[], Any]) -> Any:
    """One failed run does not lose the others."""
    try:
        return work()
    except FAILED as error:
        shared.fail(name, str(error) or type(error).__name__)
        return None


def _one(shared: Comparison, entry: Entry, seed: int) -> Outcome:
    """Train one method under one seed and answer."""
    config, folder = shared.config, shared.folder / "runs" / f"{entry.slug}-seed{seed}"
    where, facts = trained(shared, entry, seed, permuted(shared) if entry.permuted else config.rows)
    policy = load(str(where), dtype=shared.settings.dtype, trust_remote_code=shared.settings.trust_remote_code)
    assert policy.card is not None
    names, weighed = policy.card.attributes, METHODS[entry.method].reframes
    aims = _aims(shared, policy, seed, weighed=weighed)
    found = {}
    for (text, each), how in ((aim, how) for aim in aims.items() for how in entry.decodings if not entry.permuted):
        jobs = [Request(p, aim) for p, aim in zip(shared.prompts, each)]
        name = slug(f"{text},{how.text}" if how.text else text) or "plain"
        found[text, how] = _answers(shared, policy, jobs, folder / f"answers-{name}", seed, how)
    grid = None
    own = tuple(n for n in names if n in shared.schema.own and not weighed)
    if own and config.grid:
        every = factorial(shared.schema, own, config.grid, seed)
        jobs = [Request(shared.prompts[i % len(shared.prompts)], aim) for i, aim in enumerate(every)]
        grid = _answers(shared, policy, jobs, folder / "grid", seed)
    return Outcome(facts, found, grid)


def _aims(shared: Comparison, policy: Policy, seed: int, *, weighed: bool) -> dict[str, list[Target]]:
    """Targets of all prompts for each that a user asked for; the control draws them from the logs.

    Where levels are weights of attributes (`weighed`) a target that names levels means nothing, and is not asked for.
    """
    assert policy.card is not None
    names, count = policy.card.attributes, len(shared.prompts)
    if not names:
        return {"": [{}] * count}
    asked = [t for t in shared.config.target if set(named(t)) <= set(names) and not (weighed and named(t))]
    found = {text: policy.targets([text or "none"]) * count for text in asked}
    if shared.config.controls:
        schema = policy.card.schema if weighed else None
        found[RANDOM] = drawn_targets(schema or shared.schema, names, count, seed)
    return found


def _repeated(shared: Comparison) -> str:
    """How often every method ran."""
    bases = f" on {counted(len(shared.bases), 'base')}" if shared.config.base else ""
    return f"{counted(len(shared.seeds), 'seed')}{bases}"


def _base(shared: Comparison, seed: int) -> Answers:
    jobs = [Request(p, {}) for p in shared.prompts]
    return _answers(shared, shared.base(seed).policy, jobs, shared.folder / "runs" / f"base-seed{seed}", seed)


def _answers(
    shared: Comparison, policy: Policy, jobs: list[Request], folder: Path, seed: int, how: Decoding = PLAIN
) -> Answers:
    """Responses with both scores; their log-probs are measured from the base."""
    c = shared.config
    sampling = Sampling(
        temperature=c.temperature,
        max_new_tokens=c.max_new_tokens,
        guidance=how.guidance,
        batch_size=c.batch_size,
        seed=seed,
    )
    reward = rewarder(shared.court.proxy, shared.schema) if how.best_of > 1 else None
    asked = Asked(jobs, sampling, how, reward)
    schema = policy.card.schema if policy.card and policy.card.attributes else None
    rows = drawn(policy, asked, folder, schema or shared.schema, shared.base(seed), micro_batch(shared.settings))
    return shared.court.scored(rows)


def permuted(shared: Comparison) -> str:
    """The rows with the levels of the training split shuffled between rows: the negative control."""
    folder = shared.folder / "permuted"
    if not (folder / "schema.json").is_file():
        at = [i for i, row in enumerate(shared.rows) if row["split"] == "train"]
        order = np.random.default_rng(0).permutation(at)
        levels = {i: shared.rows[j]["levels"] for i, j in zip(at, order)}
        write(
            folder / "rows.jsonl",
            ({**row, "levels": levels.get(i, row["levels"])} for i, row in enumerate(shared.rows)),
        )
        shared.schema.save(folder / "schema.json")
    return str(folder)
