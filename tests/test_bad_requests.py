"""What a server is sent that it cannot do: told precisely, in OpenAI's shape, and the next request is served."""

from __future__ import annotations

import json
import operator
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from conftest import ASK, HANG, JSON, Served, dawdling, raw_request, send, serving, until
from hypothesis import given, settings
from hypothesis import strategies as st

from steer.models.policy import Policy, load_policy
from steer.serve import api, wire
from steer.serve.wire import MOST


@pytest.mark.parametrize(
    ("body", "status", "message", "param"),
    [
        ({"targets": {"helpfulnes": 3}}, 400, "unknown attribute 'helpfulnes'; did you mean 'helpfulness'?", "targets"),
        ({"targets": {"helpfulness": 9}}, 400, "no such level; helpfulness has 0, 1, 2, 3, 4", "targets"),
        ({"targets": "helpfulness=4 warmth=0"}, 400, 'Nearest supported: .* "allow_unsupported": true', "targets"),
        ({"model": "policy@warmth=<b>"}, 400, "write NAME=LEVEL", "targets"),
        ({"model": "policy@best", "targets": "best"}, 400, "given twice, in model and targets", "targets"),
        ({"targets": {"warmth": True}}, 400, "wants a level", "targets"),
        ({"targets": []}, 400, "'targets' is empty", "targets"),
        (
            {"chat_template_kwargs": {"enable": 1}},
            400,
            "'enable' is not supported: .* does not read",
            "chat_template_kwargs",
        ),
        ({"model": "other"}, 404, "no model 'other'", "model"),
        ({"messages": []}, 400, "end with a turn of the user", "messages"),
        ({"messages": [{"role": "critic", "content": "x"}, *ASK]}, 400, "not 'critic'", "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "parts of type 'text'", None),
        ({"messages": [{"role": "user", "content": "bees " * 3000}]}, 400, "the model has 512 positions", "messages"),
        ({"max_tokens": 100_000}, 400, "512 positions. .* lower max_tokens", "messages"),
        (
            {"messages": [{"role": "user", "content": None}]},
            400,
            "should be a valid string, or a list",
            "messages.0.content",
        ),
        ({"n": 0}, 400, "greater than or equal to 1", "n"),
        ({"n": MOST, "targets": ["none", "best"]}, 400, f"at most {MOST}", "n"),
        ({"temperature": -1}, 400, "greater than or equal to 0", "temperature"),
        ({"top_p": 0}, 400, "greater than 0", "top_p"),
        ({"tempertaure": 1}, 400, "did you mean 'temperature'", "tempertaure"),
        ({"logprobs": 3}, 400, "should be a valid boolean", "logprobs"),
        ({"top_logprobs": 3}, 400, "'top_logprobs' needs 'logprobs': true", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "less than or equal to 20", "top_logprobs"),
        ({"top_k": -2}, 400, "greater than or equal to -1", "top_k"),
        ({"min_p": 1.5}, 400, "less than or equal to 1", "min_p"),
        ({"presence_penalty": 0.5}, 400, "'presence_penalty' is not supported here. Leave it out", "presence_penalty"),
        ({"repetition_penalty": 0}, 400, "greater than 0", "repetition_penalty"),
        ({"response_format": {"type": "json_object"}}, 400, "'response_format' is not supp", "response_format"),
        ({"reasoning_effort": "low"}, 400, "'reasoning_effort' is not supported", "reasoning_effort"),
        ({"stop": [1] * 20_000}, 400, "should be a valid string", "stop"),
        ({"targets": {"helpfulness": "3 warmth=2"}}, 400, "'3 warmth=2' names no level", "targets"),
        ({"targets": {"helpfulness=3 warmth": 2}}, 400, "names no level", "targets"),
        (
            {"messages": [{"role": "user", "content": "x", "refusl": "y"}]},
            400,
            "unknown field 'messages.0.refusl'; did you mean 'refusal'. Known: .*content.* role, tool_call_id",
            "messages.0.refusl",
        ),
        (
            {"messages": [ASK[0], {"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}, ASK[0]]},
            400,
            "'messages.1.tool_calls.0.function': Field required",
            "messages.1.tool_calls.0.function",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]},
            400,
            "unknown field",
            None,
        ),
        ({"stream_options": {"include": True}}, 400, "did you mean 'include_usage'", "stream_options.include"),
        ({"tools": [{"type": "function"}]}, 400, "'tools' is not supported", "tools"),
        ({"stop": ["a", "", "b"]}, 400, "none of them empty", "stop"),
        ({"against": "helpfulnes=3", "guidance": 2.0}, 400, "did you mean 'helpfulness'", "targets"),
    ],
)
def test_what_cannot_be_done_is_said(served: Served, body: Any, status: int, message: str, param: str | None) -> None:
    got, found = send(served, "/v1/chat/completions", {"model": "policy", "messages": ASK, **body})
    assert got == status
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert found["error"]["type"] == "invalid_request_error"
    pytest.raises(AssertionError, match=message).matches(AssertionError(found["error"]["message"]))
    assert param is None or found["error"]["param"] == param
    assert send(served, "/health")[0] == 200


def test_bodies_that_are_no_request(served: Served) -> None:
    path = "/v1/chat/completions"
    for body, status, told in (
        (b"{bad", 400, "not JSON"),
        (b"", 400, ""),
        (b"[1]", 400, ""),
        (b'{"model": "\xff"}', 400, ""),
        (b"[" * 50_000, 400, ""),
        (b'{"model": "policy", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, ""),
        (b'{"model": "policy", "temperature": NaN, "messages": []}', 400, "finite"),
        (b"x" * 10_000_000, 413, "more than 100000 bytes"),
    ):
        got, found = send(served, path, body)
        assert got == status, body[:40]
        assert told in found["error"]["message"]
    assert send(served, path, b"a=1", {"Content-Type": "text/plain"})[0] == 415
    assert send(served, "/v1/models", headers={"Host": "evil.example"})[0] == 403
    assert send(served, "/v1/models", headers={"Host": f"LocalHost:{served.port}"})[0] == 200
    assert send(served, "/nothing")[0] == 404
    assert send(served, path, method="DELETE")[0] == 405
    assert send(served, path, {"model": "policy", "messages": ASK, "max_tokens": 2})[0] == 200


def test_a_request_that_takes_long_to_read_holds_up_nobody(
    served: Served, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on, really = threading.Event(), threading.Event(), api.turns_parts

    def slowly(turns: Any, *rest: Any) -> Any:
        if turns[0]["content"] == "slow":
            reading.set()
            assert go_on.wait(HANG)
        return really(turns, *rest)

    monkeypatch.setattr(api, "turns_parts", slowly)
    with ThreadPoolExecutor(1) as pool:
        body = {"model": "policy", "messages": [{"role": "user", "content": "slow"}], "max_tokens": 2}
        slow = pool.submit(send, served, "/v1/chat/completions", body)
        assert reading.wait(HANG)
        assert client.chat.completions.create(model="policy", messages=ASK, max_tokens=5).choices
        assert not slow.done()
        go_on.set()
        assert slow.result()[0] == 200


def test_what_breaks_inside_is_told_in_the_same_shape(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "expanded", lambda *_: {}["x"])
    status, found = send(served, "/v1/chat/completions", {"model": "policy", "messages": ASK})
    assert (status, found["error"]["type"], found["error"]["code"]) == (500, "server_error", "internal")
    assert "KeyError" in found["error"]["message"]
    monkeypatch.undo()
    assert send(served, "/v1/chat/completions", {"model": "policy", "messages": ASK, "max_tokens": 2})[0] == 200


def test_a_temperature_near_0_is_greedy(client: openai.OpenAI) -> None:
    texts = {
        client.chat.completions.create(model="policy", messages=ASK, max_tokens=9, temperature=t)
        .choices[0]
        .message.content
        for t in (0, 1e-30, 1e-300)
    }
    assert len(texts) == 1


def test_text_of_all_kinds_goes_through(client: openai.OpenAI) -> None:
    for text in ("<script>alert(1)</script>", "\x00\x01\x7f", "日本語 🐝 \u202e", " ", "<warmth>4", "\n" * 50):
        found = client.chat.completions.create(
            model="policy", messages=[{"role": "user", "content": text}], max_tokens=3, stop=text
        )
        assert found.choices[0].finish_reason in ("stop", "length")


def counted(monkeypatch: pytest.MonkeyPatch, kind: type) -> list[str]:
    """The fields of `kind` that are looked at from now on."""
    seen, really = [], wire._asks

    def asks(of: Any, name: str, value: Any) -> bool:
        if of is kind:
            seen.append(name)
        return really(of, name, value)

    monkeypatch.setattr(wire, "_asks", asks)
    return seen


@pytest.fixture(scope="module")
def roomy(policy: Policy) -> Iterator[Served]:
    """A server that takes large requests."""
    with serving(policy, max_body=100_000_000) as found:
        yield found


HUGE: list[tuple[str, Any]] = [
    ("bad messages", {"messages": [{}] * 90_000}),
    ("messages that are none", {"messages": [1] * 90_000}),
    ("good messages", {"messages": ASK * 90_000}),
    ("unknown fields of a message", {"messages": [{f"x{i}": 1 for i in range(90_000)}]}),
    ("a long name of a field", {"x" * 900_000: 1}),
    ("unknown fields", {f"x{i}": 1 for i in range(90_000)}),
    ("a long role", {"messages": [{"role": "x" * 900_000, "content": ""}]}),
    ("parts", {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 90_000}]}),
    ("parts of no kind", {"messages": [{"role": "user", "content": [1] * 90_000}]}),
    ("a long model", {"model": "x" * 900_000}),
    ("a long target", {"targets": "x" * 900_000}),
    ("targets", {"targets": ["best"] * 90_000}),
    ("targets of no kind", {"targets": [1] * 90_000}),
    ("a target of many attributes", {"targets": {f"x{i}": 1 for i in range(90_000)}}),
    ("a long level", {"targets": {"warmth": "x" * 900_000}}),
    ("a long word for a number", {"temperature": "x" * 900_000}),
    ("a large number", {"max_tokens": 10**4000}),
    ("keywords of the template", {"chat_template_kwargs": {f"x{i}": 1 for i in range(90_000)}}),
    ("stop texts", {"stop": ["x"] * 90_000}),
    ("prompts", {"prompt": ["x"] * 90_000}),
    ("prompts of no kind", {"prompt": [[1]] * 90_000}),
    ("responses", {"responses": ["x"] * 90_000}),
    ("responses of no kind", {"responses": [1] * 90_000}),
]


@pytest.mark.parametrize(("what", "body"), HUGE)
def test_a_huge_request_is_refused_at_its_first_fault_in_a_short_sentence(
    what: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch, roomy: Served
) -> None:
    own = {"prompt": "x"} if "prompt" in body else {"responses": ["x"]} if "responses" in body else {"messages": ASK}
    path = {"prompt": "/v1/completions", "responses": "/v1/steer/score"}.get(next(iter(own)), "/v1/chat/completions")
    model = {} if path.endswith("score") else {"model": "policy"}
    seen = counted(monkeypatch, wire.Message)
    status, found = send(roomy, path, model | own | body)
    assert status in (400, 404)
    assert len(json.dumps(found)) < 1500
    assert len(seen) <= 2 * (wire.TURNS + 1)


def test_bad_messages_behind_the_first_are_not_looked_at(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch, wire.Message)
    body = {"model": "policy", "messages": [*ASK, {"role": 1, "content": ""}, *[{"role": 2}] * 900]}
    status, found = send(served, "/v1/chat/completions", body)
    assert (status, found["error"]["param"]) == (400, "messages.1.role")
    assert seen == ["role", "content"] * 2


def test_health_is_told_while_a_request_is_checked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    checking, go_on = threading.Event(), threading.Event()
    really = wire._asks

    def slowly(kind: Any, name: str, value: Any) -> bool:
        if value == "slow":
            checking.set()
            assert go_on.wait(60)
        return really(kind, name, value)

    monkeypatch.setattr(wire, "_asks", slowly)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/steer/score"):
        checking.clear(), go_on.clear()
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(send, served, path, {"user": "slow", "model": "policy"})
            assert checking.wait(60)
            assert send(served, "/health") == (200, {"status": "ok"})
            assert not slow.done()
            go_on.set()
            assert slow.result()[0] == 400


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_TARGET = st.sampled_from(["best", "none", "verbosity=0", "verbosity=low warmth=4", "warmth>=2", {"warmth": [1, 3]}])
_GOOD: dict[str, Any] = {
    "n": st.integers(1, 3),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1, exclude_min=True),
    "seed": st.integers(),
    "stop": st.text(min_size=1, max_size=3),
    "stream": st.booleans(),
    "guidance": st.floats(0, 5),
    "against": st.sampled_from(["none", "opposite", "verbosity=4"]),
    "targets": _TARGET | st.lists(_TARGET, min_size=1, max_size=3),
    "allow_unsupported": st.booleans(),
    "top_k": st.integers(-1, 9),
    "min_p": st.floats(0, 1),
    "frequency_penalty": st.none() | st.just(0),
}
_FIELDS = [*_GOOD, "chat_template_kwargs", "tools", "messages", "prompt", "responses", "max_tokens", "model", "odd"]
_FIELDS += ["logprobs", "top_logprobs", "response_format", "stream_options", "best_of", "logit_bias", "user"]
_BAD = st.dictionaries(st.sampled_from(_FIELDS), _ANY | _TARGET, max_size=2)  # half of them are what spoils a request


def _request(path: str) -> st.SearchStrategy[dict[str, Any]]:
    """A good request, with up to two fields that may be anything."""
    if path == "/v1/steer/score":
        good = st.fixed_dictionaries({"responses": st.lists(st.text(), min_size=1, max_size=3), "prompt": st.text()})
        return st.builds(operator.or_, good, _BAD)
    said = st.text(min_size=1, max_size=20)
    if path == "/v1/completions":
        own, logprobs = {"prompt": said | st.lists(said, min_size=1, max_size=2)}, {"logprobs": st.integers(0, 20)}
    else:
        parts = st.lists(st.builds(lambda t: {"type": "text", "text": t}, said), max_size=2)
        turn = st.builds(
            lambda t, more: {"role": "user", "content": t, **more},
            said | parts,
            st.dictionaries(
                st.sampled_from(["refusal", "tool_calls", "audio", "name", "odd"]), st.none() | _ANY, max_size=1
            ),
        )
        own, logprobs = {"messages": st.lists(turn, min_size=1, max_size=2)}, {"logprobs": st.booleans()}
    fixed = {"model": st.just("policy"), "max_tokens": st.integers(1, 3), **own}
    return st.builds(operator.or_, st.fixed_dictionaries(fixed, optional=_GOOD | logprobs), _BAD)


_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/steer/score")


@settings(max_examples=200)
@given(asked=st.sampled_from(_PATHS).flatmap(lambda path: st.tuples(st.just(path), _request(path))))
def test_no_request_is_answered_with_a_server_error(served: Served, asked: tuple[str, Any]) -> None:
    status, found = send(served, *asked)
    assert status < 500
    if isinstance(found, str):
        assert found.endswith("data: [DONE]\n\n")
        assert '"error":' not in found
    elif status != 200:
        assert found["error"]["message"]


def test_a_client_that_goes_away_frees_its_rows(tiny: Path) -> None:
    with serving(load_policy(str(tiny))) as endless:  # a random model hardly ever ends by itself
        engine = endless.service.engine
        for stream in (True, False):
            before = engine.tokens
            with dawdling(engine):
                with socket.create_connection(("127.0.0.1", endless.port)) as raw:
                    raw.sendall(raw_request({"n": 20, "max_tokens": 400, "stream": stream}))
                    until(lambda: engine.running > 15)
                until(lambda: engine.running == 0)
            assert engine.tokens - before < 20 * 200
        assert send(endless, "/health")[0] == 200


def test_a_slow_reader_holds_up_nobody(served: Served, client: openai.OpenAI) -> None:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.connect(("127.0.0.1", served.port))
    with raw:
        raw.sendall(raw_request({"n": 30, "max_tokens": 200, "stream": True}))
        for _ in range(3):
            assert client.chat.completions.create(model="policy", messages=ASK, max_tokens=5).choices
        until(lambda: served.service.engine.running == 0)  # what it does not read is drawn all the same


def test_limits_of_time_queue_and_key(tiny: Path) -> None:
    long: Any = {"model": "policy@none", "messages": ASK, "n": 4, "max_tokens": 400}
    with serving(load_policy(str(tiny)), api_key="s3cret", timeout=1e-6, max_waiting=8) as small:
        path = "/v1/chat/completions"
        for headers in (JSON, JSON | {"Authorization": "Bearer wrong"}, JSON | {"Authorization": "Bearer s3cret\xe9"}):
            status, found = send(small, path, long, headers)
            assert (status, found["error"]["code"]) == (401, "invalid_api_key")
        key = JSON | {"Authorization": "Bearer s3cret"}
        assert send(small, "/health")[0] == send(small, "/metrics")[0] == send(small, "/")[0] == 200
        status, found = send(small, path, long, key)
        assert (status, found["error"]["code"]) == (408, "timeout")
        status, text = send(small, path, long | {"stream": True}, key)
        assert status == 200
        assert '"code": "timeout"' in text.strip().splitlines()[-1]
        status, found = send(small, path, long | {"n": 9}, key)
        assert (status, found["error"]["type"]) == (429, "rate_limit_error")
        until(lambda: small.service.engine.running == 0)
        assert send(small, "/v1/steer/score", {"responses": ["x"]}, key)[0] == 404


def test_an_engine_that_stopped_is_told_to_all(tiny: Path) -> None:
    with serving(load_policy(str(tiny))) as endless:
        engine = endless.service.engine
        with dawdling(engine), ThreadPoolExecutor(1) as pool:
            body = {"model": "policy", "messages": ASK, "n": 20, "max_tokens": 400}
            waiting = pool.submit(send, endless, "/v1/chat/completions", body)
            until(lambda: engine.running > 15)
            engine.stop()
            status, found = waiting.result()
        assert (status, found["error"]["message"]) == (500, "the server is stopping.")
        assert send(endless, "/health")[0] == 503
        status, found = send(endless, "/v1/chat/completions", {"model": "policy", "messages": ASK})
        assert (status, found["error"]["code"]) == (503, "engine")


EMPTY = [
    {"images": [], "provider_specific_fields": {"refusal": None}, "thinking_blocks": None},
    {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": []},
    {"content": [{"type": "text", "text": "b", "annotations": [], "logprobs": []}]},
]


@pytest.mark.parametrize("more", EMPTY)
def test_what_an_echoed_answer_holds_beside_its_text_may_be_empty(served: Served, more: Any) -> None:
    turns = [*ASK, {"role": "assistant", "content": "b", **more}, *ASK]
    body = {"model": "policy", "messages": turns, "max_tokens": 1, "extra_body": {}, "functions": [], "tools": None}
    assert send(served, "/v1/chat/completions", body)[0] == 200
    turns[-2]["images"] = [1]
    status, found = send(served, "/v1/chat/completions", body)
    assert (status, found["error"]["param"]) == (400, "messages.1.images")


def test_prompts_may_be_ids_of_tokens(served: Served) -> None:
    ids = served.service.policy.tokenizer("hello friend")["input_ids"]
    last = len(served.service.policy.tokenizer)
    found = []
    for prompt in ("hello friend", ids, [ids]):
        body = {"model": "policy@none", "prompt": prompt, "max_tokens": 4, "temperature": 0}
        status, answer = send(served, "/v1/completions", body)
        assert status == 200
        found.append((answer["choices"][0]["text"], answer["usage"]["prompt_tokens"]))
    assert len(set(found)) == 1
    for prompt, wanted in (
        ([last], f"'prompt': the model has no token {last}; its ids are below {last}."),
        ([-1], "'prompt': the model has no token -1;"),
        ([[1], "a"], "'prompt' is a text, a list of texts, or the ids of tokens."),
        ([True], "'prompt' is a text, a list of texts, or the ids of tokens."),
        ([[1.5]], "'prompt' is a text, a list of texts, or the ids of tokens."),
        ([[]], "'prompt' is empty."),
    ):
        status, answer = send(served, "/v1/completions", {"model": "policy", "prompt": prompt})
        assert status == 400
        assert answer["error"]["message"].startswith(wanted)


@pytest.mark.parametrize("place", ["targets", "attributes"])
def test_an_unknown_name_is_refused_though_nothing_is_asked_of_it(served: Served, place: str) -> None:
    asked = {"helpfulnes": None}
    more = {"targets": asked} if place == "targets" else {"chat_template_kwargs": {"attributes": asked}}
    status, found = send(served, "/v1/chat/completions", {"model": "policy", "messages": ASK, **more})
    assert status == 400
    assert found["error"]["message"].startswith("unknown attribute 'helpfulnes'; did you mean 'helpfulness'?")
