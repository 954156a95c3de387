"""Rows of a running batch: keys and values in one buffer, right-aligned, so that a step writes one column for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from steer.generation.prefill import Prefix

SPARE = 64  # spare columns of a new buffer


@dataclass
class Window:
    """The part of the buffer in use: the first `rows` rows, and columns from `begin` to `end`."""

    rows: int = 0
    begin: int = 0
    end: int = 0


class Columns(DynamicLayer):
    """One layer's keys and values [slots, H, columns, D], written in place."""

    def __init__(self, keys: Tensor, values: Tensor, window: Window) -> None:
        super().__init__()
        self.keys, self.values, self.window = keys, values, window
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new column [n, H, 1, D]; return all columns in use, with the new one."""
        w = self.window
        self.keys[: w.rows, :, w.end : w.end + 1] = key_states
        self.values[: w.rows, :, w.end : w.end + 1] = value_states
        return self.keys[: w.rows, :, w.begin : w.end + 1], self.values[: w.rows, :, w.begin : w.end + 1]

    def get_seq_length(self) -> int:
        """Count the columns in use before the new one."""
        return self.window.end - self.window.begin


class Slots:
    """The buffers of all layers, and the column in which each row begins."""

    def __init__(self) -> None:
        self.window = Window()
        self.starts: list[int] = []  # first column of every row
        self.layers: list[Columns] = []

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, prefixes: list[Prefix]) -> list[int]:
        """Copy prefixes into new rows and return their numbers."""
        self._fit(max(p.tokens for p in prefixes), prefixes)
        w, first = self.window, len(self)
        for prefix in prefixes:
            at = slice(w.end - prefix.tokens, w.end)
            for layer, (keys, values) in zip(self.layers, prefix.layers):
                layer.keys[w.rows, :, at], layer.values[w.rows, :, at] = keys, values
            self.starts.append(at.start)
            w.rows += 1
        return list(range(first, len(self)))

    def remove(self, row: int) -> int:
        """Free a row by moving the last one into its place; return the number that the last one had."""
        last = len(self) - 1
        if row != last:
            for layer in self.layers:
                layer.keys[row], layer.values[row] = layer.keys[last], layer.values[last]
            self.starts[row] = self.starts[last]
        self.starts.pop()
        self.window.rows = last
        return last

    def forward(self, model: Any, tokens: list[int]) -> Tensor:
        """Feed one more token to every row: logits [N, V]."""
        self._fit(0, [])
        w = self.window
        w.begin = min(self.starts)
        device = self.layers[0].keys.device
        starts = torch.tensor(self.starts, device=device)[:, None]
        logits: Tensor = model(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=(torch.arange(w.begin, w.end + 1, device=device) >= starts).long(),
            position_ids=w.end - starts,
            past_key_values=Cache(layers=self.layers),
            use_cache=True,
        ).logits[:, -1]
        w.end += 1
        return logits

    def _fit(self, width: int, more: list[Prefix]) -> None:
        """Grow the buffers for one column after `width` or more, and for more rows; move what is in use if needed."""
        w = self.window
        rows, columns = self.layers[0].keys.shape[::2] if self.layers else (0, 0)
        if len(self) and width <= w.end < columns and len(self) + len(more) <= rows:
            return
        begin = min(self.starts, default=w.end)
        used = w.end - begin
        end = max(width, used)
        shapes = [(x.keys[0], x.values[0]) for x in self.layers] or more[0].layers
        size = (max(rows, len(self) + len(more)), end + max(SPARE, end // 2))
        fresh = []
        for i, pair in enumerate(shapes):
            keys, values = (x.new_zeros(size[0], x.shape[0], size[1], x.shape[2]) for x in pair)
            for new, old in ((keys, "keys"), (values, "values")) if len(self) else ():
                new[: w.rows, :, end - used : end] = getattr(self.layers[i], old)[: w.rows, :, begin : w.end]
            fresh.append(Columns(keys, values, w))
        self.layers = fresh
        self.starts = [x - begin + end - used for x in self.starts]
        w.begin, w.end = end - used, end
