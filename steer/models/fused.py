"""Log-probabilities of tokens by the fused head of Liger's kernels, which holds logits in chunks only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steer.errors import SteerError


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
