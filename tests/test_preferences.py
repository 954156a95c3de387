"""The younger losses on pairs against plain arithmetic, and what label smoothing does where labels are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from steer.errors import SteerError
from steer.methods import METHODS, apo, cpo, dpo, dpop, ipo, odpo, orpo, rebel, rpo, rso, simpo, slic
from steer.methods.base import Candidates, NoSettings
from steer.methods.preferences import FlipSettings, unsure
from steer.settings import Checked

LOGPS = torch.tensor([[[-1.0, -2.0, 9.0], [-3.0, -1.0, -2.0]], [[-2.0, 9.0, 9.0], [-0.5, -0.25, 9.0]]])
MASK = torch.tensor([[[True, True, False], [True] * 3], [[True, False, False], [True, True, False]]])
REF = torch.tensor([[-2.0, -4.0], [-1.0, -3.0]])
C = Candidates(MASK, torch.tensor([[1.0, 0.0], [2.0, -1.0]]), REF)
SUM = [(-3.0, -6.0), (-2.0, -0.75)]  # of chosen and rejected
MEAN = [(-1.5, -2.0), (-2.0, -0.375)]
GAIN = [(-3.0 + 2.0, -6.0 + 4.0), (-2.0 + 1.0, -0.75 + 3.0)]
GAP = [1.0, 3.0]  # of the rewards


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def nls(x: float) -> float:
    return math.log(1 + math.exp(-x))


def log_odds(p: float) -> float:
    return math.log(math.exp(p) / (1 - math.exp(p)))


def coins(aim: float, margin: float) -> float:
    p, q = sigmoid(aim), sigmoid(margin)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


# Each loss of one pair, from the sums, means, gains and gap of rewards of both responses.
FORMULAS: dict[str, tuple[Any, Callable[..., float]]] = {
    "simpo": (simpo.Settings(2.5, 0.7), lambda lp, p, g, r: nls(2.5 * (p[0] - p[1]) - 0.7)),
    "orpo": (orpo.Settings(0.3), lambda lp, p, g, r: -p[0] + 0.3 * nls(log_odds(p[0]) - log_odds(p[1]))),
    "cpo": (cpo.Settings(0.2, 0.5), lambda lp, p, g, r: nls(0.2 * (lp[0] - lp[1])) - 0.5 * p[0]),
    "dpo": (dpo.Settings(0.2, 0.5), lambda lp, p, g, r: nls(0.2 * (g[0] - g[1])) - 0.5 * p[0]),
    "odpo": (odpo.Settings(0.2, 0.5), lambda lp, p, g, r: nls(0.2 * (g[0] - g[1]) - 0.5 * math.log(r))),
    "rpo": (rpo.Settings(0.2, 0.5), lambda lp, p, g, r: coins(0.5 * r, 0.2 * (g[0] - g[1]))),
    "rebel": (rebel.Settings(2.0), lambda lp, p, g, r: ((g[0] - g[1]) / 2.0 - r) ** 2),
    "apo": (apo.Settings(0.2), lambda lp, p, g, r: 1 - sigmoid(0.2 * g[0]) + sigmoid(0.2 * g[1])),
    "apo down": (
        apo.Settings(0.2, "down"),
        lambda lp, p, g, r: sigmoid(0.2 * g[0]) + 1 - sigmoid(0.2 * (g[0] - g[1])),
    ),
    "dpop": (dpop.Settings(0.2, 5.0), lambda lp, p, g, r: nls(0.2 * (g[0] - g[1] - 5.0 * max(0.0, -g[0])))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_loss_is_what_the_paper_prints(name: str) -> None:
    settings, formula = FORMULAS[name]
    expected = [formula(*each) for each in zip(SUM, MEAN, GAIN, GAP)]
    assert METHODS[name.split()[0]].loss(LOGPS, C, settings).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_margin_that_equals_the_gap_of_rewards_has_no_gradient() -> None:
    """There rpo and rebel stop, where dpo goes on."""
    logps = torch.tensor([[[-1.0], [-1.0]]], requires_grad=True)
    c = Candidates(torch.ones(1, 2, 1, dtype=torch.bool), torch.tensor([[1.5, 0.0]]), torch.tensor([[-8.5, -1.0]]))
    for method, settings in ((rpo, rpo.Settings(0.2)), (rebel, rebel.Settings(5.0))):
        total = method.loss(logps, c, settings).sum()
        assert float(total.detach()) == pytest.approx(0.0, abs=1e-6)
        assert torch.autograd.grad(total, logps)[0].abs().max() < 1e-6


def test_a_response_that_is_certain_has_odds() -> None:
    logps = torch.zeros(1, 2, 1, requires_grad=True)
    total = orpo.loss(logps, Candidates(MASK[:1, :, :1], C.reward[:1]), orpo.Settings(0.3)).sum()
    assert float(total.detach()) == pytest.approx(0.3 * math.log(2))
    assert torch.autograd.grad(total, logps)[0].isfinite().all()


def test_rewards_that_hardly_differ_ask_for_the_margin_of_a_thousandth() -> None:
    close = C._replace(reward=torch.tensor([[1e-9, 0.0], [1e-3, 0.0]]))
    expected = [nls(0.2 * (g[0] - g[1]) - 0.5 * math.log(1e-3)) for g in GAIN]
    assert odpo.loss(LOGPS, close, odpo.Settings(0.2, 0.5)).tolist() == pytest.approx(expected, rel=1e-5)


def test_dpop_is_dpo_where_the_chosen_response_became_likelier() -> None:
    likelier = C._replace(ref=torch.tensor([[-5.0, -4.0], [-4.0, -3.0]]))
    found = dpop.loss(LOGPS, likelier, dpop.Settings(0.2, 5.0))
    assert found.tolist() == pytest.approx(dpo.loss(LOGPS, likelier, dpo.Settings(0.2)).tolist())


SMOOTHED = {"dpo": dpo, "ipo": ipo, "slic": slic, "rso": rso, "simpo": simpo, "cpo": cpo, "odpo": odpo, "apo": apo}
SWAPPED = Candidates(MASK.flip(1), C.reward, REF.flip(1))  # labels the other way round, as far apart


@pytest.mark.parametrize("name", [*SMOOTHED, "orpo", "rpo"])
def test_flips_mix_the_loss_of_a_pair_with_that_of_the_pair_the_other_way_round(name: str) -> None:
    alone = {"dpo": {"sft": 0.0}, "cpo": {"sft": 0.0}, "slic": {"reg": 0.0}, "apo": {"anchor": "down"}}
    method, free = METHODS[name], alone.get(name, {})
    kind: Any = method.settings
    right, wrong = method.loss(LOGPS, C, kind(**free)), method.loss(LOGPS.flip(1), SWAPPED, kind(**free))
    if name == "orpo":  # its likelihood is of the chosen response, whatever is thought of the label
        right, wrong = (x + torch.tensor([p[i] for p in MEAN]) for x, i in ((right, 0), (wrong, 1)))
    for robust in (False, True):
        found = method.loss(LOGPS, C, kind(**free, flips=0.25, robust=robust))
        if name == "orpo":
            found = found + torch.tensor([p[0] for p in MEAN])
        expected = (0.75 * right - 0.25 * wrong) / 0.5 if robust else 0.75 * right + 0.25 * wrong
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("robust", [False, True])
def test_flips_leave_the_penalty_of_dpop_as_it_is(robust: bool) -> None:
    """Else the robust form would pay without bound for a rejected response that becomes less likely."""
    found = dpop.loss(LOGPS, C, dpop.Settings(0.2, 5.0, flips=0.25, robust=robust)).tolist()
    for value, g in zip(found, GAIN):
        lost = 0.2 * 5.0 * max(0.0, -g[0])
        right, wrong = nls(0.2 * (g[0] - g[1]) - lost), nls(0.2 * (g[1] - g[0]) - lost)
        expected = (0.75 * right - 0.25 * wrong) / 0.5 if robust else 0.75 * right + 0.25 * wrong
        assert value == pytest.approx(expected, rel=1e-4)
    assert any(g[0] < 0 for g in GAIN)


def test_flips_that_would_only_scale_a_loss_are_refused() -> None:
    """At anchor=zero the loss of a pair the other way round is 2 less that of the pair."""
    c = Candidates(MASK.flip(1), C.reward, REF.flip(1))
    both = apo.loss(LOGPS, C, apo.Settings(0.2)) + apo.loss(LOGPS.flip(1), c, apo.Settings(0.2))
    assert both.tolist() == pytest.approx([2.0] * len(both))
    with pytest.raises(SteerError, match="flips: only scale the loss with anchor=zero"):
        apo.Settings(flips=0.25)
    assert apo.Settings(flips=0.25, anchor="down")


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if issubclass(m.settings, FlipSettings)])
def test_the_robust_form_without_flips_is_refused(name: str) -> None:
    with pytest.raises(SteerError, match="robust: does nothing without flips"):
        METHODS[name].settings(robust=True)


def test_every_setting_of_a_method_is_checked() -> None:
    assert all(issubclass(m.settings, Checked | NoSettings) for m in METHODS.values())
    for value in (-3, 2):
        with pytest.raises(SteerError, match=f"tempered {value}: wanted True or False"):
            METHODS["steerlm2"].settings(tempered=value)
    with pytest.raises(SteerError, match="sft -3: wanted 0 or more"):
        METHODS["pro"].settings(sft=-3)
    with pytest.raises(TypeError, match="pairing"):
        METHODS["spin"].settings(pairing="all")


def test_spin_takes_the_best_rated_response_of_the_log() -> None:
    prompt = [{"role": "user", "content": "hi"}]
    logged = [{"id": str(r), "prompt": prompt, "response": f"logged {r}", "reward": r} for r in (None, -0.5, -0.2)]
    fresh = {"id": "new", "prompt": prompt, "response": "drawn", "reward": 3.0, "source": "round-1"}
    for order in (logged, logged[::-1]):
        [group] = METHODS["spin"].groups([*order, fresh], METHODS["spin"].settings())
        assert [row["id"] for row in group.rows] == ["-0.2", "new"]


def test_the_robust_form_has_the_mean_of_labels_that_are_right() -> None:
    right, wrong, s = torch.tensor(0.3), torch.tensor(2.1), FlipSettings(flips=0.25, robust=True)
    assert float(0.75 * unsure(right, wrong, s) + 0.25 * unsure(wrong, right, s)) == pytest.approx(0.3)
    with pytest.raises(SteerError, match=r"flips 0\.5: wanted from 0 to 0\.49"):
        FlipSettings(flips=0.5)


def fitted(x: torch.Tensor, s: dpo.Settings) -> torch.Tensor:
    """Weights of a linear policy that dpo fits to pairs, each the difference x of its responses' features."""
    w = torch.zeros(x.shape[1], requires_grad=True)
    mask = torch.ones(len(x), 2, 1, dtype=torch.bool)
    optimizer = torch.optim.LBFGS([w], lr=1.0, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logps = torch.stack([x @ w, torch.zeros(len(x))], 1)[..., None]
        total = dpo.loss(logps, Candidates(mask, torch.zeros(len(x), 2), torch.zeros(len(x), 2)), s).mean()
        total.backward()
        return total

    optimizer.step(closure)
    return w.detach()


def test_flips_help_where_a_quarter_of_the_labels_is_wrong() -> None:
    """Labels that a policy of margins x w* would draw, a quarter turned round: dpo shrinks w*, rDPO does not."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.tensor([3.0, -2.0, 1.0, 0.0])
    x, test = (torch.randn(n, 4, generator=draw) for n in (20000, 2000))
    sure = torch.sigmoid(x @ truth) > torch.rand(len(x), generator=draw)  # Bradley-Terry
    wrong = torch.rand(len(x), generator=draw) < 0.25
    seen = torch.where(sure ^ wrong, 1.0, -1.0)[:, None] * x
    right = torch.where(torch.sigmoid(test @ truth) > torch.rand(len(test), generator=draw), 1.0, -1.0)[:, None] * test

    def held_out(**more: Any) -> tuple[float, float]:
        w = fitted(seen, dpo.Settings(1.0, **more))
        return float(torch.nn.functional.softplus(-(right @ w)).mean()), float((w - truth).norm() / truth.norm())

    plain, robust = held_out(), held_out(flips=0.25, robust=True)
    assert robust[0] < plain[0] - 0.05
    assert robust[1] < 0.2 < 0.5 < plain[1]
