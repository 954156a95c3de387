"""Draw from an OpenAI-compatible server: `steer serve`, or any that serves an exported policy.

Targets travel as `chat_template_kwargs.attributes`, which the chat template of an exported policy prints.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

from attribute_models.endpoint import exchange
from attribute_models.templates import NONE, openai_turn
from steer.errors import SteerError
from steer.generation.calls import JSON, UNREADABLE
from steer.progress import note_once

TIMEOUT = 600  # seconds for one response
PROBE = 5  # seconds for a server that did not answer to say that it does again
BUSY = {429, 502, 503, 504}  # statuses after which to try again
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try


class ChatCall(NamedTuple):
    """One request: the turns, and the target for the chat template (None: the policy has no attributes).

    `options`: what a row gives the template besides, `options_of`.
    """

    messages: Sequence[Mapping[str, Any]]
    attributes: Mapping[str, int | str] | None
    seed: int
    options: Mapping[str, Any] = NONE


class ChatReply(NamedTuple):
    """A server's answer, whether it ended by itself, what was thought before it, and the tools that it calls."""

    text: str
    finished: bool
    thought: str = ""
    calls: tuple[dict[str, Any], ...] = ()


def _reply(message: Mapping[str, Any], ended: str) -> ChatReply:
    """Read a message; calls get arguments as objects, where they are objects."""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    calls = [_with_object(call) for call in message.get("tool_calls") or ()]
    return ChatReply(message["content"] or "", ended in ("stop", "tool_calls"), str(thought).strip(), tuple(calls))


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call whose arguments are an object, if they can be read as one."""
    function = call["function"]
    kept = {name: call[name] for name in ("id", "type") if call.get(name)}
    arguments = function.get("arguments") or {}
    with suppress(*UNREADABLE):
        read = arguments if isinstance(arguments, dict) else JSON.decode(arguments)
        arguments = read if isinstance(read, dict) else arguments
    return {**kept, "function": {"name": function["name"], "arguments": arguments}}


class SilentError(SteerError):
    """A server that cannot be reached, or breaks off; another one may answer."""


class OpenAIClient:
    """A server by its address, and one of its models (default: its only one); several share the requests."""

    def __init__(self, urls: str, model: str = "") -> None:
        self.urls = [url.rstrip("/") for url in urls.split()]
        for url in self.urls or [urls]:
            if urlsplit(url).scheme not in ("http", "https"):
                raise SteerError(f"--server {url}: wanted an address such as http://127.0.0.1:8000/v1.")
        names = [model] if model else self._models()
        if len(names) > 1:
            raise SteerError(f"--server {urls}: their models are {', '.join(names)}. Choose one with --server-model.")
        self.model = names[0]
        self.lost: dict[str, SilentError] = {}  # servers that did not answer when they were asked last

    def complete(self, chats: Sequence[ChatCall], at_once: int, **settings: Any) -> list[ChatReply]:
        """Return the replies in order; `at_once` requests run at a time on each server, which takes them as it can.

        Those of a server that does not answer go to the others; SteerError if none is left. With the next chats it is
        asked for its models, and for replies if it answers.
        """
        waiting, replies = deque(range(len(chats))), dict[int, ChatReply]()
        before, self.lost = self.lost, {}
        lost = self.lost

        def look(url: str) -> None:
            with suppress(SteerError):  # a refusal is an answer too
                try:
                    self._call(url, "models", tries=len(PAUSES), timeout=PROBE)
                except SilentError:
                    lost[url] = before[url]

        def work(url: str) -> None:
            while url not in lost:
                try:
                    place = waiting.popleft()
                except IndexError:
                    return
                try:
                    replies[place] = self._ask(url, chats[place], settings)
                except SilentError as error:
                    lost[url] = error
                    waiting.append(place)

        if before:
            with ThreadPoolExecutor(len(before)) as pool:
                list(pool.map(look, before))
        while len(replies) < len(chats):  # again for what came back when the others had ended
            urls = [url for url in self.urls if url not in lost]
            if not urls:
                raise next(iter(lost.values()))
            each = min(at_once, len(waiting))
            with ThreadPoolExecutor(each * len(urls)) as pool:
                try:
                    for future in as_completed([pool.submit(work, url) for _ in range(each) for url in urls]):
                        future.result()
                except BaseException:
                    waiting.clear()  # what was begun ends, and nothing else begins
                    raise
        for error in lost.values():
            note_once(f"{error} Until then the other servers get its requests.")
        return [replies[place] for place in range(len(chats))]

    def _ask(self, url: str, chat: ChatCall, settings: Mapping[str, Any]) -> ChatReply:
        turns = [openai_turn(turn) for turn in chat.messages]
        body = {"model": self.model, "messages": turns, "seed": chat.seed, **settings}
        kwargs = {name: value for name, value in chat.options.items() if name != "tools"}
        if chat.attributes is not None:
            kwargs["attributes"] = chat.attributes
        body |= {"chat_template_kwargs": kwargs} if kwargs else {}
        body |= {"tools": chat.options["tools"]} if "tools" in chat.options else {}
        with self._valid_replies(url):
            choice = self._call(url, "chat/completions", body)["choices"][0]
            return _reply(choice["message"], choice["finish_reason"])

    def _models(self) -> list[str]:
        """Return the models of all servers that answer, each once; SteerError if none does."""
        found: dict[str, None] = {}
        silent: list[SilentError] = []
        for url in self.urls:
            try:
                found[self._only_model(url)] = None
            except SilentError as error:
                silent.append(error)
        if not found:
            raise silent[0]
        return list(found)

    def _only_model(self, url: str) -> str:
        """Return the name of a server's only model; SteerError if it has several."""
        with self._valid_replies(url):
            names = list(dict.fromkeys(m["id"].partition("@")[0] for m in self._call(url, "models")["data"]))
        if len(names) != 1:
            raise SteerError(f"--server {url}: has the models {', '.join(names)}. Choose one with --server-model.")
        return str(names[0])

    @contextmanager
    def _valid_replies(self, url: str) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, AttributeError) as error:
            raise SteerError(
                f"--server {url}: does not answer as OpenAI does ({error!r}). Check the address; most end in /v1."
            ) from None

    def _call(self, url: str, path: str, body: Any = None, tries: int = 0, timeout: float = 0) -> Any:
        key = os.environ.get("OPENAI_API_KEY", "")
        try:
            return exchange(f"{url}/{path}", body, key=key, timeout=timeout or TIMEOUT)
        except HTTPError as error:
            if error.code in BUSY and tries < len(PAUSES):
                time.sleep(PAUSES[tries] * (1 + random.random()))  # not all at once again
                return self._call(url, path, body, tries + 1)
            message = error.read().decode(errors="replace")[:500]
            with suppress(ValueError, KeyError, TypeError):
                message = json.loads(message)["error"]["message"]
            kind = SilentError if error.code in BUSY - {429} else SteerError  # a proxy whose server is gone
            raise kind(f"--server {url}: answered {error.code}: {message}") from None
        except (OSError, ValueError, HTTPException) as error:
            raise SilentError(f"--server {url}: does not answer ({error}). Start it, or check the address.") from None
