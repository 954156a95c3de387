"""Groups -> tensors: candidates after their own prompts, or after a shared one and packed; padded under masks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steer.methods.base import Array, Candidates

SPAN = 1 << 16  # between the numbers of two groups in the attention mask of a row
DEPTH = 1 << 32  # between those of two parts of a trunk; the last part, which all that sees it sees whole, has depth 0


class Sequence_(NamedTuple):  # noqa: N801  # `Sequence` is taken by the standard library
    """Token ids of one candidate: prompt and condition, and the response incl. EOS."""

    prefix: list[int]
    response: list[int]


class Batch(NamedTuple):
    """N right-padded rows, and the flat positions that predict the M response tokens of B x K candidates.

    A row holds one candidate; or with `shared` several groups, each a prompt or conversation and all its candidates,
    kept apart by the attention mask (`log_probs.visible`).
    """

    input_ids: Tensor  # [N, L]
    attention_mask: Tensor  # [N, L]
    positions: Tensor  # [M]
    targets: Tensor  # [M]
    candidates: Candidates
    tokens: int  # of all candidates by themselves, without padding
    shared: bool = False

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs of `ResponseLogps`: input_ids, attention_mask, positions, targets."""
        return self.input_ids, self.attention_mask, self.positions, self.targets

    def to(self, device: torch.device) -> Batch:
        """Move the batch to another device."""
        values = {k: v.to(device) for k, v in self.candidates._asdict().items() if v is not None}
        ids, attention, positions, targets = (x.to(device) for x in self.inputs)
        candidates = self.candidates._replace(**values)
        return Batch(ids, attention, positions, targets, candidates, self.tokens, self.shared)

    def with_tokens(self, **values: Sequence[Sequence[Array]]) -> Batch:
        """Add values of every token to the candidates: [B][K] arrays [T] by name."""
        more = {name: _tokenwise(each, self.candidates.mask.shape) for name, each in values.items()}
        return self._replace(candidates=self.candidates._replace(**more))

    def emptied(self) -> Batch:
        """Keep the sequences, drop all response tokens: for a process that has no work of its own in a step."""
        c, nothing = self.candidates, self.positions[:0]
        mask = torch.zeros_like(c.mask)
        return self._replace(positions=nothing, targets=nothing, tokens=0, candidates=c._replace(mask=mask))


class Line(NamedTuple):
    """One row of a batch: ids, attention mask, and the positions that predict the response tokens."""

    ids: list[int]
    mask: list[int]
    positions: list[int]


def line(group: Sequence[Sequence_]) -> Line:
    """Lay out candidates as branches of a trunk, the longest part of a prefix that another candidate has too.

    A branch leaves the trunk where its ids do: at its end, or earlier for an earlier turn of the conversation. What the
    trunk has already, be it an answer, is not computed again.
    """
    trunk, leaves = _trunk(group)
    depths = {at: depth for depth, at in enumerate(sorted({*leaves, len(trunk)}, reverse=True))}
    ids, mask, positions = list(trunk), [1] * len(trunk), []
    for at, depth in depths.items():
        mask[:at] = [1 + depth * DEPTH] * at
    for j, (s, at) in enumerate(zip(group, leaves)):
        branch, start = (s.prefix + s.response)[at:], len(ids)
        ids += branch
        mask += [(j + 2 if len(group) > 1 else 1) + depths[at] * DEPTH] * len(branch)
        # A token is predicted at the one before it: on the trunk up to where the branch leaves, then on the branch.
        before = range(len(s.prefix) - 1, len(s.prefix) + len(s.response) - 1)
        positions += [i if i < at else start + i - at for i in before]
    return Line(ids, mask, positions)


def _trunk(group: Sequence[Sequence_]) -> tuple[list[int], list[int]]:
    """Ids of the trunk, and for each candidate how much of it is its own beginning."""
    longest = max((s.prefix for s in group), key=len)
    others = list(group)
    others.pop(next(j for j, s in enumerate(group) if s.prefix is longest))
    length = max((_common(longest, s) for s in others), default=len(longest))
    return longest[:length], [min(length, _common(longest, s)) for s in group]


def _common(prefix: Sequence[int], s: Sequence_) -> int:
    """Length of the common beginning of a prefix and a candidate."""
    pairs = enumerate(zip(prefix, chain(s.prefix, s.response)))
    return next((i for i, (a, b) in pairs if a != b), min(len(prefix), len(s.prefix) + len(s.response)))


