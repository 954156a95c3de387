"""Shorten the last layer of a classifier that reads an encoder's first token to that token.

The other tokens of the last layer are needed as keys and values only, so their output projection and feed-forward part,
three quarters of the layer, are not computed. Scores are the same up to rounding; training is shortened too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from attribute_models.backbone import Backbone


def shorten(backbone: Backbone) -> bool:
    """Skip the unread tokens in the last layer of a model of BERT's shape; return whether that was possible.

    Both ways are compared on made-up texts: a head that reads more than the first token keeps all of them.
    """
    layers = getattr(getattr(backbone.model.base_model, "encoder", None), "layer", None)
    output = getattr(getattr(layers[-1], "attention", None), "output", None) if layers else None
    if not backbone.encoder or output is None:
        return False
    before = _logits(backbone)
    hook = output.register_forward_pre_hook(_read)
    try:
        alike = torch.allclose(before, _logits(backbone), atol=1e-4, rtol=1e-4)
    except (IndexError, TypeError, ValueError, RuntimeError):
        alike = False
    if not alike:
        hook.remove()
    return alike


def _read(module: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
    """Select the first token of all states: [B, L, H] -> [B, 1, H]."""
    return tuple(x[:, :1] for x in states)


def _logits(backbone: Backbone) -> torch.Tensor:
    """Logits of two made-up texts of different lengths."""
    training = backbone.model.training
    backbone.model.eval()
    with torch.no_grad():
        rows = backbone.batch(backbone.made_up((20, 3), (14, 5)))
        logits: torch.Tensor = backbone.model(**rows.inputs()).logits.float()
    backbone.model.train(training)
    return logits
