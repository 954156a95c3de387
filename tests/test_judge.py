"""The judge against a real HTTP server on loopback that also fails in every way that servers do."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HANG

import attribute_models
from attribute_models.asker import FEW
from attribute_models.judge import Judge
from steer.config.labelling import LabelConfig
from steer.errors import SteerError
from steer.evaluation.annotators import annotator, meetings, vote
from steer.evaluation.systems import Answers
from steer.generation.openai_client import ChatCall, ChatReply, OpenAIClient
from steer.labelling.command import label_command
from steer.rows import read_rows

Reply = tuple[int, dict[str, str], str] | None  # None: never answers
REPLY = {"message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}


def chat(content: str, **more: Any) -> Reply:
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    answer = {"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage, **more}
    return 200, {}, json.dumps(answer)


def asked(body: dict[str, Any]) -> str:
    """The response that a request is about."""
    return str(json.loads(body["messages"][1]["content"])["response"])


def by_words(body: dict[str, Any]) -> Reply:
    """As many points as words, at most 4, on every attribute that the request names."""
    names = [n for n in ("helpfulness", "tone") if f"- {n}," in body["messages"][0]["content"]]
    return chat(json.dumps(dict.fromkeys(names, min(4, len(asked(body).split())))))


class Server:
    """What was asked, and what is said to it."""

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any]], Reply] = by_words
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(body)
                server.keys.append(self.headers["Authorization"])
                reply = server.reply(body) if self.path == "/v1/chat/completions" else (404, {}, "no such page")
                if reply is None:
                    server.over.wait(HANG)
                    return
                status, headers, text = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with closing(Server()) as made:
        yield made


def row(response: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": "Say words."}], "response": response}


@pytest.fixture
def judge(server: Server, tmp_path: Path) -> Callable[..., Judge]:
    """A judge of that server by a file of settings, with answers in tmp_path/cache."""

    def made(**more: Any) -> Judge:
        settings = {"model": "m", "url": server.url, "attributes": ["helpfulness"], "backoff": 0.001, "retries": 3}
        settings |= {"cache": str(tmp_path / "cache"), "timeout": HANG, "concurrency": 4, **more}
        (tmp_path / "judge.yaml").write_text(json.dumps(settings))
        return Judge.of(str(tmp_path / "judge.yaml"))

    return made


def test_scores_come_back_in_the_order_of_the_rows(server: Server, judge: Callable[..., Judge]) -> None:
    asker = judge(attributes=["helpfulness", "tone"], rubrics={"tone": {"text": "Friendly?", "low": 1, "high": 5}})
    rows = [row(" ".join(["word"] * (1 + i % 4))) for i in range(12)]
    assert asker.score(rows).tolist() == [[1 + i % 4] * 2 for i in range(12)]
    assert len(server.bodies) == 4  # the same question is asked once
    told = server.bodies[0]["messages"]
    assert "- tone, from 1 to 5: Friendly?" in told[0]["content"]
    assert json.loads(told[1]["content"])["prompt"] == row("")["prompt"]
    assert (server.bodies[0]["model"], server.bodies[0]["temperature"]) == ("m", 0.0)
    assert set(server.keys) == {"Bearer sk-secret"}
    assert asker.counts == {"rows": 12, "cached": 0, "failed": 0, "requests": 4, "retries": 0, "nonsense": 0} | {
        "prompt_tokens": 40,
        "completion_tokens": 12,
    }


def test_what_was_spent_is_told_where_a_price_is_given(
    judge: Callable[..., Judge], capsys: pytest.CaptureFixture[str]
) -> None:
    judge(prompt_price=2, completion_price=10.0).score([row("one"), row("two words")])
    assert "20 + 6 tokens, which cost 0.0001.\n" in capsys.readouterr().err  # (20 * 2 + 6 * 10) / 1e6
    judge().score([row("three")])
    assert "10 + 3 tokens.\n" in capsys.readouterr().err


def test_one_request_for_each_attribute(server: Server, judge: Callable[..., Judge]) -> None:
    asker = judge(attributes=["helpfulness", "tone"], rubrics={"tone": "Friendly?"}, together=False)
    assert asker.score([row("one two")]).tolist() == [[2.0, 2.0]]
    assert len(server.bodies) == 2
    assert sum("- tone," in body["messages"][0]["content"] for body in server.bodies) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"Retry-After": "0"}, "slow down"),
        (500, {}, "oops"),
        (503, {}, ""),
        (200, {}, "<html>gateway</html>"),
        (200, {}, '{"choices": []}'),
        (200, {}, ""),
    ],
)
def test_troubles_that_pass_are_waited_out(server: Server, judge: Callable[..., Judge], trouble: Reply) -> None:
    server.reply = lambda body: trouble if len(server.bodies) < 3 else by_words(body)
    asker = judge(concurrency=1)
    assert asker.score([row("one two")]).tolist() == [[2.0]]
    assert (asker.counts["requests"], asker.counts["retries"], asker.counts["failed"]) == (3, 2, 0)


def test_a_request_that_times_out_is_tried_again(server: Server, judge: Callable[..., Judge]) -> None:
    server.reply = lambda body: None if len(server.bodies) == 1 else by_words(body)
    asker = judge(timeout=0.2, concurrency=1, retries=20)
    assert asker.score([row("one")]).tolist() == [[1.0]]
    assert asker.counts["retries"] == asker.counts["requests"] - 1 > 0


NONSENSE = [
    "I would say four out of five.",
    '{"helpfulness": 9}',
    '{"helpfulness": -1}',
    '{"helpfulness": true}',
    '{"helpfulness": "4"}',
    '{"helpfulness": NaN}',
    '{"other": 4}',
    '["helpfulness", 4]',
    '{"helpfulness": 4',
    "",
]


@pytest.mark.parametrize("content", NONSENSE)
def test_nonsense_is_sent_back_and_then_counted(content: str, server: Server, judge: Callable[..., Judge]) -> None:
    server.reply = lambda body: chat(content) if asked(body) == "bad" else by_words(body)
    asker = judge(retries=2)
    scores = asker.score([row("bad"), row("one two")])
    assert math.isnan(scores[0, 0])
    assert scores[1, 0] == 2.0
    assert (asker.counts["nonsense"], asker.counts["failed"]) == (3, 1)
    again = next(body for body in server.bodies if len(body["messages"]) == 4)
    assert again["messages"][2] == {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    "content", ['```json\n{"helpfulness": 3}\n```', '<think>maybe {"helpfulness": 0}</think> {"helpfulness": 3.0}']
)
def test_fenced_and_thought_out_answers_are_read(content: str, server: Server, judge: Callable[..., Judge]) -> None:
    server.reply = lambda body: chat(content)
    assert judge().score([row("x")]).tolist() == [[3.0]]


def test_a_row_that_the_endpoint_refuses_fails_alone(
    server: Server, judge: Callable[..., Judge], capsys: pytest.CaptureFixture[str]
) -> None:
    too_long: Reply = (400, {}, "context length exceeded")
    server.reply = lambda body: too_long if asked(body) == "long" else by_words(body)
    asker = judge()
    scores = asker.score([row("long"), row("one")])
    assert math.isnan(scores[0, 0])
    assert scores[1, 0] == 1.0
    assert asker.counts["retries"] == 0
    said = capsys.readouterr().err
    assert "judge m: 2 rows, 2 requests (0 retries, 0 without valid scores), 0 from " in said
    assert "1 failed (the first: status 400: context length exceeded); 10 + 3 tokens." in said


def test_what_a_model_refuses_by_name_is_sent_otherwise_and_said_once(
    server: Server, judge: Callable[..., Judge], capsys: pytest.CaptureFixture[str]
) -> None:
    """The errors are those of OpenAI's reasoning models."""

    def reasoning(body: dict[str, Any]) -> Reply:
        if "max_tokens" in body:
            use = "Use 'max_completion_tokens' instead."
            message, name = f"Unsupported parameter: 'max_tokens' is not supported with this model. {use}", "max_tokens"
        elif "temperature" in body:
            message, name = "Unsupported value: 'temperature' does not support 0 with this model.", "temperature"
        elif body["max_completion_tokens"] > 4096:
            message, name = "'max_completion_tokens' is too large: 5000.", "max_completion_tokens"
        else:
            return by_words(body) if "seed" not in body else chat("Hello.", choices=[REPLY])
        return 400, {}, json.dumps({"error": {"message": message, "param": name}})

    server.reply = reasoning
    assert judge(concurrency=1).score([row("one"), row("one two")]).tolist() == [[1.0], [2.0]]
    assert [{"max_tokens", "max_completion_tokens", "temperature"} & body.keys() for body in server.bodies] == [
        {"max_tokens", "temperature"},
        {"max_completion_tokens", "temperature"},
        {"max_completion_tokens"},
        {"max_completion_tokens"},
    ]
    assert server.bodies[-1]["max_completion_tokens"] == 300
    client = OpenAIClient(server.url, "m")
    chats = [ChatCall(row("")["prompt"], None, seed) for seed in (0, 1)]
    assert client.complete(chats, 2, max_tokens=8, temperature=1.0) == [ChatReply("Hello.", True)] * 2
    assert len(server.bodies) == 6, "it is remembered"
    told = f"m at {server.url}/chat/completions does not take"
    said = f"{told} 'max_tokens' (sent as 'max_completion_tokens'), 'temperature' (left out)."
    err = capsys.readouterr().err
    assert said in err
    assert err.count("does not take") == 1
    with pytest.raises(SteerError, match="answered 400: 'max_completion_tokens' is too large: 5000"):
        client.complete(chats, 1, max_tokens=5000)
    assert OpenAIClient(server.url, "another").complete(chats[:1], 1, temperature=1.0, max_completion_tokens=8)
    assert (
        f"another at {server.url}/chat/completions does not take 'temperature' (left out)." in capsys.readouterr().err
    )