def collate(
    groups: Sequence[Sequence[Sequence_]],
    *,
    pad: int,
    rewards: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]],
    refs: Sequence[Sequence[float]] | None = None,
    shared: bool = False,
) -> Batch:
    """Make a batch of groups of candidates; shorter groups and responses are padded under the mask.

    `shared`: put a prompt once before all its candidates, and short groups into one row; else one before each.
    """
    b, k = len(groups), max(len(g) for g in groups)
    t = max(len(s.response) for g in groups for s in g)
    lines = [line(g) for g in groups] if shared else [line([s]) for g in groups for s in g]
    lengths = [len(x.ids) for x in lines]
    rows = list(packed(lengths)) if shared else [[n] for n in range(len(lines))]
    shared = len(rows) < sum(map(len, groups))
    length = max(lengths)
    ids = np.full((len(rows), length), pad, dtype=np.int64)
    attention = np.zeros((len(rows), length), dtype=np.int64)
    starts = [0] * len(lines)  # flat
    for n, row in enumerate(rows):
        at = 0
        for number, i in enumerate(row):
            starts[i], end = n * length + at, at + lengths[i]
            ids[n, at:end] = lines[i].ids
            attention[n, at:end] = np.asarray(lines[i].mask) + number * SPAN
            at = end
    mask = np.zeros((b, k, t), dtype=bool)
    for i, g in enumerate(groups):
        for j, s in enumerate(g):
            mask[i, j, : len(s.response)] = True
    candidates = Candidates(
        torch.from_numpy(mask),
        _padded(rewards, b, k),
        _padded(refs, b, k) if refs is not None else None,
        _padded(weights, b, k),
    )
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(attention),
        torch.from_numpy(np.concatenate([np.asarray(x.positions) + start for start, x in zip(starts, lines)])),
        torch.from_numpy(np.concatenate([np.asarray(s.response) for g in groups for s in g])),
        candidates,
        sum(len(s.prefix) + len(s.response) for g in groups for s in g),
        shared,
    )


def cost(group: Sequence[Sequence_], *, shared: bool) -> int:
    """Number of tokens of a group in a batch, incl. padding among its candidates."""
    lengths = [len(s.prefix) + len(s.response) for s in group]
    if shared and len(group) > 1:
        trunk, leaves = _trunk(group)
        return len(trunk) + sum(lengths) - sum(leaves)
    return len(group) * max(lengths)


def _padded(values: Sequence[Sequence[float]], b: int, k: int) -> Tensor:
    out = torch.zeros(b, k)
    for i, row in enumerate(values):
        out[i, : len(row)] = torch.tensor(row)
    return out


def _tokenwise(values: Sequence[Sequence[Array]], shape: Sequence[int]) -> Tensor:
    out = torch.zeros(*shape)
    for i, group in enumerate(values):
        for j, tokens in enumerate(group):
            out[i, j, : len(tokens)] = torch.from_numpy(tokens.copy())  # no reversed view
    return out


def micro_batches(lengths: Sequence[int], budget: int, least: int = 1, *, shared: bool = False) -> Iterator[list[int]]:
    """Split indices by length, so that padded tokens stay within `budget`; into at least `least` parts if possible.

    `shared`: short ones fill up the rows of long ones, as in `collate`.
    """
    left = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    most = -(-len(left) // least)
    part: list[int] = []
    while shared and left:
        width = lengths[left[-1]]
        for _ in range(max(1, budget // width)):
            part += _row(left, lengths, width, most - len(part))
        yield part
        part = []
    for i in left:
        if part and (lengths[i] * (len(part) + 1) > budget or len(part) >= most):
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def dealt(parts: Sequence[list[int]], rank: int, world: int) -> list[tuple[list[int], bool]]:
    """Parts of this process, and whether each is its own: every process gets as many, for sharded weights need it."""
    starts = range(0, len(parts), world)
    return [(parts[i + rank], True) if i + rank < len(parts) else (parts[0], False) for i in starts]


def packed(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Pack indices into rows, none longer than the longest: first fit, longest first."""
    left = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    width = lengths[left[-1]]
    while left:
        yield _row(left, lengths, width, len(left))


def _row(left: list[int], lengths: Sequence[int], room: int, most: int) -> list[int]:
    """Take the longest that fits from `left`, which is sorted by length, until none does."""
    row: list[int] = []
    while len(row) < most and (at := bisect_right(left, room, key=lengths.__getitem__)):
        row.append(left.pop(at - 1))
        room -= lengths[row[-1]]
    return row
