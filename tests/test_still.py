"""No dropout where log-probs are compared with those of a frozen policy: neither the base's own nor the adapter's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from steer.config.training import TrainConfig
from steer.methods import METHODS
from steer.models.log_probs import ResponseLogps
from steer.models.policy import load_policy
from steer.training.command import train_command

STILL = {"learning_rate": 1e-30, "batch_size": 16, "max_steps": 3, "logging_steps": 1, "limit": 60, "lora_dropout": 0.1}


@pytest.fixture(scope="module", params=["gpt2", "opt", "llama"])
def dropping(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with dropout .1 in modules (GPT-2), in functions of its layers (OPT) or of its attention (Llama)."""
    policy, folder = load_policy(str(tiny)), tmp_path_factory.mktemp(request.param)
    size, rate = len(policy.tokenizer), 0.1
    torch.manual_seed(0)
    if request.param == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
        model: Any = GPT2LMHeadModel(
            GPT2Config(vocab_size=size, **sizes, resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate)
        )
    elif request.param == "opt":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64, "num_attention_heads": 2}
        model = OPTForCausalLM(
            OPTConfig(
                vocab_size=size,
                **sizes,
                word_embed_proj_dim=32,
                pad_token_id=None,
                max_position_embeddings=256,
                dropout=rate,
                layerdrop=rate,
            )
        )
    else:
        policy.model.config.attention_dropout = rate
        model = LlamaForCausalLM(policy.model.config)
    model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_conditions_for_a_method_that_has_none_are_said_to_do_nothing(
    labels: Path, dropping: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"attribute": ("verbosity",), "template": "words", "attribute_dropout": 0.5}
    train_command(TrainConfig(str(labels), str(dropping), str(tmp_path / "mle"), **STILL, method="mle", **given))
    said = capsys.readouterr().err
    assert "--attribute, --template, --attribute-dropout: does nothing, the method takes no conditions." in said


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_policy_that_has_not_moved_is_its_own_reference(
    dropping: Path, labels: Path, tmp_path: Path, checkpointing: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    how: dict[str, Any] = {**STILL, "method": "dpo", "lora_r": 4, "gradient_checkpointing": checkpointing}
    train_command(TrainConfig(str(labels), str(dropping), str(tmp_path / "dpo"), **how))
    assert losses(tmp_path / "dpo") == pytest.approx([math.log(2)] * 3, abs=1e-5)
    assert "--lora-dropout 0.1 is off: dpo compares the policy with a frozen one." in capsys.readouterr().err


def test_two_steps_of_ppo_on_one_draw_are_equal_where_nothing_moves(
    dropping: Path, labels: Path, tmp_path: Path
) -> None:
    how: dict[str, Any] = {**STILL, "method": "ppo", "lora_r": 4, "max_new_tokens": 12, "max_steps": 2}
    train_command(TrainConfig(str(labels), str(dropping), str(tmp_path / "ppo"), **how))
    first, second = losses(tmp_path / "ppo")
    assert first == pytest.approx(second, abs=1e-6)


def test_likelihood_keeps_the_dropout_that_was_asked_for(dropping: Path, labels: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {**STILL, "method": "mle", "lora_r": 4, "limit": 16, "max_steps": 2}
    train_command(TrainConfig(str(labels), str(dropping), str(tmp_path / "mle"), **how))
    first, second = losses(tmp_path / "mle")  # the same rows twice
    assert abs(first - second) > 1e-5


def test_which_methods_compare_with_a_frozen_policy() -> None:
    still = {name for name, method in METHODS.items() if method.still}
    assert {
        "a-lol",
        "dpo",
        "ipo",
        "kto",
        "bco",
        "odpo",
        "spin",
        "sppo",
        "bond",
        "rpo",
        "rebel",
        "apo",
        "dpop",
        "rso",
        "contrastive",
        "reward-augmented",
        "steerlm2",
        "quark",
        "remax",
        "rloo",
        "grpo",
        "ppo",
    } == still


def test_a_still_model_recomputes_its_layers_all_the_same(base: Path) -> None:
    model = load_policy(str(base)).model
    model.gradient_checkpointing_enable({"use_reentrant": False})
    calls: list[int] = []
    for layer in model.modules():
        if getattr(layer, "gradient_checkpointing", False) and hasattr(layer, "_gradient_checkpointing_func"):
            own = layer._gradient_checkpointing_func
            layer._gradient_checkpointing_func = lambda *a, own=own: calls.append(1) or own(*a)
    module = ResponseLogps(model, still=True)
    ids = torch.arange(3, 11)[None]
    ask = (ids, torch.ones_like(ids), torch.arange(7), ids[0, 1:])
    module.train()
    trained = module(*ask)
    assert calls
    trained.sum().backward()
    before = len(calls)
    module.eval()
    assert torch.equal(trained, module(*ask))
    assert len(calls) == before
