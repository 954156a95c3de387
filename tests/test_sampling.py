"""The values that tokens are drawn with: recommended, asked for, or a default; and the repetition penalty."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ASK, serving
from transformers import GenerationConfig, RepetitionPenaltyLogitsProcessor

from steer.config.generation import GenerateConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.export.policy import export_policy
from steer.generation import openai_client
from steer.generation.command import generate_command
from steer.generation.drawing import drawn_with
from steer.generation.engines import respond
from steer.generation.generate import generate
from steer.generation.plain import plainly
from steer.generation.recommended import CHAT, chosen
from steer.generation.requests import Request, encode
from steer.generation.sampling import penalise
from steer.generation.settings import AskedSampling, GenerateSettings, Sampling
from steer.models.loading import SAMPLED
from steer.models.policy import Policy, load_policy
from steer.rows import read_rows
from steer.training.command import train_command

ADVICE: dict[str, Any] = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.3}
VALUES = {name: value for name, value in ADVICE.items() if name != "do_sample"}
GREEDY = Sampling(temperature=0.0, max_new_tokens=30, batch_size=8)
Advised = Callable[..., Path]


@pytest.fixture
def advised(base: Path, tmp_path: Path) -> Advised:
    """Copies the tiny model with another generation_config.json, with or without its chat template."""

    def copy(advice: Any, *, chats: bool = True) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(base, folder)
        (folder / "generation_config.json").write_text(json.dumps(advice))
        if not chats:
            (folder / "chat_template.jinja").unlink()
        return folder

    return copy


@pytest.fixture
def jobs() -> list[Request]:
    texts = ["tell me about bees and cows for my song.", "one?", "bees bees bees bees and moles."]
    rows = [{"id": text, "prompt": [{"role": "user", "content": text}]} for text in texts]
    return [Request(row, aim) for row in rows for aim in ({}, {"verbosity": 4})]


def values(sampling: Sampling) -> dict[str, float]:
    return {name: getattr(sampling, name) for name in SAMPLED}


OWN = values(Sampling())


def test_the_defaults_of_sampling_are_the_models_own_distribution() -> None:
    """Everything but `generate` and `serve` draws with them."""
    assert OWN == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert Sampling().guidance == 1.0
    assert drawn_with(Sampling()) == {"temperature": 1.0, "top_p": 1.0}


@pytest.mark.parametrize(
    ("advice", "asked", "expected"),
    [
        ({}, {}, CHAT),
        ({}, {"temperature": 1.2}, {**CHAT, "temperature": 1.2}),
        ({}, {"sampling": "own"}, {}),
        ({}, {"sampling": "own", "min_p": 0.1}, {"min_p": 0.1}),
        (ADVICE, {}, {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.3}),
        (ADVICE, {"top_k": 0, "repetition_penalty": 1.0}, {"temperature": 0.6}),
        (ADVICE, {"sampling": "own"}, {}),
        ({"temperature": 0.6, "top_p": 0.9, "min_p": 0.05}, {}, {"temperature": 0.6, "top_p": 0.9, "min_p": 0.05}),
        ({"do_sample": True}, {}, {}),
        ({"do_sample": True, "top_p": 0.9, "top_k": -1}, {}, {"top_p": 0.9}),
        ({"do_sample": False, "max_length": 3, "num_beams": 4}, {}, CHAT),
        ({"repetition_penalty": 1.2}, {}, {**CHAT, "repetition_penalty": 1.2}),
    ],
)
def test_a_model_is_sampled_as_it_recommends_unless_asked_otherwise(
    advised: Advised, advice: Any, asked: Any, expected: Any
) -> None:
    policy = load_policy(str(advised(advice)))
    assert values(chosen(policy, AskedSampling(**asked))[0]) == {**OWN, **expected}
    light = load_policy(policy.name, device="meta")
    assert values(chosen(light, AskedSampling(**asked))[0]) == {**OWN, **expected}


def test_a_model_without_a_chat_template_is_sampled_from_its_own_distribution(advised: Advised) -> None:
    policy = load_policy(str(advised({}, chats=False)))
    sampling, text = chosen(policy, GenerateSettings(max_new_tokens=7, seed=3))
    assert sampling == Sampling(max_new_tokens=7, seed=3)
    values = "temperature 1, top_p 1 (the model's own distribution; it has no chat template)"
    assert text == f"{policy.name} is sampled with {values}"
    advice = {"temperature": 0.6, "do_sample": True}
    assert chosen(load_policy(str(advised(advice, chats=False))), AskedSampling())[0] == Sampling(temperature=0.6)


def test_what_is_used_is_said_with_where_it_comes_from(
    advised: Advised, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = advised(ADVICE)
    ask: dict[str, Any] = {"prompt": ("one?",), "max_new_tokens": 2}
    by_model = "as the model's generation_config.json recommends"
    for more, line in (
        ({}, f"temperature 0.6, top_p 1, top_k 20, repetition_penalty 1.3 ({by_model})"),
        ({"temperature": 0.9}, f"temperature 0.9 (asked for); top_p 1, top_k 20, repetition_penalty 1.3 ({by_model})"),
        ({"temperature": 0.0}, f"temperature 0 (asked for); repetition_penalty 1.3 ({by_model})"),
        ({"temperature": 0.0, "repetition_penalty": 1.0}, ""),
        ({"sampling": "own", "top_k": 3}, ""),
    ):
        generate_command(GenerateConfig(str(model), **ask, **more))
        assert capsys.readouterr().err == (f"steer: {model} is sampled with {line}.\n" if line else "")
    policy = load_policy(str(model))
    for _ in range(2):
        policy.generate("one?", max_new_tokens=2)
    assert capsys.readouterr().err == "", "once per process"
    generate_command(GenerateConfig(str(model), output=str(tmp_path / "run"), **ask))
    [row] = read_rows(tmp_path / "run")
    assert {n: row[n] for n in SAMPLED if n in row} == {**VALUES, "top_p": 1.0}


@pytest.mark.parametrize(
    ("advice", "message"),
    [
        ({"temperature": [0.7]}, r"generation_config\.json has the temperature \[0\.7\]\. Restore it"),
        ({"top_k": True}, r"has the top_k True\. Restore it"),
        ({"do_sample": True, "top_p": 3.0}, r"generation_config\.json: top_p 3\.0: wanted"),
        ({"repetition_penalty": 0.0}, r"generation_config\.json: repetition_penalty 0\.0: wanted above 0"),
    ],
)
def test_a_recommendation_that_cannot_be_is_refused(advised: Advised, advice: Any, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        chosen(load_policy(str(advised(advice))), AskedSampling())


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_trained_and_an_exported_policy_keep_what_their_base_recommends(
    advised: Advised, labels: Path, tmp_path: Path, adapter: str
) -> None:
    settings: dict[str, Any] = {"adapter": adapter, "max_steps": 1, "limit": 20}
    train_command(TrainConfig(str(labels), str(advised(ADVICE)), str(tmp_path / "policy"), **settings))
    export_policy(tmp_path / "policy", tmp_path / "exported")
    for name in ("policy", "exported"):
        assert load_policy(str(tmp_path / name)).recommended == ADVICE
    assert json.loads((tmp_path / "exported" / "generation_config.json").read_text()).items() >= ADVICE.items()


def test_the_penalty_is_that_of_transformers() -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    seen = torch.randint(40, (5, 12), generator=torch.Generator().manual_seed(1))
    for penalty in (0.8, 1.3):
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits.clone())
        ours = logits.clone()
        for row, ids in zip(ours, seen):
            penalise(row, ids, penalty)
        assert torch.equal(ours, theirs)
        by_hand = [x / penalty if x > 0 else x * penalty for x in logits[0, seen[0]].tolist()]
        assert ours[0, seen[0]].tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("penalty", [1.15, 2.0])
def test_penalised_responses_equal_those_of_transformers_token_by_token(
    policy: Policy, jobs: list[Request], penalty: float
) -> None:
    sampling = replace(GREEDY, repetition_penalty=penalty)
    policy = replace(policy, card=None)  # nothing is blocked
    jobs = [Request(job.row, {}) for job in jobs]
    asks = encode(policy, jobs, sampling)
    ours = [list(r.ids) for r in respond(policy, jobs, sampling)]
    for ask, ids in zip(asks, ours):
        with torch.no_grad():
            whole = policy.model.generate(
                torch.tensor([[*ask.prompt, *ask.condition]]),
                attention_mask=torch.ones(1, len(ask.prompt) + len(ask.condition)),
                do_sample=False,
                repetition_penalty=penalty,
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=policy.tokenizer.pad_token_id,
            )
        assert whole[0, len(ask.prompt) + len(ask.condition) :].tolist() == ids
    assert plainly(policy, asks, 4) == ours
    assert ours != [list(r.ids) for r in respond(policy, jobs, GREEDY)]


def test_a_penalty_is_no_matter_to_the_others_in_a_batch(policy: Policy, jobs: list[Request]) -> None:
    hot = replace(GREEDY, temperature=0.9, repetition_penalty=1.4)
    alone = respond(policy, jobs, replace(hot, batch_size=1))
    assert respond(policy, jobs, hot) == alone
    assert respond(policy, jobs, replace(hot, repetition_penalty=1.0)) != alone


def test_what_a_model_recommends_is_not_used_where_tokens_are_drawn_by_transformers(
    base: Path, advised: Advised, jobs: list[Request]
) -> None:
    plain, biased = load_policy(str(base)), load_policy(str(advised({**ADVICE, "top_p": 0.1, "min_p": 0.9})))
    for sampling in (GREEDY, replace(GREEDY, temperature=1.0)):
        asks = encode(plain, [Request(job.row, {}) for job in jobs], sampling)
        assert plainly(biased, asks, 8) == plainly(plain, asks, 8)


def test_a_server_takes_its_defaults_from_the_model_and_a_request_wins(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = GenerationConfig(eos_token_id=policy.tokenizer.eos_token_id, **{**ADVICE, "top_k": 1})
    monkeypatch.setattr(policy.model, "generation_config", advice)
    body: dict[str, Any] = {"model": "policy@none", "messages": ASK, "max_tokens": 20, "n": 2, "seed": 4}
    [job] = [Request({"id": "0", "prompt": ASK}, {})]
    with serving(policy) as served:
        client = openai_client.OpenAIClient(f"{served.url}/v1")
        assert served.service.sampling == Sampling(temperature=0.6, top_k=1, repetition_penalty=1.3)

        def ask(**more: Any) -> list[str]:
            return [
                c["message"]["content"]
                for c in client._call(client.urls[0], "chat/completions", body | more)["choices"]
            ]

        expected = respond(policy, [job], replace(GREEDY, max_new_tokens=20, repetition_penalty=1.3))[0].text
        assert ask() == [expected] * 2, "top_k 1"
        greedy = respond(policy, [job], replace(GREEDY, max_new_tokens=20))[0].text
        assert ask(repetition_penalty=1.0) == [greedy] * 2 != [expected] * 2
        assert len(set(ask(top_k=-1, temperature=2.0))) == 2
        sampling = client._call(client.urls[0], "steer/schema")["sampling"]
        assert sampling == {"temperature": 0.6, "top_p": 1.0, "top_k": 1, "min_p": 0.0, "repetition_penalty": 1.3}
    with serving(policy, temperature=0.0, repetition_penalty=1.0) as served:
        assert values(served.service.sampling) == {**OWN, "temperature": 0.0, "top_k": 1}


@pytest.mark.parametrize(
    ("advice", "asked", "sent"),
    [
        ({}, {}, CHAT),
        ({}, {"sampling": "own"}, {"temperature": 1.0, "top_p": 1.0}),
        (ADVICE, {}, {"temperature": 0.6, "top_p": 1.0}),
        (ADVICE, {"top_k": 0, "min_p": 0.1}, {"temperature": 0.6, "top_p": 1.0, "top_k": 0, "min_p": 0.1}),
        (None, {}, {}),
        (None, {"temperature": 0.5, "top_k": 0}, {"temperature": 0.5, "top_k": 0}),
        (None, {"sampling": "own"}, OWN),
    ],
)
def test_a_server_is_told_what_it_would_not_choose_by_itself(
    advised: Advised, monkeypatch: pytest.MonkeyPatch, advice: Any, asked: Any, sent: dict[str, float]
) -> None:
    """It reads the model's generation_config.json too; what a model that is not here recommends is unknown."""
    bodies: list[dict[str, Any]] = []

    def complete(_: Any, chats: Any, at_once: int, **body: Any) -> list[Any]:
        bodies.append(body)
        return [openai_client.ChatReply("an answer", True) for _ in chats]

    monkeypatch.setattr(openai_client.OpenAIClient, "complete", complete)
    name = "org/elsewhere" if advice is None else str(advised(advice))
    server: dict[str, Any] = {"server": "http://127.0.0.1:9/v1", "server_model": "m", "max_new_tokens": 5}
    [row] = generate(name, "one?", **server, **asked)
    assert bodies == [{"max_tokens": 5, **sent}]
    known = {} if advice is None else {**OWN, **values(chosen(load_policy(name), AskedSampling(**asked))[0])}
    recorded = {n: row[n] for n in SAMPLED if n in row}
    assert recorded.items() <= (known or sent).items()
    assert ("temperature" in recorded) == ("temperature" in sent)
