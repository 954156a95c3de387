"""Choose the attention and the head of a training: those that there are, timed on micro-batches of the first steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from steer.errors import SteerError
from steer.models import attention
from steer.models.collate import Batch
from steer.models.fused import check_liger, liger
from steer.models.log_probs import ResponseLogps, apart
from steer.models.policy import Policy
from steer.progress import note
from steer.training import checkpoint
from steer.training.pace import timed, unforeseeable

if TYPE_CHECKING:
    from steer.training.loop import Loop

TRIED = {"cuda": (attention.IN_BLOCKS,)}  # beside the model's own attention, by kind of device; others try nothing
LEAST = 50  # optimizer steps of a training that pays for what compiles in a trial
WARM, TIMED = 3, 2  # micro-batches, of different shapes as in training: a compiler takes each of the first ones for new
GAIN = 0.05  # share of the time that another way must save


def fastest(policy: Policy, module: ResponseLogps, loop: Loop, folder: Path) -> dict[str, str]:
    """Let the model attend, and its head compute, in the way that trains fastest here, or as before a resume point.

    Return the choices as facts; none where there is one way only. `folder`: of the resume point. Collective: the main
    process chooses for all. SteerError if what was chosen before is not there.
    """
    facts: dict[str, str] = {}
    point = checkpoint.state_of(folder)
    before = point.get("ways", {})
    for part, ways in _ways(policy.model, module, loop).items():
        if part not in before and len(ways) == 1:
            continue
        if point:
            facts[part] = before.get(part, next(iter(ways)))
        else:
            main = loop.accelerator.is_main_process
            [facts[part]] = broadcast_object_list([_chosen(part, ways, module, loop) if main else None])
        try:
            ways[facts[part]]()
        except (KeyError, SteerError) as error:
            raise SteerError(
                f"{folder}: this training began with {part} {facts[part]}, which does not work here ({error}). Go on "
                "in the environment that it began in, or begin again with --overwrite."
            ) from None
    return facts


def _ways(model: Any, module: ResponseLogps, loop: Loop) -> dict[str, dict[str, Callable[[], None]]]:
    """Return what switches to each way of computing a part, by name, the present one first.

    There are no others where the time of a step cannot be foreseen, or steps are few.
    """
    device = next(module.parameters()).device
    others = () if unforeseeable(loop) or loop.steps < LEAST else TRIED.get(device.type, ())
    free = loop.plan.shared and not loop.options.attn_implementation
    names = (model.config._attn_implementation, *(others if free else ()))
    ways: dict[str, dict[str, Callable[[], None]]] = {
        "attention": {name: partial(attention.choose, model, name) for name in names},
        "head": {"chunks": partial(setattr, module, "fused", None)},
    }
    if others and module.linear and "kl" not in loop.method.needs and find_spec("liger_kernel"):

        def fuse() -> None:
            check_liger(device)
            module.fused = liger

        ways["head"]["liger"] = fuse
    return ways


def _chosen(part: str, ways: Mapping[str, Callable[[], None]], module: ResponseLogps, loop: Loop) -> str:
    """Return the fastest way, and say it; one that fails or gives other states or log-probs than the first is out."""
    device = next(module.parameters()).device
    batches = [next(loop.plan.batches(step)) for step in range(WARM + TIMED)]
    tokens = sum(batch.tokens for _, batch in batches[-TIMED:])
    seconds: dict[str, float] = {}
    more, first = "", None
    for name, switch in ways.items():
        try:
            switch()
            states = _seen(module, batches[0][1].to(device), bare=part == "attention")
            if first is None:
                first = states
            elif not (far := apart(states, first)) < 2 * module.rounding:  # either may be that far from exact
                more += f"; {name} gives other values ({far:.1g} apart)"
                continue
            timed(module, batches[:WARM], loop.plan, loop, device)
            seconds[name] = timed(module, batches[WARM:], loop.plan, loop, device)[1]
        except Exception as error:  # compilers of kernels raise kinds of their own
            if not seconds:  # the model's own: the training would fail
                raise
            module.zero_grad(set_to_none=True)
            more += f"; {name} fails ({(str(error).splitlines() or [type(error).__name__])[0]:.100})"
    times = ", ".join(f"{name} {time:.3g} s" for name, time in seconds.items())
    own = next(iter(seconds))
    name = min(seconds, key=lambda name: seconds[name] / (1 if name == own else 1 - GAIN))
    note(f"{part} {name}: {TIMED} forward and backward passes of {tokens:,} tokens here take {times}{more}.")
    return name


@torch.no_grad()
def _seen(module: ResponseLogps, batch: Batch, *, bare: bool) -> Tensor:
    """Log-probs of response tokens [M], or `bare` the states that predict them [M, D].

    States tell attention apart: log-probs of unlikely tokens differ by rounding alone.
    """
    module.eval()
    values: Tensor = module(*batch.inputs, shared=batch.shared, bare=bare)
    return values
