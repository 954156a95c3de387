"""SteerLM 2 (2406.08673): match the policy to the attribute model's judgement of its own responses.

Candidates of one prompt were drawn at one target a by Q', the policy that training starts from. KL(P || Q) with
P(y | a, x) ~ P(a | x, y) P(y | x) is estimated by sum_i w_i log(w_i / b_i) over them, where
w = softmax(log P(a | x, y) + log P(y | x) - log Q'(y | a, x)) is constant and b = softmax(log Q - log Q'); its gradient
is that of -sum_i (w_i - b_i) log Q(y_i | a, x) with constant b, the paper's.
Q' drew at temperature 1 from all tokens: rows drawn otherwise, or without a record of it, are refused. P(a | x, y)
comes from the scorer (`likelihood` of the rows), P(y | x) is Q' without a condition. Only this method conditions on the
target instead of the levels obtained.
Differs from the official code: that reads w and log Q' from files, which it does not make, divides by the mean number
of tokens of a prompt's responses, and prints the second sum, of which only the gradient means something; `tempered`
divides log P(y | x) - log Q' by the response's tokens, without which long responses leave an effective sample of one.
Rounds drop responses that were cut off and, without `--any-form`, malformed ones, so w and b are over the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer.errors import SteerError
from steer.methods.base import Candidates, Method, existing, levels, summed
from steer.methods.groups import Group, check_untouched, levelled
from steer.rows import Row, prompt_key
from steer.settings import Checked, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(Checked):
    """Settings of steerlm2."""

    tempered: bool = option(False, "Divide log P(y | x) - log Q' by the tokens, where the paper does not.")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Group responses drawn for a prompt at one target, conditioned on that target.

    Weights are log P(a | x, y), less that of the best: as shares the least likely would be 0.
    """
    levelled(rows)  # refuses rows that were never labelled
    draws: dict[tuple[str, tuple[tuple[str, int], ...]], list[Row]] = {}
    for row in rows:
        likelihood = row.get("likelihood")
        if row.get("target") and likelihood is not None and math.isfinite(likelihood):
            _check_draw(row)
            asked = tuple(sorted(row["target"].items()))
            draws.setdefault((prompt_key(row), asked), []).append(row)
    result = []
    for candidates in draws.values():
        most = max(row["likelihood"] for row in candidates)
        if len(candidates) > 1:
            drawn = tuple(row | {"levels": row["target"]} for row in candidates)
            result.append(Group(drawn, tuple(row["likelihood"] - most for row in candidates)))
    if not result:
        raise SteerError(
            f"no prompt has two responses to one target ({sum(map(len, draws.values()))} of {len(rows)} rows "
            'were drawn at a target and scored). Draw them: "steer generate POLICY --input ROWS --target best --n 8 '
            '--sampling own --output MORE"; then "steer label MORE --scorer SCORER --schema ROWS/schema.json '
            '--output LABELS".'
        )
    return result


def _check_draw(row: Row) -> None:
    """Refuse a row that Q' itself did not draw, or may not have: log Q' would be that of another policy."""
    missing = [name for name in ("temperature", "top_p") if row.get(name) is None]
    if missing:
        raise SteerError(
            f"row '{row['id']}': has no {' and no '.join(missing)}, so it is unknown how likely its draw was. Draw the "
            'responses with "steer generate", whose rows say so, or add the columns.'
        )
    check_untouched(row)


def weigh(c: Candidates, s: Settings) -> Candidates:
    """Replace log P(a | x, y) by w, which adds up to 1 over the candidates of a prompt."""
    if c.old is None or c.ref is None or c.weight is None:
        raise ValueError("steerlm2 needs the log-probabilities of the policy that drew, of it without a condition")
    ratio = c.ref - summed(c.old, c.mask)
    if s.tempered:
        ratio = ratio / c.mask.sum(-1).clamp(min=1)
    real = existing(c.mask)
    return c._replace(weight=_log_softmax(c.weight + ratio, real).exp().masked_fill(~real, 0.0))


def _log_softmax(x: Tensor, real: Tensor) -> Tensor:
    return x.masked_fill(~real, -1e30).log_softmax(-1).masked_fill(~real, 0.0)


def loss(logps: Tensor, c: Candidates, s: Settings) -> Tensor:
    """sum_i w_i log(w_i / b_i): [B, K, T] -> [B], w in `weight`; without `old` Q' draws all alike."""
    import torch

    if c.weight is None:
        raise ValueError("steerlm2 needs the weights of the candidates")
    logp = summed(logps, c.mask)
    drawn = 0.0 if c.old is None else summed(c.old, c.mask)
    log_b = _log_softmax(logp - drawn, existing(c.mask))
    return (torch.xlogy(c.weight, c.weight) - c.weight * log_b).sum(-1)


METHOD = Method(
    rows="drawn at a target",
    groups=groups,
    loss=loss,
    settings=Settings,
    per="prompt",
    needs={"ref", "old", "untouched", "whole condition"},  # what a candidate was drawn at is what it is weighed at
    condition=levels,
    weigh=weigh,
    pool="last",
    rate=0.1,  # as tuned in the embedded world; 1e-7 in the paper
)
