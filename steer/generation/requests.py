"""Requests and responses: what is asked of a policy, in rows and in tokens, and what comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

from steer.conditioning.condition import render
from steer.conditioning.turns import say_unprinted
from steer.errors import SteerError
from steer.generation.calls import Call
from steer.generation.prefill import Ids
from steer.generation.settings import Sampling
from steer.models.policy import Policy
from steer.models.steering import Weights
from steer.models.tokenization import plain_ids, prompt_parts
from steer.progress import note_once
from steer.rows import Row, prompt_key
from steer.rows.schema import Schema

BLOCK = 512  # responses between two resume points by default


class Request(NamedTuple):
    """One response to draw: a row whose prompt is answered, the levels asked for, those guidance moves away from.

    `temperature` replaces that of the sampling for this request; None keeps it. A server takes one for all. `seed`:
    None is the one that `seeds` gives.
    """

    row: Row
    target: Mapping[str, float]
    against: Mapping[str, float] = MappingProxyType({})
    temperature: float | None = None
    seed: int | None = None


class EncodedRequest(NamedTuple):
    """A request in token ids. `against`: the condition that guidance moves away from; None without guidance.

    `likeliest`: how many of the likeliest tokens to report at each position with their log-probabilities; None reports
    none, not even the drawn one's. `weights`: those of the policy's steering vectors, added from the last token before
    the response on; that token is then the condition, and the others the prompt.
    """

    prompt: Ids
    condition: Ids = ()
    against: Ids | None = None
    guidance: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    likeliest: int | None = None
    weights: Weights = ()

    @staticmethod
    def of(prompt: Ids, condition: Ids, other: Ids, sampling: Sampling) -> EncodedRequest:
        """Combine token ids with settings; `other`: the condition that guidance moves away from."""
        against = other if sampling.guidance != 1 and other != condition else None
        drawing = (sampling.guidance, sampling.temperature, sampling.top_p, sampling.max_new_tokens)
        cuts = {name: getattr(sampling, name) for name in ("top_k", "min_p", "repetition_penalty")}
        return EncodedRequest(prompt, condition, against, *drawing, **cuts)

    @property
    def branches(self) -> list[Ids]:
        """The conditions to draw from: one, or two with guidance."""
        return [self.condition] if self.against is None else [self.condition, self.against]

    @property
    def prefix(self) -> int:
        """Number of tokens before the response, in the longer branch."""
        return len(self.prompt) + max(map(len, self.branches))

    @property
    def columns(self) -> int:
        """The most tokens that prompt, condition and response can have together."""
        return self.prefix + self.max_new_tokens


class Response(NamedTuple):
    """Text without condition and EOS; `finished` is false if cut off; `ids` as drawn, with the end token.

    `thought`: what the policy thought before it answered, and `calls`: of tools, as OpenAI has them; these are among
    the ids and not in the text.
    """

    text: str
    finished: bool
    ids: tuple[int, ...] = ()
    thought: str = ""
    calls: tuple[Call, ...] = ()

    def answering(self, row: Row) -> Row:
        """Return the row with this response in place of its own."""
        own = {"response": self.text, "tool_calls": list(self.calls), "reasoning_content": self.thought}
        return {name: x for name, x in {**row, **own}.items() if x or name not in own or name == "response"}


def encode(policy: Policy, requests: Sequence[Request], sampling: Sampling) -> list[EncodedRequest]:
    """Tokenize prompts and conditions apart, as in training; limit each response to the positions that are left.

    Raises SteerError for a prompt that leaves no room for a response.
    """
    encoded = _encoded(policy, requests, sampling)
    say_unprinted({request.row["id"]: request.row for request in requests}.values(), policy.tokenizer)
    return encoded


def with_room(policy: Policy, rows: Iterable[Row], most: int = 0, spare: int = 0) -> list[Row]:
    """Return the first `most` rows (0: all) whose prompt leaves room for a response; note how many are passed over.

    Room is left for any condition that the policy reads, or for `spare` tokens if that is more. Rows are read in
    blocks, no further than it takes. SteerError if no prompt has room.
    """
    if policy.longest is None or policy.tokenizer is None:
        return list(islice(rows, most or None))
    if (card := policy.card) and card.schema and policy.template:
        spare = max(spare, longest_condition(policy, card.schema, card.attributes, policy.template))
    kept: list[Row] = []
    long = 0
    for row, size in _sizes(policy, rows, min(BLOCK, most or BLOCK)):
        if size + spare >= policy.longest:
            long += 1
            continue
        kept.append(row)
        if len(kept) == most:
            break
    if long:
        if not kept:
            raise SteerError(f"{policy.name}: all {long} prompts are longer than its {policy.longest} positions.")
        note_once(f"{policy.name} has {policy.longest} positions: {long:,} longer prompts are not asked.")
    return kept


def _sizes(policy: Policy, rows: Iterable[Row], block: int) -> Iterator[tuple[Row, int]]:
    """Yield rows with the number of tokens of their prompt, of which a block is tokenised at once."""
    left = iter(rows)
    while some := list(islice(left, block)):
        parts = [prompt_parts(row, policy.tokenizer, policy.template, policy.thinking) for row in some]
        heads, tails = (plain_ids(texts, policy.tokenizer) for texts in zip(*parts))
        yield from ((row, len(head) + len(tail)) for row, head, tail in zip(some, heads, tails))


def longest_condition(policy: Policy, schema: Schema, names: Sequence[str], template: str) -> int:
    """Return how many tokens a condition over `names` can have at most, each attribute counted by itself."""
    levels = [[{name: level} for level in range(len(schema[name].shown))] for name in names]
    texts = [[render(target, schema, names, template) for target in some] for some in levels]
    return sum(max(map(len, plain_ids(some, policy.tokenizer)), default=0) for some in texts)


def columns(policy: Policy, requests: Sequence[Request], sampling: Sampling) -> int:
    """Return the most tokens that prompt, condition and response of a request can have together."""
    asked = list({(r.row["id"], *r.target.items()): r for r in requests}.values())  # samples are as long as each other
    blocks = (asked[i : i + BLOCK] for i in range(0, len(asked), BLOCK))
    return max((encoded.columns for block in blocks for encoded in _encoded(policy, block, sampling)), default=0)


def _encoded(policy: Policy, requests: Sequence[Request], sampling: Sampling) -> list[EncodedRequest]:
    read = [policy.reading(r.row, dict(r.target)) for r in requests]
    parts = [prompt_parts(row, policy.tokenizer, policy.template, policy.thinking) for row in read]
    texts, tails = [text for text, _ in parts], [tail for _, tail in parts]
    conditions = [condition_text(policy, request.target) + tail for request, tail in zip(requests, tails)]
    others = [condition_text(policy, request.against) + tail for request, tail in zip(requests, tails)]
    unique = list(dict.fromkeys([*texts, *conditions, *others]))
    ids = {t: tuple(i) for t, i in zip(unique, plain_ids(unique, policy.tokenizer))} | {"": ()}
    encoded = []
    own = seeds(requests, sampling.seed)
    for request, text, condition, other, seed in zip(requests, texts, conditions, others, own):
        draft = EncodedRequest.of(ids[text], ids[condition], ids[other], sampling)
        if policy.steering:
            last = len(draft.prompt) - 1
            weights = policy.weights(request.target)
            draft = draft._replace(prompt=draft.prompt[:last], condition=draft.prompt[last:], weights=weights)
        room = sampling.max_new_tokens if policy.longest is None else policy.longest - draft.prefix
        if room < 1:
            raise SteerError(
                f"row '{request.row['id']}': its prompt has {draft.prefix} tokens, but {policy.name} has "
                f"{policy.longest} positions. Shorten it or remove it."
            )
        temperature = sampling.temperature if request.temperature is None else request.temperature
        most = min(sampling.max_new_tokens, room)
        encoded.append(draft._replace(temperature=temperature, max_new_tokens=most, seed=seed))
    return encoded


def seeds(requests: Iterable[Request], seed: int) -> Iterator[int]:
    """Yield the seed of each response; it follows from the prompt, which of its targets it has, and which sample it is.

    So a prompt gets the same draws whatever other prompts there are, in whatever order, and more samples or further
    targets leave them as they are. Targets are numbered as the prompt's requests have them: at its first target a
    prompt is drawn with the same random numbers whatever that target is.
    """
    asked: dict[str, dict[tuple[tuple[str, float], ...], int]] = {}
    for request in requests:
        if request.seed is not None:
            yield request.seed
            continue
        samples = asked.setdefault(prompt := prompt_key(request.row), {})
        target = tuple(sorted(request.target.items()))
        samples[target] = samples.get(target, -1) + 1
        yield seed_of(seed, f"{prompt}:{list(samples).index(target)}:{samples[target]}")


def seed_of(seed: int, name: int | str) -> int:
    """Derive the seed of what has this name or number."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=4).digest()) & 0x7FFFFFFF


def condition_text(policy: Policy, target: Mapping[str, float]) -> str:
    """Render the condition that this policy was trained to read for a target; empty if it has none."""
    card = policy.card
    if not target or card is None or card.schema is None or policy.template is None:
        return ""
    return render(target, card.schema, card.attributes, card.template)
