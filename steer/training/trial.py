"""Choose the attention of a training: each that there is for the device, timed on a micro-batch of the first step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from steer.models import attention
from steer.models.log_probs import ResponseLogps, apart
from steer.models.policy import Policy
from steer.progress import note
from steer.training import checkpoint
from steer.training.batches import Plan
from steer.training.pace import first_groups, timed, unforeseeable

if TYPE_CHECKING:
    from steer.training.loop import Loop

TRIED = {"cuda": (attention.IN_BLOCKS,)}  # beside the model's own, by kind of device


def fastest(policy: Policy, module: ResponseLogps, loop: Loop, folder: Path) -> dict[str, str]:
    """Let the model attend in the way that trains fastest here, or as before the resume point in `folder`.

    Return the choice as a fact; nothing where there is none to make: the user named one, rows are not packed, or the
    time of a step cannot be foreseen. Collective: the main process chooses for all.
    """
    others = TRIED.get(next(module.parameters()).device.type, ())
    if not others or loop.options.attn_implementation or not loop.plan.shared or unforeseeable(loop):
        return {}
    own = policy.model.config._attn_implementation
    if point := checkpoint.state_of(folder):
        name = point.get("attention", own)
    else:
        main = loop.accelerator.is_main_process
        [name] = broadcast_object_list([_chosen(policy.model, module, loop, (own, *others)) if main else None])
    policy.model.set_attn_implementation(name)
    return {"attention": name}


def _chosen(model: Any, module: ResponseLogps, loop: Loop, names: tuple[str, ...]) -> str:
    """Return the fastest of the names, and say it; one that fails or gives other states than the first is out."""
    device = next(module.parameters()).device
    part, tokens = first_groups(loop.plan, loop.plan.micro_batch_tokens)
    seconds: dict[str, float] = {}
    more, first = "", None
    for name in names:
        try:
            model.set_attn_implementation(name)
            states = _states(module, part, device)
            if first is None:
                first = states
            elif not (far := apart(states, first)) < 2 * module.rounding:  # either may be that far from exact
                more += f"; {name} gives other states ({far:.1g} apart)"
                continue
            seconds[name] = [timed(module, part, loop, device)[1] for _ in range(2)][1]  # the first one compiles
        except Exception as error:  # compilers of kernels raise kinds of their own
            if not seconds:  # the model's own: the training would fail
                raise
            module.zero_grad(set_to_none=True)
            more += f"; {name} fails ({(str(error).splitlines() or [type(error).__name__])[0]:.100})"
    times = ", ".join(f"{name} {time:.3g} s" for name, time in seconds.items())
    name = min(seconds, key=lambda name: seconds[name])
    note(f"attention {name}: one forward and backward pass of {tokens:,} tokens here takes {times}{more}.")
    return name


@torch.no_grad()
def _states(module: ResponseLogps, part: Plan, device: torch.device) -> Tensor:
    """Hidden states that predict the response tokens of a plan's first step: [M, D]."""
    module.eval()
    batches = (batch.to(device) for _, batch in part.batches(0))
    return torch.cat([module(*batch.inputs, shared=batch.shared, bare=True) for batch in batches])
