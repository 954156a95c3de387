"""What a server makes of thoughts and calls: parted from the answer, streamed, and taken back in a history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from conftest import HANG, Served, send, serving
from families import ASK, think, tokenizer_of, with_calls

from steer.generation.decoder import TokenEvent
from steer.models.card import Card
from steer.models.policy import Policy, load_policy
from steer.models.tokenization import prompt_text
from steer.serve import api

TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weigh", "parameters": {"properties": {"what": {"type": "string"}}}}}
]
CHAT = "/v1/chat/completions"


def policy_of(family: str, tiny: Path, thinking: str, calls: str = "") -> Policy:
    tokenizer = tokenizer_of(family, tiny)
    tokenizer.chat_template = with_calls(calls) if calls else tokenizer.chat_template
    model = load_policy(str(tiny)).model
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return Policy(model, tokenizer, Card("b", "", "none", "mle", thinking=thinking))


def writing(served: Served, text: str, monkeypatch: pytest.MonkeyPatch, *, ended: str = "stop") -> None:
    """Let the served model write a text to every request."""
    ids = served.service.policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    events = [TokenEvent(0, id, "") for id in ids[:-1]]
    events += [TokenEvent(0, ids[-1], ended)] if ended == "length" else [TokenEvent(0, ids[-1], ""), END]

    class Written(SimpleNamespace):
        async def pieces(self, seconds: float) -> Any:
            for event in events:
                if not self.freed:
                    yield event

        def free(self, indices: set[int]) -> None:
            self.freed = True

    monkeypatch.setattr(served.service.engine, "draw", lambda requests: Written(left=set(), freed=False))


END = TokenEvent(0, 0, "stop")


@pytest.fixture
def thinker(tiny: Path) -> Iterator[Served]:
    with serving(policy_of("thinking, optional", tiny, "learn")) as found:
        yield found


def both(served: Served, **more: Any) -> tuple[Any, Any, list[Any]]:
    """The whole choice, the deltas of a stream put together, and the deltas."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=HANG) as client:
        asked: Any = {"model": "policy", "messages": ASK, **more}
        whole = client.chat.completions.create(**asked).choices[0]
        deltas, joined = [], {"reasoning_content": "", "content": "", "tool_calls": [], "ended": ""}
        for chunk in client.chat.completions.create(**asked, stream=True):
            choice = chunk.choices[0]
            deltas.append(choice.delta.model_dump(exclude_none=True))
            for name in ("reasoning_content", "content", "tool_calls"):
                joined[name] += deltas[-1].get(name) or type(joined[name])()
            joined["ended"] = choice.finish_reason or joined["ended"]
    return whole, joined, deltas


