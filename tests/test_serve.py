"""The server over real loopback HTTP: OpenAI's client, targets, one batch for all, the command and the engine."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import openai
import pytest
from conftest import ASK, HANG, Served, send, serving, until
from tokenizers.processors import TemplateProcessing

from steer.config.generation import GenerateConfig
from steer.config.serve import ServeConfig
from steer.errors import SteerError
from steer.generation import openai_client as remote
from steer.generation.command import generate_command
from steer.generation.engines import respond
from steer.generation.requests import Request, encode
from steer.generation.settings import Sampling
from steer.generation.text import Text
from steer.models.policy import Policy, load_policy
from steer.models.tokenization import plain_ids, text_ids
from steer.rows import read_rows
from steer.serve.api import page_policy
from steer.serve.command import serve_command
from steer.serve.server import bound, open_server
from steer.serve.settings import ServeSettings


def test_greedy_text_is_what_generate_gives(client: openai.OpenAI, policy: Policy) -> None:
    request = Request({"id": "a", "prompt": ASK}, {"verbosity": 0})
    (expected,) = respond(policy, [request], Sampling(temperature=0.0, max_new_tokens=25))
    (read,) = encode(policy, [request], Sampling())
    asked: Any = {"messages": ASK, "temperature": 0, "max_tokens": 25}
    ways: list[Any] = [
        {"model": "policy", "extra_body": {"targets": {"verbosity": 0}}},
        {"model": "policy", "extra_body": {"targets": "verbosity=low"}},
        {"model": "policy@verbosity=0"},
        {"model": "policy", "extra_body": {"chat_template_kwargs": {"attributes": {"verbosity": 0}}}},
    ]
    for way in ways:
        found = client.chat.completions.create(**asked, **way)
        choice = found.choices[0]
        assert choice.message.content == expected.text
        assert choice.finish_reason == ("stop" if expected.finished else "length")
        assert choice.model_extra == {"target": {"verbosity": "0"}}
        assert found.usage is not None
        assert found.usage.completion_tokens == len(expected.ids)
        assert found.usage.prompt_tokens == len(read.prompt) + len(read.condition)


def test_a_stream_says_the_same_as_the_whole(client: openai.OpenAI) -> None:
    asked: Any = {"model": "policy@warmth=4", "messages": ASK, "seed": 7, "n": 3}
    whole = client.chat.completions.create(**asked)
    texts, ends, usage = [""] * 3, [""] * 3, None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [c.message.content for c in whole.choices]
    assert ends == [c.finish_reason for c in whole.choices]
    assert usage == whole.usage
    assert len(set(texts)) == 3


def test_several_targets_in_one_request_and_the_best_by_default(client: openai.OpenAI, policy: Policy) -> None:
    found = client.chat.completions.create(
        model="policy", messages=ASK, n=2, extra_body={"targets": ["best", {"verbosity": [1, 3]}, "none"]}
    )
    told = [c.model_extra["target"] for c in found.choices if c.model_extra]
    assert told[0] == told[1]
    assert int(told[2]["verbosity"]) in (1, 2, 3)
    assert told[4:] == [{}, {}]
    alone = client.chat.completions.create(model="policy", messages=ASK)
    assert policy.card is not None
    assert policy.card.schema is not None
    better = {n: x for n, x in told[0].items() if policy.card.schema[n].direction}
    assert alone.choices[0].model_extra == {"target": better}
    assert set(told[0]) == set(policy.card.attributes) > set(better)


def test_completions_continue_the_text_as_it_is(client: openai.OpenAI) -> None:
    found = client.completions.create(model="policy@none", prompt=["tell me", "bees give"], n=2, max_tokens=6, seed=1)
    assert [c.index for c in found.choices] == [0, 1, 2, 3]
    streamed = [""] * 4
    for part in client.completions.create(
        model="policy@none", prompt=["tell me", "bees give"], n=2, max_tokens=6, seed=1, stream=True
    ):
        streamed[part.choices[0].index] += part.choices[0].text
    assert streamed == [c.text for c in found.choices]


def test_guidance_and_stop_texts(client: openai.OpenAI, policy: Policy) -> None:
    asked: Any = {"model": "policy@verbosity=4", "messages": ASK, "temperature": 0, "max_tokens": 30}
    plain, one, two = (
        client.chat.completions.create(**asked, extra_body=more).choices[0].message.content
        for more in ({}, {"guidance": 1.0}, {"guidance": 30.0, "against": "opposite"})
    )
    assert plain == one
    job = Request({"id": "a", "prompt": ASK}, {"verbosity": 4}, {"verbosity": 0})
    assert two == respond(policy, [job], Sampling(temperature=0.0, max_new_tokens=30, guidance=30.0))[0].text
    assert plain is not None
    stop = plain[len(plain) // 2 :][:3]
    found = client.chat.completions.create(**asked, stop=[stop, "never this"]).choices[0]
    assert found.message.content == plain[: plain.index(stop)]
    assert found.finish_reason == "stop"


def test_models_schema_scores_health_and_metrics(client: openai.OpenAI, served: Served, policy: Policy) -> None:
    assert "policy@best" in [m.id for m in client.models.list()]
    assert client.models.retrieve("policy").owned_by == "steer"
    status, schema = send(served, "/v1/steer/schema")
    assert status == 200
    assert policy.card is not None
    assert policy.card.schema is not None
    assert [a["name"] for a in schema["attributes"]] == list(policy.card.attributes)
    assert sum(rows for _, rows in schema["cells"]) == sum(policy.card.schema.cells.values())
    body = {"prompt": "tell me about bees.", "responses": ["glad you asked! bees give honey.", ""]}
    status, scores = send(served, "/v1/steer/score", body)
    assert status == 200
    assert len(scores["data"]) == 2
    assert scores["data"][0]["levels"]["verbosity"] == "0"
    assert send(served, "/health") == (200, {"status": "ok"})
    status, text = send(served, "/metrics")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    known = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert known["steer_tokens_total"] > 0
    assert known['steer_requests_total{path="/v1/steer/score",status="200"}'] >= 1


def test_requests_with_different_targets_share_batches_and_are_not_mixed_up(
    client: openai.OpenAI, served: Served, policy: Policy
) -> None:
    assert policy.card is not None
    assert policy.card.schema is not None
    aims = [{n: level} for n in policy.card.attributes for level in (0, 2, 3)]
    prompts = [f"tell me about {x}." for x in ("bees", "cows", "gold and beer", "rome")]
    cases = [(p, aim) for p in prompts for aim in aims]
    jobs = [Request({"id": "x", "prompt": [{"role": "user", "content": p}]}, aim) for p, aim in cases]
    expected = respond(policy, jobs, Sampling(temperature=0.0, max_new_tokens=20))
    before = served.service.engine.steps

    def ask(case: tuple[str, dict[str, int]]) -> Any:
        prompt, aim = case
        shown = {n: policy.card.schema[n].shown[x] for n, x in aim.items()}  # type: ignore[union-attr,index]
        messages: Any = [{"role": "user", "content": prompt}]
        found = client.chat.completions.create(
            model="policy", messages=messages, temperature=0, max_tokens=20, extra_body={"targets": shown}
        )
        return found.choices[0].message.content, found.choices[0].model_extra, {"target": shown}

    with ThreadPoolExecutor(30) as pool:
        found = list(pool.map(ask, cases))
    assert [text for text, _, _ in found] == [r.text for r in expected]
    assert all(told == wanted for _, told, wanted in found)
    assert served.service.engine.steps - before < 0.5 * sum(len(r.ids) for r in expected)


def test_text_comes_in_whole_characters_and_ends_before_a_stop_text(policy: Policy) -> None:
    for text, stops, expected in (
        ("bees give honey 🐝 日本", [], "bees give honey 🐝 日本"),
        ("bees give honey, cows milk", ["ey, c"], "bees give hon"),
        ("bees give honey", ["honeycomb"], "bees give honey"),
        ("bees give honey " * 40, ["honey" * 40_000], "bees give honey " * 40),  # only as long as what was said
        ("aab", ["ab", "aab"], ""),
    ):
        growing = Text(policy.tokenizer, stops)
        parts = [growing.push(i) for i in policy.tokenizer(text, add_special_tokens=False)["input_ids"]]
        parts.append(growing.finish())
        assert "".join(parts) == expected
        assert "�" not in "".join(parts)
        assert growing.stopped == (expected != text)


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    page = (Path(__file__).resolve().parents[1] / "steer" / "serve" / "page.html").read_text(encoding="utf-8")
    rules = page_policy(page)
    assert rules.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in rules
    assert "innerHTML" not in page
    assert not re.search(r"https?://|@import|\burl\(|\bsrc=", page)


def test_settings_that_cannot_be_are_refused_before_a_model_is_loaded(trained: Path) -> None:
    with pytest.raises(SteerError, match="Give --api-key"):
        serve_command(ServeConfig(str(trained), host="0.0.0.0"))
    with bound("127.0.0.1", 0) as taken, pytest.raises(SteerError, match="cannot listen there"):
        serve_command(ServeConfig(str(trained), port=taken.getsockname()[1]))
    with pytest.raises(SteerError, match=r"nobody rates new responses\..* then --scorer SCORER"):
        serve_command(ServeConfig(str(trained), port=0, scorer="human"))
    with pytest.raises(SteerError, match=r"scores words, none of helpfulness, .* Use the scorer that labelled"):
        serve_command(ServeConfig(str(trained), port=0, scorer="countable:words"))


def test_the_page_scores_with_what_counted_the_rows(trained: Path, tmp_path: Path) -> None:
    policy = load_policy(str(trained))
    assert policy.card
    for spec, found in (("countable:words", "countable:words"), ("scorer", None), ("human", None), ("", None)):
        card = replace(policy.card, scorer_spec=spec, scorer="countable:words")
        with open_server(replace(policy, card=card), ServeSettings(), port=0) as server:
            scorer = server.service.scorer
            assert (scorer.id if scorer else None) == found
    other = replace(policy, card=replace(policy.card, scorer_spec="countable:words", scorer="countable:lines"))
    with open_server(other, ServeSettings(), port=0) as server:
        assert server.service.scorer is None  # another one now: said, not refused


def test_the_command_is_a_doorway_on_the_server(trained: Path, client: openai.OpenAI) -> None:
    """It answers as the library's server does, finishes a running answer after SIGTERM, and counts."""
    command = [sys.executable, "-m", "steer", "serve", str(trained), "--port", "0", "--name", "toy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.partition("http://127.0.0.1:")[2].partition(" ")[0])
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any") as own:
            asked: Any = {"messages": ASK, "temperature": 0, "max_tokens": 20}
            here, there = (c.chat.completions.create(model=m, **asked) for c, m in ((own, "toy"), (client, "policy")))
            assert here.choices == there.choices
            stream = own.chat.completions.create(model="toy@none", messages=ASK, n=8, max_tokens=60, stream=True)
            ended = 0
            for i, chunk in enumerate(stream):
                if i == 20:
                    os.kill(process.pid, signal.SIGTERM)
                ended += sum(c.finish_reason is not None for c in chunk.choices)
        assert ended == 8
        out, err = process.communicate(timeout=HANG)
    assert process.returncode == 0
    lines = [line for line in err.splitlines() if not line.startswith("load ")]  # progress, on a slow machine
    assert len(lines) == 1
    assert re.fullmatch(
        r"steer: .* is sampled with temperature 0\.7, top_p 0\.95 \(the default for chat models; this one .*\)\.",
        lines[0],
    )
    assert out.startswith("serve: 2 requests answered, ")


def test_a_server_that_is_busy_is_asked_again(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.05,) * 10_000)
    chats = [remote.ChatCall(ASK, {"verbosity": i % 5}, i) for i in range(24)]
    with serving(policy, batch_size=1, max_waiting=1) as small:
        path, decoder = ("/v1/chat/completions", 429), small.service.engine.decoder
        step = decoder.step

        def late() -> Any:
            until(lambda: small.service.requests[path] > 0)  # or somebody might never meet anybody
            return step()

        monkeypatch.setattr(decoder, "step", late)
        found = remote.OpenAIClient(f"{small.url}/v1").complete(chats, 12, max_tokens=8)
        assert len(found) == 24
        assert small.service.requests[path] > 0
        assert small.service.requests[path[0], 200] == 24


