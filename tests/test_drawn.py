"""Log-probabilities of what was drawn: under guidance, and of the best of several."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from steer.evaluation.drawn import Choice, Reference, drawn, drawn_from, log_probs
from steer.evaluation.statistics import best_of_n_kl
from steer.generation.requests import Request, condition_text
from steer.generation.settings import Sampling
from steer.models.log_probs import ResponseLogps
from steer.models.policy import Policy, end_tokens
from steer.models.tokenization import Tokens
from steer.rows import Row, read_back, read_rows


@pytest.fixture(scope="module")
def rows(labels: Path) -> list[Row]:
    """Logged responses as if drawn at the level of verbosity that they have."""
    return [{**r, "target": {"verbosity": r["levels"]["verbosity"]}} for r in read_rows(labels)[:6]]


def test_guidance_of_one_and_none_are_the_two_branches(policy: Policy, rows: list[Row]) -> None:
    module = ResponseLogps(policy.model)
    told = log_probs(policy, module, rows, 2048, conditioned=True)
    plain = log_probs(policy, module, rows, 2048, conditioned=False)
    assert drawn_from(policy, rows, 1.0) == pytest.approx(told, abs=1e-3)
    assert drawn_from(policy, rows, 0.0) == pytest.approx(plain, abs=1e-3)
    assert drawn_from(policy, rows, 3.0) != pytest.approx(told, abs=0.1)


def ids_of(folder: Path) -> list[list[int]]:
    """The tokens of the draws, which lie in the folder of the answers."""
    return [row["ids"] for row in read_back(folder / "parts" / "00000.jsonl")]


def by_hand(policy: Policy, row: Row, ids: list[int], temperature: float = 1.0) -> float:
    """Sum over the drawn tokens of log softmax(logits / temperature)."""
    prefix = Tokens([row], policy.tokenizer).sequence(row, condition_text(policy, row["target"])).prefix
    with torch.no_grad():
        logits = policy.model(torch.tensor([prefix + ids])).logits[0, len(prefix) - 1 : -1]
    return float((logits / temperature).log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())


def test_a_temperature_counts_as_what_was_drawn_from(policy: Policy, rows: list[Row], tmp_path: Path) -> None:
    requests, warm = [Request(row, row["target"]) for row in rows], Sampling(temperature=0.5, max_new_tokens=8)
    reference = Reference(policy, ResponseLogps(policy.model))
    found = drawn(policy, requests, warm, tmp_path, reference)
    for row, ids in zip(found, ids_of(tmp_path)):
        assert row["logp"] == pytest.approx(by_hand(policy, row, ids, 0.5), abs=1e-3)
    requests = [Request(row, {}) for row in rows]
    alike = drawn(policy, requests, warm, tmp_path / "alike", reference)
    assert [r["logp"] for r in alike] == pytest.approx([r["ref_logp"] for r in alike], abs=1e-3)
    greedy = Sampling(temperature=0.0, max_new_tokens=8)
    assert "logp" not in drawn(policy, requests, greedy, tmp_path / "greedy", reference)[0]


def test_log_probabilities_are_of_the_tokens_that_were_drawn(
    policy: Policy, base: Path, rows: list[Row], tmp_path: Path
) -> None:
    """A draw may split a word as its text read anew would not be split: the KL is of the draw."""
    jobs = [Request(row, row["target"]) for row in rows for _ in range(8)]
    reference = Reference.load(str(base), "float32", False, 0)
    found = drawn(policy, jobs, Sampling(max_new_tokens=12), tmp_path / "warm", reference)
    ids = ids_of(tmp_path / "warm")
    anew = [list(Tokens([row], policy.tokenizer, end_tokens(policy)).responses[row["id"]]) for row in found]
    assert any(a != b for a, b in zip(ids, anew))  # else this shows nothing
    for row, own in zip(found, ids):
        assert row["tokens"] == len(own)
        assert row["logp"] == pytest.approx(by_hand(policy, row, own), abs=1e-3)
        assert row["ref_logp"] == pytest.approx(by_hand(reference.policy, {**row, "target": {}}, own), abs=1e-3)
        assert "ids" not in row
    hot = drawn(policy, jobs, Sampling(temperature=2.0, max_new_tokens=12), tmp_path / "hot", reference)
    for row, own in zip(hot, ids_of(tmp_path / "hot")):
        assert row["ref_logp"] == pytest.approx(by_hand(reference.policy, {**row, "target": {}}, own, 2.0), abs=1e-3)
    other = Reference.load(
        str(shuffled(base, tmp_path / "other", {i for own in ids for i in own})), "float32", False, 0
    )
    found = drawn(policy, jobs, Sampling(max_new_tokens=12), tmp_path / "warm2", other)
    for row in found:  # ids mean other words there, so it reads the text
        own = list(Tokens([row], other.policy.tokenizer, end_tokens(other.policy)).responses[row["id"]])
        assert row["ref_logp"] == pytest.approx(by_hand(other.policy, {**row, "target": {}}, own), abs=1e-3)


def shuffled(base: Path, folder: Path, used: set[int]) -> Path:
    """The model with the ids of two tokens exchanged in its tokenizer, one of them used."""
    shutil.copytree(base, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]  # [token, score] in the order of the ids
    letters = [i for i, (token, _) in enumerate(vocabulary) if token.isalpha() and len(token) == 1]
    one, other = sorted(letters, key=lambda i: i not in used)[:2]
    assert one in used
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_the_best_of_n_is_the_one_with_the_reward_and_is_likelier_by_what_n_draws_make(
    policy: Policy, rows: list[Row], tmp_path: Path
) -> None:
    sampling = Sampling(max_new_tokens=12, batch_size=16)
    jobs = [Request(row, {}) for row in rows]

    def longest(some: list[Row]) -> list[float]:
        return [float(len(r["response"])) for r in some]

    base = Reference(policy, ResponseLogps(policy.model))
    one = drawn(policy, jobs, sampling, tmp_path / "one", base)
    best = drawn(policy, jobs, sampling, tmp_path / "best", base, Choice(5, longest))  # type: ignore[arg-type]
    assert len(one) == len(best) == len(rows)
    assert sum(map(len, (r["response"] for r in best))) > sum(map(len, (r["response"] for r in one)))
    assert [r["logp"] - r["ref_logp"] for r in one] == pytest.approx([0.0] * len(one), abs=1e-3)
    assert [r["logp"] - r["ref_logp"] for r in best] == pytest.approx([best_of_n_kl(5)] * len(best), abs=1e-3)
    every = [read_back(path) for path in sorted((tmp_path / "best" / "parts").iterdir())]
    lengths = [len(row["ids"]) for part in every for row in part]
    assert [r["candidate_tokens"] for r in best] == [sum(lengths[i : i + 5]) for i in range(0, len(lengths), 5)]
    assert sum(5 * r["tokens"] for r in best) > sum(lengths), "the longest is longer than the others"
    assert "candidate_tokens" not in one[0]
    draws = [row for part in every for row in part]
    unscored = {draws[0]["response"]} | {row["response"] for row in draws[5:10]}

    def partly(some: list[Row]) -> list[float]:
        return [math.nan if r["response"] in unscored else float(len(r["response"])) for r in some]

    chance = drawn(policy, jobs, sampling, tmp_path / "best", base, Choice(5, None))
    (tmp_path / "best" / "answers.jsonl").rename(tmp_path / "answers.jsonl")
    kept = drawn(policy, jobs, sampling, tmp_path / "best", base, Choice(5, partly))  # type: ignore[arg-type]
    assert kept[0]["response"] not in unscored, "what has no score is the lowest"
    assert kept[1]["response"] == chance[1]["response"], "of those that all have none, one at random"
    assert (kept[0]["unscored"], kept[1]["unscored"]) == (sum(r["response"] in unscored for r in draws[:5]), 5)
    (tmp_path / "answers.jsonl").rename(tmp_path / "best" / "answers.jsonl")
    again = drawn(policy, jobs, sampling, tmp_path / "best", None, Choice(5, longest))  # type: ignore[arg-type]
    assert again == best  # read back, not drawn anew