CHATS = [ChatCall(row("")["prompt"], None, seed) for seed in range(12)]
SEEDS = [ChatReply(str(seed), True) for seed in range(12)]


def by_seed(body: dict[str, Any]) -> Reply:
    return chat("", choices=[{"message": {"content": str(body["seed"])}, "finish_reason": "stop"}])


def test_a_slow_server_has_its_number_of_requests_and_the_other_answers_the_rest(server: Server) -> None:
    rest = threading.Event()

    def fast(body: dict[str, Any]) -> Reply:
        if len(server.bodies) >= 10:
            rest.set()
        return by_seed(body)

    def slow(body: dict[str, Any]) -> Reply:
        assert rest.wait(HANG)
        return by_seed(body)

    with closing(Server()) as other:
        server.reply, other.reply = fast, slow
        assert OpenAIClient(f"{other.url} {server.url}", "m").complete(CHATS, 2) == SEEDS
        assert len(other.bodies) <= 2
        assert len(server.bodies) + len(other.bodies) == 12


def test_requests_of_a_server_that_does_not_answer_go_to_the_others(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = by_seed
    with closing(Server()) as refusing:
        pass
    with closing(Server()) as broken:
        broken.reply = lambda _: None
        broken.over.set()  # it closes the connection
        client = OpenAIClient(f"{refusing.url} {broken.url} {server.url}", "m")
        assert [client.complete(CHATS, 2) for _ in range(2)] == [SEEDS] * 2
        err = capsys.readouterr().err
        for lost in (refusing, broken):
            assert err.count(f"--server {lost.url}: does not answer (") == 1, "it is said once"
        assert err.count("Until then the other servers get its requests.") == 2
        with pytest.raises(
            SteerError, match=r"^--server .*: does not answer \(.*\)\. Start it, or check the address\.$"
        ):
            OpenAIClient(f"{refusing.url} {broken.url}", "m").complete(CHATS, 2)
        server.reply = lambda _: (400, {}, json.dumps({"error": {"message": "too long"}}))
        with pytest.raises(SteerError, match="answered 400: too long"):
            client.complete(CHATS, 2)
        assert len(server.bodies) <= 24 + 2, "after an error nothing more is asked"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_stops_at_once(server: Server, judge: Callable[..., Judge], status: int) -> None:
    server.reply = lambda body: (status, {}, "no")
    with pytest.raises(ValueError, match=f"status {status}: no. Check the address, the model and the key."):
        judge(concurrency=1).score([row(str(i)) for i in range(50)])
    assert len(server.bodies) < 50


def test_an_endpoint_that_answers_nothing_is_no_empty_column(server: Server, judge: Callable[..., Judge]) -> None:
    server.reply = lambda body: (500, {}, "down")
    with pytest.raises(ValueError, match=r"none of 2 requests was answered \(status 500: down\)"):
        judge(retries=0).score([row("one"), row("two")])
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ValueError, match=r"none of 1 requests was answered \(URLError"):
        judge(retries=0).score([row("one")])


