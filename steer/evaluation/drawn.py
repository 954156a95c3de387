"""Answers of a policy with their log-probabilities under policy and reference, written once and read back."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from steer.conditioning.targets import factorial
from steer.evaluation.statistics import best_of_n_kl
from steer.generation.drawing import WHOLE, Split, generate_rows
from steer.generation.requests import Request, condition_text, seeds
from steer.generation.settings import Sampling
from steer.labelling.obtained import best_of
from steer.labelling.scorer import Reward
from steer.models.collate import Sequence_
from steer.models.log_probs import ResponseLogps
from steer.models.policy import Policy, end_tokens, load_policy
from steer.models.steering import Weights
from steer.models.tokenization import Tokens, as_drawn
from steer.progress import progress
from steer.rows import Row, read_back, write_rows
from steer.rows.schema import Schema
from steer.training.memory import micro_batch
from steer.training.references import response_tokens


class Reference(NamedTuple):
    """The model that KL is measured from, on the prompt without a condition."""

    policy: Policy
    module: ResponseLogps
    micro_batch: int = 2048  # padded tokens in one forward pass

    @staticmethod
    def load(model: str, dtype: str, trust_remote_code: bool, micro_batch_tokens: int, revision: str = "") -> Reference:
        """Load the model; 0 tokens leave the size of a forward pass to the device. `revision`: as in `load_policy`."""
        policy = load_policy(model, dtype=dtype, trust_remote_code=trust_remote_code, revision=revision)
        return Reference(policy, ResponseLogps(policy.model.eval()), micro_batch(micro_batch_tokens))


class Decoding(NamedTuple):
    """Decoding beyond sampling: guidance, and the best of several responses by a reward.

    `at_random`: of the same responses one is kept at random, which shows what choosing gains.
    """

    guidance: float = 1.0
    best_of: int = 1
    at_random: bool = False

    @property
    def text(self) -> str:
        """Text of the decoding in the name of a system."""
        parts = [f"guidance={self.guidance:g}"] if self.guidance != 1 else []
        parts += [f"{'random_of' if self.at_random else 'best_of'}={self.best_of}"] if self.best_of > 1 else []
        return ",".join(parts)

    @property
    def best(self) -> Decoding:
        """The decoding that keeps the best of the same responses."""
        return self._replace(at_random=False)


class Choice(NamedTuple):
    """Draw `n` responses to a request and keep the one with the highest reward; without a reward, one at random.

    A response whose reward is unknown (NaN) is the lowest; of n that all are, one is kept at random.
    """

    n: int
    reward: Reward | None


def over_grid(prompts: Sequence[Row], schema: Schema, names: Sequence[str], size: int, seed: int) -> list[Request]:
    """Make `size` requests over the factorial grid of targets, on prompts that take turns."""
    return [Request(prompts[i % len(prompts)], aim) for i, aim in enumerate(factorial(schema, names, size, seed))]


def drawn(
    policy: Policy,
    requests: Sequence[Request],
    sampling: Sampling,
    folder: Path,
    reference: Reference | None,
    choice: Choice | None = None,
    split: Split = WHOLE,
) -> list[Row]:
    """Draw a response to each request, in their order; with a `reference` rows get `tokens`, `logp` and `ref_logp`.

    Both log-probabilities are of the tokens that were drawn, at the temperature of the draw; at temperature 0, where
    no two policies overlap, there are none. The best of n is as likely as n draws make it: its expected
    log-probability is at most log n - (n - 1) / n above the policy's, and this much is added. So its KL is an upper
    bound, exact where no two of n draws have the same reward or text. `prompt_tokens` counts what the policy read
    before the response, `candidate_tokens` what it wrote in all n, `unscored` the candidates without a reward.
    answers.jsonl in the folder (random.jsonl for one at random) is read back if it is there. `split`: by which
    processes it is drawn.
    """
    at_random = choice is not None and choice.reward is None
    path = folder / ("random.jsonl" if at_random else "answers.jsonl")
    if path.is_file():
        return read_back(path)
    n = choice.n if choice else 1
    rows = generate_rows(policy, [r for r in requests for _ in range(n)], sampling, folder, split, ids=True)
    wrote = [sum(len(row["ids"]) for row in rows[i : i + n]) for i in range(0, len(rows), n)]
    picks = [i * n + seed % n for i, seed in enumerate(seeds(requests, sampling.seed))]
    rewards = choice.reward(rows) if choice and choice.reward else []
    unscored = [sum(map(math.isnan, rewards[i : i + n])) for i in range(0, len(rows), n)]
    if rewards:
        rows = best_of(rows, n, _ranked(rewards, picks))
    elif choice:
        rows = [rows[pick] for pick in picks]
    read = _sequences(policy, rows, conditioned=True)
    answers = [{**_without_ids(row), "prompt_tokens": len(s.prefix)} for row, s in zip(rows, read)]
    for answer, total, count in zip(answers, wrote if choice else (), unscored):
        answer |= {"candidate_tokens": total} | ({"unscored": count} if count else {})
    if reference is not None and sampling.temperature > 0:
        own, ref = _both_log_probs(policy, rows, sampling, reference)
        gain = 0.0 if at_random else best_of_n_kl(n)
        for answer, row, logp, ref_logp in zip(answers, rows, own, ref):
            answer |= {"tokens": len(row["ids"]), "logp": logp + gain, "ref_logp": ref_logp}
    write_rows(answers, path)
    return read_back(path)


def _ranked(rewards: Sequence[float], picks: Sequence[int]) -> list[float]:
    """Rewards to choose by: unknown ones are the lowest, and those at `picks` are before other unknown ones."""
    lowest = dict.fromkeys(picks, -sys.float_info.max)
    return [lowest.get(i, -math.inf) if math.isnan(reward) else reward for i, reward in enumerate(rewards)]


def _both_log_probs(
    policy: Policy, rows: Sequence[Row], sampling: Sampling, reference: Reference
) -> tuple[list[float], list[float]]:
    """Log-probabilities of drawn rows under the policy, as they were drawn, and under the reference."""
    budget, temperature = reference.micro_batch, sampling.temperature
    if sampling.guidance == temperature == 1 and not policy.steering:
        own = log_probs(policy, ResponseLogps(policy.model.eval()), rows, budget, conditioned=True)
    else:
        own = drawn_from(policy, rows, sampling.guidance, temperature)
    readable = rows if _alike(policy, reference.policy, rows) else [_without_ids(row) for row in rows]
    readable = [policy.with_options(row) for row in readable]
    thinking = policy.thinking  # the reference reads thoughts where the policy wrote them
    if temperature == 1:
        return own, log_probs(
            reference.policy, reference.module, readable, budget, conditioned=False, thinking=thinking
        )
    return own, drawn_from(reference.policy, readable, 0.0, temperature, thinking)


def _without_ids(row: Row) -> Row:
    return {column: value for column, value in row.items() if column != "ids"}


def _alike(policy: Policy, reference: Policy, rows: Sequence[Row]) -> bool:
    """Whether two models give the drawn ids the same tokens; otherwise the reference reads the text."""
    ids = sorted({i for row in rows for i in row["ids"]})
    first, second = (p.tokenizer.convert_ids_to_tokens(ids) for p in (policy, reference))
    return bool(first == second)


def log_probs(
    policy: Policy, module: ResponseLogps, rows: Sequence[Row], budget: int, *, conditioned: bool, thinking: str = ""
) -> list[float]:
    """Log-probability of every response with its end token, conditioned on its target or unconditioned.

    `thinking`: that of the policy that drew the responses (default: of this one).
    """
    sequences = _sequences(policy, rows, conditioned=conditioned, thinking=thinking)
    device = next(policy.model.parameters()).device
    logps, _ = response_tokens(module, [[s] for s in sequences], policy.tokenizer.pad_token_id, budget, device)
    return [float(x.sum()) for x in logps]


@torch.no_grad()
def drawn_from(
    policy: Policy, rows: Sequence[Row], strength: float, temperature: float = 1.0, thinking: str = ""
) -> list[float]:
    """Log-probability of every response under the guided distribution at a temperature.

    Each token's log p(none) + S (log p(target) - log p(none)), divided by the temperature and normalised. One row at a
    time, with all logits of its response in memory: fit for a report, not for training.
    """
    model = policy.model.eval()
    device = next(model.parameters()).device
    sums = []

    def logps(s: Sequence_, weights: Weights) -> torch.Tensor:
        ids, first = torch.tensor([[*s.prefix, *s.response]], device=device), len(s.prefix) - 1
        with policy.steered([weights], first):
            logits: torch.Tensor = model(ids).logits[0, first:-1]
        return logits.float().log_softmax(-1)  # [T, V]

    read = list(zip(rows, *(_sequences(policy, rows, conditioned=c, thinking=thinking) for c in (True, False))))
    for row, wanted, plain in progress(read, what="log-probs of responses", unit="responses"):
        mixed = logps(wanted, policy.weights(row["target"])) if strength else logps(plain, ())
        if strength not in (0, 1):
            mixed = torch.lerp(logps(plain, ()), mixed, strength)
        mixed = torch.log_softmax(mixed / temperature, -1)
        sums.append(float(mixed.gather(1, torch.tensor(wanted.response, device=device)[:, None]).sum()))
    return sums


def _sequences(policy: Policy, rows: Sequence[Row], *, conditioned: bool, thinking: str = "") -> list[Sequence_]:
    """Prompt with its condition of each row, and the response: its `ids`, else its text with its end."""
    rows = [policy.reading(row, row["target"]) for row in rows]
    tokens = Tokens(rows, policy.tokenizer, end_tokens(policy), policy.template, as_drawn(thinking or policy.thinking))
    read = [tokens.sequence(row, condition_text(policy, row["target"]) if conditioned else "") for row in rows]
    return [s._replace(response=list(row.get("ids") or s.response)) for s, row in zip(read, rows)]
