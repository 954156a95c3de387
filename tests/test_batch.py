"""Groups -> tensors: what is rendered, what is trained, what is masked, and what a step sees."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steer.methods.groups import Group, singles
from steer.models.collate import Sequence_, collate, micro_batches, packed
from steer.models.log_probs import flat
from steer.models.policy import load_policy
from steer.models.tokenization import Tokens
from steer.rows.binning import fitted
from steer.rows.schema import Attribute, Schema
from steer.training.batches import Conditioning, Known, Plan

NAMES = ("helpfulness", "warmth")
SCHEMA = fitted(Schema(tuple(Attribute(n, 0.0, 4.0) for n in NAMES)), np.repeat(np.arange(5.0), 10).reshape(25, 2))
PROMPT = "tell me about bees."
ANSWER = "bees give honey."


def row(response: str = ANSWER, name: str = "1", **more: Any) -> dict[str, Any]:
    return {"id": name, "prompt": [{"role": "user", "content": PROMPT}], "response": response, **more}


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer puts BOS before every text, as Llama's does, and has no pad token or chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    raw.train_from_iterator([PROMPT, ANSWER] * 50, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = tmp_path_factory.mktemp("plain")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **sizes)).save_pretrained(
        folder
    )
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    return folder


def test_a_sample_is_prompt_condition_response_end(tokenizer: Any) -> None:
    condition = Conditioning(SCHEMA, NAMES).text({"helpfulness": 3, "warmth": 4})
    prefix, response = Tokens([row()], tokenizer).sequence(row(), condition)
    assert tokenizer.convert_ids_to_tokens(prefix) == [
        *("<|user|>", "▁tell", "▁me", "▁about", "▁bees", ".", "<|assistant|>"),
        *("▁<helpfulness>3", "▁<warmth>4", "\n"),
    ]
    assert tokenizer.convert_ids_to_tokens(response) == ["▁bees", "▁give", "▁honey", ".", "<|end|>"]
    assert tokenizer.decode(prefix[7:]) == condition == "<helpfulness>3 <warmth>4\n"
    assert tokenizer.decode(response) == ANSWER + "<|end|>"


def test_the_chat_template_is_applied_once(tokenizer: Any) -> None:
    turns = [
        *({"role": "system", "content": "be kind."}, {"role": "user", "content": "hello"}),
        *({"role": "assistant", "content": "hi"}, {"role": "user", "content": PROMPT}),
    ]
    prefix, _ = Tokens([{**row(), "prompt": turns}], tokenizer).sequence(row())
    text = tokenizer.decode(prefix)
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert "".join(text.split()) == "".join(rendered.split())
    assert [text.count(m) for m in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")] == [1, 2, 2, 1]
    assert text.endswith("<|assistant|>")


def test_without_a_chat_template_the_plain_one_is_used_with_bos_once(plain: Path) -> None:
    policy = load_policy(str(plain))
    tokens = Tokens([row()], policy.tokenizer)
    prefix, response = tokens.sequence(row(), "<warmth>4\n")
    assert policy.tokenizer.decode(prefix) == f"<s>{PROMPT}\n<warmth>4\n"
    assert policy.tokenizer.decode(response) == f"{ANSWER}</s>"
    assert [*prefix, *response].count(policy.tokenizer.bos_token_id) == 1


def test_a_tokenizer_without_pad_pads_with_the_end_under_the_mask(plain: Path) -> None:
    tokenizer = load_policy(str(plain)).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = [row(name="short"), row("bees give honey, " * 4, "long")]
    tokens = Tokens(rows, tokenizer)
    batch = one_each([tokens.sequence(r) for r in rows], tokenizer.pad_token_id)
    assert batch.attention_mask.sum(1).tolist() == [tokens.length(r) for r in rows]
    assert batch.candidates.mask.sum((1, 2)).tolist() == [len(tokens.responses[r["id"]]) for r in rows]
    assert batch.targets.tolist().count(tokenizer.eos_token_id) == 2


def one_each(sequences: list[Sequence_], pad: int) -> Any:
    ones = [[1.0]] * len(sequences)
    return collate([[s] for s in sequences], pad=pad, rewards=ones, weights=ones)


@pytest.mark.parametrize(
    "response",
    [
        ANSWER,
        "<|end|>",
        "bees <|end|> give <|pad|>",
        "<|pad|>",
        PROMPT,
        f"{PROMPT} {PROMPT}",
        "<warmth>4\n",
        "<|user|>x",
    ],
)
def test_exactly_the_response_and_one_end_are_trained(tokenizer: Any, response: str) -> None:
    tokens = Tokens([row(response), row(name="2")], tokenizer)
    sequences = [tokens.sequence(row(response), "<warmth>4\n"), tokens.sequence(row(name="2"))]
    batch = one_each(sequences, tokenizer.pad_token_id)
    at = batch.positions + 1
    assert batch.input_ids.flatten()[at].equal(batch.targets)
    length = batch.input_ids.shape[1]
    for n, s in enumerate(sequences):
        mine = at[(at >= n * length) & (at < (n + 1) * length)] - n * length
        assert mine.tolist() == list(range(len(s.prefix), len(s.prefix) + len(s.response)))
        assert batch.candidates.mask[n, 0].sum() == len(s.response)
    trained = batch.targets[: len(sequences[0].response)].tolist()
    assert trained[-1] == tokenizer.eos_token_id
    assert not set(trained[:-1]) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(trained[:-1]) == response
    assert batch.tokens == sum(len(s.prefix) + len(s.response) for s in sequences)


def test_shorter_groups_and_responses_are_padded_under_the_mask() -> None:
    a, b, c = Sequence_([5, 6], [7, 8, 2]), Sequence_([5, 6], [9, 2]), Sequence_([5], [2])
    batch = collate(
        [[a, b], [c]], pad=0, rewards=[[2.0, 1.0], [3.0]], weights=[[1.0, 1.0], [0.5]], refs=[[-1.0, -2.0], [-3.0]]
    )
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 2], [5, 6, 9, 2, 0], [5, 2, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    mask = [[[True, True, True], [True, True, False]], [[True, False, False], [False, False, False]]]
    assert batch.candidates.mask.tolist() == mask
    placed = flat(batch.targets.float(), batch.candidates.mask)
    assert placed.tolist() == [[[7, 8, 2], [9, 2, 0]], [[2, 0, 0], [0, 0, 0]]]
    assert batch.candidates.reward.tolist() == [[2, 1], [3, 0]]
    assert batch.candidates.weight is not None
    assert batch.candidates.weight.tolist() == [[1, 1], [0.5, 0]]
    assert batch.candidates.ref is not None
    assert batch.candidates.ref.tolist() == [[-1, -2], [-3, 0]]


@pytest.mark.parametrize(("budget", "least"), [(1, 1), (64, 1), (300, 1), (300, 4), (10_000, 1), (10_000, 7)])
def test_micro_batches_hold_every_index_once_within_the_budget(budget: int, least: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 120, 40).tolist()
    parts = list(micro_batches(lengths, budget, least))
    assert sorted(i for part in parts for i in part) == list(range(40))
    assert all(len(p) == 1 or max(lengths[i] for i in p) * len(p) <= budget for p in parts)
    assert len(parts) >= least


@pytest.mark.parametrize("budget", [1, 300, 1000, 10_000])
@pytest.mark.parametrize("least", [1, 4])
def test_packed_micro_batches_hold_every_index_once_within_the_budget(budget: int, least: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 120, 40).tolist()
    parts = list(micro_batches(lengths, budget, least, shared=True))
    assert sorted(i for part in parts for i in part) == list(range(40))
    assert len(parts) >= least
    padded = []
    for part in parts:
        rows, width = packed([lengths[i] for i in part])
        assert sorted(i for row in rows for i in row) == list(range(len(part)))
        assert max(sum(lengths[part[i]] for i in row) for row in rows) == width
        assert len(rows) == 1 or width * len(rows) <= budget
        padded.append(width * len(rows))
    if budget >= 1000 and least == 1:
        plain = sum(max(lengths[i] for i in p) * len(p) for p in micro_batches(lengths, budget))
        assert sum(lengths) < sum(padded) < 0.9 * plain


def test_packed_rows_are_wider_than_the_longest_where_that_wastes_less() -> None:
    assert packed([6, 5, 5, 4]) == ([[0, 3], [2, 1]], 10)  # rows of 6 would hold one each: 24 tokens, not 20
    assert packed([1000, 900, 500]) == ([[0], [1], [2]], 1000)  # a row of 1,400 would cost more in attention
    lengths = np.random.default_rng(0).integers(60, 200, 30).tolist()
    rows, width = packed(lengths)
    assert sum(lengths) <= width * len(rows) < 1.06 * sum(lengths)


def plan(tokenizer: Any, rows: list[dict[str, Any]], conditioned: bool = True, seed: int = 3, **sizes: int) -> Plan:
    conditioning = Conditioning(SCHEMA, NAMES, attribute_dropout=0.1, condition_dropout=0.05) if conditioned else None
    sizes = {"batch_size": 16, "micro_batch_tokens": 200} | sizes
    return Plan(singles(rows), Tokens(rows, tokenizer), conditioning, seed=seed, **sizes)


def test_dropout_has_its_rates_and_follows_from_seed_epoch_and_index(tokenizer: Any) -> None:
    rows = [row(name=str(i), levels={"helpfulness": 3, "warmth": 4}) for i in range(100)]
    p = plan(tokenizer, rows)
    texts = {(e, i): tokenizer.decode(p.sequences(e, i)[0].prefix[7:]) for e in range(40) for i in range(100)}
    n = len(texts)
    for wanted, part in {
        0.95 * 0.9: "<helpfulness>3",
        0.95 * 0.9 + 1e-9: "<warmth>4\n",
        0.95 * 0.9 * 0.9: "<helpfulness>3 <warmth>4\n",
    }.items():
        rate = sum(part in text for text in texts.values()) / n
        assert abs(rate - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / n)
    nothing = 0.05 + 0.95 * 0.1 * 0.1
    assert abs(list(texts.values()).count("") / n - nothing) < 4 * math.sqrt(nothing / n)
    assert set(texts.values()) == {"", "<helpfulness>3\n", "<warmth>4\n", "<helpfulness>3 <warmth>4\n"}
    again = plan(tokenizer, rows)
    assert all(again.sequences(e, i) == p.sequences(e, i) for e, i in [(7, 3), (0, 0), (7, 3), (39, 99)])
    other = plan(tokenizer, rows, seed=4)
    assert any(other.sequences(0, i) != p.sequences(0, i) for i in range(100))
    assert any(p.sequences(1, i) != p.sequences(0, i) for i in range(100))


def test_an_epoch_sees_every_group_once_in_another_order(tokenizer: Any) -> None:
    p = plan(tokenizer, [row(name=str(i)) for i in range(37)], conditioned=False)
    assert p.steps_per_epoch == 3
    orders = [[i for step in range(3 * e, 3 * e + 3) for i in p.step(step)[1]] for e in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(37))
    assert orders[0] != orders[1]
    assert [p.step(s)[0] for s in range(7)] == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_share_a_step_without_loss_or_repetition(tokenizer: Any, world: int) -> None:
    rows = [row("bees give honey. " * (1 + i % 3), str(i), levels={"warmth": i % 5}) for i in range(4)]
    p = plan(tokenizer, rows, batch_size=4, micro_batch_tokens=40)
    parts = [list(p.batches(0, rank, world)) for rank in range(world)]
    trained = [i for rank in parts for at, batch in rank for i in at if batch.tokens]
    assert sorted(trained) == [0, 1, 2, 3]
    assert all(parts)  # a process without work still takes part, with an empty mask
    idle = [batch for rank in parts for _, batch in rank if not batch.tokens]
    assert all(not b.candidates.mask.any() and not len(b.targets) and len(b.input_ids) for b in idle)
    assert len({len(rank) for rank in parts}) == 1  # sharded weights want as many passes of every process
    assert len(idle) < world


def test_a_batch_keeps_rewards_weights_and_references_beside_their_rows(tokenizer: Any) -> None:
    rows = [row(" ".join([ANSWER] * (3 - i)), str(i), reward=float(i)) for i in range(3)]
    groups = [Group((r,), (10.0 + i,)) for i, r in enumerate(rows)]
    p = Plan(groups, Tokens(rows, tokenizer), None, 3, 1000, 0)
    ((indices, batch),) = p.batches(0, known=Known(refs={0: [-0.0], 1: [-1.0], 2: [-2.0]}))
    assert sorted(indices) == [0, 1, 2]
    c = batch.candidates
    assert c.reward[:, 0].tolist() == indices
    assert c.weight is not None
    assert c.weight[:, 0].tolist() == [10.0 + i for i in indices]
    assert c.ref is not None
    assert c.ref[:, 0].tolist() == [-i for i in indices]
    assert c.mask.sum((1, 2)).tolist() == [4 * (3 - i) + 1 for i in indices]
    assert torch.equal(batch.to(torch.device("cpu")).input_ids, batch.input_ids)


@pytest.mark.parametrize("curriculum", [False, True])
def test_the_groups_that_are_used_are_those_of_the_steps(curriculum: bool, tokenizer: Any) -> None:
    rows = [row(name=str(i)) for i in range(35)]
    for steps in (1, 2, 3, 5):
        made = plan(tokenizer, rows, batch_size=8, curriculum=steps if curriculum else 0)
        wanted = {i for step in range(steps) for i in made.step(step)[1]}
        assert made.used(steps) == sorted(wanted)
        assert len(wanted) == min(35, 8 * steps)


def test_a_curriculum_trains_on_exactly_the_groups_of_its_steps(tokenizer: Any) -> None:
    """Also where a step holds a group twice: fewer groups than a step takes."""
    rows = [row("bees " * (i + 1), str(i)) for i in range(5)]
    groups = singles(rows)
    made = Plan(groups, Tokens(rows, tokenizer), None, 8, 40, 0, curriculum=3)
    for step in range(3):
        _, wanted = made.step(step)
        assert len(set(wanted)) < len(wanted) == 8
        batches = list(made.batches(step))
        assert sorted(i for at, _ in batches for i in at) == sorted(wanted)
        for at, batch in batches:
            lengths = [len(made.tokens.responses[groups[i].rows[0]["id"]]) for i in at]
            assert batch.candidates.mask.sum((1, 2)).tolist() == lengths