@pytest.mark.parametrize("reply", [(400, {}, "context length exceeded"), chat("I would rather not say.")])
def test_a_question_that_is_never_answered_does_not_stop_later_runs(
    server: Server, judge: Callable[..., Judge], reply: Reply
) -> None:
    server.reply = lambda body: reply if asked(body) == "long" else by_words(body)
    rows = [row("long"), row("one"), row("one two")]
    for cached in (0, 2):
        asker = judge(retries=0)
        scores = asker.score(rows)[:, 0]
        assert np.isnan(scores).tolist() == [True, False, False]
        assert (asker.counts["cached"], asker.counts["failed"]) == (cached, 1)
    server.reply = lambda body: (500, {}, "down")
    with pytest.raises(ValueError, match=r"none of 1 requests was answered \(status 500: down\)"):
        judge(retries=0).score(rows)


def test_a_few_questions_may_all_be_refused_and_many_may_not(server: Server, judge: Callable[..., Judge]) -> None:
    """A shard may hold nothing but texts that are too long; where all of many are refused, the settings are wrong."""
    server.reply = lambda body: (400, {}, "context length exceeded")
    asker = judge()
    assert np.isnan(asker.score([row(f"long {i}") for i in range(FEW)])).all()
    assert asker.counts["failed"] == FEW
    with pytest.raises(ValueError, match=r"none of 9 requests was answered \(status 400: context length exceeded\)"):
        judge().score([row(f"long {i}") for i in range(FEW + 1)])
    server.reply = lambda body: (402, {}, "no credit") if asked(body) == "short" else (400, {}, "too long")
    with pytest.raises(ValueError, match=r"none of 2 requests was answered \(status 402: no credit\)"):
        judge().score([row("long"), row("short")])
    server.reply = lambda body: chat("I would rather not say.")
    with pytest.raises(ValueError, match=r"none of 1 requests was answered \(no valid scores in 'I would"):
        judge(retries=0).score([row("long")])


