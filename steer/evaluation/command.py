"""`steer evaluate`."""

from __future__ import annotations

from steer.config.evaluation import EvaluateConfig
from steer.evaluation import interop
from steer.evaluation.evaluate import evaluated, inputs
from steer.evaluation.examination import Examination
from steer.evaluation.settings import EvaluateSettings
from steer.evaluation.sources import contestants, named
from steer.run_folder import Run, stage


@stage
def evaluate_command(config: EvaluateConfig) -> str:
    """Answer what is not answered yet, judge everything; return the table and the path of the report."""
    interop.check(config.export)
    examination: Examination[EvaluateSettings] = Examination(
        config,
        config.rows or None,
        config.gold,
        config.scorer,
        contestants(list(named(config.systems))),
        config.seed,
        needs_gold="lm-eval" in config.export,
        trust_remote_code=config.trust_remote_code,
    )
    hashes = inputs(examination)
    run = Run(config.output, config, hashes)
    if run.done:
        return str(run.done["summary"])
    examination.check()  # before anything is written
    run.start()
    command = f"steer evaluate --config {config.output}/config.json --output NEW"
    evaluation = evaluated(examination, run.folder, hashes, command=command)
    page = evaluation.save(run.folder)
    exports = interop.write(config.export, run.folder, evaluation.case, examination.judge, config)
    systems = evaluation.case.systems
    count = sum(len(answers.rows) for system in systems for answers in system.answers.values())
    text = f"{evaluation.table}\nevaluate: {len(systems)} systems, {count} answers.{exports} Report: {page}"
    return run.finish(text, answers=count)
