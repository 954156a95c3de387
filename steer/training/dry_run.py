"""Describe a training before it starts: its plan, and its first sample with the loss mask made visible."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from steer.models.collate import collate, cost
from steer.models.precision import keep_masters
from steer.training.batches import Plan
from steer.training.loop import Loop
from steer.training.memory import GIB, enough_memory, estimate
from steer.training.pace import foreseen
from steer.training.train import Training

OPEN, CLOSE = "⟦", "⟧"


def described(training: Training) -> str:
    """Describe rows, tokens, steps, parameters, memory, time, and the first sample."""
    with enough_memory(training.loop.options):
        return "\n".join(_lines(training))


def _lines(training: Training) -> list[str]:
    policy, loop, facts = training.policy, training.loop, training.policy.facts
    assert policy.card  # `prepare` gives it one
    keep_masters(policy.model)  # as in training
    options, plan, model = loop.options, loop.plan, policy.model
    fresh = bool(loop.method.on_policy)
    lengths: list[int] = []
    shared = 0
    for group in (plan.sequences(0, i) for i in range(len(plan.groups))):
        lengths += [len(s.prefix) + (0 if fresh else len(s.response)) for s in group]
        shared += cost(group, shared=True) if plan.shared and not fresh else 0
    computed = shared or sum(lengths)
    once = f", {computed:,} of them computed" if computed < sum(lengths) else ""
    turns = facts["groups"] < facts["samples"]  # which are left out one by one
    rows = f"{facts['rows']} rows in " if facts["groups"] != facts["rows"] else ""
    if hasattr(model, "get_nb_trainable_parameters"):  # counts what lies in 4 bits right
        trained, total = model.get_nb_trainable_parameters()
    else:
        trained = total = sum(p.numel() for p in model.parameters())
    epochs = loop.steps / (plan.steps_per_epoch * plan.repeats)
    epoch, unit = ("all prompts", "prompt") if fresh else ("one epoch", "candidate")
    accelerator = loop.accelerator
    bytes_ = estimate(model, options, accelerator.num_processes if accelerator.is_fsdp2 else 1)
    parts = ", ".join(f"{name} {_size(value)}" for name, value in bytes_.items())
    layout = ", a prompt once for all its candidates, short ones in one row" if plan.shared else ""
    return [
        f"Plan: {policy.card.method} from {policy.name}, {_adapter(loop)}, {options.optimizer}; nothing is written.",
        f"rows        {rows}{facts['groups']} groups to train on, {facts['held_out']} rows held out, "
        f"{facts['unused']} left out by the method, {facts['too_long']} {'rows' if turns else 'groups'} too long, "
        f"{facts['truncated']} rows cut",
        f"tokens      {sum(lengths):,} in {epoch}{once}; {np.mean(lengths):.0f} a {unit}, {max(lengths)} the longest",
        f"steps       {loop.steps} of {options.batch_size} groups ({epochs:.2f} epochs of {plan.steps_per_epoch}), "
        f"micro-batches of {plan.micro_batch_tokens} tokens, {accelerator.num_processes} "
        f"process{'es' if accelerator.num_processes > 1 else ''}{layout}",
        *filter(None, [training.template, training.amount, training.weighted, training.unseen]),
        training.rate or f"learning rate {options.learning_rate:g}, as given",
        f"parameters  {trained:,} trained of {total:,} ({trained / total:.1%}); {training.trained}",
        f"memory      about {_size(sum(bytes_.values()))}: {parts}",
        f"time        {foreseen(policy, loop, lengths)}.",
        f"First sample (between {OPEN} and {CLOSE}: what the loss counts):",
        shown(policy.tokenizer, plan, fresh=fresh),
    ]


def shown(tokenizer: Any, plan: Plan, *, fresh: bool = False) -> str:
    """Render the first candidate of the first step as text, as training would see it where no condition is dropped."""
    epoch, indices = plan.step(0)
    plan = replace(plan, conditioning=plan.conditioning and plan.conditioning.whole)
    sequence = plan.sequences(epoch, indices[0])[0]
    if fresh:
        text: str = tokenizer.decode(sequence.prefix)
        return f"{text}{OPEN} a fresh response {CLOSE}"
    batch = collate([[sequence]], pad=tokenizer.pad_token_id, rewards=[[0.0]], weights=[[1.0]])
    counted = set((batch.positions + 1).tolist())  # a token is predicted one position before it
    runs = groupby(enumerate(batch.input_ids[0].tolist()), key=lambda x: x[0] in counted)
    pieces = [(inside, tokenizer.decode([token for _, token in run])) for inside, run in runs]
    return "".join(f"{OPEN}{text}{CLOSE}" if inside else text for inside, text in pieces)


def _adapter(loop: Loop) -> str:
    options = loop.options
    return "all weights" if options.adapter == "none" else f"{options.adapter} of rank {options.lora_r}"


def _size(value: float) -> str:
    return f"{value / GIB:.1f} GiB" if value >= GIB / 10 else f"{value / (1 << 20):.1f} MiB"
