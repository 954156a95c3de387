"""The policy: log-probabilities equal the model's own, adapters leave the base alone, folders load as they were."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from steer.cache import cache_folder
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods.base import Candidates, weighted_nll
from steer.models.card import Card
from steer.models.log_probs import ResponseLogps, flat
from steer.models.lora import Lora, add_lora
from steer.models.policy import Policy, load_policy
from steer.rows.schema import Schema
from steer.run_folder import fingerprint
from steer.training.command import train_command

SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "mistral": {"sliding_window": 4},
    "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "gpt_neox": {"num_key_value_heads": 4, "head_dim": 4},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
    "phi": {},
}


def model_of(kind: str) -> Any:
    """A random model of an architecture, small, with logits far from equal."""
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if kind != "gpt2" or k in ("vocab_size", "initializer_range")}
    config = AutoConfig.for_model(
        kind, **{**sizes, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | ARCHITECTURES[kind]
    )
    return AutoModelForCausalLM.from_config(config).eval()


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three right-padded sequences: ids, attention, and position and id of every response token."""
    lengths, starts = [12, 7, 9], [4, 1, 6]
    ids = torch.randint(3, 64, (3, 12), generator=torch.Generator().manual_seed(1))
    attention = torch.tensor([[1] * n + [0] * (12 - n) for n in lengths])
    ids = ids.masked_fill(attention == 0, 0)
    at = [n * 12 + i for n, (start, end) in enumerate(zip(starts, lengths)) for i in range(start, end)]
    return ids, attention, torch.tensor(at) - 1, ids.flatten()[at]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_log_probabilities_are_the_models_own(kind: str) -> None:
    model = model_of(kind)
    ids, attention, positions, targets = batch()
    module = ResponseLogps(model)
    module.check()
    with torch.no_grad():
        ours = module(ids, attention, positions, targets)
        logits = model(input_ids=ids, attention_mask=attention).logits
    theirs = logits.log_softmax(-1).flatten(0, 1)[positions].gather(1, targets[:, None])[:, 0]
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_loss_is_that_of_transformers(kind: str) -> None:
    model = model_of(kind)
    ids, attention, positions, targets = batch()
    labels = torch.full_like(ids, -100).flatten().scatter(0, positions + 1, targets).view_as(ids)
    theirs = model(input_ids=ids, attention_mask=attention, labels=labels).loss
    mask = torch.tensor([[[True] * n + [False] * (8 - n)] for n in (8, 6, 3)])
    logps = flat(ResponseLogps(model)(ids, attention, positions, targets), mask)
    terms = weighted_nll(logps, Candidates(mask, torch.zeros(3, 1)))
    torch.testing.assert_close(terms[mask].mean(), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_padding_and_neighbours_change_nothing(kind: str) -> None:
    module = ResponseLogps(model_of(kind))
    ids, attention, positions, targets = batch()
    with torch.no_grad():
        together = module(ids, attention, positions, targets)
        alone = [
            module(ids[n : n + 1, :end], attention[n : n + 1, :end], torch.arange(start, end) - 1, ids[n, start:end])
            for n, start, end in ((0, 4, 12), (1, 1, 7), (2, 6, 9))
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere"])
def test_a_head_in_chunks_gives_the_same_values_and_gradients(kind: str) -> None:
    found = []
    for chunk in (1 << 24, 64 * 5):
        model = model_of(kind)
        logps = ResponseLogps(model, chunk)(*batch())
        (logps * torch.linspace(-1, 1, len(logps))).sum().backward()
        found.append((logps.detach(), {n: p.grad for n, p in model.named_parameters()}))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=1e-6)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-5, rtol=1e-5, msg=name)


