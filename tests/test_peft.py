"""What PEFT offers beside plain LoRA: each trains, resumes exactly, loads as it was, and is merged or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from conftest import stopped
from safetensors.torch import load_file
from torch import Tensor, nn

import steer.training.loop
from data_recipes import world_model
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.export.policy import export_policy
from steer.models.card import Card
from steer.models.log_probs import ResponseLogps
from steer.models.lora import Lora, add_lora, beside_the_base, lora_weights
from steer.models.policy import Policy, load_policy
from steer.models.precision import optimizer_for, trainable
from steer.run_folder import read_json, write_json
from steer.training.command import train_command
from steer.training.prepare import started_from
from steer.training.settings import TrainSettings

OPTIONS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "loraplus": {"loraplus_lr_ratio": 16.0},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa-rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "pissa-niter": {"init_lora_weights": "pissa_niter_16"},
    "olora": {"init_lora_weights": "olora", "condition_tokens": "special"},
    "int8": {"adapter": "qlora8"},
    "head": {"modules_to_save": ("lm_head",)},
    "embeddings": {"modules_to_save": ("embed_tokens",)},
    "pissa-embeddings": {"init_lora_weights": "pissa", "target_modules": ("embed_tokens", "q_proj")},
    "eager": {"attn_implementation": "eager"},
}
IDS = torch.randint(5, 200, (2, 24), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def untied(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with a head of its own."""
    policy = load_policy(str(base))
    policy.model.config.tie_word_embeddings = False
    policy.model.lm_head.weight = nn.Parameter(1.5 * policy.model.lm_head.weight.detach())
    folder = tmp_path_factory.mktemp("untied")
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


def config(labels: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    settings: dict[str, Any] = {"template": "tags", "learning_rate": 3e-3, "batch_size": 8, "max_steps": 4, "lora_r": 8}
    return TrainConfig(str(labels), str(base), str(output), **settings | more)


def logps(policy: Policy) -> Tensor:
    """Log-probabilities of some tokens."""
    model = ResponseLogps(policy.model.eval())
    with torch.no_grad():
        return model(IDS, torch.ones_like(IDS), torch.arange(23), IDS[0, 1:])


@pytest.mark.parametrize("name", OPTIONS)
def test_it_trains_resumes_exactly_loads_as_it_was_and_exports(
    name: str, labels: Path, untied: Path, tmp_path: Path
) -> None:
    more = {"save_steps": 2, **OPTIONS[name]}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_command(config(labels, untied, whole, **more))
    stopped(config(labels, untied, cut, **more), 3)
    halfway = logps(load_policy(str(cut)))
    train_command(config(labels, untied, cut, **more))
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (whole, cut))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    policy = load_policy(str(whole))
    assert torch.equal(logps(policy), logps(load_policy(str(cut))))
    plain = logps(load_policy(str(untied), quantised="int8" if name == "int8" else ""))
    assert (halfway - plain).abs().max() > 1e-3, "a policy that is not finished loads too"
    assert (halfway - logps(policy)).abs().max() > 1e-4
    export_policy(whole, tmp_path / "export")
    merged = logps(load_policy(str(tmp_path / "export")))
    atol = 0.3 if name == "int8" else 2e-4  # the base of the merge is whole
    torch.testing.assert_close(merged, logps(policy), atol=atol, rtol=0.0)


