"""Questions to an endpoint, many at a time, each asked once: answers are kept on disk under a key of the content."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from attribute_models.endpoint import Endpoint, RefusedError

if TYPE_CHECKING:
    from attribute_models.judge import Settings

AGAIN = "That was not the JSON object that was asked for. Answer with it and nothing else."


class Question(NamedTuple):
    """What the model is asked, and how its answer is read: None where it is no answer."""

    messages: list[dict[str, str]]
    read: Callable[[str], dict[str, float] | None]


class Asker:
    """Asks as the settings of a judge say; `counts` of all calls so far: rows, cached, failed, and the endpoint's."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        key = os.environ.get(settings.key, "")
        self.endpoint = Endpoint(settings.url, key, settings.timeout, settings.retries, settings.backoff)
        self.asked = {"rows": 0, "cached": 0, "failed": 0}

    @property
    def counts(self) -> dict[str, int]:
        """What was asked and what it cost."""
        return {**self.asked, **self.endpoint.counts}

    def known(self, jobs: Mapping[str, Question], rows: int) -> dict[str, dict[str, float]]:
        """Answers by key, from disk or asked for now; ValueError where not one of the questions was answered."""
        known = self._cached()
        waiting = {key: job for key, job in jobs.items() if key not in known}
        failed: dict[str, str] = {}
        for key, found in self._answers(waiting):
            if isinstance(found, str):
                failed[key] = found
            else:
                known[key] = found
        self.asked["rows"] += rows
        self.asked["cached"] += len(jobs) - len(waiting)
        self.asked["failed"] += len(failed)
        print(self._told(failed), file=sys.stderr)
        if waiting and len(failed) == len(waiting):
            raise ValueError(
                f"{self.settings.url}: none of {len(failed)} requests was answered ({failed.popitem()[1]})."
            )
        return known

    def _cached(self) -> dict[str, dict[str, float]]:
        """The answers on disk by their key; a last line that was cut short by a kill is no answer."""
        found = {}
        for path in sorted(Path(self.settings.cache).glob("answers-*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    answer = json.loads(line)
                    found[str(answer["key"])] = dict(answer["scores"])
                except (ValueError, KeyError, TypeError):
                    continue
        return found

    def _answers(self, jobs: Mapping[str, Question]) -> Iterator[tuple[str, dict[str, float] | str]]:
        """(Key, scores or why there are none), as they come; scores are on disk before they are given."""
        if not jobs:
            return
        folder = Path(self.settings.cache)
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock()

        def kept(key: str, job: Question) -> dict[str, float] | str:
            """Ask, and write the answer before this thread takes the next question: a kill loses none that came."""
            found = self._ask(job)
            if not isinstance(found, str):
                with lock:
                    file.write(json.dumps({"key": key, "scores": found}) + "\n")
                    file.flush()
            return found

        # One file a process. A newline goes first: the last line may have been cut short by a kill.
        with (folder / f"answers-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n")
            pool = ThreadPoolExecutor(self.settings.concurrency)
            try:
                asked: dict[Future[Any], str] = {pool.submit(kept, key, job): key for key, job in jobs.items()}
                for future in as_completed(asked):
                    yield asked[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _ask(self, question: Question) -> dict[str, float] | str:
        """What was asked for, or why there is none; an answer that is none is sent back once for each retry."""
        messages = question.messages
        s = self.settings
        body: dict[str, Any] = {"model": s.model, "temperature": s.temperature, "max_tokens": s.max_tokens}
        body |= {"response_format": {"type": "json_object"}} if s.json_mode else {}
        said = ""
        for _ in range(s.retries + 1):
            try:
                said = self.endpoint.ask({**body, "messages": messages})
            except RefusedError as error:
                return str(error)
            found = question.read(said)
            if found is not None:
                return found
            self.endpoint.count(nonsense=1)
            again = [{"role": "assistant", "content": said[:1000]}, {"role": "user", "content": AGAIN}]
            messages = [*question.messages, *again]
        return f"no valid scores in {said[:100]!r}"

    def _told(self, failed: Mapping[str, str]) -> str:
        c = self.counts
        s, first = self.settings, f" (the first: {next(iter(failed.values()))})" if failed else ""
        cost = (c["prompt_tokens"] * s.prompt_price + c["completion_tokens"] * s.completion_price) / 1e6
        return (
            f"judge {self.settings.model}: {c['rows']} rows, {c['requests']} requests ({c['retries']} retries, "
            f"{c['nonsense']} without valid scores), {c['cached']} from {self.settings.cache}, {c['failed']} failed"
            f"{first}; {c['prompt_tokens']} + {c['completion_tokens']} tokens"
            f"{f', which cost {cost:.4g}' if s.prompt_price or s.completion_price else ''}."
        )


def json_object(said: str) -> dict[str, Any] | None:
    """The first JSON object of an answer, which may think aloud before it."""
    said = said.rpartition("</think>")[2]
    try:
        found, _ = json.JSONDecoder().raw_decode(said, said.index("{"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
