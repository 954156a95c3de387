"""Log-probs of responses under the starting policy: computed once, before training, and cached on disk by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object

from steer.cache import cache_folder
from steer.methods.base import Array, Method
from steer.models.collate import Batch, Sequence_, collate, cost, dealt, micro_batches
from steer.models.log_probs import ResponseLogps
from steer.progress import note, progress
from steer.run_folder import follows
from steer.training.batches import Known, Plan


def known_of(
    module: ResponseLogps, plan: Plan, steps: int, method: Method, settings: Any, accelerator: Any, start: str
) -> Known:
    """Compute what the method needs of every candidate: log-probs under the starting policy, and weights from them.

    Only groups that the first `steps` steps see have any. Processes share the work. `start`: identity of the starting
    policy, for the cache; empty: do not cache.
    """
    if "ref" not in method.needs or method.on_policy:
        return Known()
    tokens, used = plan.tokens, plan.used(steps)
    groups = Made(used, lambda i: [tokens.sequence(row) for row in plan.groups[i].rows])
    batching = (tokens.tokenizer.pad_token_id, plan.micro_batch_tokens, accelerator.device, plan.shared)

    def compute() -> list[float]:
        share = (accelerator.process_index, accelerator.num_processes)
        own = response_tokens(module, groups, *batching, share=share, keep=np.sum)[0]
        return [sum(x) for x in zip(*gather_object([[float(np.sum(logps)) for logps in own]]))]

    sizes = [len(plan.groups[i].rows) for i in used]
    refs = dict(zip(used, cached(content_hash(start, groups), sizes, compute)))
    if method.weigh is None:
        return Known(refs)
    conditioned = Made(used, lambda i: plan.sequences(0, i))
    flat = iter(response_tokens(module, conditioned, *batching)[0])
    old = {i: [next(flat) for _ in range(size)] for i, size in zip(used, sizes)}
    weights = {}
    for i, sequences in zip(used, conditioned):
        zeros, own = [[0.0] * len(refs[i])], [plan.groups[i].weights]
        batch = collate([sequences], pad=0, rewards=zeros, weights=own, refs=[refs[i]]).with_tokens(old=[old[i]])
        weighed = method.weigh(batch.candidates, settings).weight
        assert weighed is not None
        weights[i] = weighed[0].tolist()
    return Known(refs, old, weights)


class Made(Sequence[list[Sequence_]]):
    """Sequences of groups, each made when it is read: token ids of all groups would not fit into memory as lists."""

    def __init__(self, indices: Sequence[int], make: Callable[[int], list[Sequence_]]) -> None:
        self.indices, self.make = indices, make

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, at: Any) -> Any:
        indices = self.indices[at]
        return self.make(indices) if isinstance(indices, int) else list(map(self.make, indices))


def importance_share(weights: Iterable[Sequence[float]]) -> float:
    """Mean over groups of (sum w)^2 / (K sum w^2), w the importance weights, which add up to 1."""
    return float(np.mean([1 / (np.square(w).sum() * len(w)) for w in weights]))


@torch.no_grad()
def base_states(module: Any, plan: Plan, indices: Sequence[int], batch: Batch, accelerator: Any) -> torch.Tensor:
    """Hidden states of a batch's responses in the starting policy, without a condition: [M, D]."""
    inner, tokens = accelerator.unwrap_model(module), plan.tokens
    groups = [[tokens.sequence(row) for row in plan.groups[i].rows] for i in indices]
    ones = [[1.0] * len(g) for g in groups]
    plain = collate(groups, pad=tokens.tokenizer.pad_token_id, rewards=ones, weights=ones).to(accelerator.device)
    training = inner.training
    inner.eval()
    with inner.started():
        states: torch.Tensor = inner(*plain.inputs, bare=True)
    inner.train(training)
    return states[: len(batch.targets)]  # an emptied batch has none


@torch.no_grad()
def response_tokens(
    module: ResponseLogps,
    groups: Sequence[Sequence[Sequence_]],
    pad: int,
    budget: int,
    device: torch.device,
    shared: bool = False,
    share: tuple[int, int] = (0, 1),
    keep: Callable[[Array], Any] = lambda logps: logps,
) -> tuple[list[Array], list[Array]]:
    """Log-probs of the tokens of each response, in order, and values if there is a value head.

    `shared`: compute a prompt once for the candidates of its group. `share`: this process's number, of how many that
    share the work; arrays of responses that others compute are empty. `keep`: what is kept of a response's array.
    """
    starts = np.cumsum([0, *map(len, groups)])
    logps: list[Array] = [np.zeros(0)] * int(starts[-1])
    values = logps.copy()
    training = module.training
    module.eval()
    parts = list(micro_batches([cost(g, shared=shared) for g in groups], budget, share[1], shared=shared))
    for part, own in progress(list(dealt(parts, *share)), what="log-probs of responses", unit="batches"):
        some = [groups[i] for i in part]
        ones = [[1.0] * len(g) for g in some]
        batch = collate(some, pad=pad, rewards=ones, weights=ones, shared=shared).to(device)
        out = module(*batch.inputs, shared=batch.shared)
        at = [starts[i] + j for i in part for j in range(len(groups[i])) if own]
        ends = np.cumsum([len(s.response) for g in some for s in g])
        for arrays, row in zip((logps, values), out[None] if out.ndim == 1 else out):
            for i, piece in zip(at, np.split(row.cpu().double().numpy(), ends[:-1])):
                arrays[i] = keep(piece)
    module.train(training)
    return logps, values


def content_hash(model: str, groups: Sequence[Sequence[Sequence_]]) -> str:
    """Cache key over model, precision and token ids; empty means do not cache."""
    if not model:
        return ""
    digest = hashlib.blake2b(model.encode(), digest_size=16)
    for group in groups:
        for s in group:
            digest.update(np.array([len(s.prefix), len(s.response), *s.prefix, *s.response], dtype=np.int64).tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def cached(key: str, sizes: Sequence[int], compute: Callable[[], list[float]]) -> list[list[float]]:
    """Read the values of all candidates from disk, or compute and write them: [groups][K], K as in `sizes`."""
    path = cache_folder() / "references" / f"{key}.npz"
    main = not follows()
    # One process looks, so that all compute or none does.
    flat = broadcast_object_list([_read(path) if key and main else None])[0]
    if flat is None or len(flat) != sum(sizes):
        flat = compute()
        if key and main:
            _write(path, flat)
    values = iter(flat)
    return [[next(values) for _ in range(size)] for size in sizes]


def _read(path: Path) -> list[float] | None:
    try:
        # NumPy would leave a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            return [float(x) for x in saved["logps"]]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # absent or damaged: compute it again
        return None


def _write(path: Path, values: Sequence[float]) -> None:
    temporary = path.with_name(f".{path.stem}.{os.urandom(4).hex()}.npz")  # ids of processes are one machine's
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, logps=np.array(values))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        note(f"reference log-probs are not cached: {path.parent} ({error.strerror}).")
