"""`steer compare`."""

from __future__ import annotations

from pathlib import Path

from steer.comparison.compare import checked, compared
from steer.comparison.comparison import Comparison
from steer.comparison.plan import planned
from steer.config.comparison import CompareConfig
from steer.report.cells import counted
from steer.run_folder import stage


@stage
def compare_command(config: CompareConfig) -> str:
    """Run what is missing, then judge everything; return the table and the path of the report."""
    comparison = Comparison(config, Path(config.output))
    run = comparison.run
    if run.done and not config.dry_run:
        return str(run.done["summary"])
    over = checked(comparison)  # before anything is written
    if config.dry_run:
        return planned(comparison, over)
    run.start()
    evaluation = compared(comparison, over)
    page = evaluation.save(run.folder)
    skipped = sum(map(bool, over.values()))  # what may not run; no repetition helps
    failed = len(comparison.failures) - skipped
    kinds = ((failed, "run", "failed"), (skipped, "method", "skipped"))
    counts = [f"{counted(number, unit)} {what}" for number, unit, what in kinds if number]
    lost = f" {' and '.join(counts)}; the report says why." if counts else ""
    lost += " The same command tries again." if failed else ""
    bases = f" on {counted(len(comparison.bases), 'base')}" if config.base else ""
    prompts = len(comparison.examination.prompts)
    text = (
        f"{evaluation.table}\ncompare: {counted(len(over) - config.controls, 'method')} x "
        f"{counted(len(comparison.seeds), 'seed')}{bases}, {prompts} held-out prompts.{lost} "
        f"Report: {page}"
    )
    return text if failed else run.finish(text, failures=skipped)
