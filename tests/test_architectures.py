"""Families of transformers, tiny and untrained: adapters, a step of training, log-probabilities, decoding, layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from steer.generation.engines import respond
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.models.loading import _kind
from steer.models.log_probs import ResponseLogps
from steer.models.lora import Lora, add_lora
from steer.models.parts import coverage, decoder_of, towers
from steer.models.policy import Policy, load_policy
from steer.models.steering import layers
from steer.models.tokenization import Tokens

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
CHOSEN = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")}
LINEAR |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
MAMBA = {"mamba_n_heads": 4, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
GROUPS = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
LLAMA_4 = {"intermediate_size_mlp": 48, "num_local_experts": 4, "num_experts_per_tok": 1, "no_rope_layers": [1, 0]}
ALTUP = {"hidden_size_per_layer_input": 8, "laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 0}
SEES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {"image_size": 28, "patch_size": 14}
HEARS = {"num_mel_bins": 8, "max_source_positions": 20}
ENCODES = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
MARKS = {"image_token_index": 1, "audio_token_index": 1, "vision_start_token_id": 2, "mm_tokens_per_image": 4}


class Family(NamedTuple):
    """Sizes of a tiny model beside SIZES, the class of its decoder, and whether candidates share their prompt.

    Layers with a state, and windows of another kind, cannot. `vision`, `sound`: configs of its towers, if it has them.
    """

    kind: str
    more: dict[str, Any]
    decoder: str
    shared: bool = True
    vision: dict[str, Any] | None = None
    sound: dict[str, Any] | None = None


HEADS = {"head_dim": 8}
PROMPTS = ("tell me about bees.", "why?")
FAMILIES = {
    "Qwen3": Family("qwen3", HEADS, "Qwen3Model"),
    "Qwen3 MoE": Family("qwen3_moe", {**HEADS, **CHOSEN, "num_experts": 4}, "Qwen3MoeModel"),
    "Qwen3-Next": Family(
        "qwen3_next",
        {**HEADS, **CHOSEN, **LINEAR, "num_experts": 4, "shared_expert_intermediate_size": 16}
        | {"layer_types": ["linear_attention", "full_attention"]},
        "Qwen3NextModel",
        shared=False,
    ),
    "Llama 4, text": Family("llama4_text", {**HEADS, **LLAMA_4}, "Llama4TextModel", shared=False),
    "Llama 4": Family(
        "llama4",
        {**HEADS, **LLAMA_4},
        "Llama4TextModel",
        shared=False,
        vision={**SEES, **PATCHES, "intermediate_size": 64, "vision_output_dim": 16, "projector_input_dim": 16}
        | {"projector_output_dim": 16},
    ),
    "Gemma 3, text": Family("gemma3_text", {**HEADS, **SLIDING}, "Gemma3TextModel"),
    "Gemma 3": Family("gemma3", {**HEADS, **SLIDING}, "Gemma3TextModel", vision={**SEES, **PATCHES}),
    "Gemma 3n, text": Family(
        "gemma3n_text", {**HEADS, **SLIDING, **ALTUP, "activation_sparsity_pattern": [0.0, 0.0]}, "Gemma3nTextModel"
    ),
    "Mistral 3": Family(
        "mistral3",
        {**HEADS, "model_type": "mistral"},
        "MistralModel",
        vision={**SEES, **PATCHES, "model_type": "pixtral"},
    ),
    "Qwen2-Audio": Family("qwen2_audio", {"model_type": "qwen2"}, "Qwen2Model", sound={**HEARS, **ENCODES}),
    "Voxtral": Family(
        "voxtral", {"model_type": "llama"}, "LlamaModel", sound={**SEES, **HEARS, "intermediate_size": 64}
    ),
    "Qwen2.5-Omni": Family(
        "qwen2_5_omni_thinker",
        {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}},
        "Qwen2_5OmniThinkerTextModel",
        vision={"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32},
        sound={**HEARS, **ENCODES, "output_dim": 32},
    ),
    "Phi-4": Family("phi3", {}, "Phi3Model"),
    "GLM-4.5": Family("glm4_moe", {**HEADS, **CHOSEN, **GROUPS}, "Glm4MoeModel"),
    "gpt-oss": Family("gpt_oss", {**HEADS, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2}, "GptOssModel"),
    "DeepSeek-V3": Family(
        "deepseek_v3", {**CHOSEN, **GROUPS, **LATENT, "num_key_value_heads": 4}, "DeepseekV3Model"
    ),
    "SmolLM3": Family("smollm3", {"no_rope_layers": [1, 0]}, "SmolLM3Model"),
    "OLMo 2": Family("olmo2", {}, "Olmo2Model"),
    "OLMo 3": Family("olmo3", SLIDING, "Olmo3Model"),
    "Granite 4, hybrid": Family(
        "granitemoehybrid",
        {**MAMBA, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 32, "mamba_d_head": 16}
        | {"layer_types": ["mamba", "attention"], "mamba_expand": 2},
        "GraniteMoeHybridModel",
        shared=False,
    ),
    "Falcon-H1": Family(
        "falcon_h1", {**HEADS, **MAMBA, "mamba_d_ssm": 32, "mamba_d_head": 8}, "FalconH1Model", shared=False
    ),
    "LFM2": Family(
        "lfm2", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}, "Lfm2Model", shared=False
    ),
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request: Any) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def policy(family: Family, tiny: Path) -> Policy:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    pads = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    text = {**SIZES, **family.more, **pads, "vocab_size": len(tokenizer)}
    if family.kind == "gemma3n_text":
        text["vocab_size_per_layer_input"] = len(tokenizer)
    towers = {"vision_config": family.vision, "audio_config": family.sound}
    if family.vision or family.sound:
        towers = {name: tower for name, tower in towers.items() if tower}
        config = AutoConfig.for_model(family.kind, text_config=text, **towers, **MARKS)
        config.architectures = [f"{type(config).__name__.removesuffix('Config')}ForConditionalGeneration"]
    else:
        config = AutoConfig.for_model(family.kind, **text)
    torch.manual_seed(0)
    model = _kind(config).from_config(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Policy(model, tokenizer, name=family.kind)


def test_the_decoder_is_found_and_gives_the_models_own_log_probabilities(family: Family, policy: Policy) -> None:
    decoder = decoder_of(policy.model)
    assert type(decoder).__name__ == family.decoder
    assert len(layers(policy.model)) == SIZES["num_hidden_layers"]
    assert any(layers(policy.model) is part for part in decoder.modules()), "not those of a tower"
    module = ResponseLogps(policy.model)
    module.check()
    assert module.shares_prompts() == family.shared


def test_greedy_decoding_is_that_of_transformers(policy: Policy) -> None:
    rows = [{"id": str(i), "prompt": [{"role": "user", "content": x}], "response": ""} for i, x in enumerate(PROMPTS)]
    found = respond(policy, [Request(row, {}) for row in rows], Sampling(temperature=0.0, max_new_tokens=6))
    tokens = Tokens(rows, policy.tokenizer)
    for row, response in zip(rows, found):
        prefix = tokens.prefix(row)
        with torch.no_grad():
            whole = policy.model.generate(
                torch.tensor([prefix]), attention_mask=torch.ones(1, len(prefix)), max_new_tokens=6, do_sample=False
            )
        assert list(response.ids) == whole[0, len(prefix) :].tolist()


def test_a_step_of_training_moves_adapters_on_the_text_model_only(family: Family, policy: Policy) -> None:
    base = policy.model
    outside = [id(p) for _, p in towers(base)]
    assert bool(outside) == bool(family.vision or family.sound)
    model = add_lora(base, Lora(r=4, alpha=8), 0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any(part in ("router", "gate", "lm_head") for name in trained for part in name.split("."))
    assert not any("vision" in name or "audio" in name for name in trained)
    said = coverage(model)
    assert said.startswith(f"adapters on {len(trained) // 2} layers (")
    assert ("experts" in said) == any(p.ndim == 3 and "experts" in name for name, p in base.named_parameters())
    mixers = [part for part in model.modules() if hasattr(part, "A_log") and hasattr(part, "in_proj")]
    assert all(type(part.out_proj) is nn.Linear for part in mixers), "a kernel of Mamba reads this weight by itself"
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    module, optimizer = ResponseLogps(model), torch.optim.SGD(trained.values(), lr=0.1)
    ids = torch.arange(20, 32)[None]
    losses = []
    for _ in range(4):
        loss = -module(ids, torch.ones_like(ids), torch.arange(5, 11), ids[0, 6:]).mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= trained.keys()
    assert len(moved) > len(trained) / 2


def stored(config: Any, weights: dict[str, Any], tiny: Path, folder: Path) -> str:
    """Write a model with the tokenizer of the tiny one."""
    folder.mkdir()
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    save_file({name: x.contiguous() for name, x in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_of_a_model_that_speaks_what_writes_text_is_loaded(tiny: Path, tmp_path: Path, capsys: Any) -> None:
    family = FAMILIES["Qwen2.5-Omni"]
    text = {**SIZES, **family.more, "vocab_size": len(AutoTokenizer.from_pretrained(tiny))}
    thinker = {"text_config": text, "vision_config": family.vision, "audio_config": family.sound, **MARKS}
    config = AutoConfig.for_model("qwen2_5_omni", thinker_config=thinker, talker_config={**SIZES, "vocab_size": 9})
    config.architectures = ["Qwen2_5OmniForConditionalGeneration"]
    model = _kind(config.thinker_config).from_config(config.thinker_config)
    weights = {f"thinker.{name}": x for name, x in model.state_dict().items()}
    name = stored(config, {**weights, "talker.x": torch.zeros(1)}, tiny, tmp_path / "omni")
    policy = load_policy(name, dtype="float32")
    assert "what writes text is loaded, and not what speaks" in capsys.readouterr().err
    assert type(decoder_of(policy.model)).__name__ == family.decoder
    assert all(torch.equal(x, weights[f"thinker.{key}"]) for key, x in policy.model.state_dict().items())
    light = load_policy(name, device="meta")
    assert type(light.model) is type(policy.model)


def test_where_a_tower_lacks_its_library_the_text_model_is_loaded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Gemma 3n sees by a model of timm, which few have."""
    family, pieces = FAMILIES["Gemma 3n, text"], len(AutoTokenizer.from_pretrained(tiny))
    text = {**SIZES, **family.more, "vocab_size": pieces, "vocab_size_per_layer_input": pieces}
    config = AutoConfig.for_model("gemma3n", text_config=text)
    config.architectures = ["Gemma3nForConditionalGeneration"]
    model = _kind(config.text_config).from_config(config.text_config)
    weights = {
        name.replace("model.", "model.language_model.", 1): x
        for name, x in model.state_dict().items()
        if not name.startswith("lm_head")
    }
    name = stored(config, {**weights, "model.vision_tower.x": torch.zeros(1)}, tiny, tmp_path / "gemma")

    def lacking(self: Any, *_: Any) -> None:
        raise ImportError("\nTheTower requires the timm library but it was not found.\nInstall it.")

    monkeypatch.setattr(transformers.Gemma3nForConditionalGeneration, "__init__", lacking)
    policy = load_policy(name, dtype="float32")
    said = capsys.readouterr().err
    assert "its text model is loaded alone, for the rest lacks a library (TheTower requires the timm library" in said
    assert type(policy.model).__name__ == "Gemma3nForCausalLM"
    assert all(torch.equal(x, model.state_dict()[key]) for key, x in policy.model.state_dict().items())
    assert type(load_policy(name, device="meta").model) is type(policy.model)