def test_a_redirect_does_not_take_the_key_along(server: Server, judge: Callable[..., Judge]) -> None:
    server.reply = lambda body: (302, {"Location": f"{server.url}/elsewhere"}, "")
    with pytest.raises(ValueError, match="status 302"):
        judge(retries=0).score([row("one")])
    assert len(server.keys) == 1


def test_answers_are_kept_and_only_failures_asked_again(server: Server, judge: Callable[..., Judge]) -> None:
    rows = [row(text) for text in ("one", "one two", "bad")]
    server.reply = lambda body: chat("?") if asked(body) == "bad" else by_words(body)
    judge(retries=0).score(rows)
    server.bodies.clear()
    server.reply = by_words
    asker = judge()
    assert asker.score(rows).tolist() == [[1.0], [2.0], [1.0]]
    assert [asked(body) for body in server.bodies] == ["bad"]
    assert asker.counts["cached"] == 2
    server.bodies.clear()
    judge(model="other").score(rows)
    judge(rubrics={"helpfulness": {"text": "Mine", "low": 0, "high": 4}}).score(rows)
    assert len(server.bodies) == 6  # another model or rubric is another question


PROGRAM = """
import sys
from attribute_models.judge import Judge
rows = [{"prompt": [{"role": "user", "content": "Say"}], "response": "w " * n} for n in range(1, 41)]
Judge.of(sys.argv[1]).score(rows)
"""


