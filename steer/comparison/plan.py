"""Plan of a comparison, printed before anything runs: `steer compare --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping

from steer.comparison.comparison import Comparison
from steer.comparison.entry import PERMUTED, Entry
from steer.report.cells import count, counted


def planned(comparison: Comparison, entries: Mapping[Entry, str]) -> str:
    """Format the plan: a line per entry, for one seed, and totals; the text of an entry says why it may not run."""
    config, lines, seeds = comparison.config, [], len(comparison.seeds)
    steps = answers = 0
    for entry, over in entries.items():
        name, (planned_steps, drawn) = PERMUTED if entry.permuted else entry.spec, _of(comparison, entry)
        taken = comparison.cost(entry)
        draws = f", draws and has scored up to {taken.responses:,} responses" if taken.responses else ""
        training = "no training" if entry.untrained else f"{counted(planned_steps, 'step')}{draws}"
        lines.append(f"  {name}: " + (over or f"{training}, {counted(drawn, 'answer')}"))
        steps, answers = (steps, answers) if over else (steps + planned_steps, answers + drawn)
    rows, prompts = (
        counted(len(comparison.logs), "row"),
        counted(len(comparison.examination.prompts), "held-out prompt"),
    )
    first = f"{counted(len(entries), 'entry', 'entries')} on {rows}, asked about {prompts}; each, with one seed:"
    last = (
        f"With {counted(seeds, 'seed')} at most {count(steps * seeds)} steps of "
        f"{comparison.settings.batch_size} groups and {count(answers * seeds)} answers, beside those of the base; "
        f"{counted(config.num_proc, 'run')} at a time. Nothing was done or written."
    )
    return "\n".join([first, *lines, last])


def _of(comparison: Comparison, entry: Entry) -> tuple[int, int]:
    """Optimizer steps and answers of one seed; rounds shared with another entry are counted twice."""
    config, conditioned = comparison.config, entry.conditioned
    trainings = 0 if entry.untrained else (entry.iterate.rounds if entry.iterate else 1) + bool(entry.front)
    draws = 0 if entry.permuted else sum(d.best_of for d in entry.decodings if not d.at_random)  # it draws nothing
    aims = len(config.target) + config.controls if conditioned else 1
    grid = config.grid if conditioned else 0
    return trainings * comparison.settings.max_steps, draws * aims * len(comparison.examination.prompts) + grid
