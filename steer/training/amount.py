"""How long to train where the user leaves it open: enough steps on few rows, two passes over many."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

from steer.training.settings import TrainSettings

S = TypeVar("S", bound=TrainSettings)

EPOCHS, BATCH = 2.0, 32
STEPS = 100  # what a chat model takes to follow conditions in words: "Steps, not rows" in docs/results.md
SMALL = 8  # groups of a step where BATCH would leave fewer than STEPS
MOST = 12.0  # passes over few rows


def steps_of(options: TrainSettings, groups: int, repeats: int = 1) -> int:
    """Count the optimizer steps over groups, `repeats` in a row on the same ones; `options`: as from `amount`."""
    per_epoch = math.ceil(groups / options.batch_size) * repeats
    return options.max_steps or max(1, round(options.num_train_epochs * per_epoch))


def amount(options: S, groups: int, *, draws: bool = False) -> tuple[S, str]:
    """Choose epochs and batch size if the user gave none; return the settings and why (empty: many rows, or given).

    `draws`: the method draws its responses while it trains, so a pass over few prompts is no pass over few rows.
    """
    batch, epochs = options.batch_size, options.num_train_epochs
    few = not draws and not options.max_steps and groups * (epochs or EPOCHS) < STEPS * (batch or BATCH)
    size = batch or (SMALL if few else BATCH)
    steps = math.ceil(groups / size)
    passes = epochs or (min(MOST, max(EPOCHS, STEPS / steps)) if few else EPOCHS)
    chosen = replace(options, batch_size=size, num_train_epochs=passes)
    if not few or (batch and epochs):
        return chosen, ""
    named = " and ".join(flag for flag, given in (("--num-train-epochs", epochs), ("--batch-size", batch)) if not given)
    reach = f", to reach {STEPS} steps" if steps * passes >= STEPS - 1 else ""
    why = f"{groups} groups are few: batches of {size} and {passes:.3g} epochs{reach}"
    return chosen, f"{why} ({named} to set others)"
