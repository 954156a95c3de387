"""Conditions in words, at the end of the turn that is answered: training, generation and servers read one text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ASK, send, serving

from steer.conditioning import condition
from steer.conditioning.chat import PLAIN, asked, rendered, steerable
from steer.conditioning.condition import render, sentences
from steer.conditioning.turns import UnprintedError, divided, unreadable
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.requests import Request, encode
from steer.generation.settings import Sampling
from steer.models.card import Card
from steer.models.policy import Policy, end_tokens, load_policy
from steer.models.tokenization import Tokens, plain_ids
from steer.rows.schema import Attribute, Schema
from steer.training.command import train_command

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SCHEMA = Schema((Attribute("words", 0, 99, shown=("0", "1"), centres=(7.2, 28.4), counts=(9, 9)),), {(0,): 9, (1,): 9})
TURNS = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Tell me about bees. \n"},
]


@pytest.fixture(scope="module")
def policy(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("words")
    settings: dict[str, Any] = {"template": "words", "phrase": ("warmth=be warm: {level}.",), "max_steps": 2}
    train_command(TrainConfig(str(labels), str(base), str(folder), **settings))
    return load_policy(str(folder))


def tokenizer(policy: Policy, template: str) -> Any:
    policy.tokenizer.chat_template = template
    return policy.tokenizer


@pytest.fixture
def chat(policy: Policy) -> Any:
    original = policy.tokenizer.chat_template
    yield tokenizer(policy, CHATML)
    policy.tokenizer.chat_template = original


def test_the_condition_stands_at_the_end_of_the_last_turn(chat: Any) -> None:
    condition = render({"words": 1}, SCHEMA, ("words",), "words")
    head, tail = divided(TURNS, chat)
    assert head + condition + tail == (
        "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n"
        "<|im_start|>user\nTell me about bees.\n\nAnswer in one sentence, about 28 words.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("level", [None, 0, 1])
def test_an_exported_template_prints_the_same_text(chat: Any, level: int | None) -> None:
    levels = {} if level is None else {"words": level}
    head, tail = divided(TURNS, chat)
    whole = head + render(levels, SCHEMA, ("words",), "words") + tail
    chat.chat_template = steerable(CHATML, SCHEMA, ("words",), "words")
    attributes = asked(levels, SCHEMA)
    assert rendered(chat, TURNS, add_generation_prompt=True, attributes=attributes) == whole
    answered = [*TURNS, {"role": "assistant", "content": "Bees fly."}]
    assert rendered(chat, answered, attributes=attributes) == whole + "Bees fly.<|im_end|>\n"


def test_a_template_that_changes_the_last_turn_is_refused(chat: Any) -> None:
    chat.chat_template = "{{ messages[-1].content | upper }}"
    with pytest.raises(UnprintedError, match="Train with --template tags"):
        divided([{"role": "user", "content": "?"}], chat)


def test_generation_reads_what_training_read(policy: Policy) -> None:
    card = policy.card
    assert card is not None
    assert card.schema is not None
    row = {"id": "a", "prompt": [{"role": "user", "content": "tell me about bees."}], "response": "bees fly."}
    tokens = Tokens([row], policy.tokenizer, end_tokens(policy), policy.template)
    for aim in ({}, {"warmth": 1}, {"helpfulness": 2, "warmth": 3}):
        condition = render(aim, card.schema, card.attributes, "words")
        assert ("be warm: 1." if aim.get("warmth") == 1 else "") in condition
        [request] = encode(policy, [Request(row, aim)], Sampling())
        assert [*request.prompt, *request.condition] == tokens.prefix(row, condition)
        head, tail = divided(row["prompt"], policy.tokenizer)
        expected = plain_ids([head], policy.tokenizer)[0] + plain_ids([condition + tail], policy.tokenizer)[0]
        assert tokens.prefix(row, condition) == expected


def test_a_server_answers_chats_and_refuses_bare_prompts(policy: Policy) -> None:
    with serving(policy) as served:
        body = {"model": "policy", "messages": ASK, "targets": ["warmth=1"], "max_tokens": 3}
        assert send(served, "/v1/chat/completions", body)[0] == 200
        status, answer = send(served, "/v1/completions", {"model": "policy", "prompt": "bees", "max_tokens": 3})
        assert status == 400
        assert "Use chat completions" in answer["error"]["message"]


def test_phrases_without_words_are_refused(labels: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="Add --template words"):
        train_command(TrainConfig(str(labels), str(base), str(tmp_path), phrase=("warmth=x",)))


def test_a_phrase_says_the_form_of_a_text_and_a_degree() -> None:
    words = Attribute("words", 0, 500, shown=("0", "1", "2"), centres=(3.4, 12.0, 400.0), counts=(9, 9, 9))
    assert sentences(words) == (
        "Answer in a word or two, about 3 words.",
        "Answer in a few words, about 12 words.",
        "Answer in detail, in several paragraphs, about 400 words.",
    )
    rated = Attribute("story_depth", 1, 5, shown=tuple("12345"), centres=(1.0, 2.0, 3.0, 4.0, 5.0), counts=(9,) * 5)
    assert sentences(rated)[::2] == (
        "Story depth: very low, 1 of 5.",
        "Story depth: medium, 3 of 5.",
        "Story depth: very high, 5 of 5.",
    )
    depth = Attribute("depth", 1, 5, shown=("1", "3", "5"), centres=(1.0, 3.0, 5.0), counts=(9,) * 3)
    assert sentences(depth) == (
        "Answer in a few words, without any explanation.",
        "Answer with some detail.",
        "Answer in great depth, with reasons, details and examples.",
    )
    many = Attribute("depth", 0, 9, shown=tuple("0123456"), centres=(*map(float, range(7)),), counts=(9,) * 7)
    assert sentences(many)[0] == "Depth: very low, 0 of 6."  # five sentences do not tell seven levels apart
    lists = Attribute("list_items", 0, 9, shown=("0", "1"), centres=(0.0, 4.2), counts=(9, 9))
    assert sentences(lists) == ("Use no list.", "List about 4 items.")
    spelled = sentences(words, "Be brief.|Take {centre} words.| Go on for long. ")
    assert spelled == ("Be brief.", "Take 12 words.", "Go on for long.")  # one for each level
    with pytest.raises(SteerError, match=r"--phrase words: 2 sentences for 3 levels\. Write one for all"):
        sentences(words, "Be brief.|Go on for long.")
    # Centres that round to one number: a sentence must not ask for two levels.
    near = Attribute("words", 0, 9, shown=("0", "1"), centres=(7.1, 7.4), counts=(9, 9))
    assert sentences(near) == ("Words: very low, 0 of 1.", "Words: very high, 1 of 1.")


def test_a_policy_keeps_the_sentences_it_was_trained_on(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert policy.card is not None
    schema, names = policy.card.schema, policy.card.attributes
    assert schema is not None
    before = render({"helpfulness": 2, "warmth": 3}, schema, names, "words")
    monkeypatch.setattr(condition, "RATED", "Of {name}, {level}.")  # another version of steer has other defaults
    assert render({"helpfulness": 2, "warmth": 3}, schema, names, "words") == before
    assert "be warm: 3." in before


def test_auto_takes_words_where_the_base_reads_them(
    policy: Policy, labels: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert unreadable(policy.tokenizer) == "the base's tokenizer spells words in pieces"  # 36 tokens for 8 words
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "auto"), max_steps=1))
    assert "--template tags: the base's tokenizer spells words in pieces" in capsys.readouterr().err
    assert Card.load(tmp_path / "auto").template == "tags"
    # Training that goes on from a policy writes conditions as that one does.
    first, more = str(tmp_path / "words"), str(tmp_path / "more")
    train_command(TrainConfig(str(labels), str(base), first, template="words", max_steps=1))
    train_command(TrainConfig(str(labels), str(base), more, init=first, max_steps=1))
    assert Card.load(Path(more)).template == "words"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ""),
        (PLAIN, "the base has no chat template"),
        ("{{ messages[-1].content | upper }}", "the base's chat template does not print the last turn as it is"),
    ],
)
def test_what_a_tokenizer_and_its_template_can_read(template: str, expected: str) -> None:
    class English:
        chat_template = template
        bos_token = eos_token = ""

        def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": list(range(len(text.split())))}

        def apply_chat_template(self, turns: Any, **settings: Any) -> str:
            from jinja2.sandbox import ImmutableSandboxedEnvironment

            return ImmutableSandboxedEnvironment().from_string(template).render(messages=turns, **settings)

    assert unreadable(English()) == expected
