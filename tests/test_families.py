"""Answers stand where the template of each family has a finished one: in training, in generation and after export."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from families import ASK, CALL, CALLS, FAMILIES, NINE, TOOLS, stops_of, think, tokenizer_of, with_calls
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from attribute_models import folds
from attribute_models.templates import options_of, rendered
from data_recipes import layouts
from data_recipes.marks import LEFT_OUT
from steer.conditioning.chat import bare, fitted
from steer.conditioning.condition import render
from steer.conditioning.finished import called
from steer.conditioning.switches import parsed_options, switch_of
from steer.errors import SteerError
from steer.evaluation.drawn import Reference, _both_log_probs
from steer.export.policy import export_policy
from steer.export.template import finishing, fitting, refuse_late_text
from steer.generation.drawing import rows_of
from steer.generation.engines import _response, through
from steer.generation.generate import prompt_rows, usable
from steer.generation.openai_client import OpenAIClient
from steer.generation.reply import Form, Reply, parted, written_as
from steer.generation.requests import Request
from steer.generation.settings import GenerateSettings, Sampling
from steer.labelling.scorer import load_scorer, readable
from steer.methods.groups import distinct, pairs
from steer.models.card import Card
from steer.models.collate import line
from steer.models.log_probs import ResponseLogps
from steer.models.policy import Policy, end_tokens, load_policy
from steer.models.tokenization import Tokens, plain_ids, prompt_text, turns_parts
from steer.rows import prompt_key, read_rows
from steer.rows.labelled import Labelled
from steer.rows.schema import Attribute, Schema
from steer.training.thinking import say_thoughts
from steer.training.train import train

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
    tokens = Tokens([row()], tokenizer, stops_of(name, tokenizer))
    prefix, response = tokens.sequence(row(), CONDITION)
    assert prompt_text(ASK, tokenizer) == family.before
    apart = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (family.before, CONDITION)]
    assert prefix == apart[0] + apart[1]
    assert tokenizer.decode(response).endswith(f"Red.{family.end}")
    whole = rendered(tokenizer, [*ASK, {"role": "assistant", "content": "Red."}])
    if "not kept" not in name:
        ended = rendered(tokenizer, [*ASK, {"role": "assistant", "content": "Red."}, *ASK])  # some write it only then
        either = [text.replace(" Red.", "Red.") for text in (whole, ended)]
        assert any(text.startswith(f"{family.before}Red.{family.end}") for text in either)


def test_words_end_the_last_turn_and_the_answer_stands_in_the_same_place(name: str, tokenizer: Any) -> None:
    before, after = turns_parts(ASK, tokenizer, "words")
    assert before + after == FAMILIES[name].before
    assert before.endswith("Describe apples.")


def test_a_second_question_is_answered_in_the_same_place(name: str, tokenizer: Any) -> None:
    talk = [*ASK, {"role": "assistant", "content": "Red."}, *ASK]
    first, asked = FAMILIES[name].before.removeprefix(FAMILIES[name].start), prompt_text(talk, tokenizer)
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
        said = rendered(tokenizer, ASK, add_generation_prompt=True, attributes=levels)
        assert said in (head + condition + tail, f"{head} {condition}{tail}")
        whole = [*ASK, {"role": "assistant", "content": "Red."}]
        finished = rendered(tokenizer, whole, attributes=levels)
        if "not kept" in name or (name == "system merged" and template == "tags"):  # its space would stand twice
            with pytest.raises(SteerError, match="something before the last answer"):
                refuse_late_text(tokenizer, "m", {"quality": 3})
            continue
        refuse_late_text(tokenizer, "m", levels)
        assert finished.replace(" Red.", "Red.").startswith(f"{said}Red.")


def test_the_exported_template_of_a_policy_without_conditions_asks_there_too(name: str, tokenizer: Any) -> None:
    wanted, finished = prompt_text(ASK, tokenizer), rendered(tokenizer, ASK)
    tokenizer.chat_template = finishing(tokenizer, "drop")
    assert rendered(tokenizer, ASK, add_generation_prompt=True) == wanted
    assert rendered(tokenizer, ASK) == finished


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


THOUGHT = {"reasoning_content": " hm\n"}


def texts(tokens: Tokens, of: dict[str, Any], condition: str = "") -> tuple[str, str]:
    prefix, response = tokens.sequence(of, condition)
    return tokens.tokenizer.decode(prefix), tokens.tokenizer.decode(response)


def close(text: str) -> str:
    """The world's tokenizer begins every piece with a space."""
    return text.replace(" ", "")


def test_a_thought_is_dropped_kept_or_learned(name: str, tokenizer: Any) -> None:
    family, asked = FAMILIES[name], row(**THOUGHT)
    plain = tokenizer.chat_template
    think(name, tokenizer)
    begun = rendered(tokenizer, ASK, add_generation_prompt=True)
    kinds = [("drop", family.before), ("keep", family.thought), ("learn", begun)]
    if not family.learns:
        with pytest.raises(SteerError, match="thoughts elsewhere than where its generation prompt ends"):
            Tokens([asked], tokenizer, template="words", thinking="learn")
    for thinking, before in kinds if family.learns else kinds[:2]:
        tokenizer.chat_template = plain
        if thinking != "drop":
            think(name, tokenizer)
        tokens = Tokens([asked], tokenizer, stops_of(name, tokenizer), template="words", thinking=thinking)
        prefix, response = texts(tokens, asked)
        assert close(prefix) == close(before), thinking
        whole = family.before if thinking == "drop" else family.thought
        assert close(prefix + response) == close(f"{whole}Red.{family.end}")
        assert not tokens.untold
    head, tail = turns_parts(ASK, tokenizer, "words", thinking="learn")
    assert head + tail == begun, "generation begins where learning did"