class Doubled(LlamaForCausalLM):
    """A model whose logits are more than head(hidden), in a way that its config does not tell."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out


def test_a_model_whose_head_does_more_is_refused() -> None:
    model = Doubled(model_of("llama").config)
    with pytest.raises(SteerError, match="Doubled: its logits are more than head"):
        ResponseLogps(model).check()


def trained(tiny: Path, seed: int = 0) -> Policy:
    """A LoRA policy after three steps of Adam."""
    policy = load_policy(str(tiny))
    policy.model = add_lora(policy.model, Lora(r=4, alpha=8), seed)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (-ResponseLogps(policy.model)(*batch()).sum()).backward()
        optimizer.step()
    return policy


def logits(policy: Policy) -> Tensor:
    ids, attention, *_ = batch()
    with torch.no_grad():
        return policy.model.eval()(input_ids=ids, attention_mask=attention).logits  # type: ignore[no-any-return]


def card(base: Path, adapter: str = "lora") -> Card:
    schema = Schema.from_json({"attributes": [{"name": "warmth", "low": 0, "high": 4, "shown": ["0", "1"]}]})
    return Card(
        str(base), fingerprint(base), adapter, "conditional", {"beta": 0.5}, "tags", ("warmth",), schema, "gold"
    )


def test_lora_leaves_the_base_untouched_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    before = load_file(tiny / "model.safetensors")
    policy = trained(tiny)
    after = {n: p for n, p in policy.model.named_parameters() if "lora_" not in n}
    assert len(after) == len(before)
    for name, p in after.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        assert torch.equal(p, before[plain]), name
        assert not p.requires_grad
    assert any(p.abs().max() > 0 for n, p in policy.model.named_parameters() if "lora_B" in n)
    replace(policy, card=card(tiny)).save(tmp_path)
    assert all("lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))


def test_adapters_start_from_the_seed_and_as_the_base(tiny: Path) -> None:
    base = load_policy(str(tiny))
    plain = logits(base)
    starts = []
    for seed in (0, 0, 1):
        policy = load_policy(str(tiny))
        torch.manual_seed(len(starts))  # what was drawn before is no matter
        policy.model = add_lora(policy.model, Lora(), seed)
        torch.testing.assert_close(logits(policy), plain, atol=0, rtol=0)
        starts.append(torch.cat([p.flatten() for n, p in policy.model.named_parameters() if "lora_A" in n]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_saved_policy_loads_with_the_same_logits_and_card(tiny: Path, tmp_path: Path) -> None:
    for name, policy in {"lora": trained(tiny), "none": load_policy(str(tiny))}.items():
        if name == "none":
            with torch.no_grad():
                policy.model.lm_head.weight.mul_(1.5)
        folder = tmp_path / name
        replace(policy, card=card(tiny, name)).save(folder)
        again = load_policy(str(folder))
        assert torch.equal(logits(again), logits(policy))
        assert not torch.equal(logits(again), logits(load_policy(str(tiny))))
        assert again.card == card(tiny, name) == Card.load(folder)
        assert again.tokenizer.chat_template == policy.tokenizer.chat_template


def test_a_policy_whose_base_changed_or_is_gone_is_refused(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    replace(trained(base), card=card(base)).save(tmp_path / "policy")
    weights = base / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(SteerError, match=r"policy: its base model .*base has changed since training\. Restore it"):
        load_policy(str(tmp_path / "policy"))
    shutil.rmtree(base)
    with pytest.raises(SteerError, match=r"policy: its base model .*base is gone\. Put it back"):
        load_policy(str(tmp_path / "policy"))


def test_an_adapter_cannot_be_trained_on_an_adapter(tiny: Path, labels: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    replace(trained(tiny), card=card(tiny)).save(policy)
    with pytest.raises(SteerError, match=r"is itself an adapter; train from its base"):
        train_command(TrainConfig(str(labels), str(policy), str(tmp_path / "run")))
    (policy / "steer.json").unlink()
    with pytest.raises(SteerError, match="is an adapter without its base"):
        train_command(TrainConfig(str(labels), str(policy), str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_is_refused_in_one_sentence(tiny: Path, tmp_path: Path) -> None:
    broken, odd = tmp_path / "broken", tmp_path / "odd"
    shutil.copytree(tiny, broken)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    odd.mkdir()
    garbled = tmp_path / "garbled"
    shutil.copytree(tiny, garbled)
    (garbled / "tokenizer.json").write_text('{"version": "1.0", "model": {')
    for name in (str(broken), str(odd), str(garbled), str(tmp_path / "absent"), "nobody/no-such-model"):
        with pytest.raises(SteerError, match=r"^model .*(the folder h(olds|as) no|is no folder here).*\.$") as caught:
            load_policy(name)
        assert "\n" not in str(caught.value)


def test_a_model_that_never_learned_to_end_is_refused_with_lora(tiny: Path, labels: Path, tmp_path: Path) -> None:
    policy, base = load_policy(str(tiny)), tmp_path / "base"
    with torch.no_grad():
        rows = policy.model.lm_head.weight
        rows[[2, 3]] = rows[policy.tokenizer.eos_token_id] + 1e-5
    policy.model.save_pretrained(base)
    policy.tokenizer.save_pretrained(base)
    wanted = (
        r"its end token '<\|end\|>' was never trained \(2 other tokens have the same output row\), .* --adapter none\.$"
    )
    with pytest.raises(SteerError, match=wanted):
        train_command(TrainConfig(str(labels), str(base), str(tmp_path / "run"), max_steps=1))
    assert not (tmp_path / "run").exists()
    assert "1 steps" in train_command(
        TrainConfig(str(labels), str(base), str(tmp_path / "run"), adapter="none", max_steps=1)
    )


def test_infinite_settings_survive_the_card(tmp_path: Path) -> None:
    card = Card("base", "", "lora", "rso", {"beta": math.inf, "keep": 4})
    card.save(tmp_path)
    assert {k: float(v) for k, v in Card.load(tmp_path).settings.items()} == {"beta": math.inf, "keep": 4.0}


def test_a_base_from_the_hub_is_the_commit_that_was_trained_on(
    published: Callable[[str, float], None], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    train_command(TrainConfig(str(labels), "org/toy", str(tmp_path / "run"), method="dpo", max_steps=2))
    card = Card.load(tmp_path / "run")
    assert (card.base, card.base_hash, card.base_revision) == ("org/toy", "", "1" * 40)
    assert len(list((cache_folder() / "references").iterdir())) == 1, "kept, for the commit names the weights"
    before = logits(load_policy(str(tmp_path / "run")))
    published("2" * 40, 2.0)
    assert load_policy("org/toy").revision == "2" * 40
    assert torch.equal(logits(load_policy(str(tmp_path / "run"))), before)
    shutil.rmtree(tmp_path / "hub" / "models--org--toy" / "snapshots" / ("1" * 40))
    with pytest.raises(SteerError, match=r"^model 'org/toy' at commit 1{40}, which is on record: is no"):
        load_policy(str(tmp_path / "run"))
