"""Log-probabilities of response tokens: without [L, V] logits, and with one prompt for all its candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from steer.errors import SteerError
from steer.methods.base import Candidates
from steer.models import attention
from steer.models.collate import DEPTH, Batch, Sequence_, line
from steer.models.fused import FrozenHead
from steer.models.parts import decoder_of
from steer.models.quantization import is_quantised

# Logits (positions x vocabulary) in memory at once: few enough for the cache of a CPU; enough to keep a GPU busy.
HEAD_CHUNK = {"cpu": 1 << 23, "mps": 1 << 24}
_TRIAL = ((3, 11), (11, 27), (31, 47))  # token ids of a prompt and two candidates
# Error of states, as a share of them: rounding stays below it, the smallest model that sees too much lies above.
_ROUNDING = {torch.float32: 2e-4}


def visible(attention_mask: Tensor) -> Tensor:
    """Mask of the tokens that each token sees, itself included: [N, L] -> [N, L, L] (query, key).

    `attention_mask` is 0 on padding, else as `collate.line` numbers the parts of a group, and SPAN more in each
    following group: a token sees its own part and those that it is below. The position of a token is the number of
    tokens that it sees, less one.
    """
    number, below = attention_mask % DEPTH, attention_mask // DEPTH
    query, first, last = number[:, :, None], number[:, None, :], (number + below)[:, None, :]
    length = attention_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
    return causal & (first <= query) & (query <= last)


def _recomputing(model: nn.Module) -> list[nn.Module]:
    """Let layers with gradient checkpointing recompute themselves without dropout; return them.

    They recompute in training mode only: they are called in it, and leave it while they compute.
    """
    layers: list[Any] = [x for x in model.modules() if getattr(x, "gradient_checkpointing", False)]
    layers = [x for x in layers if hasattr(x, "_gradient_checkpointing_func")]
    for layer in layers:
        layer._gradient_checkpointing_func = partial(_still, layer, layer._gradient_checkpointing_func)
    return layers


def _still(layer: nn.Module, recomputed: Callable[..., Any], run: Callable[..., Any], *inputs: Any) -> Any:
    def quietly(*inputs: Any) -> Any:
        layer.training = False
        try:
            return run(*inputs)
        finally:
            layer.training = True

    return recomputed(quietly, *inputs)


class ResponseLogps(nn.Module):
    """Log-probabilities of response tokens.

    Hidden states of response positions only go through the head, in chunks, so [L, V] logits never exist. A `still`
    model drops nothing at random while it trains: its log-probabilities are compared with those of a frozen policy.
    """

    def __init__(self, model: Any, chunk: int = 0, *, still: bool = False) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk
        self.still = still
        self._recomputed = _recomputing(model) if still else []
        self._start: dict[str, Tensor] = {}
        self.critic: nn.Linear | None = None
        self.fused: Callable[..., Tensor] | None = None  # computes what `FrozenHead` does, of any linear head
        inner = self._inner()
        kinds = {type(part).__name__ for part in inner.modules()}
        self._no_split_modules = kinds.intersection(inner._no_split_modules or ())  # the blocks that accelerate shards
        config = inner.config.get_text_config()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        # Cohere multiplies its logits, Granite divides them.
        self.scale: float = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a still model trains in evaluation mode, the only one without any dropout."""
        super().train(mode and not self.still)
        self.training = mode
        for layer in self._recomputed:
            layer.training = mode
        return self

    def remember(self) -> None:
        """Keep a copy of the trained weights, or of their shards: training starts with them, not without an adapter."""
        self._start = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def remembers(self) -> bool:
        """Whether the starting policy is kept as a copy of the trained weights."""
        return bool(self._start)

    @contextmanager
    def started(self) -> Iterator[None]:
        """Act as the starting policy: with the remembered weights, else without the fresh adapter."""
        if not self.remembers:
            with self.model.disable_adapter():
                yield
            return
        now = self._put(self._start)
        try:
            yield
        finally:
            self._put(now)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put weights in the place of those of the same names, which are returned."""
        for part in self.modules():
            if isinstance(part, FSDPModule):  # it may still hold whole weights of the last pass
                part.reshard()
        before = {}
        for name, p in self.model.named_parameters():
            if name not in weights:
                continue
            if isinstance(p, DTensor):  # FSDP gathers from memory of its own, which other data would not reach
                before[name] = p.detach().clone()
                p.copy_(weights[name])
            else:
                before[name], p.data = p.data, weights[name]
        return before

    def _inner(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        positions: Tensor,
        targets: Tensor,
        shared: bool = False,
        base: Tensor | None = None,
        bare: bool = False,
    ) -> Tensor:
        """Log-probabilities of M response tokens: [N, L], [N, L], the flat positions that predict them, ids -> [M].

        `shared`: the attention mask separates candidates, see `visible`. With a value head [2, M], values second; with
        the base model's states `base` [M, D] it is [3, M]: log-probs, KL(base || policy), entropy. `bare`: return the
        states.
        """
        picked = self.states(input_ids, attention_mask, positions, shared)
        if bare:
            return picked
        inner = self._inner()
        if base is not None:
            return self._chunked(self._divergence, inner, picked, targets, base)
        logps = self._of_targets(inner, picked, targets)
        if self.critic is None:
            return logps
        # Values learn from the policy's states and do not move them.
        return torch.stack([logps, self.critic(picked.detach().float()).squeeze(-1)])

    def states(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, shared: bool = False) -> Tensor:
        """Hidden states at positions: [M, D]."""
        inner = self._inner()
        decoder = decoder_of(inner)
        masks: dict[str, Any] = {"attention_mask": attention_mask}
        if shared:
            sees = visible(attention_mask)
            masks = {"attention_mask": self._masks(sees), "position_ids": sees.sum(-1) - 1}
        hidden: Tensor = decoder(input_ids=input_ids, use_cache=False, **masks).last_hidden_state
        return hidden.flatten(0, 1)[positions]

    def _masks(self, seen: Tensor) -> Any:
        """Make the mask that attention takes, of who sees whom [N, L, L]; by kind of layer if a model has several."""
        inner = self._inner()
        config = inner.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
        masks = {}
        for kind in kinds:
            near = seen
            if kind == "sliding_attention" and window:
                at = seen.sum(-1)
                near = seen & (at[:, :, None] - at[:, None, :] < window)
            in_blocks = inner.config._attn_implementation == attention.IN_BLOCKS
            masks[kind] = attention.blocks(near) if in_blocks else attention.added(near, inner.dtype)
        return masks if len(masks) > 1 else masks.popitem()[1]

    def add_critic(self) -> None:
        """Add a value head on the hidden states, zero at first."""
        size = self._inner().get_input_embeddings().weight.shape[1]
        device = next(self.model.parameters()).device
        self.critic = nn.Linear(size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.critic.weight)
        nn.init.zeros_(self.critic.bias)

    def _of_targets(self, inner: Any, picked: Tensor, targets: Tensor) -> Tensor:
        head = inner.get_output_embeddings()
        if self.fused and len(picked):
            return self.fused(picked, head.weight, head.bias, targets)
        if type(head) is not nn.Linear or head.weight.requires_grad or self.softcap or not len(picked):
            return self._chunked(self._logps, inner, picked, targets)
        sizes = (self.scale, self._rows(head))
        logps: Tensor = FrozenHead.apply(picked, head.weight, head.bias, targets, sizes)
        return logps

    @property
    def linear(self) -> bool:
        """Whether logits are a linear layer of the states, and nothing else."""
        return type(self._inner().get_output_embeddings()) is nn.Linear and not self.softcap and self.scale == 1.0

    def _rows(self, head: Any) -> int:
        """Number of positions in a chunk."""
        weight: Tensor = head.weight
        return max(1, (self.chunk or HEAD_CHUNK.get(weight.device.type, 1 << 26)) // len(weight))

    def _chunked(self, of: Callable[..., Tensor], inner: Any, picked: Tensor, *more: Tensor) -> Tensor:
        """Apply a function of the head, of states and `more` of each, to chunks of the response tokens."""
        head = inner.get_output_embeddings()
        size = self._rows(head)
        if len(picked) <= size:
            return of(head, picked, *more)
        parts = zip(*(x.split(size) for x in (picked, *more)))
        return torch.cat([checkpoint(of, head, *part, use_reentrant=False) for part in parts], dim=-1)

    def _logits(self, head: nn.Module, hidden: Tensor) -> Tensor:
        logits: Tensor = head(hidden).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def _logps(self, head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
        return -cross_entropy(self._logits(head, hidden), targets, reduction="none")

    def _divergence(self, head: nn.Module, hidden: Tensor, targets: Tensor, base: Tensor) -> Tensor:
        """Log-probs, KL from the base to the policy, and the policy's entropy: [3, M]."""
        own, theirs = self._logits(head, hidden).log_softmax(-1), self._logits(head, base).log_softmax(-1)
        kl = (theirs.exp() * (theirs - own)).sum(-1)
        return torch.stack([own.gather(1, targets[:, None])[:, 0], kl, -(own.exp() * own).sum(-1)])

    @property
    def _tolerance(self) -> float:
        return 1e-3 if self._inner().dtype == torch.float32 else 5e-2

    @property
    def rounding(self) -> float:
        """Distance of states, as a share of them, above which they are computed from other tokens."""
        inner = self._inner()
        return 2e-2 if is_quantised(inner) else _ROUNDING.get(inner.dtype, 2e-2)

    @torch.no_grad()
    def shares_prompts(self) -> bool:
        """Whether two candidates of one prompt have the same states together as each by itself.

        States, not log-probabilities: those of unlikely tokens in bfloat16 differ by halves from rounding alone.
        """
        inner = self._inner()
        if inner.config._attn_implementation not in ("sdpa", attention.NAME, attention.IN_BLOCKS, "eager"):
            return False  # others take no mask of pairs of tokens
        kinds = set(getattr(inner.config.get_text_config(), "layer_types", None) or ())
        if kinds - {"full_attention", "sliding_attention"}:
            return False
        device, training = next(inner.parameters()).device, inner.training
        vocabulary = inner.get_input_embeddings().weight.shape[0]
        prompt, first, second = ([i % vocabulary for i in range(a, b)] for a, b in _TRIAL)
        n, m = len(prompt), len(first)
        row = line([Sequence_(prompt, first), Sequence_(prompt, second)])
        ids, mask, at = (torch.tensor(x, device=device) for x in row)
        inner.eval()
        try:
            together = self.states(ids[None], mask[None], at, shared=True)
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):  # a model without such arguments
            return False
        finally:
            inner.train(training)
        inner.eval()
        ids = torch.tensor([prompt + first, prompt + second], device=device)
        own = torch.arange(n - 1, n + m - 1, device=device)
        plain = self.states(ids, torch.ones_like(ids), torch.cat([own, own + n + m]))
        inner.train(training)
        return apart(together, plain) < self.rounding

    @torch.no_grad()
    def check(self) -> None:
        """Compare with the model's own logits on a few tokens; refuse a model whose logits are computed otherwise."""
        inner = self._inner()
        device = next(inner.parameters()).device
        ids = torch.arange(3, 11, device=device).remainder(inner.get_input_embeddings().weight.shape[0])[None]
        training = inner.training
        inner.eval()
        ones = torch.ones_like(ids)
        ours = self(ids, ones, torch.arange(7, device=device), ids[0, 1:])
        logits = inner(input_ids=ids, attention_mask=ones, use_cache=False).logits[0, :-1].float()
        theirs = -cross_entropy(logits, ids[0, 1:], reduction="none")
        inner.train(training)
        if not torch.allclose(ours, theirs, atol=self._tolerance):
            raise SteerError(
                f"{type(inner).__name__}: its logits are more than head(hidden), so its log-probabilities would be"
                " wrong here. Please report the model."
            )


def apart(a: Tensor, b: Tensor) -> float:
    """Distance of two tensors, as a share of the second: |a - b| / |b|."""
    return float((a.float() - b.float()).norm() / b.float().norm())


def seen(module: Any, batch: Batch, base: Tensor | None = None) -> tuple[Tensor, Candidates]:
    """Compute what a loss reads: log-probs [B, K, T], and the candidates with other values of each token."""
    out, c = module(*batch.inputs, shared=batch.shared, base=base), batch.candidates
    logps, *others = (flat(x, c.mask) for x in (out if out.ndim > 1 else out[None]))
    return logps, c._replace(**dict(zip(("value",) if base is None else ("kl", "entropy"), others)))


def flat(logps: Tensor, mask: Tensor) -> Tensor:
    """Spread [M], in order of the mask, to [B, K, T] with zeros elsewhere."""
    return torch.zeros(mask.shape, dtype=logps.dtype, device=logps.device).masked_scatter(mask, logps)