def test_an_empty_block_is_the_thinking_block_without_a_thought(name: str, tokenizer: Any) -> None:
    family = FAMILIES[name]
    wanted = family.empty or family.thought.replace("hm", "")
    assert prompt_text(ASK, tokenizer, thinking="empty") == wanted
    tokens = Tokens([row(**THOUGHT)], tokenizer, thinking="empty")
    assert close(texts(tokens, row())[0]) == close(wanted)
    tokenizer.chat_template = finishing(tokenizer, "empty")
    assert rendered(tokenizer, ASK, add_generation_prompt=True) == wanted


def policy_of(tokenizer: Any, thinking: str = "drop") -> Policy:
    return Policy(None, tokenizer, Card("b", "", "none", "mle", thinking=thinking))


def ids_of(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def told(form: Form, ids: list[int], tokenizer: Any) -> tuple[str, str, list[Any]]:
    """What a reply says, whole; its pieces never take anything back."""
    reply, seen = Reply(tokenizer, form), ["", ""]
    for token in ids:
        piece = reply.push(token)
        seen = [seen[0] + piece.thought, seen[1] + piece.text]
        assert not piece.calls
    last = reply.finish(whole=True)
    whole = parted(tokenizer, form, ids, whole=True)
    assert whole[:2] == (seen[0] + last.thought, seen[1] + last.text)
    return whole.thought, whole.text, list(whole.calls)


def test_what_was_drawn_is_parted_at_the_end_of_the_thought(name: str, tokenizer: Any) -> None:
    family = FAMILIES[name]
    if not family.learns:
        pytest.skip("its thoughts cannot be learned")
    think(name, tokenizer)
    form = Form.of(policy_of(tokenizer, "learn"), row())
    begun = rendered(tokenizer, ASK, add_generation_prompt=True)
    drawn = ids_of(family.thought.removeprefix(begun) + "Red.", tokenizer)
    assert told(form, drawn, tokenizer) == ("hm", "Red.", [])
    opening = family.thought.removeprefix(begun).partition("hm")[0]
    assert told(form, ids_of(opening + "hm hm", tokenizer), tokenizer) == ("hm hm", "", [])
    if family.before.startswith(begun):  # without a thought
        at_once = ids_of(family.before.removeprefix(begun) + "Red.", tokenizer)
        assert told(form, at_once, tokenizer) == ("", "Red.", [])
    plain = parted(tokenizer, Form.of(policy_of(tokenizer), row()), drawn, whole=True)
    assert plain.thought == ""
    assert plain.text == tokenizer.decode(drawn, skip_special_tokens=True)


def test_a_template_that_has_closed_the_thinking_block_asks_for_no_thought(tiny: Path) -> None:
    tokenizer = tokenizer_of("thinking, optional", tiny)
    policy = policy_of(tokenizer, "learn")
    assert Form.of(policy, row()).block
    assert Form.of(policy, row(chat_template_kwargs={"enable_thinking": False})).plain


# As SmolLM3's and Nemotron's: a word in a turn turns thinking off, and is not printed.
WORD = (
    "{% set ns = namespace(off=false) %}{% for m in messages if m.role != 'assistant' %}"
    "{% if '/no_think' in m.content %}{% set ns.off = true %}{% elif '/think' in m.content %}{% set ns.off = false %}"
    "{% endif %}{% endfor %}{% set block = '<think>\n\n</think>\n\n' if ns.off else '' %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{{ block ~ m.content }}{% else %}"
    "{{ m.content.replace('/no_think', '').replace('/think', '') | trim }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ block }}{% endif %}"
)


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_word_in_a_turn_that_turns_thinking_off_closes_the_block_once(role: str, tiny: Path) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    tokenizer.chat_template = WORD
    said = {"system": "Be brief.", "user": "Describe apples."}
    block = "<think>\n\n</think>\n\n"
    for word, blocks in (("", {"empty": 1}), ("/think", {"empty": 1}), ("/no_think", dict.fromkeys(THINKING, 1))):
        texts = {**said, role: f"{said[role]} {word}".strip()}
        prompt = [{"role": name, "content": text} for name, text in texts.items()]
        for thinking in THINKING:
            text = prompt_text(prompt, tokenizer, thinking=thinking)
            assert text.count("<think>") == blocks.get(thinking, 0)
            assert text.endswith("assistant\n" + block * blocks.get(thinking, 0))
        form = Form.of(policy_of(tokenizer, "learn"), row(prompt=prompt))
        assert bool(form.block and not form.plain) == (word != "/no_think")


THINKING = ("drop", "empty", "keep", "learn")


def test_prompts_that_ask_in_a_word_for_the_contrary_are_said(tiny: Path, capsys: Any) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    asked = {"/think": 2, "/no_think": 3, "a/think": 1, "</think>": 1}
    rows = [
        row(id=f"{word}{i}", prompt=[{"role": "user", "content": f"Why? {word}"}], reasoning_content="hm")
        for word, times in asked.items()
        for i in range(times)
    ]
    noted = {}
    for thinking in ("drop", "keep"):
        say_thoughts(rows, thinking, Tokens(rows, tokenizer, thinking=thinking))
        noted[thinking] = [text for text in capsys.readouterr().err.splitlines() if "(/" in text]
    assert [*map(len, noted.values())] == [1, 1]
    assert "2 prompts ask for a thought in a word (/think); their answers have none" in noted["drop"][0]
    assert "3 responses are trained after a thought, which their prompts forbid in a word" in noted["keep"][0]


WEIGHED = {"what": {"type": "string"}, "grams": {"type": "integer"}}
DECLARED = [
    {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "properties": WEIGHED}}}
]


