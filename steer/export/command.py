"""`steer export`: policies, scorers and labelled rows for other programs, and for the hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from steer.conditioning.chat import asked, example
from steer.conditioning.targets import parse_target
from steer.config.export import ExportConfig, SoupConfig
from steer.errors import SteerError
from steer.export import gguf, hub, ollama
from steer.export.policy import Exported, export_policy
from steer.export.scorer import export_scorer, is_scorer
from steer.export.soup import soup
from steer.export.trl import TrlRows, rows_for_trl
from steer.models.card import Card
from steer.models.policy import end_tokens, load_policy
from steer.models.tokenization import written
from steer.rows import write_rows
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import Run, read_done, rows_fingerprint, stage, write_text
from steer.training.settings import TrainSettings


@stage
def export_command(config: ExportConfig) -> str:
    """Write a policy, a scorer or labelled rows for programs other than steer; return the summary line."""
    source = Path(config.source)
    if Card.place(source):
        return _policy(config, source)
    if not source.exists():
        raise SteerError(f"{source}: no such file or folder. Give a policy of `steer train`, or labelled rows.")
    if config.format != "hf":
        raise SteerError(f"--format {config.format}: is for policies. Leave it out for {source}.")
    if is_scorer(source):
        return _scorer(config, source)
    if (source / "adapter_config.json").is_file() or (source / "model.safetensors").is_file():
        raise SteerError(f"{source}: is a model without steer.json, so there is no condition to export.")
    return _rows(config)


@stage
def soup_command(config: SoupConfig) -> str:
    """Write the weighted mean of policies; return the summary line."""
    try:
        shares = [float(text) for text in config.share]
    except ValueError:
        raise SteerError(f"--share {' '.join(config.share)}: wanted numbers, one for each policy.") from None
    card = soup(config.policies, config.output, shares=shares, overwrite=config.overwrite)
    parts = ", ".join(f"{share:.3g} of {name}" for name, share in card.settings.items())
    return f"soup of {parts} -> {config.output}"


def _policy(config: ExportConfig, source: Path) -> str:
    script = gguf.converter(config.converter) if config.format == "gguf" else None
    exported = export_policy(
        source,
        config.output,
        base=config.model,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
        overwrite=config.overwrite,
    )
    summary, folder = _policy_summary(config, exported), Path(config.output)
    if script:
        gguf.convert(folder, script)
        summary += f" {gguf.FILE} is for llama.cpp. {_for_ollama(folder, exported.card, config.target)}"
    card = hub.policy_card(exported.card, source, config.evaluation, plain=True) if config.push_to_hub else ""
    return summary + _pushed(config, folder, card)


def _for_ollama(folder: Path, card: Card, target: str) -> str:
    """Write the Modelfile, and say what it does."""
    from transformers import AutoTokenizer

    policy = load_policy(str(folder), device="meta")
    tokenizer, levels = AutoTokenizer.from_pretrained(folder), {}
    attributes = None
    if card.attributes and card.schema:
        levels = parse_target(target, card.schema, card.attributes) if target else card.schema.unasked(card.attributes)
        attributes = asked(levels, card.schema) if target else None
    elif target:
        raise SteerError(f"--target {target}: the policy takes none. Leave it out.")
    turns = ollama.Turns.of(tokenizer, attributes)
    if turns is None:
        return (
            "There is no Modelfile: its chat template is more than turns one after the other. Write TEMPLATE by hand."
        )
    generation = policy.model.generation_config.to_diff_dict()
    ends = written(end_tokens(policy), tokenizer)
    write_text(folder / "Modelfile", ollama.modelfile(turns, gguf.FILE, ends, generation))
    aim = card.schema.text(levels) if card.schema and levels else "no condition"
    return (
        f'Modelfile always asks for {aim} (another: --target) and has no tools: "ollama create NAME -f '
        f'{folder / "Modelfile"}". Neither blocks condition markers in answers.'
    )


def _scorer(config: ExportConfig, source: Path) -> str:
    folder = Path(config.output)
    exported = export_scorer(source, folder, overwrite=config.overwrite)
    scores = f"the scores of {', '.join(exported.attributes)}" + "".join(f", {text}" for text in exported.remarks)
    card = ""
    if config.push_to_hub:
        readme = source / "README.md"
        card = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {folder.name}\n"
        card += f"\nAs `AutoModelForSequenceClassification` its logits are {scores}.\n"
    return (
        f"export: {source} as a sequence classifier in {folder}; its logits are {scores}. It reads the finished chat: "
        f"steer label ROWS --scorer classifier:{folder}.{_pushed(config, folder, card)}"
    )


def _rows(config: ExportConfig) -> str:
    run = Run(config.output, config, {"source": rows_fingerprint(config.source)})
    labelled = Labelled.read(config.source) if config.push_to_hub else None
    if not run.done and labelled is not None and not config.model:
        run.start()
        write_rows(labelled.rows, run.folder / "data.jsonl")
        labelled.schema.save(run.folder / "schema.json")
        run.finish(f"export: {len(labelled.rows)} labelled rows in {run.folder}.")
    elif not run.done:
        settings = {n: value for n, value in vars(config).items() if n in vars(TrainSettings()) and n != "dtype"}
        rows = rows_for_trl(config.source, model=config.model, **settings)
        run.start()
        rows.save(run.folder)
        counts = {split: len(each) for split, each in rows.splits.items()}
        run.finish(_rows_summary(config.model, run.folder, rows), **counts)
    summary, card = str(read_done(run.folder)["summary"]), ""
    if labelled is not None:
        splits = Counter(str(row["split"]) for row in labelled.rows)
        card = hub.rows_card(Path(config.push_to_hub).name, labelled.require_levels(), splits, labelled.scorer)
    return summary + _pushed(config, run.folder, card, dataset=True)


def _pushed(config: ExportConfig, folder: Path, card: str, *, dataset: bool = False) -> str:
    """Upload the folder if that is asked for; return a sentence with its address."""
    if not config.push_to_hub:
        return ""
    return f" Uploaded to {hub.push(folder, config.push_to_hub, card, dataset=dataset, private=config.private)}."


def _policy_summary(config: ExportConfig, exported: Exported) -> str:
    summary = (
        f"export: {config.source} with {exported.adapter} in {exported.dtype} merged into {config.output}, "
        f"{exported.parameters:,} parameters. "
    )
    card = exported.card
    if not card.attributes or card.schema is None:
        return f"{summary}It was not conditioned, so its chat template is the base's."
    target = example(card.schema, card.attributes[0])
    differing = f" {exported.differing} of its conditions are tokenised otherwise than in training."
    return (
        f"{summary}Without `attributes` it aims at {_unasked(card.schema, card.attributes)}; a client asks by "
        f"chat_template_kwargs={{attributes: {target}}}, also by words such as low. A level that does not exist is an "
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
