"""Export labelled rows for plain `trl sft`, with a chat template that prints their conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steer.conditioning.chat import asked, options_of
from steer.conditioning.condition import OWN
from steer.errors import SteerError
from steer.export.template import fitting, refuse_late_text
from steer.methods import METHODS
from steer.models.policy import load_policy
from steer.rows import Row, Source, split_of, write_rows
from steer.rows.labelled import Labelled
from steer.run_folder import write_text
from steer.settings import settings_of
from steer.training.batches import Conditioning
from steer.training.prepare import conditioned, templated
from steer.training.settings import TrainSettings


@dataclass(frozen=True)
class TrlRows:
    """Rows in TRL's columns by split, and the chat template that prints their conditions.

    `cut_off`: rows that were dropped because generation was cut off, so that `trl sft` would learn a wrong end;
    `differing`: conditions that this template tokenises differently from `steer train`.
    """

    splits: dict[str, list[Row]]
    template: str
    cut_off: int
    differing: int

    def save(self, folder: Path) -> None:
        """Write data/train.jsonl, data/test.jsonl (those that have rows) and chat_template.jinja."""
        for split, rows in self.splits.items():
            if rows:
                write_rows(rows, folder / "data" / f"{split}.jsonl")
        write_text(folder / "chat_template.jinja", self.template)


def rows_for_trl(rows: Source | Labelled, *, model: str, **settings: Any) -> TrlRows:
    """Turn labelled rows into rows for `trl sft` on a model: a Hugging Face name or folder.

    `settings`: fields of `TrainSettings`; those about conditions, splits and code of the model count. SteerError for
    rows without levels, or a chat template with which TRL would mask the wrong tokens.
    """
    s, labelled = settings_of(TrainSettings, settings), Labelled.of(rows)
    if not model:
        raise SteerError(f"{labelled.name}: rows are exported for a model. Name it: --model FOLDER.")
    if s.template == OWN:
        raise SteerError(f"--template {OWN}: prints scores of rows, which a server cannot. Use reward-bins.")
    s, _ = templated(model, METHODS["conditional"], s)
    conditioning = conditioned(labelled, METHODS["conditional"], s)
    assert conditioning is not None
    tokenizer = load_policy(model, dtype="stored", trust_remote_code=s.trust_remote_code, device="cpu").tokenizer
    template, differing = fitting(tokenizer, conditioning.schema, conditioning.names, conditioning.template)
    tokenizer.chat_template = template = template["default"] if isinstance(template, dict) else template
    if s.thinking != "drop":
        raise SteerError(f"--thinking {s.thinking}: rows for `trl sft` have no thoughts. Leave it out, or steer train.")
    for levels in ({}, dict.fromkeys(conditioning.names, 0)):
        refuse_late_text(tokenizer, model, asked(levels, conditioning.schema))
    first = labelled.rows[: s.limit or None]
    finished = [row for row in first if row.get("finished") is not False]
    whole = replace(conditioning, attribute_dropout=0.0, condition_dropout=0.0)
    splits = {}
    for split, conditions in (("train", conditioning), ("test", whole)):
        chosen = [row for row in finished if split_of(row, s.held_out, s.seed) == split]
        splits[split] = list(for_trl(chosen, conditions, s.seed))
    return TrlRows(splits, template, len(first) - len(finished), differing)


def for_trl(rows: Sequence[Row], conditioning: Conditioning, seed: int) -> Iterator[Row]:
    """Yield rows in TRL's columns prompt, completion and chat_template_kwargs, with the dropout of a first epoch."""
    for index, row in enumerate(rows):
        levels = conditioning.dropped(row["levels"], np.random.default_rng([seed, 0, index]))
        options = options_of(row)
        tools = options.pop("tools", None)
        calls = {"tool_calls": row["tool_calls"]} if row.get("tool_calls") else {}
        yield {
            "prompt": row["prompt"],
            "completion": [{"role": "assistant", "content": row["response"], **calls}],
            "chat_template_kwargs": {**options, "attributes": asked(levels, conditioning.schema)},
            **({"tools": tools} if tools else {}),
        }
