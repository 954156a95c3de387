"""Sequence classifiers and reward models behind vLLM's pooling API: `vllm serve MODEL --runner pooling`.

The server renders the finished chat with the model's template and gives the logits: `/classify` for classifiers,
`/pooling` for other reward models, whose last token counts, and `/score` for encoders without a chat template. Requests
and answers are those of vLLM's `entrypoints/pooling/*/protocol.py` (0.13 to 0.22).
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from attribute_models import Row, Scored, texts, unknown
from attribute_models.arrays import Array
from attribute_models.endpoint import Endpoint, RefusedError, exchange
from attribute_models.progress import note
from attribute_models.templates import kwargs_of, openai_turn

PATHS = ("classify", "pooling", "score")  # the first that answers is used
AT_ONCE = 32  # requests; the server makes batches of them
PROBE = {"prompt": [{"role": "user", "content": "Hello."}], "response": "Hello."}
START = 'Start it with "vllm serve MODEL --runner pooling"'


class Answer(NamedTuple):
    """Logits of a row, and how many tokens the server read."""

    logits: list[float]
    tokens: int


class Served:
    """A model at `url`, by the name that the server gives it; `labels` name its outputs where there are several."""

    def __init__(self, name: str, url: str, *, labels: Sequence[str] = (), retries: int = 5) -> None:
        root = url.rstrip("/").removesuffix("/v1")
        self.name, self.endpoint = name, Endpoint(root, os.environ.get("OPENAI_API_KEY", ""), 600.0, retries)
        self.longest, self._told = self._listed(), False
        self.path, count = self._path()
        numbered = ["score"] if count == 1 else [f"label_{i}" for i in range(count)]
        self.attributes = tuple(labels if len(labels) == count else numbered)
        self.id = hashlib.blake2b(f"{name} {self.path}".encode(), digest_size=8).hexdigest()

    def score(self, rows: Sequence[Row]) -> Array:
        """Logits [n, A]."""
        return self.score_and_flag(rows).scores

    def score_and_flag(self, rows: Sequence[Row]) -> Scored:
        """Logits [n, A], and which rows filled the server's context, so that it cut the beginning of their prompt."""
        texts(rows)  # names a row that is none
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(self._row, range(len(rows)), rows))
        scores = np.array([answer.logits for answer in answers], dtype=np.float64)
        tokens = np.array([answer.tokens for answer in answers])
        return Scored(scores.reshape(len(rows), len(self.attributes)), tokens >= self.longest if self.longest else None)

    def _row(self, index: int, row: Row) -> Answer:
        try:
            answer = self._ask(self.path, row)
        except RefusedError as error:
            raise ValueError(
                f"{self.endpoint.url}: refuses row '{row.get('id', index)}' ({error}). Correct it, or leave it out; "
                "rows that are scored are kept."
            ) from None
        if len(answer.logits) != len(self.attributes):
            raise ValueError(f"{self.endpoint.url}: gives {len(answer.logits)} scores for {len(self.attributes)}.")
        return answer

    def _listed(self) -> int:
        """How many tokens the server reads of a row, 0 if it does not say; ValueError if it does not have the model."""
        url = self.endpoint.url
        try:
            listed = exchange(f"{url}/v1/models", None, key=self.endpoint.key, timeout=30)["data"]
            models = {str(one["id"]): one.get("max_model_len") or 0 for one in listed}
        except urllib.error.HTTPError as error:
            raise ValueError(
                f"{url}: answers {error.code} at /v1/models. Check the address and OPENAI_API_KEY."
            ) from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{url}: no server of vLLM answers there ({error}). {START}, or check --engine.") from None
        if self.name not in models:
            raise ValueError(f"{url}: {unknown('model', self.name, models)}")
        return int(models[self.name])

    def _path(self) -> tuple[str, int]:
        """The endpoint that answers for this model, and how many outputs it has."""
        reasons = []
        for path in PATHS:
            try:
                return path, len(self._ask(path, PROBE).logits)
            except (RefusedError, ValueError) as error:
                reasons.append(f"/{path}: {error}")
        raise ValueError(f"{self.endpoint.url}: gives no scores of {self.name} ({'; '.join(reasons)}). {START}.")

    def _ask(self, path: str, row: Row) -> Answer:
        body: dict[str, Any] = {"model": self.name, "use_activation": False, "truncate_prompt_tokens": -1}
        body["truncation_side"] = "left"
        if path == "score":
            turns = "\n".join(str(turn["content"]) for turn in row["prompt"])
            body |= {"text_1": turns, "text_2": row["response"]}
        else:
            body["messages"] = [*map(openai_turn, row["prompt"]), {"role": "assistant", "content": row["response"]}]
            if kwargs := kwargs_of(row):
                body["chat_template_kwargs"] = kwargs
            if row.get("tools") and not self._told:
                self._told = True
                note("vLLM's pooling API takes no declarations of tools: the model scores without them.")
        return self.endpoint.post(path, body, _answer)


def _answer(body: Any) -> Answer:
    """Read the answer of any of PATHS; ValueError if it is none."""
    try:
        [item] = body["data"]
        found = item["probs"] if "probs" in item else item["score"] if "score" in item else item["data"]
        while isinstance(found, list) and found and isinstance(found[0], list):
            found = found[-1]  # of the last token
        logits = [float(x) for x in (found if isinstance(found, list) else [found])]
        return Answer(logits, int((body.get("usage") or {}).get("prompt_tokens") or 0))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise ValueError("the answer has no scores") from None
