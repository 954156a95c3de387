"""`steer annotate`."""

from __future__ import annotations

from steer.annotation.annotate import Annotated, annotated, load
from steer.config.annotation import AnnotateConfig
from steer.evaluation.annotators import identified
from steer.rows import read_rows, write_rows
from steer.run_folder import Run, rows_fingerprint, stage


@stage
def annotate_command(config: AnnotateConfig) -> str:
    """Label pairs in a run folder; return the summary."""
    who = load(config.annotator, config.rows, config)
    identity = identified(config.annotator, trust_remote_code=config.trust_remote_code)
    run = Run(config.output, config, {"rows": rows_fingerprint(config.rows), "annotator": identity})
    if run.done:
        return str(run.done["summary"])
    rows = read_rows(config.rows, limit=config.limit)
    run.start()
    result = annotated(rows, who, config, run.folder)
    write_rows(result.pairs, run.folder / "rows.jsonl")
    facts = {"pairs": len(result.pairs), "annotator": identity, "votes": dict(result.votes)}
    return run.finish(_summary(config, result), **facts, flipped=result.flipped, usage=dict(result.usage))


def _summary(config: AnnotateConfig, result: Annotated) -> str:
    held_out = result.compared - result.training
    lines = []
    if result.usage:
        used = ", ".join(f"{value:.4g} {name.replace('_', ' ')}" for name, value in result.usage.items() if value)
        lines.append(f"asked, over all runs of this command: {used or 'nothing'}.")
    if result.dropped:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(result.dropped.items()))
        lines.append(f"columns of one response are left out, of so many pairs: {counts}.")
    if result.unanswered:
        lines.append(f"{result.unanswered} pairs were not answered; --overwrite asks a judge for these again.")
    share = result.flipped / max(result.training, 1)
    lines.append(
        f"annotate: {result.rows} rows in, {result.alone} prompts without two different responses; {result.compared} "
        f"pairs compared by {len(result.votes)} annotator{'s' * (len(result.votes) > 1)}, {result.training} for "
        f"training ({result.flipped} votes flipped, {share:.1%}) and {held_out} held out (none); {result.ties} ties, "
        f"{result.unanswered} unanswered; {len(result.pairs)} pairs out. Next: steer label {config.output}."
    )
    return "\n".join(lines)
