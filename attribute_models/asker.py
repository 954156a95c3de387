"""Ask an endpoint many questions at a time, each once: answers are kept on disk under a hash of the question."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from attribute_models.endpoint import BadRequestError, Endpoint, RefusedError
from attribute_models.progress import progress

if TYPE_CHECKING:
    from attribute_models.judge import Settings

FEW = 8  # questions, all of which an endpoint in order may refuse; of more the settings are to blame
RETRY = "That was not the JSON object that was asked for. Answer with it and nothing else."


class Question(NamedTuple):
    """Messages to the model, and the parser of its answer, which returns None for no valid answer."""

    messages: list[dict[str, str]]
    read: Callable[[str], dict[str, float] | None]


class Failure(NamedTuple):
    """Why a question has no answer: it was refused, answered without valid scores, or the server did not answer."""

    why: str
    kind: Literal["refused", "invalid", "lost"]


class Asker:
    """Asks the endpoint in a judge's settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        key = os.environ.get(settings.key, "")
        self.endpoint = Endpoint(settings.url, key, settings.timeout, settings.retries, settings.backoff)
        self.totals = {"rows": 0, "cached": 0, "failed": 0}

    @property
    def counts(self) -> dict[str, int]:
        """Rows, cached and failed questions of all calls so far, and the endpoint's counts."""
        return {**self.totals, **self.endpoint.counts}

    @property
    def cost(self) -> float:
        """What was read and written so far has cost, by the prices in the settings."""
        c, s = self.endpoint.counts, self.settings
        return (c["prompt_tokens"] * s.prompt_price + c["completion_tokens"] * s.completion_price) / 1e6

    def answers(self, questions: Mapping[str, Question], rows: int) -> dict[str, dict[str, float]]:
        """Answers by key, from disk or asked for now; ValueError where `_stopped` says why."""
        answers = self._cached()
        waiting = {key: question for key, question in questions.items() if key not in answers}
        failed: dict[str, Failure] = {}
        for key, answer in self._asked(waiting):
            if isinstance(answer, Failure):
                failed[key] = answer
            else:
                answers[key] = answer
        self.totals["rows"] += rows
        self.totals["cached"] += len(questions) - len(waiting)
        self.totals["failed"] += len(failed)
        print(self._summary(failed), file=sys.stderr)
        if waiting and len(failed) == len(waiting):
            known = any(key in answers for key in questions)
            if why := _stopped(list(failed.values()), known):
                raise ValueError(f"{self.settings.url}: none of {len(failed)} requests was answered ({why}).")
        return answers

    def _cached(self) -> dict[str, dict[str, float]]:
        """The answers on disk by their key; a last line that was cut short by a kill is skipped."""
        answers = {}
        for path in sorted(Path(self.settings.cache).glob("answers-*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    answer = json.loads(line)
                    answers[str(answer["key"])] = dict(answer["scores"])
                except (ValueError, KeyError, TypeError):
                    continue
        return answers

    def _asked(self, questions: Mapping[str, Question]) -> Iterator[tuple[str, dict[str, float] | Failure]]:
        """Yield (key, scores or why there are none) as they come; scores are on disk before they are yielded."""
        if not questions:
            return
        folder = Path(self.settings.cache)
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock()

        def ask_and_keep(key: str, question: Question) -> dict[str, float] | Failure:
            """Write the answer before this thread takes the next question: a kill loses none that came."""
            answer = self._ask(question)
            if not isinstance(answer, Failure):
                with lock:
                    file.write(json.dumps({"key": key, "scores": answer}) + "\n")
                    file.flush()
            return answer

        # One file a process. A newline goes first: the last line may have been cut short by a kill.
        with (folder / f"answers-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n")
            pool = ThreadPoolExecutor(self.settings.concurrency)
            try:
                keys: dict[Future[Any], str] = {pool.submit(ask_and_keep, k, q): k for k, q in questions.items()}
                what = f"ask {self.settings.model}"
                for future in progress(as_completed(keys), total=len(keys), what=what, unit="questions"):
                    yield keys[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _ask(self, question: Question) -> dict[str, float] | Failure:
        """Scores, or why there are none; an answer that is not valid is sent back, once for each retry."""
        messages = question.messages
        s = self.settings
        body: dict[str, Any] = {"model": s.model, "temperature": s.temperature, "max_tokens": s.max_tokens}
        body |= {"response_format": {"type": "json_object"}} if s.json_mode else {}
        text = ""
        for _ in range(s.retries + 1):
            try:
                text = self.endpoint.ask({**body, "messages": messages})
            except BadRequestError as error:
                return Failure(str(error), "refused")
            except RefusedError as error:
                return Failure(str(error), "lost")
            scores = question.read(text)
            if scores is not None:
                return scores
            self.endpoint.count(nonsense=1)
            retry = [{"role": "assistant", "content": text[:1000]}, {"role": "user", "content": RETRY}]
            messages = [*question.messages, *retry]
        return Failure(f"no valid scores in {text[:100]!r}", "invalid")

    def _summary(self, failed: Mapping[str, Failure]) -> str:
        c = self.counts
        s, first = self.settings, f" (the first: {next(iter(failed.values())).why})" if failed else ""
        return (
            f"judge {self.settings.model}: {c['rows']} rows, {c['requests']} requests ({c['retries']} retries, "
            f"{c['nonsense']} without valid scores), {c['cached']} from {self.settings.cache}, {c['failed']} failed"
            f"{first}; {c['prompt_tokens']} + {c['completion_tokens']} tokens"
            f"{f', which cost {self.cost:.4g}' if s.prompt_price or s.completion_price else ''}."
        )


def _stopped(failed: Sequence[Failure], known: bool) -> str:
    """Why nothing may go on where all that was asked failed; empty where only these questions are to blame.

    A server that does not answer stops all. Questions that are refused, or answered without valid scores, do not where
    other answers are known; without any, FEW that are refused do not either: a shard may hold nothing else.
    """
    lost = next((failure.why for failure in failed if failure.kind == "lost"), "")
    if lost or known:
        return lost
    return "" if len(failed) <= FEW and all(failure.kind == "refused" for failure in failed) else failed[0].why


def json_object(answer: str) -> dict[str, Any] | None:
    """Parse the first JSON object of an answer, which may think aloud before it; None if there is none."""
    answer = answer.rpartition("</think>")[2]
    try:
        value, _ = json.JSONDecoder().raw_decode(answer, answer.index("{"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
