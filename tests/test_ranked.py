"""The losses on ranked candidates: rrhf and pro against plain arithmetic and official numbers; raft's choice."""

from __future__ import annotations

import math

import pytest
import torch

from steer.errors import SteerError
from steer.methods import pro, raft, rrhf
from steer.methods.base import Candidates
from steer.methods.groups import ranked
from steer.rows import Row
from tests.conftest import Golden

TEXTS = [[-1.0, -3.0], [-0.5], [-2.0, -1.0, -3.0]]  # token log-probs of three candidates, better first
REWARDS = [2.0, 0.5, -1.0]
P = [sum(t) / len(t) for t in TEXTS]


def example(rewards: list[float] = REWARDS) -> tuple[torch.Tensor, Candidates]:
    logps = torch.tensor([[t + [7.0] * (3 - len(t)) for t in TEXTS]], dtype=torch.float64)
    mask = torch.tensor([[[i < len(t) for i in range(3)] for t in TEXTS]])
    return logps, Candidates(mask, torch.tensor([rewards], dtype=torch.float64))


def test_rrhf_sums_the_wrongly_ordered_pairs_and_the_likelihood_of_the_best() -> None:
    expected = sum(max(0.0, P[i] - P[j]) for i in range(3) for j in range(3) if REWARDS[i] < REWARDS[j])
    [term] = rrhf.loss(*example(), rrhf.Settings(sft=0.5))
    assert float(term) == pytest.approx(expected + 0.5 * 4.0)
    assert expected == pytest.approx((P[1] - P[0]) + 0 + 0)


def test_rrhf_does_not_rank_ties() -> None:
    [term] = rrhf.loss(*example([1.0, 1.0, 0.0]), rrhf.Settings(sft=0.0))
    assert float(term) == pytest.approx(max(0.0, P[2] - P[0]) + max(0.0, P[2] - P[1]))


def test_rrhf_equals_the_official_numbers(golden: Golden) -> None:
    terms = rrhf.loss(*golden.of(4), rrhf.Settings(sft=0.0))
    assert terms.tolist() == pytest.approx(golden.official["rrhf_rank_term"]["value"], rel=1e-6)


def test_pro_is_what_the_paper_prints() -> None:
    expected = 0.0
    for k in range(2):
        gaps = [REWARDS[k] - REWARDS[i] for i in range(k + 1, 3)]
        own = math.exp(P[k] * max(gaps))
        others = sum(math.exp(P[i] * gap) for i, gap in zip(range(k + 1, 3), gaps))
        expected -= math.log(own / (own + others))
    [term] = pro.loss(*example(), pro.Settings(sft=0.1))
    assert float(term) == pytest.approx(expected + 0.1 * 4 * 4.0)


def test_pro_equals_the_official_number(golden: Golden) -> None:
    terms = pro.loss(*golden.of(4), pro.Settings(sft=0.05))
    assert float(terms.mean()) == pytest.approx(golden.official["pro_total_sft0.05"]["value"], rel=1e-6)


def rows(prompt: str, *rewards: float | None) -> list[Row]:
    turns = [{"role": "user", "content": prompt}]
    return [{"id": f"{prompt}{i}", "prompt": turns, "response": f"x{i}", "reward": r} for i, r in enumerate(rewards)]


def test_groups_hold_all_candidates_better_first() -> None:
    found = ranked([*rows("a", 0.0, None, 2.0, 1.0), *rows("b", 1.0, 1.0), *rows("c", 5.0)])
    assert [[row["id"] for row in g.rows] for g in found] == [["a2", "a3", "a0"]]
    assert found[0].weights == (1.0, 1.0, 1.0)
    for method in (rrhf, pro):
        with pytest.raises(SteerError, match="no prompt has two responses with different rewards"):
            method.METHOD.groups(rows("b", 1.0, 1.0) + rows("c", 5.0), method.Settings())  # type: ignore[attr-defined]
        with pytest.raises(SteerError, match=r"sft -0.1: wanted 0 or more"):
            method.Settings(sft=-0.1)  # type: ignore[attr-defined]


def test_raft_keeps_the_best_of_the_first_k() -> None:
    some = rows("a", 0.0, 2.0, 3.0) + rows("b", 1.0, 1.0, None) + rows("c", 5.0)
    picked = {k: [g.rows[0]["id"] for g in raft.groups(some, raft.Settings(k=k))] for k in (0, 1, 2)}
    assert picked == {0: ["a2", "b0"], 1: ["a0", "b0"], 2: ["a1", "b0"]}, "of the one response of c none is the best"
    with pytest.raises(SteerError, match=r"each of the 2 prompts has one response only.*--n 4"):
        raft.groups(rows("c", 5.0) + rows("d", 1.0), raft.Settings())
    with pytest.raises(SteerError, match="k -1: wanted 0 or more"):
        raft.Settings(k=-1)
