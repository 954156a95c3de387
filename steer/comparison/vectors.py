"""Steering vectors of the attributes, from the training rows of a comparison; computed once and kept in a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steer.errors import SteerError
from steer.models.policy import Policy, end_tokens
from steer.models.steering import activations, layers
from steer.models.tokenization import Tokens
from steer.report.cells import counted
from steer.rows import Row
from steer.rows.schema import Schema
from steer.run_folder import read_json, write_json
from steer.settings import Checked, option
from steer.training.batches import Conditioning
from steer.training.memory import micro_batch

FILE, TOOK = "vectors.safetensors", "took.json"


@dataclass(frozen=True)
class VectorSettings(Checked):
    """Settings of steering."""

    strength: float = option(1.0, "Weight of a vector at the highest level; its negative at the lowest.", least=0)
    layer: int = option(0, "Layer after which vectors are added, from 1 (0: the middle one).", least=0)
    rows: int = option(100, "Rows with high levels of an attribute that are read, and as many with low ones.", least=1)

    def layer_of(self, base: Policy) -> int:
        """Return the number of the layer, from 1."""
        count = len(layers(base.model))
        if self.layer > count:
            raise SteerError(f"steering: layer={self.layer}: {base.name} has {counted(count, 'layer')}.")
        return self.layer or -(-count // 2)


@dataclass(frozen=True)
class Vectors:
    """Vectors [A, D] that are added after a layer, and what the report says of them."""

    layer: int  # from 1
    values: Tensor
    facts: dict[str, Any]  # seconds, and a remark for the report

    @staticmethod
    def of(base: Policy, words: Conditioning, rows: Sequence[Row], settings: VectorSettings, folder: Path) -> Vectors:
        """Read the vectors in the folder, or compute them and keep them there."""
        layer = settings.layer_of(base)
        if not (folder / TOOK).is_file():
            began = time.monotonic()
            tokens = Tokens(rows, base.tokenizer, end_tokens(base))
            short = [row for row in rows if tokens.length(row) <= (base.longest or tokens.length(row))]
            ends = {name: _ends(short, words.schema, name, settings.rows) for name in words.names}
            if not (able := [name for name, sides in ends.items() if all(sides)]):
                raise SteerError(
                    f"steering: no attribute ({', '.join(ends)}) has training rows above and below its middle level, "
                    "so none has a vector."
                )
            found = differences(base, [ends[name] for name in able], tokens, layer)
            values = torch.zeros(len(ends), found.shape[1], dtype=found.dtype)
            values[[at for at, name in enumerate(ends) if name in able]] = found.cpu()
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{FILE}.tmp"
            save_file({"vectors": values}, temporary)
            os.replace(temporary, folder / FILE)
            used = "; ".join(f"{len(ends[n][1]):,} above and {len(ends[n][0]):,} below in {n}" for n in able)
            long, without = len(rows) - len(short), ", ".join(name for name in ends if name not in able)
            remark = (
                f"vectors after layer {layer} of {len(layers(base.model))}, from training rows above and below the "
                f"middle level: {used}."
                + (f" None for {without}, whose rows lie on one side." if without else "")
                + (f" {counted(long, 'row')} did not fit the model." if long else "")
            )
            write_json(folder / TOOK, {"seconds": time.monotonic() - began, "remark": remark})
        return Vectors(layer, load_file(folder / FILE)["vectors"], read_json(folder / TOOK))


def differences(base: Policy, ends: Sequence[tuple[list[Row], list[Row]]], tokens: Tokens, layer: int) -> Tensor:
    """Mean activation over the second rows of each pair less that over the first: [A][low, high] -> [A, D].

    The mean is over responses, of means over the tokens of each. `layer` counts from 1.
    """
    every = {row["id"]: row for pair in ends for rows in pair for row in rows}
    at = {name: i for i, name in enumerate(every)}
    sequences = [tokens.sequence(row) for row in every.values()]
    pad, budget = base.tokenizer.pad_token_id, micro_batch(0)
    means = activations(base.model.eval(), sequences, layer - 1, pad, budget)  # [R, D]
    low, high = (torch.stack([means[[at[row["id"]] for row in pair[k]]].mean(0) for pair in ends]) for k in (0, 1))
    return high - low


def _ends(rows: Sequence[Row], schema: Schema, name: str, most: int) -> tuple[list[Row], list[Row]]:
    """Rows below and above the middle level of an attribute, at most so many of each, drawn at random."""
    middle = (len(schema[name].shown) - 1) / 2
    levelled = [row for row in rows if name in row["levels"]]
    ends = []
    for sign in (-1, 1):
        side_rows = [row for row in levelled if sign * (row["levels"][name] - middle) > 0]
        picks = np.random.default_rng(0).permutation(len(side_rows))[:most]
        ends.append([side_rows[i] for i in sorted(picks.tolist())])
    return ends[0], ends[1]
