"""Guidance curve of a policy: slope of obtained on asked levels, fluency and diversity against the strength S."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from steer.conditioning.targets import factorial
from steer.errors import SteerError
from steer.evaluation.diversity import diversity
from steer.evaluation.statistics import interval, resampled
from steer.evaluation.weighted import slope
from steer.generation.engines import respond
from steer.generation.requests import Request, Response
from steer.generation.settings import Sampling
from steer.labelling.scorer import Scorer
from steer.models.collate import Sequence_
from steer.models.log_probs import ResponseLogps
from steer.models.policy import Policy
from steer.models.tokenization import Tokens, as_drawn
from steer.rows import Row
from steer.rows.schema import Scores
from steer.training.references import response_tokens

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Trial:
    """Responses that are drawn at every strength, at a factorial draw of supported targets."""

    policy: Policy
    base: Policy  # unconditioned; the log-probability that it gives a text measures fluency
    scorer: Scorer
    prompts: Sequence[Row]
    responses: int = 400
    away: str = "none"  # condition that guidance moves away from: none or opposite
    max_new_tokens: int = 120
    batch_size: int = 64
    seed: int = 0

    def curve(self, strengths: Sequence[float] = STRENGTHS) -> dict[str, Any]:
        """Measure the curve as plain JSON: `points` has one dict per strength; intervals are 95 % over prompts.

        `slope` of the obtained level on the target, mean over attributes (1 is perfect); `distance` in levels;
        `fluency`: log-probability per token under the base; `distinct_2`, `repeated_3`, `words`; `cut`: share cut off.
        """
        card = self.policy.card
        if card is None or card.schema is None or not card.attributes:
            raise SteerError(f"{self.policy.name}: was not conditioned on attributes, so there is nothing to guide.")
        aims = factorial(card.schema, card.attributes, self.responses, self.seed)
        rows = [self.prompts[i % len(self.prompts)] for i in range(self.responses)]
        requests = [Request(row, aim, self.policy.against(self.away, aim)) for row, aim in zip(rows, aims)]
        return {
            "against": self.away,
            "scorer": self.scorer.id,
            "responses": self.responses,
            "targets": len({tuple(aim.items()) for aim in aims}),
            "prompts": len({row["id"] for row in rows}),
            "points": [self._point(requests, s) for s in strengths],
        }

    def _point(self, requests: Sequence[Request], strength: float) -> dict[str, Any]:
        sampling = Sampling(
            max_new_tokens=self.max_new_tokens, batch_size=self.batch_size, seed=self.seed, guidance=strength
        )
        drawn = respond(self.policy, requests, sampling)
        ids = [r.row["id"] for r in requests]
        clusters = np.unique(ids, return_inverse=True)[1]
        asked, obtained = self._levels(requests, drawn)
        statistics = [slope(asked[:, j], obtained[:, j]) for j in range(asked.shape[1])]
        slopes = resampled(lambda w: np.column_stack([s(w) for s in statistics]).mean(1, keepdims=True), clusters)
        texture = diversity([r.text for r in drawn], ids, finished=[r.finished for r in drawn])
        return {
            "guidance": strength,
            "slope": slopes[0].json(),
            "distance": interval(np.abs(asked - obtained).mean(1), clusters).json(),
            "fluency": interval(self._fluency(requests, drawn), clusters).json(),
            "distinct_2": texture["distinct_2_all"],
            "repeated_3": _mean(texture["repeated_3"]),
            "words": _mean(texture["words"]),
            "cut": 1 - _mean(texture["finished"]),
        }

    def _levels(self, requests: Sequence[Request], drawn: Sequence[Response]) -> tuple[Scores, Scores]:
        """Levels asked for and (continuous) obtained, [n, A] each."""
        card = self.policy.card
        assert card is not None
        assert card.schema is not None
        names, schema = card.attributes, card.schema
        scores = self.scorer.score([r.answering(request.row) for request, r in zip(requests, drawn)], names)
        asked = np.array([[request.target[n] for n in names] for request in requests], float)
        return asked, np.column_stack([schema[n].position(scores[:, j]) for j, n in enumerate(names)])

    def _fluency(self, requests: Sequence[Request], drawn: Sequence[Response]) -> list[float]:
        """Mean log-probability per token of each response under the base, given the unconditioned prompt."""
        base = self.base
        rows = [
            {**self.policy.with_options(request.row), "response": "", "tool_calls": None, "reasoning_content": None}
            for request in requests
        ]
        tokens = Tokens(rows, base.tokenizer, thinking=as_drawn(self.policy.thinking))
        groups = [[Sequence_(tokens.prefix(request.row), list(r.ids))] for request, r in zip(requests, drawn)]
        device = next(base.model.parameters()).device
        with torch.no_grad():
            logps, _ = response_tokens(ResponseLogps(base.model), groups, base.tokenizer.pad_token_id, 4096, device)
        return [float(x.mean()) for x in logps]


def _mean(value: Any) -> float:
    mean = value["mean"] if isinstance(value, dict) else value
    return math.nan if mean is None else float(mean)
