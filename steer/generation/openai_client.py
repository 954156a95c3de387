"""An OpenAI-compatible server as the engine of `steer generate`: `steer serve`, or any that serves an exported policy.

Targets travel as `chat_template_kwargs.attributes`, which the chat template of an exported policy prints.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from steer.errors import SteerError

PATIENCE = 600  # seconds for one response
BUSY = {429, 502, 503, 504}  # what a server answers that could do it later
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before it is asked again


class ChatCall(NamedTuple):
    """One request: the turns, and the values of `attributes` where there are any."""

    messages: Sequence[Mapping[str, str]]
    attributes: Mapping[str, int | str] | None
    seed: int


class OpenAIClient:
    """A server by its address; the model is the only one that it has, where none is named."""

    def __init__(self, url: str, model: str = "") -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise SteerError(f"--engine {url}: wanted hf, vllm, or an address such as http://127.0.0.1:8000/v1.")
        self.url = url.rstrip("/")
        self.model = model or self._only_model()

    def complete(self, chats: Sequence[ChatCall], at_once: int, **settings: Any) -> list[tuple[str, bool]]:
        """Text and whether it came to an end, in order; `at_once` requests at a time."""

        def one(chat: ChatCall) -> tuple[str, bool]:
            body = {"model": self.model, "messages": chat.messages, "seed": chat.seed, **settings}
            if chat.attributes is not None:
                body["chat_template_kwargs"] = {"attributes": chat.attributes}
            with self._shaped():
                choice = self._call("chat/completions", body)["choices"][0]
                return choice["message"]["content"] or "", choice["finish_reason"] == "stop"

        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(one, chats))

    def _only_model(self) -> str:
        """The server's model where it has one; of steer's own, the name without a target."""
        with self._shaped():
            names = list(dict.fromkeys(m["id"].partition("@")[0] for m in self._call("models")["data"]))
        if len(names) != 1:
            raise SteerError(f"--engine {self.url}: has the models {', '.join(names)}. Choose one with --engine-model.")
        return str(names[0])

    @contextmanager
    def _shaped(self) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, AttributeError) as error:
            raise SteerError(
                f"--engine {self.url}: does not answer as OpenAI does ({error!r}). Check the address; most end in /v1."
            ) from None

    def _call(self, path: str, body: Any = None, tried: int = 0) -> Any:
        key = os.environ.get("OPENAI_API_KEY", "")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(f"{self.url}/{path}", data, headers), timeout=PATIENCE) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code in BUSY and tried < len(PAUSES):
                time.sleep(PAUSES[tried] * (1 + random.random()))  # not all at once again
                return self._call(path, body, tried + 1)
            told = error.read().decode(errors="replace")[:500]
            with suppress(ValueError, KeyError, TypeError):
                told = json.loads(told)["error"]["message"]
            raise SteerError(f"--engine {self.url}: answered {error.code}: {told}") from None
        except (OSError, ValueError, HTTPException) as error:
            raise SteerError(
                f"--engine {self.url}: does not answer ({error}). Start it, or check the address."
            ) from None
