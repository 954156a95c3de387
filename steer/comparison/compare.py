"""Compare methods x seeds on one split, base and budget, judged by a scorer that training never saw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from steer.comparison.comparison import RANDOM, Comparison, Outcome, about, case, named
from steer.comparison.entry import Entry, over_budget, unique
from steer.comparison.settings import CompareSettings
from steer.comparison.trained import trained
from steer.conditioning.targets import Target, drawn_targets, parse_target
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.evaluation.drawn import Asked, Decoding, drawn, over_grid
from steer.evaluation.evaluate import Evaluation
from steer.evaluation.result import result
from steer.evaluation.systems import Answers
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.labelling.scorer import rewarder
from steer.labelling.shards import processes
from steer.methods import METHODS
from steer.models.policy import Policy, load_policy
from steer.options import resolve
from steer.progress import progress
from steer.rows import Source, write_rows
from steer.rows.labelled import Labelled
from steer.run_folder import Run, slug, stage
from steer.settings import named_values
from steer.training.memory import micro_batch

PLAIN = Decoding()
FAILED = (SteerError, RuntimeError, ValueError, ArithmeticError, OSError, MemoryError)  # what ends a run and no other


def compare(
    labelled: Source | Labelled,
    *,
    model: str,
    methods: Sequence[str] = (),
    gold: str = "",
    scorer: str = "",
    folder: str | Path | None = None,
    **settings: Any,
) -> Evaluation:
    """Train every method on the same rows, base and budget, and judge their answers to the held-out prompts.

    `model`: the base. `methods`: each as NAME or NAME:SETTING=VALUE,... (default: those of CompareSettings). `gold`:
    scorer that only evaluation sees, `scorer`: the one that training sees (default: the one that labelled the rows).
    `settings` are those of CompareSettings. Every run is a run of "steer train" or "steer iterate" in a folder of its
    own below `folder`, so a stopped comparison resumes; without a folder all of it is temporary. A run that fails is
    listed in `result["failures"]` and does not stop the others. SteerError for settings, scorers or rows that cannot
    be used.
    """
    with ExitStack() as stack:
        root = Path(folder) if folder else Path(stack.enter_context(TemporaryDirectory()))
        output, rows = root, str(labelled)
        if not isinstance(labelled, str | Path):
            output, rows = root / "comparison", str(root / "rows")
            Labelled.of(labelled).save(rows)
        flags = {"rows": rows, "model": model, "output": str(output), "method": tuple(methods), "gold": gold}
        flags |= {"scorer": scorer, **named_values(CompareSettings, settings)}
        config = resolve(CompareConfig, {k: v for k, v in flags.items() if v != ""})
        return _saved(config)


@stage
def _saved(config: CompareConfig) -> Evaluation:
    """Do the comparison in its folder and save the report there."""
    comparison = Comparison(config, Path(config.output))
    run = Run(config.output, config, comparison.inputs)
    over = checked(comparison)
    run.start()
    evaluation = compared(comparison, over)
    evaluation.save(run.folder)
    return evaluation


def checked(comparison: Comparison) -> dict[Entry, str]:
    """Map each method, and the control, to why it may not run (empty: it may); raise now for what will be refused."""
    config = comparison.config
    entries = unique(config.method)
    for target in config.target:
        if named(target):
            comparison.schema.check(parse_target(target, comparison.schema, comparison.schema.names))
    _ = comparison.court, comparison.prompts, comparison.annotators
    _ = [comparison.base(i) for i in range(len(comparison.bases))]
    over = {entry: over_budget(comparison.cost(entry), config) for entry in entries}
    return over | ({replace(Entry.of("conditional"), permuted=True): ""} if config.controls else {})


def compared(comparison: Comparison, over: Mapping[Entry, str]) -> Evaluation:
    """Run what is missing and judge everything; runs that fail, or are over budget, are in comparison.failures."""
    for entry, reason in over.items():
        if reason:
            comparison.fail(entry.spec, reason)
    runs = _outcomes(comparison, [entry for entry, reason in over.items() if not reason])
    base = {s: _attempt(comparison, f"base, seed {s}", partial(_base, comparison, s)) for s in comparison.seeds}
    judged = case(comparison, {s: answers for s, answers in base.items() if answers}, runs)
    return Evaluation(result(judged, about(comparison, runs)), judged)


def _outcomes(shared: Comparison, entries: Sequence[Entry]) -> dict[Entry, dict[int, Outcome]]:
    """Do every run; return those that did not fail, by seed."""
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
    """Do all runs in several processes; what they write is read back later, and what failed is tried again."""
    config = shared.config
    if config.num_proc < 2 or not jobs:
        return
    if any(entry.permuted for entry, _ in jobs):
        permuted(shared)
    together: dict[tuple[str, int], list[Entry]] = {}  # what trains in one folder does so one after the other
    for entry, seed in jobs:
        together.setdefault((entry.start.slug, seed), []).append(entry)
    # A policy that several runs continue from is trained first; its failure is reported when they need it.
    fronts = dict.fromkeys((e.front, s) for e, s in jobs if e.front and e.front.slug != e.start.slug)
    if fronts:
        with processes(min(config.num_proc, len(fronts))) as workers:
            wait([workers.submit(_stage, config, shared.folder, front, seed) for front, seed in fronts if front])
    with processes(min(config.num_proc, len(together))) as workers:
        # Runs with rounds, or with answers over the grid, take longest, so they go first.
        order = sorted(together.items(), key=lambda x: (-len(x[1]), not METHODS[x[1][0].method].conditioned))
        todo = [workers.submit(_work, config, shared.folder, found, seed) for (_, seed), found in order]
        with progress(total=len(jobs), what="compare", unit="runs") as bar:
            for future in as_completed(todo):
                try:
                    lines = future.result()
                except BrokenProcessPool:  # one was killed, usually for want of memory, and ended the pool
                    bar.write("compare: a process died; what is missing is done one run after the other.", sys.stderr)
                    return
                bar.update(len(lines))
                bar.write("\n".join(lines), sys.stderr)


def _stage(config: CompareConfig, folder: Path, front: Entry, seed: int) -> None:
    """Train a policy that other runs continue from; called in a process of its own."""
    trained(Comparison(config, folder), front, seed, config.rows)


def _work(config: CompareConfig, folder: Path, entries: Sequence[Entry], seed: int) -> list[str]:
    """Do the runs of one policy or loop; called in a process of its own. Return one line per run: how it ended."""
    shared, lines = Comparison(config, folder), []
    for entry in entries:
        try:
            lines.append(f"[{entry.run(seed)}] {_one(shared, entry, seed).facts['summary']}")
        except FAILED as error:
            lines.append(f"[{entry.run(seed)}] {error}")
    return lines


def _attempt(shared: Comparison, name: str, work: Callable[[], Any]) -> Any:
    """Do one run; a failure is recorded and does not stop the others."""
    try:
        return work()
    except FAILED as error:
        shared.fail(name, str(error) or type(error).__name__)
        return None


def _one(shared: Comparison, entry: Entry, seed: int) -> Outcome:
    """Train one method with one seed and let its policy answer."""
    config, folder = shared.config, shared.folder / "runs" / f"{entry.slug}-seed{seed}"
    where, facts = trained(shared, entry, seed, permuted(shared) if entry.permuted else config.rows)
    policy = load_policy(str(where), dtype=shared.settings.dtype, trust_remote_code=shared.settings.trust_remote_code)
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
        jobs = over_grid(shared.prompts, shared.schema, own, config.grid, seed)
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
    tokens = micro_batch(shared.settings.micro_batch_tokens)
    rows = drawn(policy, asked, folder, schema or shared.schema, shared.base(seed), tokens)
    return shared.court.scored(rows)


def permuted(shared: Comparison) -> str:
    """Write the negative control, rows whose training levels are shuffled; return their folder."""
    folder = shared.folder / "permuted"
    if not (folder / "schema.json").is_file():
        at = [i for i, row in enumerate(shared.rows) if row["split"] == "train"]
        order = np.random.default_rng(0).permutation(at)
        levels = {i: shared.rows[j]["levels"] for i, j in zip(at, order)}
        write_rows(
            ({**row, "levels": levels.get(i, row["levels"])} for i, row in enumerate(shared.rows)),
            folder / "rows.jsonl",
        )
        shared.schema.save(folder / "schema.json")
    return str(folder)