def test_a_server_is_an_engine_of_generate(served: Served, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one?\ntell me about bees.\n")
    asked: Any = {"target": ("verbosity=0", "none"), "temperature": 0.0, "max_new_tokens": 20, "n": 2}
    shown = [
        generate_command(GenerateConfig(str(trained), prompt=("one?", "two?"), **asked, server=server))
        for server in ("", f"{served.url}/v1/")
    ]
    assert shown[0] == shown[1]
    for name, server in (("here", ""), ("there", f"{served.url}/v1")):
        where: Any = {"input": str(tmp_path / "prompts.txt"), "output": str(tmp_path / name)}
        generate_command(GenerateConfig(str(trained), **where, **asked, server=server))
    here, there = (read_rows(tmp_path / name) for name in ("here", "there"))
    assert [(r["response"], r["finished"]) for r in here] == [(r["response"], r["finished"]) for r in there]
    for server, more, message in (
        ("vllm", {}, "wanted an address"),
        ("http://127.0.0.1:9/v1", {"engine": "vllm"}, "--engine vllm: is not used with --server"),
        ("http://127.0.0.1:9/v1", {}, "does not answer"),
        (f"{served.url}/v1/steer/schema?", {}, "not answer as OpenAI does"),
        (f"{served.url}/v1", {"guidance": 2.0}, "only --engine hf"),
        (f"{served.url}/v1", {"server_model": "other"}, "answered 404: there is no model 'other'"),
        (f"{served.url}/v1", {"target": ("verbosity=9",)}, "no such level"),
    ):
        with pytest.raises(SteerError, match=message):
            generate_command(GenerateConfig(str(trained), prompt=("one?",), server=server, **{**asked, **more}))


def test_several_servers_take_turns_and_draw_what_one_draws(
    policy: Policy, served: Served, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Any = {"prompt": ("one?", "two?", "tell me about bees."), "target": ("verbosity=0", "none"), "n": 2}
    asked |= {"temperature": 1.0, "max_new_tokens": 12}
    with serving(policy, max_new_tokens=40, timeout=HANG) as other:
        alone, both = (
            generate_command(GenerateConfig(str(trained), **asked, server=server))
            for server in (f"{served.url}/v1", f"{served.url}/v1 {other.url}/v1/")
        )
        assert both == alone
        assert 0 < other.service.requests["/v1/chat/completions", 200] < 12, "a share of twelve"
    names = {"http://a/v1": "one", "http://b/v1": "two"}
    monkeypatch.setattr(remote.OpenAIClient, "_call", lambda self, url, path: {"data": [{"id": names[url]}]})
    with pytest.raises(SteerError, match=r"their models are one, two\. Choose one with --server-model"):
        remote.OpenAIClient("http://a/v1 http://b/v1")


def test_a_server_that_is_gone_is_left_out_from_the_beginning_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSES", ())
    gone, proxy = "http://127.0.0.1:1/v1", "http://proxy/v1"
    both = remote.OpenAIClient(f"{gone} {served.url}/v1")
    assert both.model == remote.OpenAIClient(f"{served.url}/v1").model
    ask = remote.exchange

    def exchange(url: str, *body: Any, **how: Any) -> Any:
        if url.startswith(proxy):  # whose server is gone
            raise HTTPError(url, 503, "", Message(), BytesIO(b"no backend"))
        return ask(url, *body, **how)

    monkeypatch.setattr(remote, "exchange", exchange)
    chats = [remote.ChatCall(ASK, None, i) for i in range(4)]
    said = remote.OpenAIClient(f"{proxy} {served.url}/v1").complete(chats, 2, max_tokens=4)
    assert len(said) == 4
    with pytest.raises(SteerError, match="answered 503: no backend"):
        remote.OpenAIClient(proxy)


def test_an_answer_can_be_sent_back(client: openai.OpenAI, served: Served) -> None:
    messages: Any = [*ASK]
    first = client.chat.completions.create(model="policy@none", messages=messages, max_tokens=6, temperature=0)
    turns = [first.choices[0].message, first.choices[0].message.model_dump(), first.choices[0].message.to_dict()]
    said = {"role": "assistant", "content": first.choices[0].message.content}
    nothing = {
        "refusal": None, "audio": None, "function_call": None, "tool_calls": None, "annotations": [], "name": None,
        "reasoning_content": None, "parsed": None,
    }  # fmt: skip
    turns += [said, said | nothing, said | {"tool_calls": [], "refusal": "", "reasoning": ""}]
    turns += [{"role": "assistant", "content": [{"type": "text", "text": said["content"], "cache_control": None}]}]
    again = {"role": "user", "content": "go on"}
    found = {
        client.chat.completions.create(
            model="policy@none", messages=[*ASK, turn, again], max_tokens=6, temperature=0, logprobs=False
        ).model_dump_json(include={"choices", "usage"})
        for turn in turns
    }
    assert len(found) == 1
    empty = [*ASK, {"role": "assistant", "content": None}, again]  # an empty answer, put together from a stream
    assert send(served, "/v1/chat/completions", {"model": "policy", "messages": empty, "max_tokens": 2})[0] == 200


def test_null_asks_for_nothing_and_so_do_neutral_values(served: Served) -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsBase as Chat
    from openai.types.completion_create_params import CompletionCreateParamsBase as Plain

    kwargs = {"attributes": None, "enable_thinking": None}
    neutral: dict[str, Any] = {
        "frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": {}, "top_k": -1,
        "min_p": 0, "top_p": 1, "stop": [], "user": "me", "metadata": {"a": "b"}, "seed": 3, "n": 1, "best_of": 1,
        "stream_options": {"include_usage": False}, "chat_template_kwargs": kwargs,
    }  # fmt: skip
    chat = neutral | {
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"],
        "parallel_tool_calls": True, "store": False, "service_tier": "auto", "prompt_cache_key": "k", "logprobs": False,
        "top_logprobs": 0, "max_completion_tokens": 4,
    }  # fmt: skip
    for path, own, names, values in (
        ("/v1/chat/completions", {"messages": ASK}, Chat.__annotations__, chat),
        ("/v1/completions", {"prompt": "bees"}, Plain.__annotations__, neutral | {"echo": False, "suffix": None}),
    ):
        plain = {"model": "policy", "temperature": 0, "max_tokens": 4, **own}
        status, wanted = send(served, path, plain)
        assert status == 200
        for more in (dict.fromkeys(names), values):
            status, found = send(served, path, more | plain)
            assert (status, found.get("error")) == (200, None)
            assert found["choices"] == wanted["choices"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_every_field_of_the_client_is_known(served: Served, path: str) -> None:
    """What cannot be done is refused by its name, and is no unknown field."""
    from openai.types.chat.completion_create_params import CompletionCreateParamsBase as Chat
    from openai.types.completion_create_params import CompletionCreateParamsBase as Plain

    for name in (Plain if path.endswith("/v1/completions") else Chat).__annotations__:
        own = {"prompt": "bees"} if path == "/v1/completions" else {"messages": ASK}
        status, found = send(served, path, {"model": "policy", "max_tokens": 1, **own, name: {"odd": 1}})
        assert status in (200, 400)
        assert status == 200 or "unknown field" not in found["error"]["message"] or name == "stream_options"


def test_stop_texts_end_a_stream_too_wherever_tokens_begin(client: openai.OpenAI) -> None:
    asked: Any = {"model": "policy@verbosity=4", "messages": ASK, "temperature": 0, "max_tokens": 30}
    text = client.chat.completions.create(**asked).choices[0].message.content or ""
    for begin, length in ((3, 1), (5, 4), (8, 9), (11, 2)):
        stop = text[begin : begin + length]
        ends, said = [], ""
        for chunk in client.chat.completions.create(**asked, stop=stop, stream=True):
            said += chunk.choices[0].delta.content or ""
            ends += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
        assert (said, ends) == (text[: text.index(stop)], ["stop"])


def test_top_k_and_min_p_reach_the_sampler(client: openai.OpenAI) -> None:
    asked: Any = {"model": "policy", "messages": ASK, "max_tokens": 20, "n": 3, "seed": 5}
    [greedy, *_] = client.chat.completions.create(**asked | {"temperature": 0}).choices
    for more in ({"top_k": 1}, {"min_p": 1.0}):
        found = client.chat.completions.create(**asked, temperature=3.0, extra_body=more).choices
        assert {c.message.content for c in found} == {greedy.message.content}
    hot = client.chat.completions.create(**asked, temperature=3.0, extra_body={"top_k": 0, "min_p": 0}).choices
    assert {c.message.content for c in hot} != {greedy.message.content}


def test_log_probabilities_are_told_with_the_text_that_they_belong_to(client: openai.OpenAI) -> None:
    asked: Any = {"model": "policy@verbosity=4", "messages": ASK, "temperature": 0, "max_tokens": 25}
    asked |= {"logprobs": True, "top_logprobs": 2}
    text = client.chat.completions.create(**asked).choices[0].message.content or ""
    for stop in (None, text[9:12]):
        whole = client.chat.completions.create(**asked, stop=stop).choices[0]
        assert whole.logprobs is not None
        places = whole.logprobs.content or []
        said = "".join(p.token for p in places)
        assert said.startswith(whole.message.content or "")
        assert stop or said == text
        for place in places:
            assert place.logprob <= 0
            assert len(place.top_logprobs) == 2
            best, second = place.top_logprobs
            assert best.logprob == place.logprob >= second.logprob, "greedy"
            assert bytes(place.bytes or []).decode() == place.token == best.token
        streamed = []
        for chunk in client.chat.completions.create(**asked, stop=stop, stream=True):
            if chunk.choices[0].logprobs:
                streamed += chunk.choices[0].logprobs.content or []
        assert [p.token for p in streamed] == [p.token for p in places]
        assert [p.logprob for p in streamed] == pytest.approx([p.logprob for p in places], abs=1e-4)


def test_log_probabilities_of_completions(client: openai.OpenAI) -> None:
    asked: Any = {"model": "policy@none", "prompt": "tell me", "temperature": 0, "max_tokens": 6}
    assert client.completions.create(**asked).choices[0].logprobs is None
    found = client.completions.create(**asked, logprobs=3).choices[0]
    assert found.logprobs is not None
    assert "".join(found.logprobs.tokens or []) == found.text
    begins = [len("".join((found.logprobs.tokens or [])[:i])) for i in range(len(found.logprobs.tokens or []))]
    assert found.logprobs.text_offset == begins
    best = [max(p.values()) for p in found.logprobs.top_logprobs or []]
    assert found.logprobs.token_logprobs == pytest.approx(best)
    assert all(len(p) == 3 for p in found.logprobs.top_logprobs or [])


def test_a_text_to_continue_begins_once(shared: Path) -> None:
    stories = load_policy(str(shared / "models" / "stories260K"))
    begin, text = stories.tokenizer.bos_token_id, "Once upon a time"
    plain = plain_ids([text], stories.tokenizer)[0]
    with serving(stories) as small:
        for prompt in (text, f"<s>{text}"):
            assert text_ids([prompt], stories.tokenizer) == [[begin, *plain]]
            status, found = send(small, "/v1/completions", {"model": "policy", "prompt": prompt, "max_tokens": 2})
            assert (status, found["usage"]["prompt_tokens"]) == (200, 1 + len(plain))
        asked = {"model": "policy", "prompt": text, "max_tokens": 8, "temperature": 0, "logprobs": 2}
        [whole] = send(small, "/v1/completions", asked)[1]["choices"]
        assert whole["text"].startswith(", "), "Once upon a time, there was"
        asked["prompt"] = "Once upon a time,"
        [whole] = send(small, "/v1/completions", asked)[1]["choices"]
        assert whole["text"].startswith(" there was"), "a word that follows another begins with its space"
        assert "".join(whole["logprobs"]["tokens"]) == whole["text"]
        assert whole["logprobs"]["text_offset"][:2] == [0, len(" there")]
        assert max(whole["logprobs"]["top_logprobs"][0].items(), key=lambda each: each[1])[0] == " there"
        client = openai.OpenAI(base_url=f"{small.url}/v1", api_key="none")
        parts = [part.choices[0] for part in client.completions.create(**asked, stream=True)]
        assert "".join(part.text for part in parts) == whole["text"]
        tokens = [token for part in parts if part.logprobs for token in part.logprobs.tokens or []]
        assert tokens == whole["logprobs"]["tokens"]
        [begun] = send(small, "/v1/completions", {**asked, "prompt": [begin]})[1]["choices"]
        assert begun["text"] == "".join(begun["logprobs"]["tokens"]) == begun["text"].lstrip(), "nothing is before it"
        [half] = plain_ids(["日本"], stories.tokenizer)
        for before, after, expected in ((half, half[-3:], "本"), (half[:-1], half[-1:], "\N{REPLACEMENT CHARACTER}")):
            growing = Text(stories.tokenizer, before=before)
            assert "".join(map(growing.push, after)) + growing.finish() == expected, "of bytes of characters"
    unlike = copy.deepcopy(stories.tokenizer)
    unlike._tokenizer.post_processor = TemplateProcessing("$A </s>", None, [("</s>", 2)])
    assert unlike("x")["input_ids"][0] != begin
    assert text_ids([text, f"<s>{text}"], unlike) == [[begin, *plain]] * 2, "as the chat template begins"
    unlike.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert text_ids([text], unlike) == [plain], "a model that was never given one"


def test_a_server_that_hangs_costs_its_timeout_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []
    alive = {"http://good/v1"}

    def exchange(url: str, body: Any, *, key: str, timeout: float) -> Any:
        name = url[: url.index("/v1") + 3]
        asked.append((url, timeout))
        if name not in alive:
            raise TimeoutError("timed out")
        reply = {"message": {"content": name, "role": "assistant"}, "finish_reason": "stop"}
        return {"choices": [reply]} if body else {"data": [{"id": "m"}]}

    monkeypatch.setattr(remote, "exchange", exchange)
    client = remote.OpenAIClient("http://hangs/v1 http://good/v1", "m")
    chats = [remote.ChatCall(ASK, None, i) for i in range(4)]
    for _ in range(3):
        assert {reply.text for reply in client.complete(chats, 1)} == {"http://good/v1"}
    hung = [(url, timeout) for url, timeout in asked if "hangs" in url]
    assert hung == [
        ("http://hangs/v1/chat/completions", remote.TIMEOUT),
        *[("http://hangs/v1/models", remote.PROBE)] * 2,
    ]
    alive |= {"http://hangs/v1"}
    asked.clear()
    client.complete(chats, 1)
    assert not client.lost


def test_a_run_goes_on_with_the_model_of_the_servers_that_it_began_with(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"http://a/v1": "llama", "http://b/v1": "llama", "http://c/v1": "qwen"}

    def exchange(url: str, body: Any, *, key: str, timeout: float) -> Any:
        name = models[url[: url.index("/v1") + 3]]
        reply = {"message": {"content": name, "role": "assistant"}, "finish_reason": "stop"}
        return {"choices": [reply]} if body else {"data": [{"id": name}]}

    monkeypatch.setattr(remote, "exchange", exchange)
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(4)))
    asked: Any = {"policy": str(trained), "input": str(tmp_path / "prompts.jsonl"), "shard_size": 1}
    asked |= {"target": ("none",), "output": str(tmp_path / "out")}
    generate_command(GenerateConfig(**asked, server="http://a/v1", shard="1/2"))
    with pytest.raises(SteerError, match=r"holds a run with other settings \(inputs\.served\)"):
        generate_command(GenerateConfig(**asked, server="http://c/v1", shard="2/2"))
    said = generate_command(GenerateConfig(**asked, server="http://b/v1", shard="2/2"))
    assert {row["response"] for row in read_rows(tmp_path / "out")} == {"llama"}
    monkeypatch.setattr(remote, "exchange", lambda *_, **__: (_ for _ in ()).throw(OSError("gone")))
    assert generate_command(GenerateConfig(**asked, server="http://b/v1", shard="2/2")) == said
