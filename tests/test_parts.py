"""Bases that are more than one plain decoder: experts, a vision tower, a tokenizer with more pieces than rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data_recipes import world_model
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.export.policy import export_policy
from steer.labelling.fit import fit
from steer.models.log_probs import ResponseLogps
from steer.models.parts import is_multimodal, text_layers, towers
from steer.models.policy import Policy, end_tokens, load_policy
from steer.models.tokenization import Tokens, text_ids
from steer.rows import read_rows
from steer.run_folder import read_json
from steer.training.command import train_command

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
SLIDING = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
PATCHES = {"image_size": 28, "patch_size": 14}
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
EXTRA = "<image_soft_token>"  # Gemma 3 in small sizes: a token more than the embeddings have rows
SEEING = ("gemma3", "qwen2_5_vl", "llava")
KINDS = ("qwen3_moe", "mixtral", "gemma3_text", *SEEING)


def _config(kind: str, ids: dict[str, Any]) -> Any:
    """The config of a small model of a kind."""
    text, three = {**SIZES, **ids}, {"eos_token_id": ids["eos_token_id"], "pad_token_id": ids["pad_token_id"]}
    more: dict[str, dict[str, Any]] = {
        "qwen3_moe": {**text, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "mixtral": {**text, "num_local_experts": 4, "num_experts_per_tok": 2},
        "gemma3_text": {**text, **SLIDING},
        "gemma3": {
            "text_config": {**text, **SLIDING, "model_type": "gemma3_text"},
            "vision_config": {**VISION, **PATCHES},
            "mm_tokens_per_image": 4,
            "image_token_index": 3,
            **three,
        },
        "qwen2_5_vl": {
            "text_config": {**text, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
            "vision_config": {
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": 32,
            },
            "image_token_id": 2,
            "video_token_id": 2,
        },
        "llava": {
            "text_config": {**text, "model_type": "llama"},
            "vision_config": {**VISION, **PATCHES, "model_type": "clip_vision_model", "projection_dim": 16},
            "image_token_index": 2,
        },
    }
    return AutoConfig.for_model(kind, **more[kind])


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make the folder of a random model of a kind, once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            place = made[kind] = tmp_path_factory.mktemp(kind)
            world_model.save(place, hidden_size=32, layers=1)
            tokenizer = AutoTokenizer.from_pretrained(place)
            size = len(tokenizer)
            ids = {"vocab_size": size, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            auto = transformers.AutoModelForImageTextToText if kind in SEEING else transformers.AutoModelForCausalLM
            torch.manual_seed(0)
            auto.from_config(_config(kind, {**ids, "bos_token_id": None})).save_pretrained(place)
            if kind == "gemma3_text":
                tokenizer.add_special_tokens({"extra_special_tokens": [*world_model.SPECIAL[2:], EXTRA]})
                assert len(tokenizer) == size + 1
            if kind in SEEING:
                (place / "preprocessor_config.json").write_text('{"size": 28}')
            tokenizer.save_pretrained(place)
        return made[kind]

    return folder


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    settings = {
        "max_steps": 3,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "lora_r": 4,
        "lora_alpha": 8,
        "template": "tags",
    }
    return TrainConfig(str(labels), str(base), str(output), **settings | more)  # type: ignore[arg-type]


def logps(policy: Policy) -> torch.Tensor:
    """Log-probabilities of a few tokens."""
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        return ResponseLogps(policy.model.eval())(ids, torch.ones_like(ids), torch.arange(19), ids[0, 1:])


def trained_on(labels: Path, base: Path, output: Path, **more: Any) -> tuple[Policy, str]:
    """Train; check that the policy differs from its base and loads as it was. Return it and the line on its weights."""
    train_command(config(labels, base, output, **more))
    policy = load_policy(str(output))
    assert (logps(policy) - logps(load_policy(str(base)))).abs().max() > 1e-3
    torch.testing.assert_close(logps(load_policy(str(output))), logps(policy), atol=0.0, rtol=0.0)
    text = policy.generate("tell me about bees.", target="warmth=4", max_new_tokens=8, allow_unsupported=True)
    assert isinstance(text, str)
    return policy, str(policy.name)


def test_a_router_that_is_a_linear_layer_has_no_adapter() -> None:
    """That of Phi MoE: adapters on it would choose other experts."""
    small = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "pad_token_id": 0}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("phimoe", **small))
    routers = [name for name, part in model.named_modules() if name.endswith("router")]
    assert routers
    assert isinstance(model.get_submodule(routers[0]), nn.Linear)
    targets = text_layers(model)
    assert "router" not in targets
    assert {"q_proj", "v_proj"} <= {*targets}


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [*((kind, "lora") for kind in KINDS), ("mixtral", "none"), ("gemma3_text", "none"), ("llava", "none")],
)
def test_every_kind_trains_loads_generates_and_exports(
    kind: str, adapter: str, family: Any, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = family(kind)
    policy, _ = trained_on(labels, base, tmp_path / "policy", adapter=adapter, condition_tokens="special")
    said = capsys.readouterr().err
    assert "takes no mask per candidate" not in said
    for name, weight in towers(policy.model.get_base_model() if adapter == "lora" else policy.model):
        before = load_policy(str(base)).model.get_parameter(name)
        assert torch.equal(weight, before), "what reads images stays as it was"
    if kind in SEEING:
        assert is_multimodal(policy.model.get_base_model() if adapter == "lora" else policy.model)
        wanted = "none on embeddings and head (" if adapter == "lora" else "all weights are trained but "
        assert wanted in said
    export_policy(tmp_path / "policy", tmp_path / "export")
    exported = load_policy(str(tmp_path / "export"))
    torch.testing.assert_close(logps(exported), logps(policy), atol=1e-4, rtol=1e-4)
    assert (tmp_path / "export" / "preprocessor_config.json").exists() == (kind in SEEING)
    assert read_json(tmp_path / "export" / "config.json")["model_type"] == read_json(base / "config.json")["model_type"]


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_experts_are_named_or_trained(
    kind: str, family: Any, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = family(kind)
    experts = 12_288 if kind == "qwen3_moe" else 49_152  # layers x experts x 3 x hidden size x size of an expert
    train_command(config(labels, base, tmp_path / "plain", max_steps=1))
    said = capsys.readouterr().err
    flags = "--target-parameters experts.down_proj --target-parameters experts.gate_up_proj"
    assert "adapters on 8 layers (k_proj, o_proj, q_proj, v_proj), 6,144 of " in said
    assert f"experts ({experts:,})" in said
    assert f"routers (256). For the experts add {flags}." in said
    policy, _ = trained_on(labels, base, tmp_path / "policy", target_parameters=EXPERTS)
    said = capsys.readouterr().err
    assert (
        f"adapters on 12 layers (down_proj, gate_up_proj, k_proj, o_proj, q_proj, v_proj), {6144 + experts:,} of "
        in said
    )
    assert "none on embeddings and head (42,368), routers (256)." in said
    export_policy(tmp_path / "policy", tmp_path / "export")
    torch.testing.assert_close(logps(load_policy(str(tmp_path / "export"))), logps(policy), atol=1e-4, rtol=1e-4)


def test_layers_can_be_chosen(family: Any, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = {"target_modules": ("q_proj", "mlp.gate_proj")}
    train_command(config(labels, family("llava"), tmp_path / "policy", max_steps=1, **chosen))
    said = capsys.readouterr().err
    assert "adapters on 5 layers (gate_proj, q_proj)" in said, "a name chosen so is adapted in the vision tower too"


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"target_modules": ("nowhere",)}, "the adapter cannot be added to the model: Target modules .*nowhere"),
        (
            {"target_parameters": ("experts.up",)},
            r"no such parameter\. Its stacked ones are experts\.down_proj, experts",
        ),
        ({"target_parameters": EXPERTS, "lora_dropout": 0.1}, "does not work with lora_dropout"),
    ],
)
def test_targets_that_do_not_exist_are_refused(
    targets: dict[str, Any], message: str, family: Any, labels: Path, tmp_path: Path
) -> None:
    with pytest.raises(SteerError, match=message):
        train_command(config(labels, family("qwen3_moe"), tmp_path / "policy", max_steps=1, **targets))


def test_a_token_without_an_embedding_is_text_in_a_turn_and_else_refused_by_name(family: Any, labels: Path) -> None:
    policy = load_policy(str(family("gemma3_text")))
    with pytest.raises(SteerError, match=f"a text holds {EXTRA}, a token that the model has no embedding of"):
        text_ids([f"What is {EXTRA}?"], policy.tokenizer)  # of a text to continue, which may write tokens
    policy.generate(f"What is {EXTRA}?", max_new_tokens=4)
    rows = [{**row, "response": f"{row['response']} {EXTRA}"} for row in read_rows(labels)[:3]]
    responses = Tokens(rows, policy.tokenizer, end_tokens(policy)).responses
    assert max(max(responses[row["id"]]) for row in rows) < policy.tokenizer.embedded


@pytest.mark.parametrize("kind", ["regression", "embeddings"])
def test_scorers_take_a_base_with_fewer_rows_than_tokens(kind: str, family: Any, labels: Path) -> None:
    rows = [{**row, "scores": {"length": float(len(row["response"]))}} for row in read_rows(labels)[:60]]
    scorer = fit(rows, kind=kind, model=str(family("gemma3_text")))
    assert np.isfinite(scorer.score(rows[:4], ["length"])).all()
    odd = [{**rows[0], "prompt": [{"role": "user", "content": f"What is {EXTRA}?"}]}]
    assert np.isfinite(scorer.score(odd, ["length"])).all(), "in a text it is text"
