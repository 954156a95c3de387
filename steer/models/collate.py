"""Groups -> tensors: candidates after their own prompts, or after a shared one and packed; padded under masks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attribute_models.arrays import common
from steer.methods.base import Array, Candidates

WIDE = 2000  # tokens of a row at which attention costs about as much as all other layers of a small model
SPARE = (1.0, 1.02, 1.05, 1.1)  # widths of a row that are tried, as shares of what its number of rows needs
SPAN = 1 << 16  # between the numbers of two groups in the attention mask of a row
DEPTH = 1 << 32  # times the number of parts below one in the tree of a group: what is added to the number of the part


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


class Part(NamedTuple):
    """Tokens that candidates have in common, computed once: `start` to `end` of each, after the part `parent`."""

    members: list[int]
    start: int
    end: int
    parent: int  # -1: none


def line(group: Sequence[Sequence_]) -> Line:
    """Lay out candidates as a tree: what their prefixes have in common, be it an earlier answer, stands there once.

    The mask numbers the parts of the tree from 1, parents first, and adds DEPTH times how many parts are below.
    """
    parts = _tree(group)
    below = [0] * len(parts)
    for number in reversed(range(len(parts))):
        if (parent := parts[number].parent) >= 0:
            below[parent] += 1 + below[number]
    ids: list[int] = []
    mask: list[int] = []
    places: list[list[int]] = [[] for _ in group]  # of the tokens of each candidate
    for number, part in enumerate(parts):
        s, size = group[part.members[0]], part.end - part.start
        for j in part.members:
            places[j] += range(len(ids), len(ids) + size)
        ids += (s.prefix + s.response)[part.start : part.end]
        mask += [number + 1 + below[number] * DEPTH] * size
    # A token is predicted at the one before it.
    return Line(ids, mask, [at for s, its in zip(group, places) for at in its[len(s.prefix) - 1 : -1]])


def _tree(group: Sequence[Sequence_]) -> list[Part]:
    """Parts of the tree in the order of their candidates, parents first."""
    whole = [s.prefix + s.response for s in group]

    def alike(members: Sequence[int], at: int) -> list[list[int]]:
        """Candidates that go on alike from `at`, in a token of a prefix; responses stay apart from each other."""
        by_token: dict[int, list[int]] = {}
        for j in members:
            if at < len(whole[j]):
                by_token.setdefault(whole[j][at], []).append(j)
        sets: list[list[int]] = []
        for js in by_token.values():
            sets += [js] if any(at < len(group[j].prefix) for j in js) else [[j] for j in js]
        return sorted(sets)

    parts: list[Part] = []
    waiting = [(members, 0, -1) for members in reversed(alike(range(len(group)), 0))]
    while waiting:
        members, start, parent = waiting.pop()
        end = len(whole[members[0]])
        if len(members) > 1:
            longest = max(len(group[j].prefix) for j in members)
            end = start + common([whole[j][start:longest] for j in members])
        parts.append(Part(members, start, end, parent))
        waiting += [(more, end, len(parts) - 1) for more in reversed(alike(members, end))]
    return parts


def collate(
    groups: Sequence[Sequence[Sequence_]],
    *,
    pad: int,
    rewards: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]],
    refs: Sequence[Sequence[float]] | None = None,
    shares: Sequence[Sequence[float]] | None = None,
    shared: bool = False,
) -> Batch:
    """Make a batch of groups of candidates; shorter groups and responses are padded under the mask.

    `shared`: put a prompt once before all its candidates, and short groups into one row; else one before each.
    """
    b, k = len(groups), max(len(g) for g in groups)
    t = max(len(s.response) for g in groups for s in g)
    lines = [line(g) for g in groups] if shared else [line([s]) for g in groups for s in g]
    lengths = [len(x.ids) for x in lines]
    rows, length = packed(lengths) if shared else ([[n] for n in range(len(lines))], max(lengths))
    shared = len(rows) < sum(map(len, groups))
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
        share=_padded(shares, b, k) if shares is not None else None,
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
    if shared:
        return sum(part.end - part.start for part in _tree(group))
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


def packed(lengths: Sequence[int]) -> tuple[list[list[int]], int]:
    """Pack indices into rows of one width; return the rows, and the width with the least work.

    Rows as wide as the longest leave gaps that wider rows fill, but attention costs more in a wide row.
    """

    def work(choice: tuple[list[list[int]], int]) -> float:
        rows, width = choice
        return len(rows) * width * (1 + width / WIDE)

    order, longest, total = sorted(range(len(lengths)), key=lambda i: (lengths[i], i)), max(lengths), sum(lengths)
    most = len(_filled(order, lengths, longest))
    widths = {longest} | {
        max(longest, ceil(total / count * spare)) for count in range((most + 1) // 2, most + 1) for spare in SPARE
    }
    packings = (_filled(order, lengths, width) for width in sorted(widths))
    return min(((rows, max(sum(lengths[i] for i in row) for row in rows)) for rows in packings), key=work)


def _filled(order: Sequence[int], lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of at most `width`: first fit, longest first."""
    left, rows = list(order), []
    while left:
        rows.append(_row(left, lengths, width, len(left)))
    return rows


def _row(left: list[int], lengths: Sequence[int], room: int, most: int) -> list[int]:
    """Take the longest that fits from `left`, which is sorted by length, until none does."""
    row: list[int] = []
    while len(row) < most and (at := bisect_right(left, room, key=lengths.__getitem__)):
        row.append(left.pop(at - 1))
        room -= lengths[row[-1]]
    return row
