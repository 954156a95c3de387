"""Nothing that was asked is lost in a chat template: it is printed, refused by name, or counted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, send
from transformers import AutoTokenizer

from attribute_models.backbone import load
from steer.conditioning.turns import unprinted
from steer.errors import SteerError
from steer.generation.engines import through
from steer.generation.openai_client import ChatReply
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.models.policy import Policy
from steer.models.tokenization import Tokens, prompt_text

# Templates with the habits of families: what they print for every role, and what they make of calls.
CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}<assistant>"
SYSTEM_FIRST = (
    "{% if messages[0].role == 'system' %}<system>{{ messages[0].content }}<end>{% endif %}"
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}<end>{% endif %}"
    "{% endfor %}<assistant>"
)
DEVELOPER = CHATML.replace("{{ m.role }}", "{{ 'developer' if m.role == 'system' else m.role }}")
MERGED = (  # the system speaks in the first turn of the user; turns have to alternate
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content ~ '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
    "<{{ m.role }}>{{ (first if loop.first else '') ~ m.content | trim }}<end>{% endfor %}<assistant>"
)
THINKING = (  # prints what comes behind the reasoning of earlier turns
    "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] | trim }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}"
    "{% for name, value in c.function.arguments.items() %} {{ name }}={{ value }}{% endfor %}</call>{% endfor %}"
    "<end>{% endfor %}<assistant><think>\n"
)
TOJSON = CHATML.replace("<end>", "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<end>")


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASK = [turn("user", "Describe apples.")]
CALLED = [
    *ASK,
    turn("assistant", "", tool_calls=[{"id": "1", "function": {"name": "weigh", "arguments": '{"what": "moss"}'}}]),
    turn("tool", "3 kg", tool_call_id="1"),
]


@pytest.mark.parametrize("template", [CHATML, SYSTEM_FIRST, MERGED])
def test_a_developer_speaks_as_the_system_where_the_template_knows_none(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    said = prompt_text([turn("developer", "Be a pirate."), *ASK], tokenizer)
    assert said == prompt_text([turn("system", "Be a pirate."), *ASK], tokenizer)
    assert "Be a pirate." in said
    both = prompt_text([turn("system", "Be kind."), turn("developer", "Be a pirate."), *ASK], tokenizer)
    assert both == prompt_text([turn("system", "Be kind.\n\nBe a pirate."), *ASK], tokenizer)


def test_a_developer_stays_one_where_the_template_knows_it(tokenizer: Any) -> None:
    tokenizer.chat_template = DEVELOPER
    assert prompt_text([turn("developer", "Be a pirate."), *ASK], tokenizer).startswith("<developer>Be a pirate.<end>")


@pytest.mark.parametrize(
    "habit", ["{% if m.role != 'developer' %}", "{% if m.role == 'developer' %}{{ 1 / 0 }}{% else %}"]
)
def test_a_template_that_only_writes_the_word_knows_no_developer(tokenizer: Any, habit: str) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}" + habit + "<{{ m.role }}>{{ m.content }}<end>{% endif %}{% endfor %}"
        "<developer>tools are off<end><assistant>"
    )
    said = prompt_text([turn("developer", "Be a pirate."), *ASK], tokenizer)
    assert said.startswith("<system>Be a pirate.<end>")


LOST = [
    ([*ASK, turn("tool", "3 kg")], "turn 2, which is of the tool ('3 kg')"),
    ([*ASK, turn("system", "Be brief."), *ASK], "turn 2, which is of the system ('Be brief.')"),
    ([turn("system", "a"), turn("system", "Be brief."), *ASK], "turn 2, which is of the system ('Be brief.')"),
    ([*ASK, turn("developer", "Be brief."), *ASK], "turn 2, which is of the system ('Be brief.')"),
]


@pytest.mark.parametrize(("prompt", "what"), LOST)
def test_a_turn_that_the_template_leaves_out_is_refused_by_row_and_turn(
    tokenizer: Any, prompt: list[dict[str, Any]], what: str
) -> None:
    tokenizer.chat_template = SYSTEM_FIRST
    rows = [{"id": "a", "prompt": ASK, "response": "x"}, {"id": "odd", "prompt": prompt, "response": "x"}]
    with pytest.raises(SteerError) as caught:
        Tokens(rows, tokenizer)
    assert str(caught.value).startswith(f"row 'odd': the model's chat template drops {what}")
    tokenizer.chat_template = CHATML
    Tokens(rows, tokenizer)


@pytest.mark.parametrize("template", [CHATML, SYSTEM_FIRST, MERGED, THINKING])
def test_what_a_template_prints_in_its_own_way_is_not_refused(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    whole = [turn("user", "  a  "), turn("assistant", " b"), *ASK]
    assert "Describe apples." in prompt_text(whole, tokenizer)
    assert "Be kind." in prompt_text([turn("system", " Be kind. "), *whole], tokenizer)
    assert prompt_text([turn("user", "a"), turn("assistant", ""), *ASK], tokenizer)


def test_reasoning_inside_an_earlier_answer_is_left_to_the_template(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING
    said = prompt_text([*ASK, turn("assistant", "<think>\nhm\n</think>\n\nRed."), *ASK], tokenizer)
    assert "Red." in said
    assert "hm" not in said


@pytest.mark.parametrize(
    ("template", "printed"),
    [(THINKING, "weigh what=moss"), (TOJSON, '{"name": "weigh", "arguments": {"what": "moss"}}')],
)
def test_the_arguments_of_a_call_are_an_object_for_every_template(tokenizer: Any, template: str, printed: str) -> None:
    tokenizer.chat_template = template
    assert printed in prompt_text(CALLED, tokenizer)
    assert unprinted([{"prompt": CALLED}], tokenizer) == []


def test_calls_tools_and_reasoning_that_are_not_printed_are_counted(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.chat_template = CHATML
    thought = [*ASK, turn("assistant", "Red.", reasoning_content="hm"), *ASK]
    prompts = [CALLED, thought, thought, ASK]
    rows = [{"id": str(i), "prompt": prompt, "response": "x"} for i, prompt in enumerate(prompts)]
    rows[3]["tools"] = [{"function": {"name": "weigh"}}]
    Tokens(rows, tokenizer)
    assert capsys.readouterr().err.splitlines() == [
        "steer: 2 prompts hold reasoning of earlier turns that the model does not see.",
        "steer: 1 prompts hold calls of tools that the model does not see.",
        "steer: 1 prompts hold declarations of tools that the model does not see.",
    ]


def test_the_server_refuses_a_turn_that_its_template_leaves_out(served: Served, monkeypatch: Any) -> None:
    monkeypatch.setattr(served.service.policy.tokenizer, "chat_template", SYSTEM_FIRST)
    status, said = send(
        served, "/v1/chat/completions", {"model": "policy", "messages": [*ASK, turn("system", "Be brief."), *ASK]}
    )
    assert status == 400
    assert "drops turn 2, which is of the system ('Be brief.')" in said["error"]["message"]


class Server:
    """What it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def complete(self, chats: Any, at_once: int, **_: Any) -> list[ChatReply]:
        self.asked += [chat.messages for chat in chats]
        return [ChatReply("yes", True) for _ in chats]


