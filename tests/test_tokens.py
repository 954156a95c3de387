"""Tokens of a row: what ends a response, what was cut off, and prompts that a chat template refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.drawn import log_probs
from steer.models.log_probs import ResponseLogps
from steer.models.policy import Policy, load_policy
from steer.models.tokenization import Tokens
from steer.training.command import train_command

REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ messages[0].content }}"
)


def row(name: str, response: str = "bees give honey.", **more: Any) -> dict[str, Any]:
    prompt = [{"role": "user", "content": "tell me about bees."}]
    return {"id": name, "prompt": prompt, "response": response, "target": {}, **more}


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def test_what_was_cut_off_learns_no_end(tokenizer: Any) -> None:
    rows = [row("logged"), row("told", finished=True), row("unknown", finished=None), row("cut", finished=False)]
    rows.append(row("blank", "", finished=False))
    tokens, end = Tokens(rows, tokenizer), tokenizer.eos_token_id
    said = tokenizer("bees give honey.", add_special_tokens=False)["input_ids"]
    whole = [*said, end]
    responses = {each["id"]: list(tokens.responses[each["id"]]) for each in rows}
    assert {tokens.responses[name].itemsize for name in responses} == {4}, "bytes of an id"
    assert responses == {"logged": whole, "told": whole, "unknown": whole, "cut": said, "blank": [end]}
    assert tokens.length(rows[3]) == tokens.length(rows[0]) - 1


def test_the_log_probability_of_what_was_cut_off_has_no_end(base: Path) -> None:
    policy = load_policy(str(base))
    rows = [row("whole"), row("cut", finished=False)]
    found = log_probs(policy, ResponseLogps(policy.model.eval()), rows, 2048, conditioned=False)
    prefix, response = Tokens(rows, policy.tokenizer).sequence(rows[0])
    with torch.no_grad():
        logps = policy.model(torch.tensor([prefix + response])).logits[0, len(prefix) - 1 : -1].log_softmax(-1)
    each = logps.gather(1, torch.tensor(response)[:, None])
    assert found == pytest.approx([float(each.sum()), float(each[:-1].sum())], abs=1e-4)


def stopping(tokenizer: Any, *names: str) -> Policy:
    """A policy whose model names the tokens that end a response."""
    ends = tokenizer.convert_tokens_to_ids(list(names))
    return Policy(SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ends)), tokenizer)


def test_a_response_ends_as_the_template_ends_a_turn_where_decoding_stops_there(tokenizer: Any) -> None:
    end, eos = tokenizer.convert_tokens_to_ids(["<|end|>", "<|pad|>"])
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert stopping(tokenizer, "<|end|>").end == [end] == [tokenizer.eos_token_id]
    tokenizer.eos_token = "<|pad|>"  # as Gemma's, which ends a text and no turn
    assert stopping(tokenizer, "<|pad|>", "<|end|>").end == [end]
    assert stopping(tokenizer, "<|pad|>").end == [eos], "decoding would not stop at the other"
    plain = tokenizer.chat_template
    for template, wanted in (
        (plain.replace("<|end|>", " \n<|end|>\n<|pad|>"), [end]),
        (plain.replace("<|end|>", "<|user|><|end|>"), [user, end]),  # a token that closes the response before its end
        (plain.replace("<|end|>", "words<|end|>"), [eos]),  # nobody has drawn these
        (plain.replace("<|end|>", ""), [eos]),
        ("{% for m in messages %}{{ raise_exception('no') if m.role == 'assistant' }}{% endfor %}", [eos]),
    ):
        tokenizer.chat_template = template
        assert stopping(tokenizer, "<|pad|>", "<|end|>").end == wanted


def test_training_ends_a_response_as_the_template_does(base: Path, labels: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(base, model)
    tokenizer = AutoTokenizer.from_pretrained(base)
    end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(model)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_token_id, end]}))
    config = TrainConfig(str(labels), str(model), str(tmp_path / "run"), max_steps=1, dry_run=True)
    assert train_command(config).endswith("<|end|>⟧")
    policy = load_policy(str(model))
    (found,) = log_probs(policy, ResponseLogps(policy.model), [row("a")], 2048, conditioned=False)
    plain = load_policy(str(base))
    assert [found] == log_probs(plain, ResponseLogps(plain.model), [row("a")], 2048, conditioned=False)


def test_a_prompt_that_the_template_refuses_is_named(base: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = REFUSING
    odd = row("odd", prompt=[{"role": "system", "content": "be kind."}, *row("odd")["prompt"]])
    policy = replace(load_policy(str(base)), tokenizer=tokenizer)
    wanted = r"^row 'odd': the model's chat template refuses its prompt \(no system turn\)\. Change such rows"
    with pytest.raises(SteerError, match=wanted):
        Tokens([row("a"), odd], tokenizer)
    with pytest.raises(SteerError, match=wanted):
        log_probs(policy, ResponseLogps(policy.model), [row("a"), odd], 2048, conditioned=False)