def calls_of(*arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "weigh", "arguments": each}} for each in arguments]


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize(
    "arguments", [[{"what": 'moss "x"\n}', "grams": 3}], [{"what": "3"}], [{"grams": 3}, {"what": "a b"}], [{}]]
)
def test_calls_are_read_as_the_template_writes_them(calls: str, arguments: list[Any], tiny: Path) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    tokenizer.chat_template = with_calls(calls)
    asked = row(tools=DECLARED)
    form = Form.of(policy_of(tokenizer), asked)
    wanted = [{"id": f"00000000{i}", **call} for i, call in enumerate(calls_of(*arguments))]
    turn = {"role": "assistant", "content": "Let me see.", "tool_calls": wanted}
    written = called(ASK, tokenizer, options_of(asked), turn)
    assert written is not None
    drawn = ids_of(written.text, tokenizer)
    thought, text, found = told(form, drawn, tokenizer)
    assert (thought, text) == ("", "Let me see.")
    assert [call["function"] for call in found] == [call["function"] for call in wanted]
    assert all(call["id"] == want["id"] for call, want in zip(found, wanted) if "id" in call)
    assert written_as(parted(tokenizer, form, drawn, whole=True), drawn, tokenizer, asked)
    assert told(form, drawn[:-3], tokenizer)[2] == []
    assert parted(tokenizer, form, drawn, whole=False).calls == ()


@pytest.mark.parametrize("calls", ["types in attributes", "texts in quotes of their own", "as Python"])
def test_values_have_the_types_that_the_template_marks(calls: str, tiny: Path) -> None:
    """Though nobody declared them: what is marked is certain."""
    tokenizer = tokenizer_of("plain", tiny)
    tokenizer.chat_template = with_calls(calls)
    untyped = {"type": "object", "properties": {"what": {}, "grams": {}, "dry": {}, "of": {}}}
    asked = row(tools=[{"type": "function", "function": {"name": "weigh", "parameters": untyped}}])
    values = {"dry": True, "grams": 3, "of": [1, 2], "what": "3"}
    wanted = {"id": "000000000", **calls_of(values)[0]}
    written = called(ASK, tokenizer, options_of(asked), {"role": "assistant", "content": "", "tool_calls": [wanted]})
    assert written is not None
    _, text, [found] = told(Form.of(policy_of(tokenizer), asked), ids_of(written.text, tokenizer), tokenizer)
    assert (text, found["function"]["arguments"]) == ("", values)


def test_calls_are_not_read_where_a_template_escapes_texts_in_its_own_way(tiny: Path) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    escaped = CALLS["values"].replace("value if value is string else value | tojson", "value | string | urlencode")
    assert escaped != CALLS["values"]
    tokenizer.chat_template = with_calls("values").replace(CALLS["values"], escaped)
    assert Form.of(policy_of(tokenizer), row(tools=DECLARED)).syntax is None


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        ("values", "<call>fly what=moss</call>"),  # not declared
        ("values", "<call>weigh where=moss</call>"),
        ("values", "<call>weigh grams=many</call>"),
        ("object", '<tool_call>\n{"name": "weigh", "arguments": {"what": }}\n</tool_call>'),
        ("object", '<tool_call>\n{"name": "weigh", "arguments": {}}\n</tool_call> and so on'),
    ],
)
def test_a_call_that_cannot_be_read_for_certain_is_text(calls: str, text: str, tiny: Path, capsys: Any) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    tokenizer.chat_template = with_calls(calls)
    form, drawn = Form.of(policy_of(tokenizer), row(tools=DECLARED)), ids_of(f"Well. {text}", tokenizer)
    assert told(form, drawn, tokenizer) == ("", tokenizer.decode(drawn, skip_special_tokens=True), [])
    assert Form.of(policy_of(tokenizer), row()).plain, "nobody declared a tool"


def test_a_policy_that_thinks_and_its_base_read_the_same_tokens(tokenizer: Any, tiny: Path) -> None:
    """The policy is the base, so the KL between them is 0: the reference reads thoughts where the policy wrote them."""
    model = load_policy(str(tiny)).model
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    policy = Policy(model, tokenizer, Card("b", "", "none", "mle", thinking="learn"))
    base = Policy(model, tokenizer)
    ids = tokenizer("<think>hm</think>Red.", add_special_tokens=False)["input_ids"]
    drawn_row = row(target={}, ids=ids)
    own, ref = _both_log_probs(policy, [drawn_row], Sampling(), Reference(base, ResponseLogps(model.eval())))
    assert own == ref
    cooler = Sampling(temperature=0.5)
    assert len({*map(tuple, _both_log_probs(policy, [drawn_row], cooler, Reference(base, ResponseLogps(model))))}) == 1


def test_a_server_gets_what_a_row_gives_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def call(self: Any, url: str, path: str, body: Any = None, tries: int = 0) -> Any:
        sent.append(body)
        return {"choices": [{"message": {"content": "Red."}, "finish_reason": "stop"}]}

    monkeypatch.setattr(OpenAIClient, "_call", call)
    asked = row(tools=json.dumps(TOOLS), chat_template_kwargs={"enable_thinking": False})
    server: Any = through(OpenAIClient("http://localhost", "m"))
    server(Policy(None, None), [Request(asked, {}), Request(row(), {})], Sampling(batch_size=1))
    assert (sent[0]["tools"], sent[0]["chat_template_kwargs"]) == (TOOLS, {"enable_thinking": False})
    assert not {"tools", "chat_template_kwargs"} & sent[1].keys()


