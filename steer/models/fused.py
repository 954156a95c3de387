"""Log-probabilities of tokens from hidden states by heads that hold logits in chunks only: ours, and Liger's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from steer.errors import SteerError


class FrozenHead(torch.autograd.Function):
    """Log-probabilities from a head that is not trained; the forward pass computes their gradient too.

    The gradient of log p(y) by the hidden state h is W[y] - sum_v p(v) W[v], whatever the loss is, so nothing [M, V]
    is kept or computed twice: [M, D], [V, D], bias [V] or None, [M] -> [M].
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, sizes: Any) -> Tensor:
        """Compute in chunks; `sizes`: factor of the logits, and rows of a chunk."""
        scale, size = sizes
        logps, slope = [], []
        for h, y in zip(hidden.split(size), targets.split(size)):
            logits = linear(h, weight, bias).float()
            if scale != 1.0:
                logits *= scale
            logits -= logits.amax(-1, keepdim=True)
            chosen = logits.gather(1, y[:, None])
            total = logits.exp_().sum(-1, keepdim=True)
            logps.append((chosen - total.log())[:, 0])
            if ctx.needs_input_grad[0]:
                mean = (logits.to(weight.dtype) @ weight).float() / total
                slope.append((scale * (weight[y].float() - mean)).to(hidden.dtype))
        ctx.save_for_backward(*([torch.cat(slope)] if slope else []))
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Propagate gradients: [M] -> [M, D]."""
        (slope,) = ctx.saved_tensors
        return (grad[0][:, None] * slope).to(slope.dtype), None, None, None, None


def liger(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Log-probabilities from a linear head, trained or not: [M, D], [V, D], bias [V] or None, [M] -> [M]."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    nll: Tensor = liger_fused_linear_cross_entropy(hidden, weight, targets, bias, reduction="none")
    return -nll


def check_liger(device: torch.device) -> None:
    """Refuse a Liger whose values or gradients are not torch's where every token has its own factor in the loss."""
    draw = torch.Generator().manual_seed(0)
    head, found = nn.Linear(64, 300), []
    hidden, factors = torch.randn(9, 64, generator=draw), torch.linspace(-1, 2, 9, device=device)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / 8)
    head, targets = head.to(device), torch.arange(9, device=device)
    for fused in (False, True):
        h = hidden.to(device).requires_grad_()
        logps = (
            liger(h, head.weight, head.bias, targets) if fused else -cross_entropy(head(h), targets, reduction="none")
        )
        found.append([logps, *torch.autograd.grad((logps * factors).sum(), [h, head.weight, head.bias])])
    if not all(torch.allclose(a, b, atol=1e-3, rtol=1e-2) for a, b in zip(*found)):
        raise SteerError("liger-kernel gives other gradients than torch")
