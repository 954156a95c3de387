"""Decoding: equal to `model.generate`, whatever the batch; guidance; one prefill for all that share a prompt."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from steer.conditioning.targets import opposite
from steer.errors import SteerError
from steer.generation.decoder import Decoder
from steer.generation.engines import respond
from steer.generation.plain import plainly
from steer.generation.requests import EncodedRequest, Request, encode
from steer.generation.sampling import Cuts, choose, guided
from steer.generation.settings import Sampling
from steer.models.policy import Policy

GREEDY = Sampling(temperature=0.0, max_new_tokens=30, batch_size=8)


def row(words: int, name: str = "") -> dict[str, Any]:
    text = " ".join(["tell me about bees and cows for my song."] * 9)[: 8 * words]
    return {"id": name or str(words), "prompt": [{"role": "user", "content": text}]}


@pytest.fixture
def jobs() -> list[Request]:
    """Prompts of 1 to 30 words at four targets, twice each."""
    aims: list[dict[str, int]] = [{}, {"verbosity": 0}, {"warmth": 4, "helpfulness": 2}, {"hedging": 1}]
    return [Request(row(n), aim) for n in (30, 1, 7, 19, 3) for aim in aims for _ in range(2)]


def drawn(policy: Policy, asks: list[EncodedRequest], most: int, patience: int = 1) -> list[list[int]]:
    decoder = Decoder(policy, most, patience)
    keys = [decoder.add(ask) for ask in asks]
    out: dict[int, list[int]] = {key: [] for key in keys}
    while decoder.busy:
        for event in decoder.step():
            out[event.key].append(event.token)
    return [out[key] for key in keys]


def test_greedy_equals_generate_of_transformers(policy: Policy, jobs: list[Request]) -> None:
    asks = encode(policy, jobs, GREEDY)
    theirs = plainly(policy, asks, 64, bucketed=False)
    for batch_size in (1, 5, 64):
        assert [list(r.ids) for r in respond(policy, jobs, replace(GREEDY, batch_size=batch_size))] == theirs
    assert len({tuple(t) for t in theirs}) > 3


@pytest.mark.parametrize(
    "model",
    [
        GPT2LMHeadModel(GPT2Config(vocab_size=662, n_positions=128, n_embd=32, n_layer=2, n_head=2)),
        Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=662,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
            )
        ),
        MistralForCausalLM(
            MistralConfig(
                vocab_size=662,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                sliding_window=12,
            )
        ),
    ],
    ids=lambda model: type(model).__name__,
)
def test_other_architectures_give_the_same_too(model: Any, policy: Policy, jobs: list[Request]) -> None:
    """Learned positions, grouped heads, a sliding window that is shorter than the prompts."""
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.ndim == 2 else 1)
    other = Policy(model.eval(), policy.tokenizer, policy.card, "other")
    asks = encode(other, jobs[::3], replace(GREEDY, max_new_tokens=20))
    # One by one: `generate` itself lets padding shift what a window sees.
    assert drawn(other, asks, 7, 2) == [plainly(other, [ask], 1)[0] for ask in asks]


def test_what_is_drawn_depends_on_the_seed_and_the_prompt_only(policy: Policy, jobs: list[Request]) -> None:
    sampling = Sampling(max_new_tokens=20, top_p=0.9, seed=4)
    together = respond(policy, jobs, sampling)
    assert together == respond(policy, jobs, replace(sampling, batch_size=3))
    assert together != respond(policy, jobs, replace(sampling, seed=5))
    for batch_size in (4, 64):  # by `model.generate` too
        assert plainly(policy, encode(policy, jobs, sampling), batch_size) == [list(r.ids) for r in together]


def test_a_prompt_is_read_once_for_all_that_share_it(policy: Policy) -> None:
    jobs = [Request(row(9), aim) for aim in ({}, {"verbosity": 0}, {"verbosity": 4}) for _ in range(4)]
    asks = encode(policy, jobs, replace(GREEDY, guidance=2.0))
    decoder = Decoder(policy, 6)
    for ask in asks:
        decoder.add(ask)
    while decoder.busy:
        decoder.step()
    assert decoder.prefixes.read == len(asks[0].prompt) + sum(len(c) for c in {ask.condition for ask in asks})


def test_rows_leave_and_join_at_every_step(policy: Policy, jobs: list[Request]) -> None:
    asks = encode(policy, jobs, replace(GREEDY, max_new_tokens=40))
    alone = [drawn(policy, [ask], 1)[0] for ask in asks]
    decoder, out, keys = Decoder(policy, 5), [], {}
    waiting = list(enumerate(asks))
    found: dict[int, list[int]] = {i: [] for i, _ in waiting}
    dropped = set()
    while waiting or decoder.busy:
        if waiting:
            i, ask = waiting.pop(0)
            keys[decoder.add(ask)] = i
        for event in decoder.step():
            found[keys[event.key]].append(event.token)
        if len(decoder.running) > 3 and len(dropped) < 4:
            victim = decoder.running[1].key
            decoder.drop([victim])
            dropped.add(keys[victim])
        out.append(len(decoder.running))
    assert max(out) == 5
    assert len(dropped) == 4
    for i, tokens in found.items():
        assert tokens == (alone[i][: len(tokens)] if i in dropped else alone[i])


def test_guidance_is_the_formula_on_plain_forwards(policy: Policy) -> None:
    """log p(none) + S (log p(c) - log p(none)), token by token."""
    job = Request(row(5), {"verbosity": 0, "warmth": 3})
    (ask,) = encode(policy, [job], replace(GREEDY, guidance=2.5, max_new_tokens=12))
    assert ask.against == ()
    (found,) = drawn(policy, [ask], 2)
    said: list[int] = []
    blocked = Decoder(policy, 1).markers.whole
    for token in found:
        with torch.no_grad():
            wanted, none = (
                policy.model(torch.tensor([[*ask.prompt, *c, *said]])).logits[0, -1].log_softmax(-1)
                for c in (ask.condition, ())
            )
        mixed = none + 2.5 * (wanted - none)
        mixed[blocked] = -torch.inf
        assert token == int(mixed.argmax())
        said.append(token)


def test_guidance_of_one_is_no_guidance_and_costs_nothing(policy: Policy, jobs: list[Request]) -> None:
    plain = encode(policy, jobs, Sampling(max_new_tokens=20))
    one = encode(policy, jobs, Sampling(max_new_tokens=20, guidance=1.0))
    assert one == plain
    assert all(ask.against is None for ask in one)
    doubled = [ask._replace(against=()) for ask in plain]  # what S = 1 would give if it were computed
    assert drawn(policy, doubled, 16) == drawn(policy, plain, 16)
    logits, other = torch.randn(3, 9), torch.randn(3, 9)
    assert torch.allclose(guided(logits, other, torch.ones(3)), logits.log_softmax(-1))
    assert torch.allclose(guided(logits, other, torch.zeros(3)), other.log_softmax(-1))


def test_guidance_moves_away_from_the_opposite_or_from_any_target(policy: Policy) -> None:
    assert policy.card is not None
    schema = policy.card.schema
    assert schema is not None
    assert opposite({"verbosity": 0}, schema) == {"verbosity": 4}
    rare = opposite({"helpfulness": 0, "correctness": 4, "hedging": 4}, schema)
    assert schema.count(rare) >= schema.minimum
    assert policy.against("verbosity=3", {"verbosity": 0}) == {"verbosity": 3}
    assert policy.against("opposite", {}) == {}
    job = Request(row(5), {"verbosity": 0}, {"verbosity": 4})
    (ask,) = encode(policy, [job], replace(GREEDY, guidance=2.0))
    assert ask.against
    assert ask.against != ask.condition
    same = Request(row(5), {"verbosity": 0}, {"verbosity": 0})
    assert encode(policy, [same], replace(GREEDY, guidance=2.0))[0].against is None


def test_guidance_is_refused_where_the_state_cannot_be_shared(policy: Policy, jobs: list[Request]) -> None:
    policy.model._is_stateful = True
    try:
        with pytest.raises(SteerError, match="no --guidance"):
            respond(policy, jobs, replace(GREEDY, guidance=2.0))
        plain = respond(policy, jobs, GREEDY)
    finally:
        del policy.model._is_stateful
    assert plain == respond(policy, jobs, GREEDY)


def test_tokens_are_drawn_as_likely_as_they_are() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).log()[None]
    n = 20_000
    points = (torch.arange(n) + 0.5) / n  # the whole unit interval
    ones = torch.ones(n)
    none = Cuts(0 * ones, ones, 0 * ones)
    found = Counter(choose(logits.expand(n, -1), ones, none, points).tolist())
    assert {k: v / n for k, v in found.items()} == pytest.approx({0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}, abs=1e-3)
    found = Counter(choose(logits.expand(n, -1), ones, none._replace(top_p=0.7 * ones), points).tolist())
    assert {k: v / n for k, v in found.items()} == pytest.approx({0: 0.625, 1: 0.375}, abs=1e-3)
    squared = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    found = Counter(choose(logits.expand(n, -1), 0.5 * ones, none, points).tolist())
    assert [found[i] / n for i in range(4)] == pytest.approx(squared / squared.sum(), abs=1e-3)
    one = Cuts(torch.zeros(1), torch.ones(1), torch.zeros(1))
    assert choose(logits, torch.zeros(1), one, torch.tensor([0.99])).tolist() == [0]


def warpers(temperature: float, top_k: int, top_p: float, min_p: float) -> Any:
    """What `generate` of transformers does to logits for such settings."""
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=1))
    model._prepare_special_tokens(config, device="cpu")
    return model._get_logits_processor(config, 1)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 3, 500])
@pytest.mark.parametrize(("top_p", "min_p"), [(1.0, 0.0), (0.8, 0.0), (1.0, 0.2), (0.9, 0.1), (0.3, 1.0)])
def test_what_is_cut_off_is_what_transformers_cuts_off(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    n = 4000
    logits = 2 * torch.randn(40, generator=torch.Generator().manual_seed(top_k))
    if top_p == 1:  # ties at the third place are all kept; which of them a nucleus holds is chance
        logits[7] = logits[3] = logits.topk(3).values[2]
    theirs = warpers(temperature, top_k, top_p, min_p)(torch.zeros(1, 1).long(), logits[None]).softmax(-1)[0]
    settings = torch.tensor([temperature, top_k, top_p, min_p], dtype=torch.float64)[:, None].expand(4, n)
    points = (torch.arange(n) + 0.5) / n
    found = Counter(choose(logits.expand(n, -1), settings[0], Cuts(*settings[1:]), points).tolist())
    assert [found[i] / n for i in range(40)] == pytest.approx(theirs.tolist(), abs=1e-3)
    if n * float(theirs[theirs > 0].min()) > 1.5:
        assert set(found) == set(theirs.nonzero().flatten().tolist())


def test_one_row_is_no_matter_to_another() -> None:
    logits = torch.randn(6, 50)
    temperature = torch.tensor([0.0, 1.0, 0.3, 1.0, 2.0, 1.0])
    top_p, points = torch.tensor([1.0, 0.5, 1.0, 1.0, 0.9, 0.01]), torch.rand(6)
    cuts = Cuts(torch.tensor([0, 0, 3, 1, 20, 99]), top_p, torch.tensor([0.0, 0.1, 0.5, 0.0, 0.0, 1.0]))
    together = choose(logits, temperature, cuts, points)
    alone = [
        choose(logits[i : i + 1], temperature[i : i + 1], Cuts(*(x[i : i + 1] for x in cuts)), points[i : i + 1])
        for i in range(6)
    ]
    assert together.tolist() == torch.cat(alone).tolist()
    assert together[5] == logits[5].argmax()


def test_top_k_of_1_is_greedy_at_any_temperature(policy: Policy, jobs: list[Request]) -> None:
    greedy = [r.ids for r in respond(policy, jobs, GREEDY)]
    assert [r.ids for r in respond(policy, jobs, replace(GREEDY, temperature=5.0, top_k=1))] == greedy
    assert [r.ids for r in respond(policy, jobs, replace(GREEDY, temperature=5.0, min_p=1.0))] == greedy
    assert [r.ids for r in respond(policy, jobs, replace(GREEDY, temperature=5.0))] != greedy
    plain = plainly(policy, encode(policy, jobs, replace(GREEDY, temperature=5.0, top_k=1)), 64)
    assert [tuple(ids) for ids in plain] == greedy


def test_log_probabilities_are_those_of_the_model(policy: Policy, jobs: list[Request]) -> None:
    asks = [a._replace(likeliest=i % 3) for i, a in enumerate(encode(policy, jobs, replace(GREEDY, temperature=1.0)))]
    decoder = Decoder(policy, 8)
    of = {decoder.add(ask): ask for ask in asks}
    events = {key: [] for key in of}  # type: ignore[var-annotated]
    while decoder.busy:
        for event in decoder.step():
            events[event.key].append(event)
    for key, ask in of.items():
        prefix, ids = [*ask.prompt, *ask.condition], [e.token for e in events[key]]
        with torch.no_grad():
            logps = policy.model(torch.tensor([prefix + ids])).logits[0, len(prefix) - 1 : -1].log_softmax(-1)
        assert [e.logps.drawn for e in events[key]] == pytest.approx(
            [float(x[i]) for x, i in zip(logps, ids)], abs=1e-4
        )
        for event, place in zip(events[key], logps):
            assert [x for _, x in event.logps.likeliest] == pytest.approx(
                place.topk(ask.likeliest or 0).values.tolist(), abs=1e-4
            )