def test_calls_without_fitting_ids_get_them_and_results_follow(tiny: Path) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    tokenizer.chat_template = NINE
    call, *others = calls_of({"what": "a"}, {"what": "b"}, {"what": "c"})
    talk: list[dict[str, Any]] = [
        *ASK,
        {"role": "assistant", "content": "", "tool_calls": [call, {"id": "call_0123456789", **others[0]}, others[1]]},
        {"role": "tool", "content": "2", "tool_call_id": "call_0123456789"},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "3"},
    ]
    turns = fitted(talk, tokenizer)
    assert [each["id"] for each in turns[1]["tool_calls"]] == ["000000000", "000000001", "000000002"]
    results = [(turn["tool_call_id"], turn["content"]) for turn in turns[2:]]
    assert results == [("000000001", "2"), ("000000000", "1"), ("000000002", "3")]
    assert fitted(turns, tokenizer) == turns, "fitting ids stay"
    assert "[RESULT 000000002]3" in prompt_text(talk, tokenizer)
    again = row(prompt=talk, response="", tool_calls=calls_of({"what": "d"}))
    response = Tokens([again], tokenizer).responses["a"]
    assert '"id": "000000003"' in tokenizer.decode(response), "numbers go on"
    tokenizer.chat_template = with_calls("list with ids")  # reads ids, but takes any
    assert fitted(talk, tokenizer)[1]["tool_calls"][1]["id"] == "call_0123456789"
    tokenizer.chat_template = with_calls("object")
    assert fitted(talk, tokenizer)[1]["tool_calls"][0] == call, "ids that no template reads are not made up"


