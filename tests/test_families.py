"""Answers stand where the template of each family has a finished one: in training, in generation and after export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from families import ASK, CALL, FAMILIES, TOOLS, tokenizer_of

from attribute_models.templates import options_of
from steer.conditioning.chat import bare
from steer.conditioning.condition import render
from steer.errors import SteerError
from steer.export.template import finishing, fitting, refuse_late_text
from steer.models.tokenization import Tokens, prompt_text, turns_parts
from steer.rows.schema import Attribute, Schema

SCHEMA = Schema((Attribute("quality", 1, 3, 1, 1.0, (1.5, 2.5), ("1", "2", "3"), (1.0, 2.0, 3.0)),), {(2,): 9})
CONDITION = render({"quality": 2}, SCHEMA, ("quality",))


@pytest.fixture(params=FAMILIES)
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def tokenizer(name: str, tiny: Path) -> Any:
    return tokenizer_of(name, tiny)


def row(**more: Any) -> dict[str, Any]:
    return {"id": "a", "prompt": ASK, "response": "Red.", **more}


def test_an_answer_stands_where_the_template_has_a_finished_one(name: str, tokenizer: Any) -> None:
    family = FAMILIES[name]
    tokens = Tokens([row()], tokenizer)
    prefix, response = tokens.sequence(row(), CONDITION)
    assert prompt_text(ASK, tokenizer) == family.before
    apart = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (family.before, CONDITION)]
    assert prefix == apart[0] + apart[1]
    assert tokenizer.decode(response[-1:]) == family.end
    whole = tokenizer.apply_chat_template([*ASK, {"role": "assistant", "content": "Red."}], tokenize=False)
    if "not kept" not in name:
        assert whole.replace(" Red.", "Red.").startswith(f"{family.before}Red.{family.end}")


def test_words_end_the_last_turn_and_the_answer_stands_in_the_same_place(name: str, tokenizer: Any) -> None:
    before, after = turns_parts(ASK, tokenizer, "words")
    assert before + after == FAMILIES[name].before
    assert before.endswith("Describe apples.")


def test_a_second_question_is_answered_in_the_same_place(name: str, tokenizer: Any) -> None:
    talk = [*ASK, {"role": "assistant", "content": "Red."}, *ASK]
    first, asked = FAMILIES[name].before, prompt_text(talk, tokenizer)
    assert asked.endswith(first)
    assert len(asked) > len(first)
    assert "Red." in asked


@pytest.mark.parametrize("template", ["tags", "words"])
def test_the_exported_template_asks_where_training_did(name: str, tokenizer: Any, template: str) -> None:
    head, tail = turns_parts(ASK, tokenizer, template)
    base = tokenizer.chat_template
    steering, _ = fitting(tokenizer, SCHEMA, ("quality",), template)
    tokenizer.chat_template = steering
    assert bare(steering) == base
    for levels, condition in (({"quality": 3}, render({"quality": 2}, SCHEMA, ("quality",), template)), ({}, "")):
        said = tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True, attributes=levels)
        assert said in (head + condition + tail, f"{head} {condition}{tail}")
        whole = [*ASK, {"role": "assistant", "content": "Red."}]
        finished = tokenizer.apply_chat_template(whole, tokenize=False, attributes=levels)
        if "not kept" in name or (name == "system merged" and template == "tags"):  # its space would stand twice
            with pytest.raises(SteerError, match="something before the last answer"):
                refuse_late_text(tokenizer, "m", {"quality": 3})
            continue
        refuse_late_text(tokenizer, "m", levels)
        assert finished.replace(" Red.", "Red.").startswith(f"{said}Red.")


def test_the_exported_template_of_a_policy_without_conditions_asks_there_too(name: str, tokenizer: Any) -> None:
    wanted, finished = prompt_text(ASK, tokenizer), tokenizer.apply_chat_template(ASK, tokenize=False)
    tokenizer.chat_template = finishing(tokenizer, "drop")
    assert tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True) == wanted
    assert tokenizer.apply_chat_template(ASK, tokenize=False) == finished


def test_what_a_row_gives_the_template_reaches_it(name: str, tokenizer: Any) -> None:
    asked = row(
        tools=json.dumps(TOOLS), chat_template_kwargs={"enable_thinking": False, "tokenize": True, "attributes": {}}
    )
    assert options_of(asked) == {"enable_thinking": False, "tools": TOOLS}
    (text,) = {tokenizer.decode(Tokens([asked], tokenizer).prefix(asked))}
    assert ("weigh" in text) == FAMILIES[name].tools
    assert text.count("<think>") <= 1


def test_a_call_in_the_history_is_printed_as_an_object(name: str, tokenizer: Any, capsys: Any) -> None:
    called = [*ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, *ASK]
    text = prompt_text(called, tokenizer)
    Tokens([row(prompt=called)], tokenizer)
    assert ("moss" in text) == FAMILIES[name].tools
    assert ("calls of tools that the model does not see" in capsys.readouterr().err) != FAMILIES[name].tools