def test_a_killed_run_asks_nothing_twice(server: Server, judge: Callable[..., Judge], tmp_path: Path) -> None:
    judge(concurrency=1)
    victim = [sys.executable, "-c", PROGRAM, str(tmp_path / "judge.yaml")]
    reached = threading.Event()
    on_disk = []

    def until_the_tenth(body: dict[str, Any]) -> Reply:
        if len(server.bodies) < 10:
            return by_words(body)
        on_disk.extend("".join(path.read_text() for path in (tmp_path / "cache").iterdir()).split())
        reached.set()
        return None

    server.reply = until_the_tenth
    process = subprocess.Popen(victim, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert reached.wait(HANG)
    process.send_signal(signal.SIGKILL)
    process.wait(HANG)
    assert sum("key" in word for word in on_disk) == 9, "an answer is on disk before the next question goes out"
    answered = {asked(body) for body in server.bodies[:9]}
    (cache,) = (tmp_path / "cache").iterdir()
    cache.write_text(cache.read_text() + '{"key": "cut sho')  # what a kill in the middle of a line leaves
    server.bodies.clear()
    server.reply = by_words
    done = subprocess.run(victim, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert done.returncode == 0
    assert len(server.bodies) == 31
    assert not answered & {asked(body) for body in server.bodies}
    assert "sk-secret" not in "".join(path.read_text() for path in (tmp_path / "cache").iterdir())


def test_a_saved_judge_is_the_same_and_holds_no_key(judge: Callable[..., Judge], tmp_path: Path) -> None:
    asker = judge(rubrics={"helpfulness": "Mine", "tone": {"text": "x", "low": 1, "high": 5}}, attributes=["tone"])
    asker.save(tmp_path / "saved")
    again = attribute_models.load(tmp_path / "saved")
    assert isinstance(again, Judge)
    assert (again.settings, again.rubrics, again.identity) == (asker.settings, asker.rubrics, asker.identity)
    assert "sk-secret" not in (tmp_path / "saved" / "model.json").read_text()
    assert "sk-secret" not in repr(asker.asker.endpoint)


def test_label_asks_a_judge_and_says_what_is_wrong(server: Server, judge: Callable[..., Judge], tmp_path: Path) -> None:
    judge()
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row(" ".join(["w"] * (1 + i % 5)))) + "\n" for i in range(20)))
    config = LabelConfig(str(rows), str(tmp_path / "labels"), scorer=f"judge:{tmp_path / 'judge.yaml'}", held_out=0.0)
    label_command(config)
    labelled = read_rows(tmp_path / "labels")
    assert [r["predicted"]["helpfulness"] for r in labelled] == [min(4, 1 + i % 5) for i in range(20)]
    assert labelled[0]["scorer"].startswith("judge:m:")
    server.reply = lambda body: (401, {}, "who are you")
    judge(cache=str(tmp_path / "empty"))
    with pytest.raises(SteerError, match=r"scorer judge:m:.*status 401: who are you"):
        label_command(LabelConfig(str(rows), str(tmp_path / "other"), scorer=config.scorer))