def test_what_a_server_sends_is_a_row_with_thought_and_calls(
    tokenizer: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, sent = FAMILIES[name], []
    think(name, tokenizer)
    begun = rendered(tokenizer, ASK, add_generation_prompt=True)
    messages: list[Any] = [
        {"content": None, "reasoning_content": " hm\n", "tool_calls": [CALL]},
        {"content": family.thought.removeprefix(begun) + "Red."},  # the server's parser of thoughts is off
        {"content": "Red."},
    ]

    def call(self: Any, url: str, path: str, body: Any = None, tries: int = 0) -> Any:
        sent.append(body)
        return {"choices": [{"message": messages[len(sent) - 1], "finish_reason": "tool_calls"}]}

    monkeypatch.setattr(OpenAIClient, "_call", call)
    as_object = {**CALL, "function": {"name": "weigh", "arguments": {"what": "moss"}}}
    talk = [*ASK, {"role": "assistant", "content": "", "weight": 0.0, "tool_calls": [as_object]}, *ASK]
    requests = [Request(row(prompt=talk if family.tools else ASK), {}), Request(row(), {}), Request(row(), {})]
    server: Any = through(OpenAIClient("http://localhost", "m"))
    policy = policy_of(tokenizer, "learn")
    monkeypatch.setattr(Policy, "recommended", {})
    first, second, third = server(policy, requests, Sampling(batch_size=1))
    if family.tools:
        assert sent[0]["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert (first.text, first.thought, first.finished) == ("", "hm", True)
    assert first.calls == (as_object,)
    assert (third.thought, third.text) == ("", "Red.")
    if family.learns:
        assert (second.thought, second.text) == ("hm", "Red.")


def test_prompts_that_differ_in_tools_or_options_are_different() -> None:
    off: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
    talk = [*ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, *ASK]
    without = [*ASK, {"role": "assistant", "content": ""}, *ASK]
    rows = [row(), row(tools=TOOLS), row(**off), row(tools=TOOLS, **off), row(prompt=talk), row(prompt=without)]
    as_text = row(tools=json.dumps(TOOLS), chat_template_kwargs=json.dumps(off["chat_template_kwargs"]))
    assert len({prompt_key(each) for each in rows}) == 6
    assert prompt_key(as_text) == prompt_key(rows[3]) != prompt_key(rows[1])
    assert prompt_key(row(tools=[], chat_template_kwargs={})) == prompt_key(row())
    for n, each in enumerate(rows):
        each.update(id=str(n), reward=float(n))
    with pytest.raises(SteerError, match="6 of 6 have one response"):
        pairs(rows, "best-worst")
    assert len(prompt_rows(rows, GenerateSettings())) == 6
    records = [{key: value for key, value in each.items() if key not in ("id", "reward")} for each in rows]
    calling = [{**record, "response": "", "tool_calls": [CALL]} for record in records]
    assert len({each["id"] for each in read_rows(records + calling)}) == 12


def test_what_was_drawn_becomes_a_row(tiny: Path) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    tokenizer.chat_template = with_calls("object")
    policy, asked = policy_of(tokenizer), row(tools=DECLARED)
    policy.model = load_policy(str(tiny)).model
    for text, calls in (
        ('<tool_call>\n{"name": "weigh", "arguments": {"what": "x"}}\n</tool_call>', calls_of({"what": "x"})),
        ('<tool_call>\n{"name": "weigh", "arguments": {"what":"x"}}\n</tool_call>', []),  # not as the template does
    ):
        response = _response(policy, Request(asked, {}), [*ids_of(text, tokenizer), tokenizer.eos_token_id])
        [drawn] = rows_of(policy, [Request(asked, {})], [response], Sampling())
        assert response.finished
        assert drawn.get("tool_calls", []) == calls
        assert drawn["response"] == ("" if calls else text)
        assert drawn["tools"] == DECLARED
        assert [*usable(policy, [drawn])] == [drawn]


def test_responses_that_call_different_tools_are_different() -> None:
    other = {**CALL, "function": {**CALL["function"], "name": "measure"}}
    answers = [{"role": "assistant", "content": "", "tool_calls": [call]} for call in (CALL, other)]
    chosen, rejected = layouts.rows({"prompt": ASK, "chosen": [answers[0]], "rejected": [answers[1]]})
    assert not {LEFT_OUT} & (chosen.keys() | rejected.keys())
    for each, reward in ((chosen, 1.0), (rejected, 0.0)):
        each.update(reward=reward)
    [group] = pairs([chosen, rejected, {**chosen, "reward": 0.5}], "best-worst")
    assert [r["tool_calls"] for r in group.rows] == [[CALL], [other]]
    renamed = {**chosen, "tool_calls": [{**CALL, "id": "another"}]}
    assert distinct([chosen, renamed, rejected]) == [chosen, rejected], "an id says nothing"
    same = layouts.rows({"prompt": ASK, "chosen": [answers[0]], "rejected": [answers[0]]})
    assert all("the same text" in r[LEFT_OUT] for r in same)


def test_equal_calls_are_equal_whatever_their_ids_and_the_form_of_their_arguments() -> None:
    function = CALL["function"]
    as_object = {**function, "arguments": json.loads(function["arguments"])}
    turns = [
        {"role": "assistant", "content": "", "tool_calls": [{"id": f"call_{i}", "type": "function", "function": each}]}
        for i, each in enumerate((function, as_object))
    ]
    pair = layouts.rows({"prompt": ASK, "chosen": [turns[0]], "rejected": [turns[1]]})
    assert all("the same text" in r[LEFT_OUT] for r in pair)
    assert len(distinct([{**r, "id": str(i)} for i, r in enumerate(pair)])) == 1
    assert len({readable(r)["response"] for r in pair}) == 1
    asked = [row(prompt=[*ASK, turn, {"role": "tool", "content": "3 kg"}]) for turn in turns]
    assert prompt_key(asked[0]) == prompt_key(asked[1])
    assert folds.prompt_key(asked[0]) == folds.prompt_key(asked[1])


def test_a_response_that_calls_a_tool_is_what_the_template_writes_or_refused(name: str, tokenizer: Any) -> None:
    family, ends = FAMILIES[name], stops_of(name, tokenizer)
    asked = row(response="", tool_calls=[CALL], **THOUGHT)
    if not family.tools or family.lead:  # a call has a channel of its own, and answers are drawn within theirs
        advice = "Declare it in the row's `tools`" if family.lead else "Leave such rows out"
        with pytest.raises(SteerError, match=f"row 'a': its response calls a tool, which the model's .*{advice}"):
            Tokens([asked], tokenizer, ends)
        return
    for thinking in ("drop", "keep"):
        if thinking == "keep":
            think(name, tokenizer)
        tokens = Tokens([asked], tokenizer, ends, thinking=thinking)
        before = family.before if thinking == "drop" else family.thought
        prefix, response = texts(tokens, asked)
        assert close(prefix) == close(before)
        assert close(response) == close(f"{family.call}{family.call_end or family.end}")


def channels(tiny: Path, thinking: str = "drop") -> Policy:
    tokenizer = tokenizer_of("channels", tiny)
    ends = SimpleNamespace(eos_token_id=stops_of("channels", tokenizer))
    return Policy(SimpleNamespace(generation_config=ends), tokenizer, Card("b", "", "none", "mle", thinking=thinking))


@pytest.mark.parametrize("thought", ["", "hm"])
@pytest.mark.parametrize("thinking", ["drop", "keep", "learn"])
def test_where_a_call_has_a_channel_of_its_own_both_begin_before_it(tiny: Path, thinking: str, thought: str) -> None:
    """With tools answers and calls are drawn from the same place, and read back as they were trained."""
    policy, family = channels(tiny, thinking), FAMILIES["channels"]
    tokenizer, ends = policy.tokenizer, end_tokens(policy)
    options = {"tools": json.dumps(DECLARED), "reasoning_content": thought}
    asked = row(response="", tool_calls=calls_of({"what": "moss"}), **options)
    answered = row(**options)
    tokens = {each["response"]: Tokens([each], tokenizer, ends, "words", thinking) for each in (asked, answered)}
    head, tail = turns_parts(ASK, tokenizer, "words", options_of(asked), thinking)
    begun = rendered(tokenizer, ASK, add_generation_prompt=True, tools=DECLARED)
    assert head + tail == begun, "both are drawn from there"
    told_first = f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant" if thought else ""
    learned = told_first if thinking == "learn" else ""
    called_as, answered_as = (tokens[each["response"]].sequence(each) for each in (asked, answered))
    shown = told_first if thinking == "keep" else ""
    assert close(tokenizer.decode(called_as.prefix)) == close(begun + shown)
    assert close(tokenizer.decode(called_as.response)) == close(f"{learned}{family.call}<|call|>")
    lead = "" if thinking == "keep" else family.lead
    assert close(tokenizer.decode(answered_as.prefix + answered_as.response)).endswith(
        close(f"{family.lead}Red.<|return|>")
    )
    assert close(tokenizer.decode(answered_as.response)) == close(f"{learned}{lead}Red.<|return|>")
    whole = rendered(
        tokenizer, [*ASK, *fitted([{"role": "assistant", "content": "", **asked}], tokenizer)], tools=DECLARED
    )
    if not thought:
        assert close(tokenizer.decode(called_as.prefix + called_as.response)) == close(whole)
    form = Form.of(policy, asked)
    said = thought if thinking != "drop" else ""
    drawn = ids_of((told_first if said else "") + family.call, tokenizer)
    assert told(form, drawn, tokenizer) == (said, "", calls_of({"what": "moss"}))
    drawn = ids_of((told_first if said else "") + f"{family.lead}Red.", tokenizer)
    assert told(form, drawn, tokenizer) == (said, "Red.", [])
    ended = _response(policy, Request(asked, {}), [*ids_of(family.call, tokenizer), *ids_of("<|call|>", tokenizer)])
    assert (ended.finished, ended.text, list(ended.calls)) == (True, "", calls_of({"what": "moss"}))


@pytest.mark.parametrize("template", ["tags", "words"])
def test_an_exported_template_leaves_open_whether_a_tool_is_called(tiny: Path, template: str) -> None:
    tokenizer = channels(tiny).tokenizer
    condition = render({"quality": 2}, SCHEMA, ("quality",), template)
    wanted = {}
    for options in ({}, {"tools": DECLARED}):
        head, tail = turns_parts(ASK, tokenizer, template, options)
        wanted[len(options)] = head + condition + tail
    tokenizer.chat_template, _ = fitting(tokenizer, SCHEMA, ("quality",), template)
    for options in ({}, {"tools": DECLARED}):
        said = rendered(tokenizer, ASK, add_generation_prompt=True, attributes={"quality": 3}, **options)
        assert said == wanted[len(options)]


def test_an_empty_block_leaves_no_place_for_a_call_in_another_channel(tiny: Path) -> None:
    policy = channels(tiny, "empty")
    asked = row(response="", tool_calls=[CALL], tools=TOOLS)
    with pytest.raises(
        SteerError, match="row 'a': its response calls a tool, which the model's chat template does not"
    ):
        Tokens([asked], policy.tokenizer, end_tokens(policy), "words", "empty")


def test_calls_of_which_the_template_writes_one_are_refused_together(tiny: Path) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    tokenizer.chat_template = FAMILIES["plain"].template.replace("in m.tool_calls or []", "in (m.tool_calls or [])[:1]")
    two = row(response="", tool_calls=calls_of({"what": "a"}, {"what": "b"}))
    with pytest.raises(SteerError, match="calls 2 tools at once, of which the model's chat template writes one"):
        Tokens([two], tokenizer)
    Tokens([{**two, "tool_calls": two["tool_calls"][:1]}], tokenizer)


SYSTEM = {"role": "system", "content": "Be a pirate."}
CALLED = [*ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "3 kg"}]
TALKS: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([*ASK, {"role": "assistant", "content": "Red."}, *ASK], {}),
    ([SYSTEM, *ASK], {}),
    ([SYSTEM, *ASK, {"role": "assistant", "content": "Red."}, *ASK], {}),
    (ASK, {"enable_thinking": True}),
    (ASK, {"enable_thinking": False}),
    (CALLED, {"tools": TOOLS}),
]


