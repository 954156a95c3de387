"""Compare methods x seeds on one split, base and budget, judged by a scorer that training never saw."""

from __future__ import annotations

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

from steer.comparison.comparison import Comparison, Outcome, about, case, named
from steer.comparison.entry import Entry, unique
from steer.comparison.examples import Examples
from steer.comparison.settings import CompareSettings
from steer.comparison.trained import trained
from steer.comparison.untrained import Given
from steer.conditioning.targets import parse_target
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.evaluation.evaluate import Evaluation
from steer.evaluation.examination import Examinee
from steer.evaluation.result import result
from steer.evaluation.systems import Answers
from steer.generation.requests import Request
from steer.models.policy import Policy, load_policy
from steer.options import resolve
from steer.parts import processes
from steer.progress import progress, write
from steer.rows import Source, write_rows
from steer.rows.labelled import Labelled
from steer.run_folder import Run, stage
from steer.settings import named_values, overridden

UNTRAINED = "nothing to train."
FAILED = (SteerError, RuntimeError, ValueError, ArithmeticError, OSError, MemoryError)  # end one run; the others go on


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

    `model`: the base. `methods`: each as NAME or NAME:SETTING=VALUE,... (default: those of CompareSettings); systems
    without training, such as `prompted`, count as methods. `gold`:
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
    if not run.done:
        run.start()
    evaluation = compared(comparison, over)  # of a finished one, from the answers that it kept
    evaluation.save(run.folder)
    return evaluation


def checked(comparison: Comparison) -> dict[Entry, str]:
    """Check all inputs before anything is written; map each entry to the reason that it may not run (empty: it may)."""
    config, schema = comparison.config, comparison.labelled.schema
    entries = unique(config.method)
    for target in config.target:
        if named(target):
            schema.check(parse_target(target, schema, schema.names))
    comparison.examination.check()
    _ = comparison.speechless  # loads every base
    over = {entry: comparison.refusal(entry) for entry in entries}
    return over | ({replace(Entry.of("conditional"), permuted=True): ""} if config.controls else {})


def compared(comparison: Comparison, over: Mapping[Entry, str]) -> Evaluation:
    """Run what is missing and judge everything; runs that fail or may not run are in comparison.failures."""
    for entry, reason in over.items():
        if reason:
            comparison.fail(entry.spec, reason)
    runs = _outcomes(comparison, [entry for entry, reason in over.items() if not reason])
    base = {s: _attempt(comparison, f"base, seed {s}", partial(_base, comparison, s)) for s in comparison.seeds}
    judged = case(comparison, {s: answers for s, answers in base.items() if answers}, runs)
    return Evaluation(result(judged, about(comparison, runs)), judged)


def _outcomes(comparison: Comparison, entries: Sequence[Entry]) -> dict[Entry, dict[int, Outcome]]:
    """Do every run; return those that did not fail, by seed."""
    entries = sorted(entries, key=lambda e: e.iterate.rounds if e.iterate else 0)  # longer runs continue shorter ones
    jobs = [(entry, seed) for seed in comparison.seeds for entry in entries]
    _in_processes(comparison, jobs)
    outcomes: dict[Entry, dict[int, Outcome]] = {}
    for entry, seed in progress(jobs, what="compare", unit="runs"):
        outcome = _attempt(comparison, entry.run(seed), partial(_run, comparison, entry, seed))
        if outcome is not None:
            outcomes.setdefault(entry, {})[seed] = outcome
    return outcomes


def _in_processes(comparison: Comparison, jobs: Sequence[tuple[Entry, int]]) -> None:
    """Do all runs in several processes; what they write is read back later, and what failed is tried again."""
    config, folder = comparison.config, comparison.folder
    if config.num_proc < 2 or not jobs:
        return
    if any(entry.permuted for entry, _ in jobs):
        permuted(comparison)
    together: dict[tuple[str, int], list[Entry]] = {}  # entries that share a folder run in sequence
    for entry, seed in jobs:
        together.setdefault((entry.start.slug, seed), []).append(entry)
    # A policy that several runs continue from is trained first; its failure is reported when they need it.
    fronts = dict.fromkeys((e.front, s) for e, s in jobs if e.front and e.front.slug != e.start.slug)
    if fronts:
        with processes(min(config.num_proc, len(fronts))) as workers:
            wait([workers.submit(_train_front, config, folder, front, seed) for front, seed in fronts if front])
    with processes(min(config.num_proc, len(together))) as workers:
        # Runs with rounds, or with answers over the grid, take longest, so they go first.
        order = sorted(together.items(), key=lambda x: (-len(x[1]), not x[1][0].conditioned))
        futures = [workers.submit(_runs_in_process, config, folder, entries, seed) for (_, seed), entries in order]
        with progress(total=len(jobs), what="compare", unit="runs") as bar:
            for future in as_completed(futures):
                try:
                    lines = future.result()
                except BrokenProcessPool:  # one was killed, usually for want of memory, and ended the pool
                    write("compare: a process died; what is missing is done one run after the other.")
                    return
                bar.update(len(lines))
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


def _attempt(comparison: Comparison, name: str, work: Callable[[], Any]) -> Any:
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
    examinee = Examinee(policy, comparison.run_folder(entry, seed), seed, comparison.base(seed))
    names, reframes = set(policy.card.attributes), entry.reframes
    answers = examination.at_targets(
        examinee,
        # If levels are weights of attributes, a target that names levels means nothing.
        [t for t in comparison.config.target if set(named(t)) <= names and not (reframes and named(t))],
        decodings=() if entry.permuted else entry.decodings,
        control=policy.card.schema if reframes else comparison.labelled.schema,
    )
    grid = None if reframes else examination.over_grid(examinee)
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


def _base(comparison: Comparison, seed: int) -> Answers:
    """Let the base of a repetition answer."""
    base, examination = comparison.base(seed), comparison.examination
    examinee = Examinee(base.policy, comparison.folder / "runs" / f"base-seed{seed}", seed, base)
    return examination.answers(examinee, [Request(prompt, {}) for prompt in examination.prompts], "")


def permuted(comparison: Comparison) -> str:
    """Write the negative control, rows whose training levels are shuffled; return their folder."""
    folder, rows = comparison.folder / "permuted", comparison.labelled.rows
    if not (folder / "schema.json").is_file():
        train = [i for i, row in enumerate(rows) if row["split"] == "train"]
        order = np.random.default_rng(0).permutation(train)
        levels = {i: rows[j]["levels"] for i, j in zip(train, order)}
        write_rows(
            ({**row, "levels": levels.get(i, row["levels"])} for i, row in enumerate(rows)), folder / "rows.jsonl"
        )
        comparison.labelled.schema.save(folder / "schema.json")
    return str(folder)
