"""Methods that draw at every step: their advantages, the official number, and that reward goes up; resume is exact."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.labelling.command import label_command
from steer.labelling.scorer import load_scorer, rewarder
from steer.methods import METHODS, grpo, ppo, remax, rloo
from steer.methods.base import Candidates
from steer.rows.schema import Schema
from steer.training import onpolicy
from steer.training.command import train_command
from tests.conftest import Golden, mean, stopped


def drawn(
    rewards: list[list[float]], penalty: list[list[float]] | None = None, greedy: list[float] | None = None
) -> Any:
    """Responses of one token, of so much larger log-probability than under the reference."""
    reward = torch.tensor(rewards)
    old = None if penalty is None else torch.tensor(penalty)[..., None]
    ref = None if old is None else torch.zeros_like(old)
    mask = torch.ones(*reward.shape, 1, dtype=torch.bool)
    return Candidates(mask, reward, ref, old=old, greedy=None if greedy is None else torch.tensor(greedy))


def test_remax_subtracts_the_greedy_reward_and_rloo_the_mean_of_the_others() -> None:
    rewards = [[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]]
    found = remax.weigh(drawn(rewards, greedy=[1.0, -1.0]), remax.Settings()).weight
    assert found.tolist() == [[0.0, 1.0, 5.0], [1.0, 1.0, 4.0]]
    found = rloo.weigh(drawn(rewards), rloo.Settings(k=3)).weight
    assert found.tolist() == [[1 - 4, 2 - 3.5, 6 - 1.5], [0 - 1.5, 0 - 1.5, 3.0]]
    assert rloo.weigh(drawn([[7.0] * 4] * 2), rloo.Settings()).weight.tolist() == [[0.0] * 4] * 2


def test_remax_clips_the_difference_and_not_what_it_is_made_of() -> None:
    c = drawn([[9.0, 7.0, -9.0]], [[0.5, 0.0, 1.0]], greedy=[7.0])
    found = remax.weigh(c, remax.Settings(clip=5.0, kl=1.0)).weight
    assert found.tolist() == [[9.0 - 7.0 - 0.5, 0.0, -5.0 - 1.0]]


def test_rloo_takes_the_penalty_of_the_others_off_too() -> None:
    found = rloo.weigh(drawn([[1.0, 3.0]], [[0.5, 2.0]]), rloo.Settings(k=2, kl=1.0)).weight
    assert found.tolist() == [[(1 - 0.5) - (3 - 2.0), (3 - 2.0) - (1 - 0.5)]]
    assert rloo.weigh(drawn([[90.0, 0.0]]), rloo.Settings(k=2, clip=5.0)).weight.tolist() == [[5.0, -5.0]]


def test_remax_equals_the_official_number(golden: Golden) -> None:
    official = golden.official["remax_actor"]
    logps, c = golden.of(1)
    weight = torch.tensor(official["advantages"], dtype=torch.float64)[:, None]
    assert mean(remax.METHOD, logps, c._replace(weight=weight)) == pytest.approx(official["value"], rel=1e-6)


def test_rloo_averages_over_responses() -> None:
    logps = torch.tensor([[[-1.0, -2.0], [-3.0, 9.0]]])
    mask = torch.tensor([[[True, True], [True, False]]])
    c = Candidates(mask, torch.zeros(1, 2), weight=torch.tensor([[0.5, -2.0]]))
    assert mean(rloo.METHOD, logps, c) == pytest.approx((0.5 * 3.0 - 2.0 * 3.0) / 2)


def test_ppo_returns_are_rewards_to_go_and_advantages_are_whitened() -> None:
    mask = torch.tensor([[[True, True]], [[True, False]]])
    old, ref = torch.tensor([[[-1.0, -2.0]], [[-3.0, 9.0]]]), torch.tensor([[[-1.5, -1.0]], [[-3.0, 0.0]]])
    value = torch.tensor([[[0.5, 1.0]], [[2.0, 9.0]]])
    c = Candidates(mask, torch.tensor([[4.0], [1.0]]), ref, old=old, value=value)
    c = ppo.weigh(c, ppo.Settings(kl=0.1))
    assert c.returns is not None
    assert c.advantage is not None
    each = [-0.1 * 0.5, -0.1 * -1.0 + 4.0, 1.0]
    returns = [each[0] + each[1], each[1], each[2]]
    assert c.returns[mask].tolist() == pytest.approx(returns)
    raw = [r - v for r, v in zip(returns, [0.5, 1.0, 2.0])]
    mean = sum(raw) / 3
    sd = (sum((a - mean) ** 2 for a in raw) / 3) ** 0.5
    assert c.advantage[mask].tolist() == pytest.approx([(a - mean) / sd for a in raw], rel=1e-5)


def test_ppo_clips_what_would_go_further_and_learns_values() -> None:
    logps = torch.tensor([[[-1.0, -1.0, -1.0, 9.0]]], requires_grad=True)
    mask = torch.tensor([[[True, True, True, False]]])
    old = torch.tensor([[[-1.5, -1.5, -0.5, 0.0]]])
    advantage = torch.tensor([[[2.0, -2.0, -1.0, 5.0]]])
    value, returns = torch.tensor([[[0.5, 0.0, 1.0, 7.0]]]), torch.tensor([[[1.0, 0.0, 3.0, 0.0]]])
    c = Candidates(mask, torch.zeros(1, 1), old=old, advantage=advantage, returns=returns, value=value)
    total = ppo.METHOD.total(logps, c, ppo.Settings(clip=0.2, vf=0.1))
    up, down = np.exp(0.5), np.exp(-0.5)
    surrogate = -2.0 * min(up, 1.2) + 2.0 * max(up, 1.2) + 1.0 * max(down, 0.8)
    assert float(total.detach()) == pytest.approx(surrogate + 0.1 * (0.25 + 0.0 + 4.0))
    (gradient,) = torch.autograd.grad(total, logps)
    assert gradient[0, 0].tolist() == pytest.approx([0.0, 2.0 * up, 0.0, 0.0])  # the first and third are clipped
    assert "value" in ppo.METHOD.needs  # else there is no head to learn them


def test_grpo_clips_higher_up_than_down_and_has_a_kl_that_is_never_negative() -> None:
    logps = torch.tensor([[[-1.0, -1.0], [-1.0, 9.0]]], requires_grad=True)
    mask = torch.tensor([[[True, True], [True, False]]])
    old = torch.tensor([[[-1.25, -0.5], [-1.0, 0.0]]])
    ref = torch.tensor([[[-1.5, -1.0], [-0.5, 0.0]]])
    advantage = torch.tensor([[[2.0, -1.0], [-3.0, 7.0]]])
    up, down = math.exp(0.25), math.exp(-0.5)
    surrogate = [-2.0 * min(up, 1.28), max(down, 0.8), 3.0]
    kl = [math.exp(gap) - gap - 1 for gap in (-0.5, 0.0, 0.5)]
    assert min(kl) == 0.0
    c = Candidates(mask, torch.zeros(1, 2), ref, old=old, advantage=advantage)
    for average, lengths in (("token", [1.0, 1.0, 1.0]), ("response", [1.5 / 2, 1.5 / 2, 1.5])):
        s = grpo.Settings(k=2, clip_high=0.28, kl=0.1, average=average)
        weighed = c._replace(weight=grpo.weigh(c, s).weight)
        terms = [w * (a + 0.1 * b) for w, a, b in zip(lengths, surrogate, kl)]
        found = grpo.METHOD.total(logps, weighed, s).detach() / 3
        assert float(found) == pytest.approx(sum(terms) / 3, rel=1e-5)
    # of each response the mean over its own tokens, and of these the mean
    by_hand = ((surrogate[0] + surrogate[1] + 0.1 * (kl[0] + kl[1])) / 2 + surrogate[2] + 0.1 * kl[2]) / 2
    assert sum(terms) / 3 == pytest.approx(by_hand)


def test_ppo_stays_finite_where_a_token_became_ever_likelier_and_without_a_draw_weighs_responses() -> None:
    logps, mask = torch.zeros(1, 2, 1, requires_grad=True), torch.ones(1, 2, 1, dtype=torch.bool)
    advantage = torch.tensor([[[1.0], [-1.0]]])
    c = Candidates(mask, torch.zeros(1, 2), old=torch.full((1, 2, 1), -200.0), advantage=advantage)
    terms = ppo.loss(logps, c, ppo.Settings(clip=0.2))
    assert terms.flatten().tolist() == pytest.approx([-1.2, math.exp(20)])
    assert torch.autograd.grad(terms.sum(), logps)[0].isfinite().all()
    plain = ppo.loss(logps, Candidates(mask, torch.zeros(1, 2), weight=torch.tensor([[0.5, 3.0]])), ppo.Settings())
    assert plain.flatten().tolist() == [-0.5, -3.0]


def test_methods_that_draw_take_every_prompt_once() -> None:
    rows = [{"id": str(i), "prompt": [{"role": "user", "content": text}]} for i, text in enumerate("aba")]
    for m in METHODS.values():
        if m.on_policy:
            assert [g.rows[0]["id"] for g in m.groups(rows, m.settings())] == ["0", "1"]


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.on_policy])
@pytest.mark.parametrize("average", ["response", "token"])
def test_processes_weigh_their_parts_of_a_step_as_one_weighs_the_whole(method: str, average: str) -> None:
    if method == "ppo":
        pytest.skip("whitens over the responses of a process, which a line says")
    m = METHODS[method]
    s = m.settings(k=2, **({"average": average} if method == "grpo" else {}))
    mask = torch.tensor(
        [[[1, 1, 1, 1], [1, 0, 0, 0]], [[1, 1, 1, 0], [1, 1, 1, 1]], [[1, 1, 1, 0], [1, 1, 1, 0]]]
    ).bool()
    reward, draw = torch.tensor([[1.0, -1.0], [0.5, 2.0], [0.0, 3.0]]), torch.Generator().manual_seed(0)
    old, ref = (-torch.rand(mask.shape, generator=draw) for _ in range(2))
    c = Candidates(mask, reward, ref, old=old, greedy=torch.zeros(3), length=torch.full((3,), 18 / 6))
    parts = [Candidates(*(None if x is None else x[at] for x in c)) for at in ([0], [1, 2])]
    found = [m.weigh(part, s) for part in (c._replace(length=None), *parts)]  # type: ignore[misc]
    for column in ("weight", "advantage"):
        whole, *split = (getattr(x, column) for x in found)
        assert (whole is None) == (split[0] is None)
        if whole is not None:
            assert torch.allclose(torch.cat(split), whole)


@pytest.fixture(scope="module")
def short(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's rows, where a good response has few words."""
    folder = tmp_path_factory.mktemp("short") / "labels"
    rows = labels / "rows.jsonl"
    label_command(LabelConfig(str(rows), str(folder), scorer="countable:words", bins="quantile", lower=("words",)))
    return folder


