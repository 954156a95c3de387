"""Log-probabilities of what was drawn: under guidance, and of the best of several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer.drawn import Asked, Decoding, Reference, drawn, drawn_from, log_probs
from steer.evaluate.statistics import best_of_n_kl
from steer.generate import Job, Sampling, condition_text
from steer.logps import ResponseLogps
from steer.policy import Policy
from steer.rows import Row, read_all
from steer.tokens import Tokens


@pytest.fixture(scope="module")
def rows(labels: Path) -> list[Row]:
    """Logged responses as if drawn at the level of verbosity that they have."""
    return [{**r, "target": {"verbosity": r["levels"]["verbosity"]}} for r in read_all(labels)[:6]]


def test_guidance_of_one_and_none_are_the_two_branches(policy: Policy, rows: list[Row]) -> None:
    module = ResponseLogps(policy.model)
    told = log_probs(policy, module, rows, 2048, conditioned=True)
    plain = log_probs(policy, module, rows, 2048, conditioned=False)
    assert drawn_from(policy, rows, 1.0) == pytest.approx(told, abs=1e-3)
    assert drawn_from(policy, rows, 0.0) == pytest.approx(plain, abs=1e-3)
    assert drawn_from(policy, rows, 3.0) != pytest.approx(told, abs=0.1)


def test_a_temperature_counts_as_what_was_drawn_from(policy: Policy, rows: list[Row], tmp_path: Path) -> None:
    asked = Asked([Job(row, row["target"]) for row in rows], Sampling(0.5, max_new_tokens=8))
    reference = Reference(policy, ResponseLogps(policy.model))
    found = drawn(policy, asked, tmp_path, None, reference, 2048)
    for row in found:
        tokens = Tokens([row], policy.tokenizer).sequence(row, condition_text(policy, row["target"]))
        with torch.no_grad():
            logits = policy.model(torch.tensor([tokens.prefix + tokens.response])).logits[
                0, len(tokens.prefix) - 1 : -1
            ]
        expected = (logits / 0.5).log_softmax(-1).gather(1, torch.tensor(tokens.response)[:, None]).sum()
        assert row["logp"] == pytest.approx(float(expected), abs=1e-3)
    asked = asked._replace(jobs=[Job(row, {}) for row in rows])
    alike = drawn(policy, asked, tmp_path / "alike", None, reference, 2048)
    assert [r["logp"] for r in alike] == pytest.approx([r["ref_logp"] for r in alike], abs=1e-3)
    greedy = asked._replace(sampling=Sampling(0.0, max_new_tokens=8))
    assert "logp" not in drawn(policy, greedy, tmp_path / "greedy", None, reference, 2048)[0]


def test_the_best_of_n_is_the_one_with_the_reward_and_is_likelier_by_what_n_draws_make(
    policy: Policy, rows: list[Row], tmp_path: Path
) -> None:
    sampling = Sampling(max_new_tokens=12, batch_size=16)
    jobs = [Job(row, {}) for row in rows]

    def longest(some: list[Row]) -> list[float]:
        return [float(len(r["response"])) for r in some]

    base = Reference(policy, ResponseLogps(policy.model))
    one = drawn(policy, Asked(jobs, sampling), tmp_path / "one", None, base, 2048)
    best = drawn(policy, Asked(jobs, sampling, Decoding(1.0, 5), longest), tmp_path / "best", None, base, 2048)  # type: ignore[arg-type]
    assert len(one) == len(best) == len(rows)
    assert sum(map(len, (r["response"] for r in best))) > sum(map(len, (r["response"] for r in one)))
    assert [r["logp"] - r["ref_logp"] for r in one] == pytest.approx([0.0] * len(one), abs=1e-3)
    assert [r["logp"] - r["ref_logp"] for r in best] == pytest.approx([best_of_n_kl(5)] * len(best), abs=1e-3)
    again = drawn(policy, Asked(jobs, sampling, Decoding(1.0, 5)), tmp_path / "best", None, None, 2048)
    assert again == best  # read back, not drawn anew
