"""`steer export`: a policy as a plain Hugging Face folder that any server steers, or rows for plain `trl sft`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from steer.conditioning.chat import asked
from steer.config.export import ExportConfig
from steer.errors import SteerError
from steer.export.policy import Exported, export_policy
from steer.export.trl import TrlRows, rows_for_trl
from steer.models.card import Card
from steer.rows.schema import Schema
from steer.run_folder import Run, rows_fingerprint, stage
from steer.training.settings import TrainSettings


@stage
def export_command(config: ExportConfig) -> str:
    """Write a policy or labelled rows for programs other than steer; return the summary line."""
    source = Path(config.source)
    if Card.place(source):
        exported = export_policy(
            source,
            config.output,
            base=config.model,
            dtype=config.dtype,
            trust_remote_code=config.trust_remote_code,
            overwrite=config.overwrite,
        )
        return _policy_summary(config, exported)
    if not source.exists():
        raise SteerError(f"{source}: no such file or folder. Give a policy of `steer train`, or labelled rows.")
    if (source / "adapter_config.json").is_file() or (source / "model.safetensors").is_file():
        raise SteerError(f"{source}: is a model without steer.json, so there is no condition to export.")
    run = Run(config.output, config, {"source": rows_fingerprint(config.source)})
    if run.done:
        return str(run.done["summary"])
    settings = {n: value for n, value in vars(config).items() if n in vars(TrainSettings()) and n != "dtype"}
    rows = rows_for_trl(config.source, model=config.model, **settings)
    run.start()
    rows.save(run.folder)
    counts = {split: len(each) for split, each in rows.splits.items()}
    return run.finish(_rows_summary(config.model, run.folder, rows), **counts)


def _policy_summary(config: ExportConfig, exported: Exported) -> str:
    summary = (
        f"export: {config.source} with {exported.adapter} in {exported.dtype} merged into {config.output}, "
        f"{exported.parameters:,} parameters. "
    )
    card = exported.card
    if not card.attributes or card.schema is None:
        return f"{summary}It was not conditioned, so its chat template is the base's."
    example = json.dumps(asked({card.attributes[0]: 0}, card.schema))
    differing = f" {exported.differing} of its conditions are tokenised otherwise than in training."
    return (
        f"{summary}Without `attributes` it aims at {_unasked(card.schema, card.attributes)}; a client asks by "
        f"chat_template_kwargs={{attributes: {example}}}, also by words such as low. A level that does not exist is an "
        f"error; only `steer targets` shows which combinations the data supports.{differing * bool(exported.differing)}"
    )


def _unasked(schema: Schema, names: Sequence[str]) -> str:
    """Describe the target of an export where a client asks for nothing."""
    if not schema.supported(names):
        return "no condition, for no combination of all attributes is supported"
    target = schema.unasked(names)
    return schema.text(target) if target else "no condition, for no attribute has a better end"


def _rows_summary(model: str, folder: Path, rows: TrlRows) -> str:
    train, test = (len(rows.splits[split]) for split in ("train", "test"))
    cut_off = f" {rows.cut_off} cut off, skipped." if rows.cut_off else ""
    differing = f" {rows.differing} conditions are tokenised otherwise than by steer train." if rows.differing else ""
    return (
        f"export: {train + test + rows.cut_off} rows in, {train} for training and {test} held out.{cut_off}{differing} "
        f"Train with: trl sft --model_name_or_path {model} --dataset_name {folder / 'data'} "
        f"--chat_template_path {folder / 'chat_template.jinja'}"
    )
