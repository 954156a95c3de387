"""Choose the attention and the head of a training: those that there are, timed on a micro-batch of the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from steer.models import attention
from steer.models.fused import check_liger, liger
from steer.models.log_probs import ResponseLogps, apart
from steer.models.policy import Policy
from steer.progress import note
from steer.training import checkpoint
from steer.training.batches import Plan
from steer.training.pace import first_groups, timed, unforeseeable

if TYPE_CHECKING:
    from steer.training.loop import Loop

TRIED = {"cuda": (attention.IN_BLOCKS,)}  # beside the model's own attention, by kind of device


def fastest(policy: Policy, module: ResponseLogps, loop: Loop, folder: Path) -> dict[str, str]:
    """Let the model attend, and its head compute, in the way that trains fastest here, or as before a resume point.

    Return the choices as facts; none where the time of a step cannot be foreseen. `folder`: of the resume point.
    Collective: the main process chooses for all.
    """
    if unforeseeable(loop):
        return {}
    facts: dict[str, str] = {}
    point = checkpoint.state_of(folder)
    for part, ways in _ways(policy.model, module, loop).items():
        if point:
            facts[part] = point.get(part, next(iter(ways)))
        else:
            main = loop.accelerator.is_main_process
            [facts[part]] = broadcast_object_list([_chosen(part, ways, module, loop) if main else None])
        ways[facts[part]]()
    return facts


def _ways(model: Any, module: ResponseLogps, loop: Loop) -> dict[str, dict[str, Callable[[], None]]]:
    """Return what switches to each way of computing a part, by name, the present one first; of parts with several."""
    ways: dict[str, dict[str, Callable[[], None]]] = {}
    device = next(module.parameters()).device
    others = TRIED.get(device.type, ())
    if others and loop.plan.shared and not loop.options.attn_implementation:
        names = (model.config._attn_implementation, *others)
        ways["attention"] = {name: partial(model.set_attn_implementation, name) for name in names}
    if others and module.linear and "kl" not in loop.method.needs and find_spec("liger_kernel"):

        def fuse() -> None:
            check_liger(device)
            module.fused = liger

        ways["head"] = {"chunks": partial(setattr, module, "fused", None), "liger": fuse}
    return ways


def _chosen(part: str, ways: Mapping[str, Callable[[], None]], module: ResponseLogps, loop: Loop) -> str:
    """Return the fastest way, and say it; one that fails or gives other states than the first is out."""
    device = next(module.parameters()).device
    plan, tokens = first_groups(loop.plan, loop.plan.micro_batch_tokens)
    seconds: dict[str, float] = {}
    more, first = "", None
    for name, switch in ways.items():
        try:
            switch()
            states = _states(module, plan, device)
            if first is None:
                first = states
            elif not (far := apart(states, first)) < 2 * module.rounding:  # either may be that far from exact
                more += f"; {name} gives other states ({far:.1g} apart)"
                continue
            seconds[name] = [timed(module, plan, loop, device)[1] for _ in range(2)][1]  # the first one compiles
        except Exception as error:  # compilers of kernels raise kinds of their own
            if not seconds:  # the model's own: the training would fail
                raise
            module.zero_grad(set_to_none=True)
            more += f"; {name} fails ({(str(error).splitlines() or [type(error).__name__])[0]:.100})"
    times = ", ".join(f"{name} {time:.3g} s" for name, time in seconds.items())
    name = min(seconds, key=lambda name: seconds[name])
    note(f"{part} {name}: one forward and backward pass of {tokens:,} tokens here takes {times}{more}.")
    return name


@torch.no_grad()
def _states(module: ResponseLogps, plan: Plan, device: torch.device) -> Tensor:
    """Hidden states that predict the response tokens of a plan's first step: [M, D]."""
    module.eval()
    batches = (batch.to(device) for _, batch in plan.batches(0))
    return torch.cat([module(*batch.inputs, shared=batch.shared, bare=True) for batch in batches])