def test_a_thought_is_returned_and_streamed_apart(thinker: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    writing(thinker, "<think>\nhm hm\n</think>\n\nRed. Green.", monkeypatch)
    whole, joined, deltas = both(thinker, logprobs=True)
    assert (whole.message.reasoning_content, whole.message.content) == ("hm hm", "Red. Green.")
    assert (joined["reasoning_content"], joined["content"]) == ("hm hm", "Red. Green.")
    kinds = [next(iter(delta)) for delta in deltas if "role" not in delta and delta]
    assert kinds == sorted(kinds, reverse=True), "the thought comes first"
    assert (whole.finish_reason, joined["ended"]) == ("stop", "stop")


def test_a_thought_that_is_cut_off_has_no_answer(thinker: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    writing(thinker, "<think>\nhm hm", monkeypatch, ended="length")
    whole, joined, _ = both(thinker)
    assert (whole.message.reasoning_content, whole.message.content, whole.finish_reason) == ("hm hm", "", "length")
    assert (joined["reasoning_content"], joined["content"], joined["ended"]) == ("hm hm", "", "length")


def test_a_stop_text_ends_the_answer_and_no_thought(thinker: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    writing(thinker, "<think>\nhm. hm\n</think>\n\nRed. Green.", monkeypatch)
    whole, joined, _ = both(thinker, stop=".")
    assert (whole.message.reasoning_content, whole.message.content) == ("hm. hm", "Red")
    assert (joined["reasoning_content"], joined["content"], joined["ended"]) == ("hm. hm", "Red", "stop")


def test_what_a_request_gives_the_template_reaches_it(thinker: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def ids(texts: list[str], tokenizer: Any, **more: Any) -> list[list[int]]:
        seen.extend(texts)
        return [[1]]

    monkeypatch.setattr(api, "plain_ids", ids)
    writing(thinker, "Red.", monkeypatch)
    tokenizer = thinker.service.policy.tokenizer
    off = {"enable_thinking": False}
    for more, options in (
        ({}, {}),
        ({"tools": TOOLS}, {"tools": TOOLS}),
        ({"tools": TOOLS, "tool_choice": "none"}, {}),
        ({"chat_template_kwargs": off}, off),
        (off, off),
        (off | {"chat_template_kwargs": off, "tools": TOOLS}, off | {"tools": TOOLS}),
        ({"enable_thinking": True}, {"enable_thinking": True}),
        ({"reasoning_effort": "none"}, {}),
    ):
        seen.clear()
        status, found = send(thinker, CHAT, {"model": "policy", "messages": ASK, **more})
        assert status == 200, found
        assert seen == [prompt_text(ASK, tokenizer, options, "learn")]
    both_ways = {"enable_thinking": True, "chat_template_kwargs": off}
    for more, param in (
        (both_ways, "enable_thinking"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"thoughtful": True}}, "chat_template_kwargs"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
    ):
        status, found = send(thinker, CHAT, {"model": "policy", "messages": ASK, **more})
        assert (status, found["error"]["param"]) == (400, param)


def test_a_policy_that_does_not_think_says_so(tiny: Path) -> None:
    with serving(policy_of("thinking, optional", tiny, "drop")) as plain:
        body = {"model": "policy", "messages": ASK, "max_tokens": 1}
        status, found = send(plain, CHAT, {**body, "enable_thinking": True})
        assert (status, found["error"]["param"]) == (400, "enable_thinking")
        assert "answers without a thought" in found["error"]["message"]
        assert send(plain, CHAT, {**body, "enable_thinking": False})[0] == 200


@pytest.mark.parametrize(
    ("family", "off"),
    [
        ("thinking, on demand and closed otherwise", {"thinking": False}),
        ("thinking, on demand at the start", {"reasoning_effort": "none"}),
    ],
)
def test_thinking_is_turned_off_by_the_option_of_the_family(
    family: str, off: dict[str, Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, seen = policy_of(family, tiny, "learn"), []
    think(family, policy.tokenizer)
    monkeypatch.setattr(api, "plain_ids", lambda texts, *_, **__: [seen.extend(texts) or [1]])
    wanted = [prompt_text(ASK, policy.tokenizer, options, "learn") for options in ({}, off, {})]
    assert wanted[0] != wanted[1]
    with serving(policy) as served:
        for asked in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
            body = {"model": "policy", "messages": ASK, "max_tokens": 1, **asked}
            assert send(served, CHAT, body)[0] == 200
    assert seen == wanted


CALLED = {
    "values": "Let me see. <call>weigh what=moss</call>",
    "object": 'Let me see.\n<tool_call>\n{"name": "weigh", "arguments": {"what": "moss"}}\n</tool_call>',
    "list with ids": 'Let me see.[TOOL_CALLS][{"name": "weigh", "arguments": {"what": "moss"}, "id": "a23456789"}]',
}


@pytest.mark.parametrize("calls", CALLED)
def test_a_call_is_returned_and_taken_back(calls: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(policy_of("plain", tiny, "drop", calls)) as served:
        writing(served, CALLED[calls], monkeypatch)
        whole, joined, _ = both(served, tools=TOOLS)
        [call] = whole.message.tool_calls
        assert (whole.message.content, whole.finish_reason) == ("Let me see.", "tool_calls")
        assert (call.type, call.function.name) == ("function", "weigh")
        assert json.loads(call.function.arguments) == {"what": "moss"}
        assert len(call.id) == 9
        assert call.id.isalnum()
        [streamed] = joined["tool_calls"]
        assert (joined["content"], joined["ended"]) == ("Let me see.", "tool_calls")
        assert (streamed["index"], streamed["function"]) == (0, call.function.model_dump())
        monkeypatch.undo()
        result = {"role": "tool", "tool_call_id": call.id, "content": "3 g"}
        echoed = whole.message.model_dump()
        body = {"model": "policy", "messages": [*ASK, echoed, result], "tools": TOOLS, "max_tokens": 1}
        assert send(served, CHAT, body)[0] == 200


def test_without_tools_or_when_cut_off_a_call_is_text(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(policy_of("plain", tiny, "drop", "object")) as served:
        for text, ended, more in (
            (CALLED["object"], "stop", {}),
            (CALLED["object"], "stop", {"tools": TOOLS, "tool_choice": "none"}),
            (CALLED["object"], "length", {"tools": TOOLS}),
            (CALLED["object"].replace("weigh", "fly"), "stop", {"tools": TOOLS}),
        ):
            writing(served, text, monkeypatch, ended=ended)
            whole, joined, _ = both(served, **more)
            assert whole.message.content == joined["content"] == text
            assert (whole.message.tool_calls, joined["tool_calls"]) == (None, [])
            assert whole.finish_reason == joined["ended"] == ended


def test_calls_one_at_a_time(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(policy_of("plain", tiny, "drop", "object")) as served:
        call = CALLED["object"].partition("\n")[2]
        writing(served, f"{call}\n{call}", monkeypatch)
        assert len(both(served, tools=TOOLS)[0].message.tool_calls) == 2
        whole = both(served, tools=TOOLS, parallel_tool_calls=False)[0]
        assert (len(whole.message.tool_calls), whole.message.content) == (1, None)


def test_histories_with_tools_thoughts_and_a_developer(thinker: Served) -> None:
    call = {"id": "a23456789", "type": "function", "function": {"name": "weigh", "arguments": '{"what": "moss"}'}}
    answer = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]}
    turns = [{"role": "developer", "content": "Be brief."}, *ASK, answer]
    turns += [{"role": "tool", "content": [{"type": "text", "text": "3 g"}], "tool_call_id": "a23456789"}]
    body: dict[str, Any] = {"model": "policy", "max_tokens": 1}
    assert send(thinker, CHAT, {**body, "messages": turns})[0] == 200
    broken = {**answer, "tool_calls": [{**call, "function": {"name": "weigh", "arguments": "[1]"}}]}
    for messages, param in (
        ([*ASK, broken, *ASK], "messages.1.tool_calls.0.function.arguments"),
        ([{**ASK[0], "tool_calls": [call]}], "messages.0.tool_calls"),
        ([{**ASK[0], "reasoning_content": "hm"}], "messages.0.reasoning_content"),
        ([*ASK, {"role": "assistant", "content": "a", "tool_call_id": "b"}, *ASK], "messages.1.tool_call_id"),
        (turns[:-1], "messages"),
    ):
        status, found = send(thinker, CHAT, {**body, "messages": messages})
        assert (status, found["error"]["param"]) == (400, param)


def test_tools_that_a_template_does_not_print_are_refused(tiny: Path) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weigh", "arguments": "{}"}}
    with serving(policy_of("system merged", tiny, "drop")) as served:
        body: dict[str, Any] = {"model": "policy", "messages": ASK, "max_tokens": 1}
        status, found = send(served, CHAT, {**body, "tools": TOOLS})
        assert (status, found["error"]["param"]) == (400, "tools")
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        status, found = send(served, CHAT, {**body, "messages": [*ASK, answer, *ASK]})
        assert (status, found["error"]["param"]) == (400, "messages.1.tool_calls")
