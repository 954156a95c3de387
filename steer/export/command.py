"""`steer export`: a policy as a plain Hugging Face folder that any server steers, or rows for plain `trl sft`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steer.conditioning.chat import asked, bare, rendered, steerable
from steer.conditioning.condition import markers, render
from steer.conditioning.turns import UnprintedError
from steer.config.export import ExportConfig
from steer.errors import SteerError
from steer.methods import METHODS
from steer.models.card import MERGED, Card
from steer.models.policy import Policy, end_tokens, load_policy
from steer.models.tokenization import plain_ids, prompt_text
from steer.progress import quiet
from steer.rows import Row, read_all, split_of, write
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import (
    Run,
    fingerprint,
    folder_errors,
    lock,
    read_json,
    rows_fingerprint,
    stage,
    write_json,
    write_text,
)
from steer.training.batches import Conditioning
from steer.training.prepare import conditioned
from steer.training.settings import TrainSettings

MARK = "export.json"  # what was exported, with which settings; a folder that has it is complete
PROBES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello."}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "What is 2?"},
    ],
)


@stage
def export_command(config: ExportConfig) -> str:
    """Write a policy (or labelled rows) for programs that know nothing of steer; the summary line."""
    source = Path(config.source)
    if (source / "steer.json").is_file():
        return _policy(config)
    if not source.exists():
        raise SteerError(f"{source}: no such file or folder. Give a policy of `steer train`, or labelled rows.")
    if (source / "adapter_config.json").is_file() or (source / "model.safetensors").is_file():
        raise SteerError(f"{source}: is a model without steer.json, so there is no condition to export.")
    return _rows(config)


def _policy(config: ExportConfig) -> str:
    source, target = Path(config.source), Path(config.output)
    held = {"source": fingerprint(source), "model": config.model, "dtype": config.dtype}
    if summary := _finished(target, held, overwrite=config.overwrite):
        return summary
    if source.resolve().is_relative_to(target.resolve()):
        raise SteerError(f"{target}: holds the policy itself. Choose another folder.")
    policy = merged(config)
    if policy.card is None:
        raise ValueError("a folder with steer.json has a card")
    said = _template(policy, policy.card)
    temporary = target.with_name(f".{target.name}.tmp")
    parameters = sum(p.numel() for p in policy.model.parameters())
    summary = (
        f"export: {source} with {policy.card.adapter} in {policy.model.dtype} merged into {target}, "
        f"{parameters:,} parameters. {said}"
    ).replace("torch.", "")
    with folder_errors(target), quiet():
        temporary.mkdir(parents=True, exist_ok=True)
        lock(temporary)
        try:
            for left in temporary.iterdir():  # of a process that was killed: files only
                left.unlink()
            replace(policy, card=replace(policy.card, adapter=MERGED)).save(temporary)
            write_json(temporary / MARK, {**held, "summary": summary})
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return summary


def _finished(target: Path, held: Mapping[str, str], *, overwrite: bool) -> str:
    """The summary of the same export where it is done; refuses a folder that holds anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return ""
    if not (target / MARK).is_file():
        raise SteerError(f"{target}: holds files that are no export of steer. Choose another folder.")
    known = read_json(target / MARK)
    if not isinstance(known, dict) or not isinstance(known.get("summary"), str):
        raise SteerError(f"{target / MARK}: not what steer export writes. Remove the folder, or choose another.")
    if all(known.get(k) == v for k, v in held.items()):
        return str(known["summary"])
    if not overwrite:
        raise SteerError(f"{target}: holds another export. Choose another folder, or --overwrite to replace it.")
    return ""


def merged(config: ExportConfig) -> Policy:
    """The policy with its adapter merged into the unquantised base, on the CPU."""
    dtype = "stored" if config.dtype == "auto" else config.dtype
    trust = config.trust_remote_code
    policy = load_policy(
        config.source, dtype=dtype, trust_remote_code=trust, quantised=False, base=config.model, device="cpu"
    )
    model = policy.model
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        raise SteerError(f"{config.source}: its base is stored quantised. Name the whole one: --model FOLDER.")
    if hasattr(model, "merge_and_unload"):
        with quiet():
            model = model.merge_and_unload()
    tokenizer, card = policy.tokenizer, policy.card
    model.generation_config.eos_token_id = sorted(end_tokens(policy))
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if card and card.attributes:
        _block(model.generation_config, card, tokenizer)
    return replace(policy, model=model)


def _block(generation: Any, card: Card, tokenizer: Any) -> None:
    """Let `generate` of transformers rule out condition markers; of other servers only some read this."""
    if controls := [t for levels in card.control_tokens() for t in levels]:
        generation.suppress_tokens = tokenizer.convert_tokens_to_ids(controls)
    starts = [space + marker for marker in markers(card.attributes, card.template) for space in ("", " ")]
    generation.bad_words_ids = plain_ids(starts, tokenizer, split_special_tokens=True)


def _template(policy: Policy, card: Card) -> str:
    """Give the tokenizer a template that prints the condition; what the summary says of it."""
    if not card.attributes or card.schema is None:
        return "It was not conditioned, so its chat template is the base's."
    made, wrong = fitting(policy.tokenizer, card.schema, card.attributes, card.template)
    policy.tokenizer.chat_template = made
    odd = f" {wrong} of its conditions are tokenised otherwise than in training." if wrong else ""
    example = json.dumps(asked({card.attributes[0]: 0}, card.schema))
    return (
        f"Without `attributes` it aims at {_unasked(card.schema, card.attributes)}; a client asks by "
        f"chat_template_kwargs={{attributes: {example}}}, also by words such as low. A level that does not exist is an "
        f"error; which combinations the data supports only `steer targets` tells.{odd}"
    )