@pytest.fixture(scope="module")
def fluent(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned to end its responses."""
    folder = tmp_path_factory.mktemp("fluent")
    train_command(
        TrainConfig(str(labels), str(base), str(folder), "mle", adapter="none", learning_rate=1e-2, max_steps=60)
    )
    return folder


def config(rows: Path, model: Path, output: Path, method: str, **more: Any) -> TrainConfig:
    known: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 8, "max_new_tokens": 24, "logging_steps": 1}
    return TrainConfig(str(rows), str(model), str(output), method=method, **(known | more))


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["remax", "rloo", "grpo", "ppo"])
def test_the_reward_of_fresh_responses_goes_up(method: str, short: Path, fluent: Path, tmp_path: Path) -> None:
    train_command(config(short, fluent, tmp_path / "run", method, max_steps=25, set=("k=4",), max_new_tokens=60))
    found = metrics(tmp_path / "run")
    assert found[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # at first the policy is its own reference
    assert all(line["kl"] > -5 for line in found)
    first, last = (sum(line["reward"] for line in part) / 5 for part in (found[:5], found[-5:]))
    assert last > first + 0.3


def test_grpo_counts_the_tokens_that_other_processes_drew(
    short: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a process that drew as many responses, twice as long, every token weighs one and a half times as much."""
    norms = []
    for name in ("alone", "beside"):
        train_command(config(short, base, tmp_path / name, "grpo", max_steps=1, set=("k=2",)))
        norms.append(metrics(tmp_path / name)[0]["grad_norm"])
        monkeypatch.setattr(onpolicy, "gather_object", lambda own: [*own, 2 * own[0], own[1]])
    assert norms[0] > 0
    assert norms[1] == pytest.approx(1.5 * norms[0], rel=1e-3)


def test_a_process_without_a_prompt_counts_no_tokens(
    short: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, counted = onpolicy.FreshPlan.batches, []
    monkeypatch.setattr(onpolicy.FreshPlan, "batches", lambda plan, step, *_: batches(plan, step, rank=1, world=2))
    monkeypatch.setattr(onpolicy, "gather_object", lambda own: counted.append(own) or [*own, 30, 3])
    train_command(config(short, base, tmp_path / "run", "grpo", max_steps=1, batch_size=1, set=("k=2",)))
    assert counted == [[0, 0]]


@pytest.mark.parametrize("method", ["remax", "rloo", "ppo"])
def test_the_reference_is_the_policy_that_training_starts_from(
    method: str, short: Path, base: Path, tmp_path: Path
) -> None:
    """Also where that is an adapter: no KL before the first update, and some after it."""
    train_command(config(short, base, tmp_path / "first", "mle", max_steps=10))
    train_command(
        config(short, base, tmp_path / "run", method, max_steps=3, init=str(tmp_path / "first"), set=("k=2",))
    )
    kl = [line["kl"] for line in metrics(tmp_path / "run")]
    assert kl[0] == pytest.approx(0.0, abs=1e-4)
    assert abs(kl[-1]) > 1e-3


@pytest.mark.parametrize("method", ["remax", "rloo", "ppo"])
def test_a_response_without_an_end_loses_reward_and_is_counted(
    method: str, short: Path, fluent: Path, tmp_path: Path
) -> None:
    lines = {}
    for lost in (0, 3):
        out, k = tmp_path / str(lost), ("k=4", f"missing_end={lost}")
        train_command(config(short, fluent, out, method, max_steps=1, learning_rate=1e-30, max_new_tokens=40, set=k))
        [lines[lost]] = metrics(out)
    assert 0 < lines[0]["unfinished"] < 1
    for name in ("unfinished", "reward", "kl"):  # the same responses, and what the scorer said of them
        assert lines[0][name] == lines[3][name]
    assert abs(lines[0]["loss"] - lines[3]["loss"]) > 1e-3


@pytest.mark.parametrize("method", ["rloo", "grpo", "ppo"])
def test_a_killed_run_ends_with_the_same_weights(method: str, short: Path, base: Path, tmp_path: Path) -> None:
    whole, cut = (config(short, base, tmp_path / n, method, max_steps=5, save_steps=2) for n in ("whole", "cut"))
    train_command(whole)
    stopped(cut, 3)
    train_command(cut)
    one, two = (load_file(Path(c.output) / "adapter_model.safetensors") for c in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_cannot_be_scored_is_refused_before_anything_is_loaded(short: Path, base: Path, tmp_path: Path) -> None:
    for more, told in (
        ({"adapter": "none"}, r"its reference is the model without its adapter\. Use --adapter lora\."),
        (
            {"scorer": "human"},
            r"people rated the logs, nobody rates new responses\. Fit one: .*, then --scorer SCORER\.",
        ),
        ({"scorer": "countable:sentences"}, r"does not score words, which the reward counts\. Fit one: "),
    ):
        with pytest.raises(SteerError, match=told):
            train_command(config(short, base, tmp_path / "run", "remax", **more))
    assert not (tmp_path / "run").exists()
    schema = Schema.load(short / "schema.json").turned({"words": (0, 0.0)})
    with pytest.raises(SteerError, match="no attribute of the schema has a better end"):
        rewarder(load_scorer("countable:words"), schema)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: remax.Settings(k=0), "k 0: wanted 1 or more."),
        (lambda: remax.Settings(clip=0.0), "clip 0.0: wanted above 0."),
        (lambda: rloo.Settings(k=1), "k 1: wanted 2 or more."),
        (lambda: rloo.Settings(kl=-1), "kl -1: wanted 0 or more."),
    ],
)
def test_settings_without_meaning_are_refused(make: Any, wanted: str) -> None:
    with pytest.raises(SteerError, match=re.escape(wanted)):
        make()


