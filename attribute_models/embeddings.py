"""Ridge regression on the frozen hidden states of a language model: the first stage of ArmoRM (2406.12845).

One ridge per attribute on its known rows; the penalty is chosen by cross-validation split by prompt. Differs from the
official code: features are standardised, so that penalties mean the same for every model, and the cross-validation
keeps the responses of a prompt together.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from attribute_models import Row, Scored, archive, backbone, bases, hashed, write
from attribute_models.arrays import Array, Indices, Mask, Standard
from attribute_models.backbone import Backbone, Batch
from attribute_models.folds import Keys, check_penalties, folds_by_prompt, known_alike, known_scores
from attribute_models.learned import Learned
from attribute_models.literal import literal
from attribute_models.templates import options_of

CACHED_AT_ONCE = 1024  # rows in one file of the cache
POOLING = ("auto", "last", "mean", "first")
ARRAYS = ("coefficients", "intercept", "alpha")  # fitted, saved beside the scaling's


@dataclass(frozen=True)
class EmbeddingsSettings:
    """Settings of `Embeddings`."""

    model: str = ""  # Hugging Face encoder or causal model: folder or name
    pooling: str = "auto"  # last token, mean of the response's tokens, first token; auto: last if causal, else mean
    layer: int = -1  # whose hidden states are read
    alphas: tuple[float, ...] = tuple(10.0**k for k in range(-4, 5))
    folds: int = 5
    max_length: int = 1024
    tail: str = "template"  # what is read after the response: the template's end of a turn; eos: the EOS token
    batch_tokens: int = 0  # padded tokens in one batch; 0: by device
    cache: str = "auto"  # folder of the embeddings of training rows; auto: the user's cache folder; none: no cache
    trust_remote_code: bool = False


class Embeddings(Learned):
    """Scores that are linear in a frozen model's hidden state.

    After `fit`: `alpha_` [A], the penalties; `held_out_` [n, A], predictions by regressions that never saw the row's
    prompt (the penalties are chosen by them); `note_`, how many rows were truncated.
    """

    name = "embeddings"
    Settings = EmbeddingsSettings
    settings: EmbeddingsSettings

    def _check(self) -> None:
        if self.settings.pooling not in POOLING:
            raise ValueError(f"pooling is {self.settings.pooling!r}. Choose one of {', '.join(POOLING)}.")
        backbone.check_tail(self.settings.tail)
        check_penalties(self.settings.folds, self.settings.alphas)

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen model, loaded on first use."""
        s = self.settings
        more: dict[str, Any] = {"trust_remote_code": s.trust_remote_code, "tail": s.tail}
        return backbone.load(s.model, "AutoModel", max_length=s.max_length, **more)

    def fit(self, rows: Sequence[Row], scores: ArrayLike) -> Self:
        """Learn from rows and scores [n, A], NaN = unknown."""
        at, rated, y, prompts = known_scores(rows, scores, self.attributes)
        x, truncated = self.embed(rated, cached=True)
        self.note_ = f"{int(truncated.sum())} truncated"
        self.scaling_ = Standard.of(x)
        z = self.scaling_.apply(x)
        count = len(self.attributes)
        self.alpha_, self.intercept_ = np.zeros(count), np.zeros(count)
        self.coefficients_ = np.zeros((z.shape[1], count))
        self.held_out_ = np.full((len(rows), count), np.nan)
        for group in known_alike(~np.isnan(y)):
            seen = ~np.isnan(y[:, group[0]])
            best, predicted = self._choose(z[seen], y[seen][:, group], prompts[seen])
            self.held_out_[at[seen][:, None], group] = predicted
            self.alpha_[group] = np.asarray(self.settings.alphas)[best]
            coefficients, intercepts = ridge(z[seen], y[seen][:, group], self.settings.alphas)
            each = np.arange(len(group))
            self.coefficients_[:, group], self.intercept_[group] = coefficients[best, :, each].T, intercepts[best, each]
        return self

    def _choose(self, x: Array, y: Array, prompts: Keys) -> tuple[Indices, Array]:
        """Index of the best penalty [G] and its held-out predictions [n, G] from features [n, D], scores [n, G]."""
        alphas, fold = self.settings.alphas, folds_by_prompt(prompts, self.settings.folds)
        predicted = np.zeros((len(alphas), *y.shape))
        for k in range(fold.max() + 1):
            new = fold == k
            coefficients, intercepts = ridge(x[~new], y[~new], alphas)
            predicted[:, new] = x[new] @ coefficients + intercepts[:, None]
        best = ((predicted - y) ** 2).mean(1).argmin(0)
        return best, predicted[best, :, np.arange(y.shape[1])].T

    def embed(self, rows: Sequence[Row], *, cached: bool = False) -> tuple[Array, Mask]:
        """Hidden states [n, D] and which rows were truncated [n]; `cached`: keep them on disk."""
        folder = self._cache() if cached else None
        blocks: list[tuple[NDArray[np.float32], Mask]] = []
        for start in range(0, len(rows), CACHED_AT_ONCE if folder else max(1, len(rows))):
            part = rows[start : start + CACHED_AT_ONCE] if folder else rows
            path = folder / f"{self._key(part)}.npz" if folder else None
            if path and path.is_file():
                with np.load(path, allow_pickle=False) as kept:
                    blocks.append((kept["states"], kept["truncated"]))
                continue
            states, truncated = self.backbone.map(
                part, self._pooled, self.settings.batch_tokens, share=self.settings.pooling != "first"
            )
            blocks.append((states, truncated))
            if path:
                buffer = io.BytesIO()
                np.savez(buffer, allow_pickle=False, states=states, truncated=truncated)
                write(path, buffer.getvalue())
        states, truncated = (np.concatenate(parts) for parts in zip(*blocks))
        return states.astype(np.float64), truncated

    def _pooled(self, batch: Batch) -> Tensor:
        """Hidden states [B, D] of a batch."""
        s, b = self.settings, self.backbone
        pooling = s.pooling if s.pooling != "auto" else "mean" if b.encoder else "last"
        extra = {} if b.encoder else {"use_cache": False}
        out = b.model(**extra | batch.inputs(), output_hidden_states=s.layer != -1)
        hidden = (out.last_hidden_state if s.layer == -1 else out.hidden_states[s.layer]).float()  # [B, L, D]
        if pooling == "mean":
            states: Tensor = hidden.masked_fill(~batch.response[..., None], 0.0).sum(1)
            states /= batch.response.sum(1, keepdim=True).clamp(min=1)
            return states
        at = batch.last if pooling == "last" else torch.zeros_like(batch.last)
        picked: Tensor = hidden[torch.arange(len(at), device=at.device), at]
        return picked

    def _cache(self) -> Path | None:
        if self.settings.cache == "none":
            return None
        if self.settings.cache != "auto":
            return Path(self.settings.cache)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steer" / "embeddings"

    def _key(self, rows: Sequence[Row]) -> str:
        """Cache key over the model, its precision and settings, and the texts."""
        s, b = self.settings, self.backbone
        model = [b.name, b.digest, s.pooling, s.layer, b.max_length, str(b.model.dtype), s.tail]
        texts = [[[[t["role"], t["content"]] for t in row["prompt"]], row["response"], *_beside(row)] for row in rows]
        return hashed([model, literal(texts, b.tokenizer)], 16)  # marks: such texts were once read otherwise

    def _score(self, rows: Sequence[Row]) -> Scored:
        states, truncated = self.embed(rows)
        z = self.scaling_.apply(states)
        return Scored(np.einsum("nd,da->na", z, self.coefficients_) + self.intercept_, truncated)

    def save(self, folder: str | Path) -> None:
        """Write `weights.npz` and `model.json`; the frozen model is not copied, its digest is written."""
        state = self.state | {"base": self.backbone.digest}
        state["settings"]["model"] = bases.placed(self.settings.model)
        archive.save(folder, state, vars(self.scaling_) | {name: getattr(self, f"{name}_") for name in ARRAYS})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the model that `save` wrote; `held_out_` is not saved."""
        state, arrays = archive.load(folder)
        model = cls.of(state)
        bases.unchanged(model.settings.model, state["base"])
        model.scaling_ = Standard(arrays["mean"], arrays["deviation"])
        for name in ARRAYS:
            setattr(model, f"{name}_", arrays[name])
        return model


def _beside(row: Row) -> list[Any]:
    """Return what the chat template reads beside the texts of a row; empty if there is nothing."""
    beside = [options_of(row), [turn["tool_calls"] for turn in row["prompt"] if turn.get("tool_calls")]]
    return beside if any(beside) else []


def ridge(x: Array, y: Array, alphas: Sequence[float]) -> tuple[Array, Array]:
    """Ridge of y [n, G] on x [n, D] with a free intercept, for m penalties: coefficients [m, D, G], intercepts [m, G].

    From one eigendecomposition: of the covariance where D <= n, else of the Gram matrix of rows.
    """
    mean, centre = x.mean(0), y.mean(0)
    z, t = x - mean, y - centre
    if x.shape[1] <= len(x):
        values, vectors = np.linalg.eigh(z.T @ z)
        known = vectors.T @ (z.T @ t)
        solved = [vectors @ (known / (values.clip(0) + alpha)[:, None]) for alpha in alphas]
    else:
        values, vectors = np.linalg.eigh(z @ z.T)
        known = vectors.T @ t
        solved = [z.T @ (vectors @ (known / (values.clip(0) + alpha)[:, None])) for alpha in alphas]
    coefficients = np.stack(solved)
    return coefficients, centre - mean @ coefficients
