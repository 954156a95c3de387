"""A client of JSON endpoints with retries, backoff and timeouts, which counts requests and tokens.

The openai client would not shorten it: it retries no half answers, follows redirects with the key, and does not count
its retries, so this loop would stand around it all the same.
"""

from __future__ import annotations

import io
import json
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, TypeVar

from attribute_models.progress import note

LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
MOST_BYTES = 16 * 2**20  # of an answer
LATER = (408, 409, 425, 429)  # and every 5xx but one: worth another try
NOT_IMPLEMENTED = 501
COUNTED = ("requests", "retries", "nonsense", "prompt_tokens", "completion_tokens")
NEVER = (401, 403, 404)  # the key or the address is wrong: nothing will be answered
BAD = (400, 413, 422)  # what was sent is not taken, such as a text that is too long; another may be
# What some models refuse, and its other name; "": they are asked without it.
OTHERWISE = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": "",
    "top_p": "",
}
REFUSES = re.compile("support|deprecated|not permitted", re.I)
_NAMES: dict[tuple[str, str], dict[str, str]] = {}  # by address and model: what it refused of these, and how it is sent
_LOCK = threading.Lock()


T = TypeVar("T")


class RefusedError(Exception):
    """Refusal of one request; others may be answered."""


class BadRequestError(RefusedError):
    """Refusal of what a request holds: the same again would be refused again."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would carry the key to wherever it leads."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirect)


def exchange(address: str, body: dict[str, Any] | None, *, key: str, timeout: float) -> Any:
    """POST a JSON body (None: GET) and return the JSON answer; errors are those of urllib and of JSON.

    What a model refuses by its name is sent as OTHERWISE says: now, and in later requests without asking.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    if body is None:
        return _answer(urllib.request.Request(address, None, headers), timeout)
    where = str(body.get("model")), address
    names = dict(_NAMES.get(where, {}))
    while True:
        sent = {name: value for own, value in body.items() if (name := names.get(own, own))}
        try:
            answer = _answer(urllib.request.Request(address, json.dumps(sent).encode(), headers), timeout)
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            text = error.read(MOST_BYTES)
            refused = {n: OTHERWISE[n] for n in body if n in OTHERWISE and n not in names and _refuses(text, n)}
            if not refused:
                raise urllib.error.HTTPError(address, 400, error.reason, error.headers, io.BytesIO(text)) from None
            names |= refused
        else:
            _remember(where, names)
            return answer


def _answer(request: urllib.request.Request, timeout: float) -> Any:
    with OPENER.open(request, timeout=timeout) as response:
        return json.loads(response.read(MOST_BYTES))


def _refuses(text: bytes, name: str) -> bool:
    """Whether an error says that a name is not taken; not that its value is wrong."""
    said = text.decode("utf-8", "replace")
    return bool(re.search(rf"\b{name}\b", said) and REFUSES.search(said))


def _remember(where: tuple[str, str], names: dict[str, str]) -> None:
    """Keep how a model at an address takes its settings, and say what is new."""
    with _LOCK:
        known = _NAMES.setdefault(where, {})
        new = {name: other for name, other in names.items() if name not in known}
        known.update(new)
    if new:
        ways = (f"'{name}' ({f'sent as {other!r}' if other else 'left out'})" for name, other in new.items())
        note(f"{where[0]} at {where[1]} does not take {', '.join(ways)}.")


@dataclass
class Endpoint:
    """POSTs below `url`; safe to share between threads. `counts` adds up over its life."""

    url: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0  # seconds without a byte
    retries: int = 5
    backoff: float = 1.0  # seconds before the first retry; doubles, give or take half
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url '{self.url}': wanted http://... or https://..., up to and with /v1.")
        self._lock = threading.Lock()

    def ask(self, body: dict[str, Any]) -> str:
        """Text of the first choice of a chat completion; errors are those of `post`."""
        return self.post("chat/completions", body, self._text)

    def post(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """Answer to a JSON body as `read` reads it, which raises ValueError for half an answer, asked for again.

        RefusedError after the last retry, BadRequestError at once; ValueError if no request would be answered.
        """
        why = ""
        for attempt in range(self.retries + 1):
            if attempt:
                self.count(retries=1)
            self.count(requests=1)
            try:
                return read(exchange(f"{self.url.rstrip('/')}/{path}", body, key=self.key, timeout=self.timeout))
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read(500).decode("utf-8", "replace")
                why, wait = f"status {error.code}: {' '.join(text.split())[:200]}", error.headers.get("Retry-After")
                if error.code in NEVER:
                    raise ValueError(f"{self.url}: {why}. Check the address, the model and the key.") from None
                if error.code in BAD:
                    raise BadRequestError(why) from None
                if error.code not in LATER and (error.code < 500 or error.code == NOT_IMPLEMENTED):
                    raise RefusedError(why) from None
                self._wait(attempt, wait)
            except (OSError, HTTPException, ValueError) as error:  # no connection, a timeout, half an answer, no JSON
                why = f"{type(error).__name__}: {error}"
                self._wait(attempt, None)
        raise RefusedError(why)

    def count(self, **more: int) -> None:
        """Add to the counts."""
        with self._lock:
            for name, number in more.items():
                self.counts[name] += number

    def _text(self, answer: Any) -> str:
        """Text of a chat completion, whose tokens are counted; ValueError if the answer is none."""
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise ValueError("the answer is not a chat completion") from None
        usage = answer.get("usage")
        for name in ("prompt_tokens", "completion_tokens"):
            number = usage.get(name) if isinstance(usage, dict) else None
            self.count(**{name: number if isinstance(number, int) else 0})
        return text if isinstance(text, str) else ""

    def _wait(self, attempt: int, retry_after: str | None) -> None:
        if attempt < self.retries:
            seconds = self.backoff * 2**attempt * (0.5 + random.random())
            if retry_after is not None and retry_after.strip().isdecimal():
                seconds = float(retry_after)
            time.sleep(min(seconds, LONGEST_WAIT))