@pytest.mark.parametrize(("prompt", "what"), LOST)
def test_a_server_is_not_asked_what_its_template_would_leave_out(
    tokenizer: Any, prompt: list[dict[str, Any]], what: str
) -> None:
    tokenizer.chat_template, server = SYSTEM_FIRST, Server()
    draw: Any = through(server)  # type: ignore[arg-type]
    with pytest.raises(SteerError, match=f"row 'odd': the model's chat template drops {re.escape(what)}"):
        draw(Policy(None, tokenizer), [Request({"id": "odd", "prompt": prompt}, {})], Sampling())
    assert not server.asked
    draw(
        Policy(None, tokenizer),
        [Request({"id": "a", "prompt": [turn("developer", "Be brief."), *ASK]}, {})],
        Sampling(),
    )
    assert server.asked == [[turn("system", "Be brief."), *ASK]]


@pytest.mark.parametrize(("prompt", "what"), LOST)
def test_a_scorer_reads_every_turn_or_refuses_the_row(tiny: Path, prompt: list[dict[str, Any]], what: str) -> None:
    backbone = load(str(tiny), "AutoModelForCausalLM")
    backbone.tokenizer.chat_template = SYSTEM_FIRST
    number = re.escape(what.partition(" (")[0])
    with pytest.raises(ValueError, match=f"row 'odd': the scorer's chat template drops {number}"):
        backbone.read([{"id": "odd", "prompt": prompt, "response": "x"}])
    one, other = backbone.read(
        [{"prompt": [turn(role, "Be brief."), *ASK], "response": "x"} for role in ("developer", "system")]
    )
    assert one == other
