"""Compute a prompt once for all its candidates: the responses share the key-value states of the prompt.

Only causal models, whose states of the prompt do not depend on the response. Scores are the same up to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

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
    from attribute_models.backbone import Batch

    distinct = {tuple(row.ids[: row.start]): i for i, row in enumerate(rows)}
    prompts = list(distinct)
    place = {prompt: n for n, prompt in enumerate(prompts)}
    which = torch.tensor([place[tuple(row.ids[: row.start])] for row in rows], device=backbone.device)
    longest, width = max(map(len, prompts)), max(len(row.ids) - row.start for row in rows)
    ids = np.full((len(prompts), longest), backbone.pad, dtype=np.int64)
    real = np.zeros_like(ids)
    for n, prompt in enumerate(prompts):
        ids[n, longest - len(prompt) :] = prompt
        real[n, longest - len(prompt) :] = 1
    attention = torch.from_numpy(real).to(backbone.device)
    past = decoder(backbone.model)(
        input_ids=torch.from_numpy(ids).to(backbone.device),
        attention_mask=attention,
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
    ).past_key_values
    past.batch_select_indices(which)
    responses = np.full((len(rows), width), backbone.pad, dtype=np.int64)
    mask, response = np.zeros((2, len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        own = row.ids[row.start :]
        responses[i, : len(own)], mask[i, : len(own)], response[i, : row.end - row.start] = own, 1, 1
    lengths = torch.tensor([row.start for row in rows], device=backbone.device)
    return Batch(
        torch.from_numpy(responses).to(backbone.device),
        torch.cat([attention[which], torch.from_numpy(mask).to(backbone.device)], 1),
        None,
        torch.from_numpy(response).bool().to(backbone.device),
        torch.tensor([len(row.ids) - row.start - 1 for row in rows], device=backbone.device),
        lengths[:, None] + torch.arange(width, device=backbone.device),
        past,
    )


def decoder(model: Any) -> Any:
    """The model without its head."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, inner.base_model_prefix, inner)


def works(backbone: Backbone) -> bool:
    """Whether the model can share states of a prompt: both ways are compared on two made-up prompts."""
    from attribute_models.backbone import Tokens

    if backbone.encoder:
        return False
    size = backbone.model.get_input_embeddings().weight.shape[0]
    lines = [[(7 * i + k) % size for i in range(n)] for n, k in ((20, 3), (20, 3), (14, 5))]
    rows = [
        Tokens([*line, (11 + i) % size, (12 + i) % size], len(line), len(line) + 2, False)
        for i, line in enumerate(lines)
    ]
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