@pytest.mark.parametrize("name", ["dora", "pissa", "orthogonal", "int8", "head"])
@pytest.mark.parametrize("method", ["quark"])  # compares with the base at every token
def test_training_starts_from_the_base(name: str, method: str, labels: Path, untied: Path, tmp_path: Path) -> None:
    train_command(config(labels, untied, tmp_path / "run", method=method, logging_steps=1, **OPTIONS[name]))
    assert read_json(tmp_path / "run" / "done.json")["steps"] == 4


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_what_is_trained_whole_is_said(
    module: str, labels: Path, untied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_command(config(labels, untied, tmp_path / "run", modules_to_save=(module,), max_steps=1))
    words, width = load_policy(str(untied)).model.get_input_embeddings().weight.shape
    said, size = capsys.readouterr().err, f"embeddings and head ({words * width:,})"
    assert f"; trained whole: {size}; none on {size}" in said


def test_what_loftq_trained_is_not_merged_into_the_whole_base(labels: Path, untied: Path, tmp_path: Path) -> None:
    train_command(config(labels, untied, tmp_path / "policy", adapter="qlora", max_steps=1))
    card = tmp_path / "policy" / "steer.json"
    write_json(card, {**read_json(card), "init_lora_weights": "loftq"})
    train_command(
        config(labels, untied, tmp_path / "more", adapter="qlora", max_steps=1, init=str(tmp_path / "policy"))
    )
    for name in ("policy", "more"):
        with pytest.raises(SteerError, match=r"corrects the 4-bit base .* \(LoftQ\), so it cannot be merged"):
            export_policy(tmp_path / name, tmp_path / "export")


def test_the_policy_in_memory_is_the_one_on_disk(labels: Path, untied: Path, tmp_path: Path) -> None:
    settings = {"template": "tags", "max_steps": 3, "learning_rate": 3e-3, "lora_r": 8, "init_lora_weights": "pissa"}
    policy = steer.train(str(labels), model=str(untied), **settings)
    before = logps(policy)
    policy.save(tmp_path)
    saved = read_json(tmp_path / "adapter_config.json")
    assert (saved["r"], saved["lora_alpha"], saved["init_lora_weights"]) == (16, 128, True)
    torch.testing.assert_close(logps(policy), before, atol=0.0, rtol=0.0)
    torch.testing.assert_close(logps(load_policy(str(tmp_path))), before, atol=1e-4, rtol=0.0)


def test_a_training_that_is_not_finished_is_one_policy(labels: Path, untied: Path, tmp_path: Path) -> None:
    """What PiSSA takes out of the base is the same whenever the resume point is loaded, and is saved with it."""
    more = {"save_steps": 2, "init_lora_weights": "pissa_niter_16", "condition_tokens": "special"}
    stopped(config(labels, untied, tmp_path / "run", **more), 3)
    torch.manual_seed(1)
    halfway = load_policy(str(tmp_path / "run"))
    halfway.save(tmp_path / "saved")
    torch.manual_seed(2)
    again = load_policy(str(tmp_path / "run"))
    torch.testing.assert_close(logps(again), logps(halfway), atol=0.0, rtol=0.0)
    torch.testing.assert_close(logps(load_policy(str(tmp_path / "saved"))), logps(halfway), atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("more", [{"init_lora_weights": "pissa", "use_rslora": True}, {"use_dora": True}])
def test_a_round_goes_on_from_the_policy_before(
    more: dict[str, Any], labels: Path, untied: Path, tmp_path: Path
) -> None:
    first = config(labels, untied, tmp_path / "first", **more)
    train_command(first)
    with pytest.raises(SteerError, match="--init says where the adapter starts"):
        train_command(config(labels, untied, tmp_path / "plain", init=first.output, init_lora_weights="pissa"))
    again = replace(started_from(first, first.output), output=str(tmp_path / "second"), learning_rate=1e-12)
    train_command(again)
    one, two = (logps(load_policy(str(tmp_path / name))) for name in ("first", "second"))
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0.0)
    assert Card.load(tmp_path / "second").init_lora_weights == ""


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_took_its_start_out_of_the_base_is_rewritten(rslora: bool, untied: Path) -> None:
    """S B A + (W - s B0 A0) = W + s [B, -B0] [A; A0]."""
    model = add_lora(load_policy(str(untied)).model, Lora(8, 16, init_lora_weights="pissa", use_rslora=rslora), 0)
    whole = load_policy(str(untied)).model.model.layers[0].mlp.up_proj.weight
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    start = lora_weights(model)
    torch.testing.assert_close(layer.weight + layer.get_delta_weight("default"), whole, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(1.5)
    changed = layer.weight + layer.get_delta_weight("default")
    written = model.peft_config["default"]
    joined = beside_the_base(dict(trainable(model)), start, written)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.default.weight"
    scale = written.lora_alpha / (written.r**0.5 if rslora else written.r)
    torch.testing.assert_close(whole + scale * joined[name.format("B")] @ joined[name.format("A")], changed)


def test_the_b_matrices_learn_at_a_multiple_of_the_rate(untied: Path) -> None:
    model = add_lora(load_policy(str(untied)).model, Lora(4, 8), 0)
    slow, fast = optimizer_for("adamw", trainable(model), 1e-3, 0.0, ratio=16.0).param_groups
    ids = {id(p): name for name, p in trainable(model)}
    assert {("lora_B" in ids[id(p)]) for p in fast["params"]} == {True}
    assert {("lora_B" in ids[id(p)]) for p in slow["params"]} == {False}
    assert len(slow["params"]) + len(fast["params"]) == len(ids)
    assert (slow["ratio"], fast["ratio"]) == (1.0, 16.0)
    [one] = optimizer_for("adamw", trainable(model), 1e-3, 0.0).param_groups
    assert [id(p) for p in one["params"]] == [id(p) for _, p in trainable(model)]


def test_loraplus_moves_b_further(labels: Path, untied: Path, tmp_path: Path) -> None:
    moved = {}
    for ratio in (1.0, 4.0):
        more = {"loraplus_lr_ratio": ratio, "max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-3}
        train_command(config(labels, untied, tmp_path / str(ratio), **more))
        weights = load_file(tmp_path / str(ratio) / "adapter_model.safetensors")
        moved[ratio] = torch.cat([w.flatten() for name, w in weights.items() if "lora_B" in name])
    torch.testing.assert_close(moved[4.0], 4 * moved[1.0], atol=1e-6, rtol=1e-3)  # Adam's first step is the rate


def test_the_base_is_int8(tmp_path: Path) -> None:
    world_model.save(tmp_path, hidden_size=64, layers=1)
    model = load_policy(str(tmp_path), quantised="int8").model
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear8bitLt)]
    assert len(layers) == 7
    assert {layer.weight.dtype for layer in layers} == {torch.int8}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"init_lora_weights": "pissa", "use_dora": True},
            "pissa: moves a part of the base into the adapter, which",
        ),
        ({"init_lora_weights": "loftq"}, r"loftq: corrects a base in 4 bits\. Add --adapter qlora\."),
        (
            {"init_lora_weights": "loftq", "adapter": "qlora"},
            "loftq: PEFT computes it on a GPU of NVIDIA",
        ),
        ({"init_lora_weights": "olora", "adapter": "qlora8"}, "olora: changes the base, which must be whole"),
        ({"use_dora": True, "adapter": "none"}, "--use-dora: --adapter none trains all weights"),
        ({"attn_implementation": "flex_attention"}, "flex_attention: cannot train on a CPU. Leave it out."),
        ({"attn_implementation": "nowhere"}, "--attn-implementation nowhere: "),
        ({"modules_to_save": ("nowhere",)}, "--modules-to-save nowhere: the model has no such module"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    settings: dict[str, Any], message: str, labels: Path, untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(SteerError, match=message):
        train_command(config(labels, untied, tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_names_of_settings_are_those_of_peft() -> None:
    from peft import LoraConfig

    names = {"use_dora", "use_rslora", "init_lora_weights", "modules_to_save", "target_modules", "target_parameters"}
    assert names <= vars(TrainSettings()).keys() & vars(LoraConfig()).keys()
