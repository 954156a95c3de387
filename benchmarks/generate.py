"""Tokens per second against plain `model.generate`: `python benchmarks/generate.py POLICY ROWS`.

POLICY is a conditioned policy, ROWS a file with prompts (of `make world`: `world/compare/runs/conditional-seed0/policy`
and `world/labels`). Prompts of mixed length, four targets and four samples each, in the order in which they come;
with --targets 1 --samples 1 every prompt is different. The peer pads batches of the same size in that order and lets
`model.generate` sample by itself, no marker blocked. Both run in turn, several times; greedy outputs are compared
token by token first. In the end the
continuous batching of transformers (`generate_batch`, paged attention) answers the same greedily, beside ours: it takes
no guidance, no blocked markers and no seed a response, so it is an engine only where it is faster. Options:
--prompts 24 --targets 4 --samples 4 --repeats 5 --batch-size 64 --max-new-tokens 96.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from steer import device
from steer.conditioning.targets import Target
from steer.generation.engines import respond
from steer.generation.plain import plainly
from steer.generation.prefill import inner
from steer.generation.requests import EncodedRequest, Request, encode
from steer.generation.settings import Sampling
from steer.models.policy import Policy, end_tokens, load_policy
from steer.progress import quiet
from steer.rows import Row, prompts


def mixed(rows: list[Row], count: int, longest: int) -> list[Row]:
    """Prompts of mixed length: each is one to eight logged prompts, one after the other, cut by the model's limit."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        picked = rng.choice(len(rows), size=int(rng.integers(1, 9)), replace=False)
        text = " ".join(rows[k]["prompt"][-1]["content"] for k in picked)
        out.append({"id": str(i), "prompt": [{"role": "user", "content": " ".join(text.split()[:longest])}]})
    return out


def aims(policy: Policy) -> list[Target]:
    """The best target, the lowest and highest level of the first attribute without a better end, and none."""
    card = policy.card
    if card is None or card.schema is None:
        raise SystemExit(f"{policy.name} is not conditioned.")
    schema, names = card.schema, card.attributes
    name = next((n for n in names if not schema[n].direction), names[0])
    return [schema.best(names), {name: 0}, {name: len(schema[name].shown) - 1}, {}]


def continuously(policy: Policy, asks: list[EncodedRequest]) -> list[list[int]]:
    """Greedy tokens of each response by the continuous batching of transformers."""
    config = GenerationConfig(
        max_new_tokens=asks[0].max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(end_tokens(policy)),
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    # On a CPU it does not find out by itself how much room there is.
    room = {} if device.kind() != "cpu" else {"num_blocks": 512, "max_batch_tokens": 512, "page_size": 32}
    with quiet():
        found = inner(policy).generate_batch(
            [[*ask.prompt, *ask.condition] for ask in asks],
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(**room),
        )
    return [list(found[f"req_{i}"].generated_tokens) for i in range(len(asks))]


def generated(policy: Policy, asks: list[EncodedRequest], size: int) -> int:
    """Tokens that `model.generate` samples by itself, in padded batches in the order in which the prompts come."""
    pad, ends, count = policy.tokenizer.pad_token_id, end_tokens(policy), 0
    config = GenerationConfig(
        max_new_tokens=asks[0].max_new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=sorted(ends),
        pad_token_id=pad,
    )
    where = next(policy.model.parameters()).device
    for start in range(0, len(asks), size):
        prefixes = [[*ask.prompt, *ask.condition] for ask in asks[start : start + size]]
        width = max(map(len, prefixes))
        ids = torch.tensor([[pad] * (width - len(x)) + x for x in prefixes], device=where)
        mask = torch.tensor([[0] * (width - len(x)) + [1] * len(x) for x in prefixes], device=where)
        with torch.no_grad(), quiet():
            drawn = policy.model.generate(ids, attention_mask=mask, generation_config=config)[:, width:]
        count += sum(next((k + 1 for k, t in enumerate(x) if t in ends), len(x)) for x in drawn.tolist())
    return count


def drawn(policy: Policy, jobs: list[Request], sampling: Sampling) -> int:
    """Tokens that we draw."""
    return sum(len(r.ids) for r in respond(policy, jobs, sampling))


def timed(run: Callable[[], int]) -> float:
    """Tokens per second of one run."""
    began = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - began)


def beside(policy: Policy, jobs: list[Request], greedy: Sampling) -> None:
    """Print the rate of transformers' continuous batching beside ours, greedily."""
    asks = encode(policy, jobs, greedy)
    continuously(policy, asks[:4])  # the first call is slower
    drawn, rates = [], []
    for draw in (lambda: [list(r.ids) for r in respond(policy, jobs, greedy)], lambda: continuously(policy, asks)):
        began = time.perf_counter()
        drawn.append(draw())
        rates.append(sum(map(len, drawn[-1])) / (time.perf_counter() - began))
    same = sum(a == b for a, b in zip(*drawn))
    print(
        f"continuous batching of transformers, greedy: {rates[1]:.0f} tokens/s beside steer's {rates[0]:.0f}, ratio "
        f"{rates[0] / rates[1]:.2f}; {same} of {len(asks)} responses alike"
    )


def main() -> None:
    """Print equality and the paired figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy")
    parser.add_argument("rows")
    for name, default in (
        ("prompts", 24),
        ("targets", 4),
        ("samples", 4),
        ("repeats", 5),
        ("batch-size", 64),
        ("max-new-tokens", 96),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    policy = load_policy(args.policy)
    rows = mixed(list(prompts(args.rows))[:400], args.prompts, 60)
    asked = aims(policy)[: args.targets]
    jobs = [Request(row, aim) for row in rows for aim in asked for _ in range(args.samples)]
    sampling = Sampling(max_new_tokens=args.max_new_tokens, batch_size=args.batch_size)

    greedy = replace(sampling, temperature=0.0)
    alone = jobs[:: args.samples]  # greedy samples are alike
    ours = [list(r.ids) for r in respond(policy, alone, greedy)]
    same = sum(a == b for a, b in zip(ours, plainly(policy, encode(policy, alone, greedy), args.batch_size)))
    single = respond(policy, alone[:8], replace(greedy, batch_size=1))
    equal = sum(list(a.ids) == b for a, b in zip(single, ours))
    print(
        f"greedy: {same} of {len(alone)} responses equal to model.generate, {equal} of {len(single)} to batches of one"
    )
    lengths = [len(a.prompt) for a in encode(policy, jobs[:: len(asked) * args.samples], sampling)]
    print(
        f"{len(rows)} prompts of {min(lengths)} to {max(lengths)} tokens x {len(asked)} targets "
        f"x {args.samples} samples"
    )
    fast, slow = [], []
    for repeat in range(args.repeats):
        s = replace(sampling, seed=repeat)
        slow.append(timed(partial(generated, policy, encode(policy, jobs, s), args.batch_size)))
        fast.append(timed(partial(drawn, policy, jobs, s)))
        print(
            f"  {repeat}: steer {fast[-1]:.0f} tokens/s, model.generate {slow[-1]:.0f}, ratio {fast[-1] / slow[-1]:.2f}"
        )
    ratios = sorted(a / b for a, b in zip(fast, slow))
    print(
        f"median: steer {statistics.median(fast):.0f} tokens/s, model.generate {statistics.median(slow):.0f}; "
        f"ratio {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f} over {args.repeats} pairs"
    )
    beside(policy, jobs, greedy)
    machine = f"{device.name()}, {platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