def _unasked(schema: Schema, names: Sequence[str]) -> str:
    """What an export aims at where a client asks for nothing."""
    if not schema.supported(names):
        return "no condition, for no combination of all attributes is supported"
    aim = schema.unasked(names)
    return schema.text(aim) if aim else "no condition, for no attribute has a better end"


def fitting(tokenizer: Any, schema: Schema, names: Sequence[str], template: str) -> tuple[Any, int]:
    """A steerable template whose whole text a server tokenises as training does its parts; how many conditions differ.

    Training tokenises prompt and condition apart. Where a tokenizer begins every text with a space, the whole text
    needs that space before the condition.
    """
    base = tokenizer.chat_template = bare(tokenizer.chat_template)
    single = [{n: i} for n in names for i in range(len(schema[n].shown))]
    every = [{n: len(schema[n].shown) - 1 for n in names}, dict.fromkeys(names, 0)]
    conditions = [render(levels, schema, names, template) for levels in [*single, *every]]
    prompts = [prompt_text(p, tokenizer) for p in PROBES if _accepted(p, tokenizer)]

    def differing(glue: str) -> int:
        return sum(
            any(
                plain_ids([p + glue + c], tokenizer)[0] != plain_ids([p], tokenizer)[0] + plain_ids([c], tokenizer)[0]
                for p in prompts
            )
            for c in conditions
        )

    counts = {glue: differing(glue) for glue in ("", " ")}
    glue = min(counts, key=lambda g: (counts[g], g))
    if isinstance(base, dict):
        return {k: steerable(v, schema, names, template, glue) for k, v in base.items()}, counts[glue]
    return steerable(base, schema, names, template, glue), counts[glue]


def _accepted(prompt: list[dict[str, str]], tokenizer: Any) -> bool:
    from jinja2 import TemplateError

    try:
        prompt_text(prompt, tokenizer)
    except (TemplateError, UnprintedError):  # some templates know no earlier turns
        return False
    return True


def _rows(config: ExportConfig) -> str:
    """Rows as `trl sft` reads them, and the chat template that prints their conditions."""
    if not config.model:
        raise SteerError(f"{config.source}: rows are exported for a model. Name it: --model FOLDER.")
    setup = TrainSettings(
        attribute=config.attribute,
        template=config.template,
        attribute_dropout=config.attribute_dropout,
        condition_dropout=config.condition_dropout,
    )
    conditioning = conditioned(Labelled.of(config.source), METHODS["conditional"], setup)
    if conditioning is None:
        raise ValueError("the conditional method is conditioned")
    run = Run(config.output, config, {"source": rows_fingerprint(config.source)})
    if run.done:
        return str(run.done["summary"])
    read = read_all(config.source)[: config.limit or None]
    rows = [r for r in read if r.get("finished") is not False]  # of what was cut off trl would learn an end
    cut = f" {len(read) - len(rows)} cut off, left out." if len(rows) < len(read) else ""
    tokenizer = _tokenizer(config)
    template, wrong = fitting(tokenizer, conditioning.schema, conditioning.names, conditioning.template)
    if isinstance(template, dict):
        template = template["default"]
    tokenizer.chat_template = template
    for levels in ({}, dict.fromkeys(conditioning.names, 0)):
        _refuse_unlike(tokenizer, config.model, asked(levels, conditioning.schema))
    run.start()
    counts = {}
    for split in ("train", "test"):
        chosen = [r for r in rows if (split_of(r, config.held_out, config.seed) == "train") == (split == "train")]
        whole = replace(conditioning, attribute_dropout=0.0, condition_dropout=0.0)
        counts[split] = len(chosen)
        if chosen:
            write(
                run.folder / "data" / f"{split}.jsonl",
                for_trl(chosen, conditioning if split == "train" else whole, config.seed),
            )
    path = run.folder / "chat_template.jinja"
    write_text(path, template)
    odd = f" {wrong} conditions are tokenised otherwise than by steer train." if wrong else ""
    summary = (
        f"export: {len(read)} rows in, {counts['train']} for training and {counts['test']} held out.{cut}{odd} Train "
        "with: "
        f"trl sft --model_name_or_path {config.model} --dataset_name {run.folder / 'data'} --chat_template_path {path}"
    )
    return run.finish(summary, **counts)


def _refuse_unlike(tokenizer: Any, model: str, attributes: Mapping[str, int | str]) -> None:
    """Refuse a template that writes more before the last answer than its generation prompt, by which trl masks."""
    for prompt in (p for p in PROBES if _accepted(p, tokenizer)):
        begun: str = rendered(tokenizer, prompt, add_generation_prompt=True, attributes=attributes)
        whole: str = rendered(tokenizer, [*prompt, {"role": "assistant", "content": "Four."}], attributes=attributes)
        if not whole.startswith(begun):
            raise SteerError(
                f"{model}: its chat template writes something before the last answer that its generation prompt lacks, "
                "so `trl sft` would mask the wrong tokens. Take it out of the template, or use steer train."
            )


def for_trl(rows: Sequence[Row], conditioning: Conditioning, seed: int) -> Iterator[dict[str, Any]]:
    """Rows in TRL's columns prompt, completion and chat_template_kwargs, with the dropout of a first epoch."""
    for index, row in enumerate(rows):
        levels = conditioning.dropped(row["levels"], np.random.default_rng([seed, 0, index]))
        yield {
            "prompt": row["prompt"],
            "completion": [{"role": "assistant", "content": row["response"]}],
            "chat_template_kwargs": {"attributes": asked(levels, conditioning.schema)},
        }


def _tokenizer(config: ExportConfig) -> Any:
    trust = config.trust_remote_code
    return load_policy(config.model, dtype="stored", trust_remote_code=trust, device="cpu").tokenizer
