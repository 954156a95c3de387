"""One prompt for all its candidates, short groups in one row: the same log-probabilities and gradients as apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AutoConfig, AutoModelForCausalLM, masking_utils
from transformers.integrations import flex_attention

from steer.models import attention
from steer.models.collate import DEPTH, SPAN, Batch, Sequence_, collate, cost, line
from steer.models.log_probs import ResponseLogps, flat, visible
from steer.training.references import response_tokens
from tests.test_policy import ARCHITECTURES, model_of
from tests.test_policy import batch as tokens

KINDS = {
    **ARCHITECTURES,
    "gemma": {},
    "gemma2": {**ARCHITECTURES["gemma2"], "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
}


def groups(seed: int = 0) -> list[list[Sequence_]]:
    """Three prompts with candidates behind conditions of their own, a shared one and none; the last has one only."""
    rng = np.random.default_rng(seed)

    def ids(n: int) -> list[int]:
        return [int(x) for x in rng.integers(3, 64, n)]

    prompt, other, third = ids(9), ids(5), ids(6)
    return [
        [Sequence_([*prompt, *ids(2)], ids(4)), Sequence_([*prompt, *ids(3)], ids(2)), Sequence_(prompt, ids(5))],
        [Sequence_([*other, 7], ids(1)), Sequence_([*other, 7], ids(6))],
        [Sequence_(third, ids(3))],
    ]


def batch(*, shared: bool) -> Batch:
    made = groups()
    ones = [[1.0] * len(g) for g in made]
    return collate(made, pad=0, rewards=ones, weights=ones, shared=shared)


def computed(model: Any, *, shared: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probs of the batch, and gradients of a weighted sum of them."""
    module, b = ResponseLogps(model), batch(shared=shared)
    assert module.shares_prompts()
    logps = flat(module(*b[:4], shared=b.shared), b.candidates.mask)
    weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
    (logps * weights).sum().backward()
    return logps.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_alike(plain: tuple[torch.Tensor, dict[str, torch.Tensor]], other: Any) -> None:
    assert plain[0].std() > 0.05
    torch.testing.assert_close(other[0], plain[0], atol=1e-5, rtol=1e-5)
    assert other[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(other[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["default", "in parts", "eager"])  # SDPA where the model has it
def test_values_and_gradients_are_those_of_the_plain_layout(
    kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, kind, KINDS[kind])
    monkeypatch.setattr(attention, "PART", 4)
    found = []
    for shared in (False, True):
        model = model_of(kind)
        if how == "eager":
            model.set_attn_implementation("eager")
        if how == "in parts" and shared:
            attention.cut(model)
        found.append(computed(model, shared=shared))
    assert_alike(*found)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3_text"])
def test_attention_in_blocks_gives_the_values_and_gradients_of_the_plain_layout(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plainly(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, training: bool = False, **more: Any) -> Any:
        return flex_attention.flex_attention(q, k, v, **more)

    def uncompiled(*args: Any, _compile: bool = False, **more: Any) -> Any:
        return create_block_mask(*args, **more)

    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)  # no gradients on a CPU
    monkeypatch.setattr(flex_attention, "compile_friendly_flex_attention", plainly)  # to compile takes a minute
    monkeypatch.setattr(masking_utils, "create_block_mask", uncompiled)
    monkeypatch.setitem(ARCHITECTURES, kind, KINDS[kind])
    found, masks = [], []
    blocks = attention.blocks
    monkeypatch.setattr(attention, "blocks", lambda seen: masks.append(seen) or blocks(seen))
    for name, shared in (("eager", False), ("flex_attention", True)):
        model = model_of(kind)
        model.set_attn_implementation(name)
        found.append(computed(model, shared=shared))
    assert masks[-1].shape[-1] == batch(shared=True).input_ids.shape[1]
    assert_alike(*found)


def test_blocks_that_see_nothing_of_each_other_are_left_out() -> None:
    row = torch.tensor([[1] * 200 + [1 + SPAN] * 200 + [1 + 2 * SPAN] * 200])
    mask = attention.blocks(visible(row))
    assert mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum() < 15  # of 5 x 5, 15 of them not in the future


def test_attention_in_blocks_lets_torch_compile_more_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    config = torch._dynamo.config
    monkeypatch.setattr(config, "recompile_limit", 8)  # torch's own
    model = model_of("llama")
    attention.choose(model, "eager")
    assert config.recompile_limit == 8
    for before, after in ((8, 64), (100, 100)):
        monkeypatch.setattr(config, "recompile_limit", before)
        attention.choose(model, "flex_attention")
        assert config.recompile_limit == after
    assert model.config._attn_implementation == "flex_attention"


def test_attention_in_parts_computes_nothing_behind_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PART", 4)
    model, keys = model_of("llama"), []
    attention.cut(model)
    whole = attention.sdpa_attention_forward
    monkeypatch.setattr(
        attention,
        "sdpa_attention_forward",
        lambda m, q, k, *a, **b: keys.append((q.shape[2], k.shape[2])) or whole(m, q, k, *a, **b),
    )
    b = batch(shared=True)
    ResponseLogps(model)(*b[:4], shared=True)
    length = b.input_ids.shape[1]
    per_layer = len(keys) // model.config.num_hidden_layers
    assert sum(q for q, _ in keys[:per_layer]) == length
    assert [k for _, k in keys[:per_layer]] == [*range(4, length - 3, 4), length]


def test_a_row_holds_a_prompt_once_and_says_who_sees_what() -> None:
    a, b = Sequence_([5, 6, 7], [8, 2]), Sequence_([5, 6], [9, 2])
    made = line([a, b])
    assert made.ids == [5, 6, 7, 8, 2, 9, 2]
    assert made.mask == [1 + 2 * DEPTH, 1 + 2 * DEPTH, 2, 2, 2, 3, 3]  # two parts are below the first
    assert made.positions == [2, 3, 1, 5]  # 7 predicts 8; the last shared token predicts 9
    seen = visible(torch.tensor([[*made.mask, 0]]))[0]
    assert [row.nonzero().flatten().tolist() for row in seen] == [
        *([0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]),
        *([0, 1, 5], [0, 1, 5, 6], [7]),
    ]
    assert (seen.sum(-1) - 1)[:7].tolist() == [0, 1, 2, 3, 4, 2, 3]
    assert cost([a, b], shared=True) == 7
    assert cost([a, b], shared=False) == 10
    assert cost([a], shared=True) == cost([a], shared=False) == 5


def test_what_is_counted_does_not_depend_on_the_layout() -> None:
    plain, shared = batch(shared=False), batch(shared=True)
    assert plain.tokens == shared.tokens
    assert plain.targets.equal(shared.targets)
    assert (plain.input_ids.shape[0], shared.input_ids.shape[0]) == (6, 1), "all groups stand in one row"
    assert shared.input_ids.numel() < plain.input_ids.numel()
    assert not collate([groups()[2]], pad=0, rewards=[[1.0]], weights=[[1.0]], shared=True).shared


def test_short_groups_stand_in_one_row_and_see_nothing_of_each_other() -> None:
    a, b, c = Sequence_([5, 6], [7, 8, 2]), Sequence_([5], [2]), Sequence_([9, 4], [2])
    ones = [[1.0]] * 3
    made = collate([[b], [a], [c]], pad=0, rewards=ones, weights=ones, shared=True)
    assert made.input_ids.tolist() == [[5, 6, 7, 8, 2], [9, 4, 2, 5, 2]]
    assert made.attention_mask.tolist() == [[1] * 5, [1, 1, 1, SPAN + 1, SPAN + 1]]
    assert made.targets.tolist() == [2, 7, 8, 2, 2], "in the order of the groups"
    assert made.input_ids.flatten()[made.positions + 1].equal(made.targets)
    assert made.candidates.mask.sum((1, 2)).tolist() == [1, 3, 1]
    seen = visible(made.attention_mask)[1]
    assert [row.nonzero().flatten().tolist() for row in seen] == [[0], [0, 1], [0, 1, 2], [3], [3, 4]]
    two = Sequence_([5], [3, 2])
    pair = collate([[a], [b, two]], pad=0, rewards=[[1.0], [1.0, 1.0]], weights=[[1.0], [1.0, 1.0]], shared=True)
    assert pair.attention_mask.tolist() == [[1, 1, 1, 1, 1, SPAN + 1 + 2 * DEPTH, SPAN + 2, SPAN + 3, SPAN + 3]]


def test_references_are_the_same_in_the_order_given() -> None:
    module = ResponseLogps(model_of("llama"))
    plain, shared = (
        response_tokens(module, groups(), 0, 30, torch.device("cpu"), shared=shared)[0] for shared in (False, True)
    )
    assert [len(x) for x in plain] == [len(s.response) for g in groups() for s in g]
    for a, b in zip(plain, shared):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_that_cannot_tell_candidates_apart_is_known(kind: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "initializer_range": 0.3}
    more = {"n_head": 4, "n_layer": 2} if kind == "bloom" else {"state_size": 4, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more))
    assert not ResponseLogps(model).shares_prompts()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "phi", "cohere", "gemma2"])  # phi: a bias, cohere: a scale, gemma2: a cap
def test_a_frozen_head_gives_the_values_and_gradients_of_a_trained_one(kind: str, dtype: torch.dtype) -> None:
    found = []
    for frozen in (False, True):
        model = model_of(kind).to(dtype)
        model.get_output_embeddings().requires_grad_(not frozen)
        if model.config.tie_word_embeddings:
            model.get_input_embeddings().requires_grad_(not frozen)
        logps = ResponseLogps(model, 64 * 5)(*tokens())
        (logps * torch.linspace(-1, 1, len(logps))).sum().backward()
        found.append((logps.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        with torch.no_grad():
            assert torch.equal(ResponseLogps(model, 64 * 5)(*tokens()), logps)
    atol = 1e-5 if dtype == torch.float32 else 5e-2
    assert logps.dtype == torch.float32
    torch.testing.assert_close(found[0][0], found[1][0], atol=atol, rtol=atol)
    assert len(found[1][1]) >= len(found[0][1]) - 2
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(gradient, found[0][1][name], atol=atol, rtol=10 * atol, msg=name)
