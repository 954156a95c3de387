"""What must hold for the loss of every method, whatever its formula."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steer.errors import SteerError
from steer.methods import METHODS
from steer.methods.base import Candidates, summed
from steer.methods.groups import one_gap, rewarded, singles

JUNK = (-math.inf, math.inf, math.nan, 1e30)
LENGTHS = ((4, 2, 3), (1, 5, 0), (3, 3, 2))  # response tokens; 0: a candidate that only pads


def example() -> tuple[Tensor, Candidates]:
    """Three prompts, up to three candidates, up to five tokens, zeros under the mask."""
    generator = torch.Generator().manual_seed(0)
    logps = -3 * torch.rand(3, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[[t < n for t in range(5)] for n in row] for row in LENGTHS])
    exists = mask.any(-1)
    reward = torch.randn(3, 3, generator=generator, dtype=torch.float64).sort(descending=True).values
    ref = -3 * torch.rand(3, 3, generator=generator, dtype=torch.float64)
    weight = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    zero = torch.zeros(3, 3, dtype=torch.float64)
    c = Candidates(mask, *(torch.where(exists, x, zero) for x in (reward, ref, weight)))
    return logps.masked_fill(~mask, 0.0), c


def part(c: Candidates, rows: slice) -> Candidates:
    return Candidates(*(x[rows] for x in c if x is not None))


def result(name: str, logps: Tensor, c: Candidates) -> tuple[float, float, Tensor]:
    """Sum of the terms that count, how many these are, and the gradient of the sum."""
    method, logps = METHODS[name], logps.clone().requires_grad_()
    total = method.total(logps, c, method.settings())
    (gradient,) = torch.autograd.grad(total, logps)
    return float(total.detach()), float(method.counted(c.mask).sum()), gradient


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", METHODS)
def test_junk_under_the_mask_reaches_neither_loss_nor_gradient(name: str, junk: float) -> None:
    logps, c = example()
    total, count, gradient = result(name, logps, c)
    spoiled = result(name, logps.masked_fill(~c.mask, junk), c)
    assert spoiled[:2] == (total, count)
    assert torch.equal(spoiled[2], gradient)
    assert not gradient[~c.mask].any()
    assert gradient[c.mask].abs().sum() > 0


@pytest.mark.parametrize("name", METHODS)
def test_padded_candidates_and_tokens_change_nothing(name: str) -> None:
    logps, c = example()
    total, count, gradient = result(name, logps, c)
    wide = torch.nn.functional.pad(logps, (0, 3, 0, 2), value=-7.0)
    padded = Candidates(
        torch.nn.functional.pad(c.mask, (0, 3, 0, 2)),
        *(torch.nn.functional.pad(x, (0, 2)) for x in (c.reward, c.ref, c.weight) if x is not None),
    )
    again = result(name, wide, padded)
    assert again[0] == pytest.approx(total, rel=1e-12)
    assert again[1] == count
    assert torch.allclose(again[2][:, :3, :5], gradient)
    assert again[2].count_nonzero() == gradient.count_nonzero()


@pytest.mark.parametrize("name", METHODS)
def test_masking_a_token_equals_deleting_it(name: str) -> None:
    logps, c = example()
    masked = c._replace(mask=c.mask & (torch.arange(5) != 1))  # the second token of every response
    kept = [0, 2, 3, 4]
    deleted = result(name, logps[..., kept], c._replace(mask=c.mask[..., kept]))
    found = result(name, logps, masked)
    assert found[:2] == pytest.approx(deleted[:2], rel=1e-12)
    assert torch.allclose(found[2][..., kept], deleted[2])
    assert found[0] != pytest.approx(result(name, logps, c)[0])


@pytest.mark.parametrize("name", METHODS)
def test_uneven_micro_batches_add_up_to_the_whole(name: str) -> None:
    logps, c = example()
    total, count, gradient = result(name, logps, c)
    first, second = (result(name, logps[rows], part(c, rows)) for rows in (slice(0, 1), slice(1, 3)))
    assert first[0] + second[0] == pytest.approx(total, rel=1e-12)
    assert first[1] + second[1] == pytest.approx(count)
    assert torch.allclose(torch.cat([first[2], second[2]]), gradient)


@pytest.mark.parametrize(("per", "count"), [("token", 23), ("response", 8), ("prompt", 3)])
def test_a_loss_is_averaged_over_what_its_method_says(per: str, count: int) -> None:
    logps, c = example()
    ones = {"token": torch.ones(3, 3, 5), "response": torch.ones(3, 3), "prompt": torch.ones(3)}
    method = replace(METHODS["mle"], per=per, loss=lambda logps, c, settings: ones[per])
    assert int(method.counted(c.mask).sum()) == method.total(logps, c, None) == count
    alone = c.mask & torch.tensor([True, False, False])[:, None]  # nothing to compare the first responses with
    assert int(method.counted(alone).sum()) == {"token": 8, "response": 3, "prompt": 0}[per]
    with pytest.raises(ValueError, match=rf"a loss per {per} returns .* here, one term for each, not \[\]"):
        replace(method, loss=lambda logps, c, settings: logps.sum()).total(logps, c, None)


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_micro_batch_counts_nothing(name: str) -> None:
    logps, c = example()
    total, count, gradient = result(name, logps, c._replace(mask=torch.zeros_like(c.mask)))
    assert (total, count) == (0.0, 0.0)
    assert not gradient.any()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_finite_for_likely_and_unlikely_responses(name: str, scale: float) -> None:
    logps, c = example()
    total, _, gradient = result(name, (logps * scale).float(), c)
    assert math.isfinite(total)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.on_policy])
def test_the_value_of_a_loss_falls_along_its_gradient_for_what_is_held_out_is_judged_by_it(name: str) -> None:
    """A surrogate whose gradient alone means something would stop a training anywhere."""
    logps, c = example()
    total, _, gradient = result(name, logps, c)
    fallen, _, _ = result(name, logps - 1e-6 * gradient, c)
    assert (total - fallen) / 1e-6 == pytest.approx(float((gradient**2).sum()), rel=1e-3)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.conditioned])
def test_a_conditioned_method_refuses_rows_without_levels(name: str) -> None:
    rows = [{"id": "a", "response": "x"}, {"id": "b", "response": "y", "levels": {}}]
    with pytest.raises(SteerError, match="none of the 2 rows has levels"):
        METHODS[name].groups(rows, METHODS[name].settings())


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_that_reads_how_far_rewards_lie_apart_says_so_of_one_gap(name: str) -> None:
    logps, c = example()
    reads = result(name, logps, c)[0] != result(name, logps, c._replace(reward=2 * c.reward))[0]
    said = name != "contrastive" and METHODS[name].caveat is one_gap  # there the order of the steps reads it
    assert reads == said


def test_a_need_that_training_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="a method needs luck; known: ref, old, "):
        replace(METHODS["mle"], needs={"ref", "luck"})


def test_summed_is_a_sum_over_the_mask() -> None:
    logps = torch.tensor([[[-1.0, -2.0, -math.inf], [math.nan, math.nan, math.nan]]])
    mask = torch.tensor([[[True, True, False], [False, False, False]]])
    assert summed(logps, mask).tolist() == [[-3.0, 0.0]]


def test_singles_take_every_row_once_in_order() -> None:
    rows = [{"id": "a"}, {"id": "b"}]
    assert [(g.rows, g.weights) for g in singles(rows)] == [((rows[0],), (1.0,)), ((rows[1],), (1.0,))]


@pytest.mark.parametrize("reward", ["high", math.nan, math.inf])
def test_a_reward_that_is_no_number_is_refused_with_its_row(reward: object) -> None:
    with pytest.raises(SteerError, match="the reward of row 'b' is"):
        rewarded([{"id": "a", "reward": 1.0}, {"id": "b", "reward": reward}])


def test_rows_without_reward_are_left_out_and_none_at_all_is_refused() -> None:
    rows = [{"id": "a", "reward": 1.0}, {"id": "b", "reward": None}, {"id": "c"}, {"id": "d", "reward": 0.0}]
    assert [row["id"] for row in rewarded(rows)] == ["a", "d"]
    with pytest.raises(SteerError, match="none of the 2 rows has a reward"):
        rewarded(rows[1:3])