@pytest.mark.parametrize("template", ["tags", "words"])
def test_training_and_export_write_the_same_of_every_kind_of_conversation(
    name: str, tokenizer: Any, template: str
) -> None:
    condition = render({"quality": 2}, SCHEMA, ("quality",), template)
    base, compared = tokenizer.chat_template, 0
    for talk, options in TALKS:
        tokenizer.chat_template = base
        turns = fitted(talk, tokenizer)
        try:
            head, tail = turns_parts(talk, tokenizer, template, options)
        except (TemplateError, SteerError):  # the family knows no system, or no tools
            assert name in ("alternation, no system", "system merged")
            continue
        assert "apples" in head
        assert "pirate" not in str(talk) or "pirate" in head + tail, "the system's text is lost"
        assert "3 kg" not in head or template == "tags", "words stand in the turn of the user, not in a tool's result"
        tokenizer.chat_template, _ = fitting(tokenizer, SCHEMA, ("quality",), template)
        said = rendered(tokenizer, turns, add_generation_prompt=True, attributes={"quality": 3}, **options)
        assert said in (head + condition + tail, f"{head} {condition}{tail}")
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("template", ["tags", "words"])
def test_servers_that_give_contents_in_parts_steer_too(tiny: Path, template: str) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    tokenizer.chat_template = FAMILIES["plain"].template.replace(
        "{{ m.content }}",
        "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}"
        "{% endif %}",
    )
    tokenizer.chat_template, _ = fitting(tokenizer, SCHEMA, ("quality",), template)
    talk = [*ASK, {"role": "assistant", "content": "Red."}]
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in talk]
    for number, asks in ((1, True), (2, False)):
        given = {"add_generation_prompt": asks, "attributes": {"quality": 3}}
        text = rendered(tokenizer, talk[:number], **given)
        assert rendered(tokenizer, parts[:number], **given) == text
        assert text.count("3") == 1 + (template == "words")


def test_a_scorer_sees_a_call_as_text() -> None:
    seen: list[str] = []

    def words(of: dict[str, Any]) -> float:
        seen.append(of["response"])
        return float(len(of["response"]))

    load_scorer(words).score([row(tool_calls=[CALL]), row(response="", tool_calls=[CALL]), row()], ["words"])
    assert seen == ['Red.\nweigh({"what": "moss"})', 'weigh({"what": "moss"})', "Red."]


@pytest.mark.parametrize(
    ("response", "thought", "answer"),
    [
        ("<think>\nhm\n</think>\n\nRed.", "hm", "Red."),
        ("hm\n</think>\n\nRed.", "hm", "Red."),
        ("<thinking>hm</thinking>Red.", "hm", "Red."),
        ("<thought>hm</thought>Red.", "hm", "Red."),
        ("<reasoning>\nhm\n</reasoning>\nRed.", "hm", "Red."),
        ("<seed:think>hm</seed:think>Red.", "hm", "Red."),
        ("[THINK]hm[/THINK]Red.", "hm", "Red."),
        ("◁think▷hm◁/think▷Red.", "hm", "Red."),
        ("A thought: <b>hm</b>", None, "A thought: <b>hm</b>"),
        ("<think>\n\n</think>\n\nRed.", None, "Red."),
        ("I think so.", None, "I think so."),
        (
            "Write <think> for a thought and </think> after it.",
            None,
            "Write <think> for a thought and </think> after it.",
        ),
    ],
)
def test_a_thinking_block_is_parted_from_its_answer_in_every_layout(
    response: str, thought: str | None, answer: str
) -> None:
    records: list[dict[str, Any]] = [
        {"prompt": "Hi", "response": response},
        {"messages": [*ASK, {"role": "assistant", "content": response}]},
        {"prompt": "Hi", "chosen": response, "rejected": "No."},
    ]
    for record in records:
        found = layouts.rows(record)[0]
        assert (found.get("reasoning_content"), found["response"]) == (thought, answer)


