"""The guidance curve of a policy: what is obtained, how fluent and how varied the text is, against the strength S."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

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
from steer.models.tokenization import Tokens
from steer.rows import Row
from steer.rows.schema import Scores, factorial
from steer.training.references import response_tokens

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Trial:
    """What is measured at every strength: so many responses to these prompts, a factorial draw of supported targets."""

    policy: Policy
    base: Policy  # without conditions; how likely it finds a text is how fluent that is
    scorer: Scorer
    prompts: Sequence[Row]
    responses: int = 400
    away: str = "none"  # what guidance moves away from: none or opposite
    max_new_tokens: int = 120
    batch_size: int = 64
    seed: int = 0

    def curve(self, strengths: Sequence[float] = STRENGTHS) -> dict[str, Any]:
        """Plain JSON: `points` has one dict a strength, intervals are 95 % over prompts.

        `slope` of the obtained level on the target, the mean over attributes (1 is perfect); `distance` in levels;
        `fluency`: log-probability a token under the base; `distinct_2`, `repeated_3`, `words`; `cut`: share not ended.
        """
        card = self.policy.card
        if card is None or card.schema is None or not card.attributes:
            raise SteerError(
                f"{self.policy.name}: was not conditioned on attributes, so guidance has nothing to pull at."
            )
        aims = factorial(card.schema, card.attributes, self.responses, self.seed)
        picked = [self.prompts[i % len(self.prompts)] for i in range(self.responses)]
        jobs = [Request(row, aim, self.policy.against(self.away, aim)) for row, aim in zip(picked, aims)]
        return {
            "against": self.away,
            "scorer": self.scorer.id,
            "responses": self.responses,
            "targets": len({tuple(aim.items()) for aim in aims}),
            "prompts": len({row["id"] for row in picked}),
            "points": [self._point(jobs, s) for s in strengths],
        }

    def _point(self, jobs: Sequence[Request], strength: float) -> dict[str, Any]:
        sampling = Sampling(
            max_new_tokens=self.max_new_tokens, batch_size=self.batch_size, seed=self.seed, guidance=strength
        )
        drawn = respond(self.policy, jobs, sampling)
        ids = [job.row["id"] for job in jobs]
        clusters = np.unique(ids, return_inverse=True)[1]
        asked, obtained = self._levels(jobs, drawn)
        each = [slope(asked[:, j], obtained[:, j]) for j in range(asked.shape[1])]
        slopes = resampled(lambda w: np.column_stack([s(w) for s in each]).mean(1, keepdims=True), clusters)
        found = diversity([r.text for r in drawn], ids, finished=[r.finished for r in drawn])
        return {
            "guidance": strength,
            "slope": slopes[0].json(),
            "distance": interval(np.abs(asked - obtained).mean(1), clusters).json(),
            "fluency": interval(self._fluency(jobs, drawn), clusters).json(),
            "distinct_2": found["distinct_2_all"],
            "repeated_3": _mean(found["repeated_3"]),
            "words": _mean(found["words"]),
            "cut": 1 - _mean(found["finished"]),
        }

    def _levels(self, jobs: Sequence[Request], drawn: Sequence[Response]) -> tuple[Scores, Scores]:
        """Levels asked for and (continuous) obtained, [n, A] each."""
        card = self.policy.card
        assert card is not None
        assert card.schema is not None
        names, schema = card.attributes, card.schema
        scores = self.scorer.score([{**job.row, "response": r.text} for job, r in zip(jobs, drawn)], names)
        asked = np.array([[job.target[n] for n in names] for job in jobs], float)
        return asked, np.column_stack([schema[n].position(scores[:, j]) for j, n in enumerate(names)])

    def _fluency(self, jobs: Sequence[Request], drawn: Sequence[Response]) -> list[float]:
        """Mean log-probability a token of each response under the base, behind the prompt alone."""
        base = self.base
        tokens = Tokens([{**job.row, "response": ""} for job in jobs], base.tokenizer)
        every = [[Sequence_(tokens.prompts[job.row["id"]], list(r.ids))] for job, r in zip(jobs, drawn)]
        device = next(base.model.parameters()).device
        with torch.no_grad():
            logps, _ = response_tokens(ResponseLogps(base.model), every, base.tokenizer.pad_token_id, 4096, device)
        return [float(x.mean()) for x in logps]


def _mean(value: Any) -> float:
    mean = value["mean"] if isinstance(value, dict) else value
    return math.nan if mean is None else float(mean)
