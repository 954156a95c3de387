"""Compute a prompt once for all its candidates: the responses share the key-value states of the prompt.

Only causal models, whose states of the prompt do not depend on the response. Scores are the same up to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from attribute_models.backbone import Backbone, Batch, Tokens

SHORTEST = 8  # tokens of a prompt that is worth sharing
WORTH = 0.25  # share of all tokens that must be saved, or smaller batches cost more than sharing saves
WHOLE = 2  # budgets that the rows of one prompt may take, so that it is computed once
STATES = 16  # budgets of tokens whose states one batch may hold


def parts(tokens: Sequence[Tokens], budget: int) -> Iterator[list[int]]:
    """Batches of rows that share their prompt with others: whole prompts of similar length, cut at the budget.

    The budget counts computed tokens, with padding: of the distinct prompts and of the responses.
    """
    same: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(tokens):
        if row.start >= SHORTEST and row.end > row.start:
            same[tuple(row.ids[: row.start])].append(i)
    groups = sorted((len(prompt), rows) for prompt, rows in same.items() if len(rows) > 1)
    saved = sum(size * (len(rows) - 1) for size, rows in groups)
    if saved < WORTH * sum(len(row.ids) for row in tokens):
        return
    part: list[int] = []
    prompts, width = 0, 0
    for size, rows in reversed(groups):
        rows = sorted(rows, key=lambda i: -len(tokens[i].ids))
        widest = max(width, len(tokens[rows[0]].ids) - size)
        longest = tokens[part[0]].start if part else size
        if part and (prompts + 1) * longest + (len(part) + len(rows)) * widest > budget:
            yield part
            part, prompts, width = [], 0, 0
        prompts += 1
        for i in rows:
            longest = tokens[part[0]].start if part else size
            wide = max(width, len(tokens[i].ids) - size)
            room = budget if prompts > 1 else WHOLE * budget
            computed = prompts * longest + (len(part) + 1) * wide
            if part and (computed > room or (len(part) + 1) * longest > STATES * budget):
                yield part
                part, prompts, wide = [], 1, len(tokens[i].ids) - size
            part.append(i)
            width = wide
    if part:
        yield part


def batch(backbone: Backbone, rows: Sequence[Tokens]) -> Batch:
    """Make a batch of the responses, and compute the states of their prompts."""
    from attribute_models.backbone import Tokens

    place: dict[tuple[int, ...], int] = {}
    prompt_of = torch.tensor([place.setdefault(tuple(row.ids[: row.start]), len(place)) for row in rows])
    prompts = [torch.tensor(prompt) for prompt in place]
    ids = pad_sequence(prompts, batch_first=True, padding_value=backbone.pad, padding_side="left")
    real = (torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor([[len(p)] for p in prompts])).long()
    attention = real.to(backbone.device)
    past = decoder(backbone.model)(
        input_ids=ids.to(backbone.device),
        attention_mask=attention,
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
    ).past_key_values
    prompt_of = prompt_of.to(backbone.device)
    past.batch_select_indices(prompt_of)
    responses = backbone.batch([Tokens(row.ids[row.start :], 0, row.end - row.start, False) for row in rows])
    mask = responses.attention_mask
    mask = torch.ones_like(responses.input_ids) if mask is None else mask
    start = torch.tensor([[row.start] for row in rows], device=backbone.device)
    return responses._replace(
        attention_mask=torch.cat([attention[prompt_of], mask], 1),
        position_ids=start + torch.arange(mask.shape[1], device=backbone.device),
        past_key_values=past,
    )


def decoder(model: Any) -> Any:
    """The model without its head."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, inner.base_model_prefix, inner)


def works(backbone: Backbone) -> bool:
    """Whether the model can share states of a prompt: both ways are compared on two made-up prompts."""
    if backbone.encoder:
        return False
    rows = backbone.made_up((20, 3), (20, 3), (14, 5))
    backbone.model.eval()
    with torch.no_grad():
        try:
            shared = decoder(backbone.model)(**batch(backbone, rows).inputs()).last_hidden_state
        except (AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError, IndexError):
            return False  # another kind of states, such as those of a recurrent model
        plain = decoder(backbone.model)(**backbone.batch(rows).inputs(), use_cache=False).last_hidden_state
    tolerance = 1e-3 if backbone.model.dtype == torch.float32 else 5e-2
    return all(
        torch.allclose(shared[i, :2], plain[i, row.start : row.end], atol=tolerance, rtol=tolerance)
        for i, row in enumerate(rows)
    )