def test_a_thought_in_the_history_is_parted_too() -> None:
    said = [*ASK, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nRed."}, *ASK]
    [found] = layouts.rows({"prompt": said, "response": "Green."})
    assert found["prompt"][1] == {"role": "assistant", "content": "Red.", "reasoning_content": "hm"}
    assert said[1]["content"].startswith("<think>"), "the record is left as it is"


def test_what_responses_thought_and_called_at_once_is_one_turn() -> None:
    def called(name: str, of: str) -> dict[str, Any]:
        arguments = json.dumps({"what": of})
        return {"type": "function_call", "id": f"fc_{name}", "call_id": name, "name": "weigh", "arguments": arguments}

    items: list[Any] = [
        *ASK,
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        called("a", "moss"),
        called("b", "bees"),
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": "2"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Three."}]},
        *ASK,
    ]
    record = {"request": {"input": items}, "response": {"output": [items[-2]]}}
    [found] = layouts.rows(record)
    asked, step, first, second, answer, _ = found["prompt"]
    assert [turn["role"] for turn in found["prompt"]] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert step["reasoning_content"] == "hm"
    assert [call["function"]["arguments"] for call in step["tool_calls"]] == ['{"what": "moss"}', '{"what": "bees"}']
    assert [call["id"] for call in step["tool_calls"]] == ["a", "b"], "a call has the name that its result answers"
    assert (first["tool_call_id"], second["tool_call_id"]) == ("a", "b")
    assert (answer["content"], answer["reasoning_content"], asked) == ("Three.", "so", ASK[0])


def test_details_of_reasoning_are_a_thought() -> None:
    details = [{"type": "reasoning.text", "text": "hm"}, {"type": "reasoning.encrypted", "data": "x"}]
    answer = {"role": "assistant", "content": "Red.", "reasoning_details": details}
    (row_,) = layouts.rows({"messages": [*ASK, answer]})
    assert (row_["reasoning_content"], row_["response"]) == ("hm", "Red.")


@pytest.mark.parametrize("response", ["<think>hm", "<think>hm</think>\n"])
def test_a_thought_without_an_answer_is_left_out_and_counted(response: str, capsys: Any) -> None:
    rows = [{"prompt": "Hi", "response": response}, {"prompt": "Hi", "response": "Hello"}]
    assert [found["response"] for found in read_rows(rows)] == ["Hello"]
    assert "thought" in capsys.readouterr().err


def test_thoughts_stand_before_words_and_not_before_tags(base: Path, labels: Path, capsys: Any) -> None:
    labelled = Labelled.of(labels)
    for row_ in labelled.rows:
        row_.update(THOUGHT)
    settings: dict[str, Any] = {"model": str(base), "max_steps": 1, "batch_size": 4, "limit": 40}
    with pytest.raises(SteerError, match="stands directly before the answer, where generation cannot"):
        train(labelled, template="tags", thinking="keep", **settings)
    with pytest.raises(SteerError, match="ppo draws its own responses, without thoughts"):
        train(labelled, method="ppo", thinking="learn", scorer="countable:words", **settings)
    train(labelled, template="tags", **settings)
    assert re.search(r"\d+ of \d+ responses have a thought that is not trained on", capsys.readouterr().err)
    policy = train(labelled, thinking="learn", **settings)
    assert (policy.thinking, policy.template) == ("learn", "words")
    assert "--template words: with --thinking learn nothing can stand between a thought and" in capsys.readouterr().err
    (found,) = policy.generate(["tell me about bees."], max_new_tokens=8)
    assert found["response"] == "" or "reasoning_content" not in found


def test_all_turns_of_a_conversation_share_its_history(name: str, tokenizer: Any) -> None:
    said = ["bees", "honey", "trees", "shade", "apples", "red"]
    talk = [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(said)]
    rows = [row(id=str(i), prompt=talk[:i], response=word) for i, word in enumerate(said) if i % 2]
    tokens = Tokens(rows, tokenizer)
    text = tokenizer.decode(line([tokens.sequence(r, CONDITION) for r in rows]).ids)
    assert [text.count(word) for word in said] == [1, 2, 1, 2, 1, 1], "an answer once in the history, once as a branch"
    assert text.count(CONDITION.strip()) == 3


def test_the_option_that_turns_thinking_on_is_found(name: str, tokenizer: Any) -> None:
    found, family = switch_of(tokenizer), FAMILIES[name]
    assert (found[:2] if found and not found.default else None) == family.switch
    think(name, tokenizer)
    assert switch_of(tokenizer) == found, "what a policy's template is always given is not the family's"