def test_a_run_is_another_with_another_scorer(short: Path, base: Path, tmp_path: Path) -> None:
    one = config(short, base, tmp_path / "run", "rloo", max_steps=1)
    train_command(one)
    with pytest.raises(SteerError, match="scorer"):
        train_command(replace(one, scorer="countable:words,sentences"))


def test_prompts_are_left_out_only_where_no_response_fits(short: Path, base: Path, tmp_path: Path) -> None:
    told = train_command(config(short, base, tmp_path / "run", "rloo", max_steps=1, max_length=40))
    assert "prompts (" in told
    assert " 0 too long" in told
    assert "left out by the method" not in told
    with pytest.raises(SteerError, match="no prompt leaves 24 of 26 tokens free"):
        train_command(config(short, base, tmp_path / "other", "rloo", max_length=26))


def test_ppo_sees_as_many_prompts_per_epoch_as_the_others(short: Path, base: Path, tmp_path: Path) -> None:
    for method in ("rloo", "ppo"):
        train_command(config(short, base, tmp_path / method, method, num_train_epochs=0.1, batch_size=4, set=("k=2",)))
    one, two = (metrics(tmp_path / m)[-1]["step"] for m in ("rloo", "ppo"))
    assert abs(two - 2 * one) <= 1
    rewards = [line["reward"] for line in metrics(tmp_path / "ppo")]
    assert all(a == b for a, b in zip(rewards[::2], rewards[1::2]))  # two steps on the same responses
