"""Runs of a comparison: each is trained, if it needs training, and its policy answers; several at once, if asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steer.comparison.comparison import Comparison, Outcome, named
from steer.comparison.entry import Entry
from steer.comparison.examples import Examples
from steer.comparison.trained import trained
from steer.comparison.untrained import Given
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.evaluation.examination import Examinee
from steer.evaluation.systems import Answers
from steer.generation.requests import Request
from steer.models.policy import Policy, load_policy
from steer.parts import processes
from steer.progress import Step, progress, write
from steer.rows import Row, write_rows
from steer.settings import overridden

UNTRAINED = "nothing to train."
LABELS = ("scores", "raters", "predicted", "levels", "reward")
FAILED = (SteerError, RuntimeError, ValueError, ArithmeticError, OSError, MemoryError)  # end one run; the others go on


def outcomes_of(
    comparison: Comparison, entries: Sequence[Entry], seeds: Sequence[int]
) -> dict[Entry, dict[int, Outcome]]:
    """Do every run of the entries with the seeds; return those that did not fail, by seed."""
    entries = sorted(entries, key=lambda e: e.iterate.rounds if e.iterate else 0)  # longer runs continue shorter ones
    jobs = [(entry, seed) for seed in seeds for entry in entries]
    _in_processes(comparison, jobs)
    outcomes: dict[Entry, dict[int, Outcome]] = {}
    with progress(total=len(jobs), what="compare", unit="runs") as bar:
        for entry, seed in jobs:
            began = time.time()
            outcome = attempt(comparison, entry.run(seed), partial(_run, comparison, entry, seed))
            if outcome is not None:
                outcomes.setdefault(entry, {})[seed] = outcome
            _count(bar, [comparison.run_folder(entry, seed)], began if comparison.alone else 0.0)
    return outcomes


def _count(bar: Step, folders: Sequence[Path], began: float) -> None:
    """Count runs that are done, apart those that were before: nothing was written to their folders since `began`."""
    wrote = any(path.stat().st_mtime >= began for folder in folders for path in folder.rglob("*"))
    (bar.update if wrote else bar.resume)(len(folders))


def _in_processes(comparison: Comparison, jobs: Sequence[tuple[Entry, int]]) -> None:
    """Do all runs in several processes; what they write is read back later, and what failed is tried again."""
    config, folder = comparison.config, comparison.folder
    if comparison.alone or not jobs:
        return
    if any(entry.permuted for entry, _ in jobs):
        permuted(comparison)
    together: dict[tuple[str, int], list[Entry]] = {}  # entries that share a folder run in sequence
    for entry, seed in jobs:
        together.setdefault((entry.start.slug, seed), []).append(entry)
    # A policy that several runs continue from is trained first; its failure is reported when they need it.
    fronts = dict.fromkeys((e.stage, s) for e, s in jobs if e.stage)
    if fronts:
        with processes(min(config.num_proc, len(fronts))) as workers:
            wait([workers.submit(_train_front, config, folder, front, seed) for front, seed in fronts if front])
    with processes(min(config.num_proc, len(together))) as workers:
        # Runs with rounds, or with answers over the grid, take longest, so they go first.
        order = sorted(together.items(), key=lambda x: (-len(x[1]), not x[1][0].conditioned))
        began = time.time()
        futures = {
            workers.submit(_runs_in_process, config, folder, entries, seed): (entries, seed)
            for (_, seed), entries in order
        }
        with progress(total=len(jobs), what="compare", unit="runs") as bar:
            for future in as_completed(futures):
                try:
                    lines = future.result()
                except BrokenProcessPool:  # one was killed, usually for want of memory, and ended the pool
                    write("compare: a process died; what is missing is done one run after the other.")
                    return
                entries, seed = futures[future]
                _count(bar, [comparison.run_folder(entry, seed) for entry in entries], began)
                write("\n".join(lines))


def _train_front(config: CompareConfig, folder: Path, front: Entry, seed: int) -> None:
    """Train a policy that other runs continue from; called in a process of its own."""
    trained(Comparison(config, folder), front, seed, config.rows)


def _runs_in_process(config: CompareConfig, folder: Path, entries: Sequence[Entry], seed: int) -> list[str]:
    """Do the runs of one policy or its rounds, in a process of its own; return one line per run: how it ended."""
    comparison, lines = Comparison(config, folder), []
    for entry in entries:
        try:
            facts = _run(comparison, entry, seed).facts
            lines.append(f"[{entry.run(seed)}] {facts.get('summary', UNTRAINED)}")
        except FAILED as error:
            lines.append(f"[{entry.run(seed)}] {error}")
    return lines


def attempt(comparison: Comparison, name: str, work: Callable[[], Any]) -> Any:
    """Do one run; a failure is recorded and does not stop the others."""
    try:
        return work()
    except FAILED as error:
        comparison.fail(name, str(error) or type(error).__name__)
        return None


def _run(comparison: Comparison, entry: Entry, seed: int) -> Outcome:
    """Train one method with one seed, if it needs training, and let its policy answer."""
    examination = comparison.examination
    policy, facts = _policy(comparison, entry, seed)
    assert policy.card is not None
    split = comparison.split("" if entry.untrained else policy.name)
    examinee = Examinee(policy, comparison.run_folder(entry, seed), seed, comparison.base(seed), split)
    names, reframes = set(policy.card.attributes), entry.reframes
    alike = examination.alike(policy.card)
    answers = examination.at_targets(
        examinee,
        # If its conditions are no levels of the attributes, a target that names levels means nothing.
        [t for t in comparison.config.target if set(named(t)) <= names and not (reframes and named(t))],
        decodings=() if entry.permuted else entry.decodings,
        control=comparison.labelled.schema if alike else policy.card.schema,
        attempt=lambda target, decoding, draw: attempt(
            comparison, f"{entry.name(target, decoding)}, seed {seed}", draw
        ),
    )
    grid = attempt(comparison, f"{entry.run(seed)}, dial", partial(examination.over_grid, examinee))
    rows = [row for each in (*answers.values(), *filter(None, [grid])) for row in each.rows]
    remark = policy.before.remark(rows) if isinstance(policy.before, Examples) else facts.get("remark", "")
    return Outcome(facts, answers, grid, remark)


def _policy(comparison: Comparison, entry: Entry, seed: int) -> tuple[Policy, dict[str, Any]]:
    """Return the policy of an entry and what it took: done.json of its training, or what a system without one says."""
    if entry.untrained:
        settings = overridden(entry.untrained.settings, entry.settings, entry.spec)
        base, longest = comparison.base(seed).policy, comparison.config.max_new_tokens
        given = Given(base, comparison.words, comparison.logs, seed, longest, comparison.run_folder(entry, seed))
        policy = entry.untrained.policy(given, settings)
        return policy, policy.facts
    rows, s = permuted(comparison) if entry.permuted else comparison.config.rows, comparison.settings
    path, facts = trained(comparison, entry, seed, rows)
    return load_policy(str(path), dtype=s.dtype, trust_remote_code=s.trust_remote_code), facts


def base_answers(comparison: Comparison, seed: int) -> Answers:
    """Let the base of a repetition answer."""
    base, examination = comparison.base(seed), comparison.examination
    split = comparison.split(base.policy.name)
    examinee = Examinee(base.policy, comparison.folder / "runs" / f"base-seed{seed}", seed, base, split)
    return examination.answers(examinee, [Request(prompt, {}) for prompt in examination.prompts], "")


def permuted(comparison: Comparison) -> str:
    """Write the negative control, rows whose training labels are shuffled; return their folder."""
    folder, rows = comparison.folder / "permuted", comparison.labelled.rows
    if not (folder / "schema.json").is_file():
        train = np.array([i for i, row in enumerate(rows) if row["split"] == "train"])
        order = np.random.default_rng(0).permutation(train)
        taken = dict(zip(train.tolist(), order.tolist()))
        write_rows((_labelled_as(row, rows[taken.get(i, i)]) for i, row in enumerate(rows)), folder / "rows.jsonl")
        comparison.labelled.schema.save(folder / "schema.json")
    return str(folder)


def _labelled_as(row: Row, other: Row) -> Row:
    """Give a row all labels of another: a template may print scores, which tell the level."""
    return {k: v for k, v in row.items() if k not in LABELS} | {k: other[k] for k in LABELS if k in other}