def thinker_base(base: Path, folder: Path, name: str) -> Path:
    shutil.copytree(base, folder)
    tokenizer = tokenizer_of(name, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_family_that_thinks_when_asked_is_asked_in_training_generation_and_export(
    base: Path, labels: Path, tmp_path: Path, capsys: Any
) -> None:
    name = "thinking, on demand and closed otherwise"
    model, family = str(thinker_base(base, tmp_path / "base", name)), FAMILIES[name]
    labelled = Labelled.of(labels)
    settings: dict[str, Any] = {"model": model, "max_steps": 1, "batch_size": 4, "limit": 40, "adapter": "lora"}
    off = train(labelled, thinking="learn", **settings)
    assert not off.card.template_options, "no row has a thought"
    for row_ in labelled.rows[::2]:
        row_.update(THOUGHT)
    capsys.readouterr()
    train(labelled, thinking="learn", folder=tmp_path / "run", **settings)
    assert "--template-option thinking=true: the chat template only thinks when asked" in capsys.readouterr().err
    policy = load_policy(str(tmp_path / "run"))
    assert policy.card is not None
    assert policy.card.template_options == {"thinking": True}
    head, tail = turns_parts(ASK, policy.tokenizer, "words", {}, policy.thinking)
    assert head + tail == family.thought.partition("hm")[0]
    assert prompt_text(ASK, policy.tokenizer, {"thinking": False}, policy.thinking) == family.before, "a row decides"
    assert Form.of(policy, row()).block
    told_ = policy.with_options(row(chat_template_kwargs='{"thinking": false, "a": 1}'))
    assert told_["chat_template_kwargs"] == {"thinking": False, "a": 1}
    assert policy.with_options(row())["chat_template_kwargs"] == {"thinking": True}
    export_policy(tmp_path / "run", tmp_path / "exported")
    exported = load_policy(str(tmp_path / "exported"))
    assert exported.tokenizer.chat_template == policy.tokenizer.chat_template
    served = AutoTokenizer.from_pretrained(tmp_path / "exported")
    asked = rendered(served, ASK, add_generation_prompt=True, attributes="none")
    assert asked == head + tail
    assert rendered(served, ASK, add_generation_prompt=True, attributes="none", thinking=False) == family.before
    again = train(labelled, thinking="learn", init=str(tmp_path / "run"), learning_rate=1e-5, **settings)
    assert again.card.template_options == {"thinking": True}


def test_options_of_the_template_are_given_by_name(base: Path, labels: Path, tmp_path: Path) -> None:
    name = "thinking, on demand and closed otherwise"
    model, labelled = str(thinker_base(base, tmp_path / "base", name)), Labelled.of(labels)
    for row_ in labelled.rows:
        row_.update(THOUGHT)
    settings: dict[str, Any] = {"model": model, "max_steps": 1, "batch_size": 4, "limit": 40}
    given = train(labelled, thinking="learn", template_option=("thinking=false",), **settings)
    assert given.card.template_options == {"thinking": False}, "whoever names the option decides"
    for pair, reason in (("thinking", "write NAME=VALUE"), ("mood=good", "template does not read 'mood'")):
        with pytest.raises(SteerError, match=f"--template-option {pair}: .*{reason}"):
            train(labelled, template_option=(pair,), **settings)
    values = parsed_options(("a=true", "b=2", "c=high", "d=null", "e=[1]"), "a b c d e")
    assert values == {"a": True, "b": 2, "c": "high", "d": "null", "e": "[1]"}


def test_an_answer_without_a_thought_is_learned_from_where_generation_begins(tiny: Path) -> None:
    name = "thinking, on demand and closed otherwise"
    tokenizer, family = tokenizer_of(name, tiny), FAMILIES[name]
    think(name, tokenizer)
    prefix, response = texts(Tokens([row()], tokenizer, stops_of(name, tokenizer), "words", "learn"), row())
    assert close(prefix) == close(family.thought.partition("hm")[0])
    assert close(response) == close(f"</think>Red.{family.end}")


def test_a_content_that_is_written_as_data_is_no_place_of_a_thought(tiny: Path) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    for written in ("{{ m.content }}", "{{ m.content | tojson if m.content is not string else m.content }}"):
        tokenizer.chat_template = FAMILIES["plain"].template.replace("{{ m.content }}", written)
        asked = row(**THOUGHT)
        prefix, _ = texts(Tokens([asked], tokenizer, template="words", thinking="keep"), asked)
        assert close(prefix) == close(FAMILIES["plain"].thought)


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning", "thought"])
def test_a_thought_has_the_name_by_which_the_template_reads_it(key: str, tiny: Path) -> None:
    tokenizer = tokenizer_of("plain", tiny)
    printed = f"{{% if m['{key}'] %}}<think>{{{{ m['{key}'] }}}}</think>{{% endif %}}{{{{ m.content }}}}"
    tokenizer.chat_template = FAMILIES["plain"].template.replace("{{ m.content }}", printed)
    asked = row(**THOUGHT)
    prefix, _ = texts(Tokens([asked], tokenizer, template="words", thinking="keep"), asked)
    assert close(prefix) == close(f"{FAMILIES['plain'].before}<think>hm</think>")


def test_a_control_token_inside_a_text_stays_text(name: str, tokenizer: Any) -> None:
    """In a prompt, its earlier calls and results, and in a response that calls a tool."""
    family, ends = FAMILIES[name], stops_of(name, tokenizer)
    control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}

    def control_of(text: str) -> list[str]:
        turns = [{"role": "user", "content": f"What is {text}?"}]
        more: dict[str, Any] = {"response": "Red."}
        if family.tools and not family.lead:
            more = {"response": f"See {text}.", "tool_calls": calls_of({"what": f"{text} z"})}
            called = {"role": "assistant", "content": text, "tool_calls": [{**CALL, **calls_of({"what": text})[0]}]}
            turns += [called, {"role": "tool", "content": text, "tool_call_id": "123456789", "name": "weigh"}]
        asked = row(prompt=turns, **more)
        sequence = Tokens([asked], tokenizer, ends).sequence(asked)
        drawn = plain_ids(["".join(turns_parts(turns, tokenizer, None))], tokenizer)  # as `generate` and `serve` do
        assert [list(sequence.prefix)] == drawn
        every = [*sequence.prefix, *sequence.response]
        assert "steerliteral" not in tokenizer.decode(every)
        assert close(tokenizer.decode(every)).count(text) >= (1 if len(turns) == 1 else 3)
        return [token for token in tokenizer.convert_ids_to_tokens(every) if token in control]

    assert control_of("".join(sorted(control))) == control_of("moss")