WRONG = [
    ({"model": ""}, "wants 'model' and 'attributes' or 'rubrics'"),
    ({"attributes": []}, "wants 'model' and 'attributes' or 'rubrics'"),
    ({"attributes": ["helpfulnes"]}, "Did you mean 'helpfulness'"),
    ({"url": "localhost:8000"}, "wanted http://"),
    ({"api_key": "x"}, "Unknown setting 'api_key'. Did you mean 'key'"),
    ({"retries": "many"}, "'retries' is 'many'; wanted a whole number"),
    ({"concurrency": 0}, "concurrency of 1 or more"),
    ({"rubrics": {"helpfulness": {"txt": "x"}}}, "rubric 'helpfulness': wanted a text"),
    ({"rubrics": {"helpfulness": {"text": "x", "low": 5, "high": 1}}}, "low 5 is not below high 1"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_settings_name_the_remedy(
    settings: dict[str, Any], message: str, judge: Callable[..., Judge], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        judge(**settings)
    with pytest.raises(ValueError, match="cannot be read"):
        Judge.of(str(tmp_path / "none.yaml"))


def test_pairs_are_asked_in_the_order_shown_and_read_back(server: Server, judge: Callable[..., Judge]) -> None:
    def longer(body: dict[str, Any]) -> Reply:
        shown = json.loads(body["messages"][1]["content"])
        a, b = len(shown["A"]), len(shown["B"])
        return chat(json.dumps({"better": "tie" if a == b else "A" if a > b else "B"}))

    server.reply = longer
    first, second = [row("long answer"), row("short"), row("same")], [row("no"), row("a longer one"), row("else")]
    assert judge().prefer(first, second).tolist() == [1.0, 0.0, 0.5]
    assert judge().prefer(second, first).tolist() == [0.0, 1.0, 0.5]
    asked = len(server.bodies)
    assert judge().prefer(first, second).tolist() == [1.0, 0.0, 0.5]
    assert len(server.bodies) == asked == 6


def test_a_judge_of_pairs_reads_the_tools_that_they_call(
    server: Server, judge: Callable[..., Judge], tmp_path: Path
) -> None:
    server.reply = lambda body: chat('{"better": "A"}')
    judge(rubrics={"tone": "friendly"}, attributes=[])
    rows = [
        {**row(""), "tool_calls": [{"type": "function", "function": {"name": "weigh", "arguments": {"n": n}}}]}
        for n in (1, 2, 3)
    ]
    assert annotator(f"judge:{tmp_path / 'judge.yaml'}").prefer(rows[:2], rows[1:]).tolist() == [1.0, 1.0]
    shown = [json.loads(body["messages"][1]["content"]) for body in server.bodies]
    assert sorted((each["A"], each["B"]) for each in shown) == [
        ('weigh({"n": 1})', 'weigh({"n": 2})'),
        ('weigh({"n": 2})', 'weigh({"n": 3})'),
    ]


def test_a_pair_without_an_answer_is_unknown(server: Server, judge: Callable[..., Judge]) -> None:
    server.reply = lambda body: chat('{"better": "A"}' if "good" in body["messages"][1]["content"] else "Both.")
    found = judge(retries=0).prefer([row("good"), row("so so")], [row("x"), row("y")])
    assert found[0] == 1.0
    assert math.isnan(found[1])


def test_a_judge_votes_in_both_orders(server: Server, judge: Callable[..., Judge], tmp_path: Path) -> None:
    """One that always says A prefers nobody."""
    server.reply = lambda body: chat('{"better": "A"}')
    (tmp_path / "judge.yaml").write_text(
        f"model: m\nurl: {server.url}\nrubrics: {{tone: friendly}}\ncache: {tmp_path / 'votes'}\n"
    )
    empty = np.zeros((1, 1))
    systems = [{0: Answers([row(text)], empty, empty)} for text in ("one", "two")]
    votes = vote(annotator(f"judge:{tmp_path / 'judge.yaml'}"), meetings(systems))
    assert votes.share.tolist() == [0.5]
    assert votes.turned.tolist() == [1.0]
    assert len(server.bodies) == 2
