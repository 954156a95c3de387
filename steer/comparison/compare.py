"""Compare methods x seeds on one split, base and budget, judged by a scorer that training never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steer.comparison.comparison import Comparison, about, case, named
from steer.comparison.entry import Entry, unique
from steer.comparison.runs import attempt, base_answers, outcomes_of
from steer.comparison.settings import CompareSettings
from steer.comparison.tuning import check_tuning, tuned
from steer.conditioning.targets import parse_target
from steer.config.comparison import CompareConfig
from steer.errors import SteerError
from steer.evaluation.evaluate import Evaluation
from steer.evaluation.result import result
from steer.iteration.rounds import check_engine
from steer.methods import METHODS
from steer.options import resolve
from steer.rows import Source
from steer.rows.labelled import Labelled
from steer.run_folder import stage
from steer.settings import apart, named_values


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
        flags |= {"scorer": scorer, **named_values(CompareSettings, apart(settings, method="methods"))}
        config = resolve(CompareConfig, {k: v for k, v in flags.items() if v != ""})
        return _saved(config)


@stage
def _saved(config: CompareConfig) -> Evaluation:
    """Do the comparison in its folder and save the report there."""
    comparison = Comparison(config, Path(config.output))
    run = comparison.run
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
    if config.engine != "hf" and not comparison.alone:
        raise SteerError(
            f"--engine {config.engine}: takes the GPUs for one run, so runs are done one after the other. Leave "
            "--num-proc out, or add --launch."
        )
    for entry in entries:
        for made in (entry.front, entry):
            if made and not made.untrained:
                check_engine(config.engine, METHODS[made.method], made.settings_from(comparison.settings))
    comparison.examination.check()
    check_tuning(comparison)
    _ = comparison.speechless  # loads every base
    reasons = []
    for entry in entries:
        if not (reason := comparison.hopeless(entry)):
            break
        reasons.append(f"{entry.spec}: {reason.rstrip('.')}")
    else:
        raise SteerError(
            f"none of the methods can run ({'; '.join(reasons[:3])}). Name others; "
            '"steer methods --for ROWS" says which can train.'
        )
    over = {entry: comparison.refusal(entry) for entry in entries}
    return over | ({replace(Entry.of("conditional"), permuted=True): ""} if config.controls else {})


def compared(comparison: Comparison, over: Mapping[Entry, str]) -> Evaluation:
    """Run what is missing and judge everything; runs that fail or may not run are in comparison.failures."""
    for entry, reason in over.items():
        if reason:
            comparison.fail(entry.spec, reason)
    entries = tuned(comparison, [entry for entry, reason in over.items() if not reason])
    runs = outcomes_of(comparison, entries, comparison.seeds)
    base = {s: attempt(comparison, f"base, seed {s}", partial(base_answers, comparison, s)) for s in comparison.seeds}
    judged = case(comparison, {s: answers for s, answers in base.items() if answers}, runs)
    return Evaluation(result(judged, about(comparison, runs)), judged)
