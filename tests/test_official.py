"""Losses against the numbers that official code printed for these inputs, each function run at the commit named."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from steer.methods import (
    METHODS,
    a_lol,
    apo,
    awr,
    c_rlft,
    cpo,
    filtered,
    gedi,
    grpo,
    kto,
    odpo,
    orpo,
    ppo,
    quark,
    raft,
    rebel,
    reward_augmented,
    rloo,
    rpo,
    simpo,
    spin,
    sppo,
    steerlm2,
    unlikelihood,
)
from steer.methods.base import Candidates, Method
from steer.methods.groups import Group
from tests.conftest import GOLDEN, mean
from tests.test_kto import LOGPS as SINGLE
from tests.test_kto import MASK as SINGLE_MASK
from tests.test_kto import REF as SINGLE_REF
from tests.test_preferences import GAIN, GAP, LOGPS, MEAN, C, nls


class Official(NamedTuple):
    """What a function of official code returned for the pairs of `C`, whose sums, means and gains are those above."""

    settings: Any
    source: str
    printed: tuple[float, float]


PAIRS = {
    "simpo": Official(
        simpo.Settings(2.5, 0.7),
        "princeton-nlp/SimPO@1b3e8f3 scripts/simpo_trainer.py simpo_loss, gamma_beta_ratio 0.28",
        (0.4554924815, 4.7710079269),
    ),
    "cpo": Official(
        cpo.Settings(0.2, 0.0),
        "huggingface/trl@f2cd577 experimental/cpo/cpo_trainer.py cpo_loss",
        (0.4374879505, 0.8259394199),
    ),
    "cpo with flips": Official(
        cpo.Settings(0.2, 0.0, flips=0.25),
        "the same, label_smoothing 0.25",
        (0.5874879505, 0.7634394199),
    ),
    "apo": Official(
        apo.Settings(0.2),
        "huggingface/trl@f2cd577 trainer/dpo_trainer.py _compute_loss, apo_zero",
        (0.9511463372, 1.1604732313),
    ),
    "apo down": Official(
        apo.Settings(0.2, "down"),
        "the same, apo_down",
        (0.9003320054, 1.1071764654),
    ),
    "odpo": Official(
        odpo.Settings(0.2, 0.5),
        "rycolab/odpo@6152f67 trainers.py preference_loss, offset",
        (0.5981388694, 1.4627492649),
    ),
    "rpo": Official(
        rpo.Settings(0.2, 0.5),
        "NVIDIA/NeMo-Aligner@af2b3bd megatron_gpt_dpo_model.py loss_func, rpo_bwd_kl",
        (0.0107996846, 0.4764271815),
    ),
    "spin": Official(
        spin.Settings(0.2),
        "uclaml/SPIN@a12ba80 spin/alignment/trainer.py spin_loss",
        (0.5981388694, 1.0700553357),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_have_the_loss_that_official_code_printed(name: str) -> None:
    settings, _, printed = PAIRS[name]
    assert METHODS[name.split()[0]].loss(LOGPS, C, settings).tolist() == pytest.approx(printed, rel=1e-5)


def test_the_odds_ratio_is_that_of_trl() -> None:
    """huggingface/trl@f2cd577 experimental/orpo/orpo_trainer.py odds_ratio_loss; the likelihood reads prompts too."""
    found = orpo.loss(LOGPS, C, orpo.Settings(0.3)) + torch.tensor([w for w, _ in MEAN])
    assert found.tolist() == pytest.approx([0.1304966509, 0.8132568002], rel=1e-5)


def test_the_odds_ratio_of_its_authors_counts_a_token_of_padding() -> None:
    """xfactlab/orpo@208d2d6 src/orpo_trainer.py compute_logps: its mask is shifted the wrong way at the end.

    A response of 2 tokens at -1.5 each, padded by one of log-probability -6, has a mean of -3 there.
    """
    attended, prompt = [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]  # a prompt of one token, then the response
    mask = [a - p for a, p in zip(attended[:-1], prompt[1:])]
    each = [-1.5, -1.5, -6.0, -6.0]  # of tokens 1 to 4
    theirs = sum(m * x for m, x in zip(mask, each)) / sum(mask)
    assert theirs == -3.0
    ours = orpo.loss(
        torch.tensor([[each, each]]),
        Candidates(torch.tensor([[[True] * 2 + [False] * 2] * 2]), C.reward),
        orpo.Settings(0.0),
    )
    assert ours.tolist() == [1.5]


def test_cpo_of_its_authors_has_become_another_loss() -> None:
    """fe1ixxu/ALMA@10360c3 utils/cpo_trainer.py cpo_loss weighs the rejected response (ARPO): the paper's is TRL's."""
    printed = [0.9622216868, 0.8494252206]
    for found, theirs, (w, y), (p, q) in zip(
        cpo.loss(LOGPS, C, cpo.Settings(0.2, 0.0)).tolist(), printed, ((-3.0, -6.0), (-2.0, -0.75)), MEAN
    ):
        weight = min(1.0, 0.9 * math.exp(0.4 * abs(p - q)) - 1)
        assert theirs == pytest.approx(nls(0.2 * (w - weight * y)))
        assert found != pytest.approx(theirs, rel=0.01)


def test_rebel_of_its_authors_is_the_same_times_eta_squared() -> None:
    """ZhaolinGao/REBEL@4ad7c11 src/ultrafeedback/rebel.py: (ratio_logprob - eta * (chosen - reject))^2."""
    eta = 2.0
    theirs = [((w - y) - eta * gap) ** 2 for (w, y), gap in zip(GAIN, GAP)]
    found = rebel.loss(LOGPS, C, rebel.Settings(eta))
    assert (eta**2 * found).tolist() == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("eta", "printed"), [(10.0, [6.566250614830617, 6.3403244507874295]), (1e3, [80417.85742216109, 88834.11910575167])]
)
def test_sppo_of_the_best_and_the_worst_draw_is_what_its_authors_printed(eta: float, printed: list[float]) -> None:
    """uclaml/SPPO@5e61c4e sppo/trainer.py sppo_loss of what scripts/compute_prob.py chooses, here of five scores."""
    order = [[1, 0, 3, 2, 4], [3, 0, 1, 2, 4]]  # better first, as groups are
    scores = [[0.4, 1.2, -0.3, 0.4, -2.0], [0.5, 0.1, 0.0, 3.0, -0.7]]
    sums = [[-3.0, -4.5, -6.0, -2.5, -8.0], [-1.0, -2.0, -3.0, -4.0, -5.0]]
    refs = [[-3.5, -4.0, -6.5, -2.0, -7.0], [-1.5, -1.0, -3.5, -4.25, -4.0]]
    score, lp, ref = (
        torch.tensor([[row[i] for i in at] for row, at in zip(rows, order)], dtype=torch.float64)
        for rows in (scores, sums, refs)
    )
    c = Candidates(torch.ones(2, 5, 1, dtype=torch.bool), score, ref)
    assert sppo.loss(lp[..., None], c, sppo.Settings(eta, ends=True)).tolist() == pytest.approx(printed)


KTO = {0.75: [0.6110001001, 0.4073334000, 0.3716838117], 0.0: [0.5315155407, 0.4625701547, 0.4255574832]}


@pytest.mark.parametrize("z", KTO)
def test_kto_is_what_official_code_printed(z: float) -> None:
    """ContextualAI/HALOs@4831988 train/trainers.py KTOTrainer.loss: desirable_weight 1.5, and the z in front."""
    weight = torch.tensor([[1.5], [-1.0], [-1.0]])
    c = Candidates(SINGLE_MASK, torch.zeros(3, 1), SINGLE_REF, weight, baseline=torch.full((3,), z))
    assert kto.loss(SINGLE, c, kto.Settings(beta=0.3))[:, 0].tolist() == pytest.approx(KTO[z], rel=1e-5)


def test_bco_is_what_official_code_printed_for_the_same_shift() -> None:
    """huggingface/trl@f2cd577 experimental/bco/bco_trainer.py bco_loss: a shift of 0.225 of beta times the gains."""
    weight = torch.tensor([[1.0], [-1.0], [-1.0]])
    c = Candidates(SINGLE_MASK, torch.zeros(3, 1), SINGLE_REF, weight, baseline=torch.full((3,), 0.75))
    settings = METHODS["bco"].settings(beta=0.3)
    printed = [0.5231232617, 0.5231232666, 0.4647117569]
    assert METHODS["bco"].loss(SINGLE, c, settings)[:, 0].tolist() == pytest.approx(printed, rel=1e-5)


@pytest.mark.parametrize(
    ("sd", "printed"),
    [(True, [-0.7559286603, -0.3779643302, 1.1338929905, 0, 0, 0]), (False, [-2.0, -1.0, 3.0, 0, 0, 0])],
)
def test_the_advantages_of_grpo_and_dr_grpo_are_those_of_verl(sd: bool, printed: list[float]) -> None:
    """volcengine/verl@b178a3c trainer/ppo/core_algos.py compute_grpo_outcome_advantage; its sd counts K - 1."""
    rewards = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    c = grpo.weigh(Candidates(torch.ones(2, 3, 1, dtype=torch.bool), rewards), grpo.Settings(k=3, sd=sd))
    assert c.advantage is not None
    assert c.advantage.flatten().tolist() == pytest.approx(printed, rel=1e-5)


@pytest.mark.parametrize("reward", [0.1, -0.6546536707, 1.5275252317, 7.7])
@pytest.mark.parametrize("k", [2, 5, 6, 8, 12])
def test_equal_rewards_give_no_advantage(reward: float, k: int) -> None:
    """Their mean is not always their own value in float32, and what is left has a standard deviation as small."""
    c = grpo.weigh(Candidates(torch.ones(1, k, 1, dtype=torch.bool), torch.full((1, k), reward)), grpo.Settings(k=k))
    assert c.advantage is not None
    assert not c.advantage.any()


@pytest.mark.parametrize(("average", "printed"), [("token", 0.421841731), ("response", 1.0700993171)])
def test_the_loss_of_grpo_and_dapo_is_that_of_verl(average: str, printed: float) -> None:
    """The same file: compute_policy_loss_vanilla without its dual clip, plus 0.1 times kl_penalty_forward low_var_kl.

    Aggregated by token-mean (DAPO) and seq-mean-token-mean (GRPO).
    """
    logps = torch.tensor([[[-1.0, -1.0], [-1.0, 9.0]]])
    old, ref = torch.tensor([[[-1.25, -0.5], [-1.0, 0.0]]]), torch.tensor([[[-1.5, -1.0], [-0.5, 0.0]]])
    mask, advantage = torch.tensor([[[True, True], [True, False]]]), torch.tensor([[[2.0, -1.0], [-3.0, 7.0]]])
    s = grpo.Settings(k=2, clip_high=0.28, kl=0.1, average=average)
    c = Candidates(mask, torch.zeros(1, 2), ref, old=old)
    c = grpo.weigh(c, s)._replace(advantage=advantage)
    assert float(grpo.METHOD.total(logps, c, s)) / 3 == pytest.approx(printed, rel=1e-5)


def test_c_rlft_weighs_tokens_as_openchat_does() -> None:
    """imoneoi/openchat@47a3596 ochat/models/unpadded_mistral.py weighted_cross_entropy, over the sum of the weights."""
    logps = torch.tensor([[[-0.3132616875]], [[-0.1269280110]], [[-0.9740769842]]])
    weight = torch.tensor([[1.0], [1.0], [0.1]])
    c = Candidates(torch.ones(3, 1, 1, dtype=torch.bool), torch.zeros(3, 1), weight=weight)
    total = float(c_rlft.METHOD.total(logps, c, c_rlft.Settings(bad=0.1)))
    assert total / 2.1 == pytest.approx(0.2559987605, rel=1e-5)


def linear(method: Method, logps: torch.Tensor, c: Candidates) -> float:
    """Log-probabilities times the gradient by them: what code prints whose loss is linear in them."""
    logps = logps.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(method.total(logps, c, method.settings()), logps)
    return float((gradient * logps.detach()).masked_fill(~c.mask, 0.0).sum())


def test_steerlm2_is_what_nemo_printed_times_the_tokens_of_a_response() -> None:
    """NVIDIA/NeMo-Aligner@af2b3bd gpt_steerlm_model.py compute_baselilne_weights and weight_loss_func."""
    lengths, sums, drawn = (3, 2, 5), (-6.0, -4.0, -9.0), (-5.0, -5.0, -8.0)
    mask = torch.tensor([[[t < n for t in range(5)] for n in lengths]])
    logps, old = (
        torch.tensor([[[x / n if t < n else 9.0 for t in range(5)] for n, x in zip(lengths, xs)]])
        for xs in (sums, drawn)
    )
    w = torch.tensor([[0.4995177298, 0.1114574711, 0.3890247991]])  # softmax of 0.5, -1, 0.25, from a file there
    c = Candidates(mask, torch.zeros(1, 3), weight=w, old=old)
    assert linear(steerlm2.METHOD, logps, c) == pytest.approx(0.6595831809 * sum(lengths) / 3, rel=1e-4)


PROBABLE = torch.tensor([[[0.5, 0.8, 0.99]], [[0.3, 0.9, 0.25]]]).log()
SHORT = torch.tensor([[[True, True, False]], [[True, True, True]]])
PPO_RETURNS = [0.75, 0.75, -1.25, -1.25, 1.75, 1.75, -0.25, -0.25, 0.25, 0.25, -2.375, -2.25, 2.5, 2.75, 0.375, 0.75]
PPO_ADVANTAGES = [
    0.9429604718,
    -0.0304180797,
    -0.5171073555,
    -1.2471412691,
    1.2674199889,
    0.7807307132,
    -0.1926478383,
    -0.4359924762,
    -0.0304180797,
    -0.0304180797,
    -1.8960603034,
    -1.5716007863,
    1.1051902303,
    1.7541092647,
    -0.4359924762,
    0.5373860753,
]
ALIKE = torch.zeros(2, 1)
LIKELIHOODS = [name for name, method in METHODS.items() if method.loss is METHODS["mle"].loss]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_are_the_cross_entropy_that_official_code_printed(name: str) -> None:
    """tomekkorbak/pretraining-with-human-feedback@152e6b6 apo/objectives.py MLE.

    NVIDIA/NeMo@b1f5aa3 megatron_gpt_model.py loss_func, with which NeMo-Aligner trains SteerLM, prints the same.
    """
    assert mean(METHODS[name], PROBABLE, Candidates(SHORT, ALIKE)) == pytest.approx(0.7223836826, rel=1e-6)


def test_a_chain_of_hindsight_is_what_official_code_printed() -> None:
    """lhao499/chain-of-hindsight@9f55cea coh/tools/jax_utils.py cross_entropy_loss_and_accuracy.

    First a row of two answers, of 3 and 2 tokens; then a row with one token more, for theirs is the mean over rows.
    """
    logps = torch.tensor([[[0.5, 0.8, 0.9]], [[0.3, 0.6, 1.0]], [[0.2, 1.0, 1.0]]]).log()
    c = Candidates(torch.tensor([[[True] * 3], [[True, True, False]], [[True, False, False]]]), torch.zeros(3, 1))
    both, last = (
        mean(METHODS["coh"], logps[i], Candidates(c.mask[i], c.reward[i])) for i in (slice(2), slice(2, None))
    )
    assert both == pytest.approx(0.54728997, rel=1e-6)
    assert (both + last) / 2 == pytest.approx(1.0783639, rel=1e-6)
    assert mean(METHODS["coh"], logps, c) == pytest.approx((5 * both + last) / 6)


def rows_of(**rewards: list[float]) -> list[dict[str, Any]]:
    """Rows of the prompts that are named, with these rewards."""
    return [
        {"id": f"{name}{i}", "prompt": [{"role": "user", "content": name}], "response": f"{name}{i}", "reward": reward}
        for name, each in rewards.items()
        for i, reward in enumerate(each)
    ]


def ids_of(groups: list[Group]) -> list[str]:
    return [row["id"] for group in groups for row in group.rows]


@pytest.mark.parametrize(("keep", "printed"), [(0.3, {8, 1, 5}), (0.25, {1, 5})])
def test_filtered_keeps_what_percent_bc_keeps_where_lengths_are_equal(keep: float, printed: set[int]) -> None:
    """kzl/decision-transformer@e2d82e6 gym/experiment.py experiment, sorted_inds of ten trajectories of 4 steps.

    It counts steps: with the lengths 1 8 1 1 1 12 1 1 3 1 it keeps number 5 alone at 0.3.
    """
    rows = rows_of(a=[0.5, 3, -1, 2, 0, 4, 1, -2, 2.5, -3])
    assert set(ids_of(filtered.groups(rows, filtered.Settings(keep)))) == {f"a{i}" for i in printed}


@pytest.mark.parametrize("name", ["raft", "expert-iteration"])
def test_the_best_response_is_the_one_that_official_code_chose(name: str) -> None:
    """OptimalScale/LMFlow@f3597db pipeline/raft_aligner.py _get_batch_dataset_local, and

    tatsu-lab/alpaca_farm@30717dd inference/score.py rerank_sequences_with_huggingface.
    """
    rows = rows_of(a=[0.5, 2, 1], b=[3, -1, 2.5], c=[-2, -3, -1])
    assert ids_of(METHODS[name].groups(rows, raft.Settings())) == ["a1", "b0", "c2"]


def test_awr_has_the_weights_that_its_authors_printed_scaled_to_mean_1() -> None:
    """xbpeng/awr@831442f learning/awr_agent.py _calc_adv and _calc_adv_weights, temp 0.5, V being the mean reward.

    Theirs have a mean of 7.1652821511 before they are clipped at 20, as one of 33 is; ours are scaled first.
    """
    printed = [0.6780647744, 0.0971912348, 1.7909902644, 0.2567137563, 20.0]
    groups = awr.groups(rows_of(a=[1.0, -1, 2, 0, 5]), awr.Settings(beta=0.5, clip=20.0))
    found = [group.weights[0] for group in groups]
    assert found[:-1] == pytest.approx([w / 7.1652821511 for w in printed[:-1]], rel=1e-4)
    assert sum(found) == pytest.approx(5)


def test_a_lol_is_what_its_authors_printed_for_responses_divided_by_tokens() -> None:
    """abaheti95/LoL-RL@9f8d816 train_generation_task_with_off_policy_PG.py, a_lol, ppo_clip 0.9: per_response_loss.

    Theirs weighs by the advantage, here by the advantage over its mean; the third has none and is not drawn there.
    """
    printed, advantages = (4.298336982727051, 0.6459999680519104), (1.5, 0.2)
    logps = torch.tensor([[[-0.5, -1.0, -2.0]], [[-1.5, -0.2, -0.1]]])
    mask = torch.tensor([[[True, True, True]], [[True, True, False]]])
    ref = torch.tensor([[-3.3], [-2.4]])
    scale = sum(advantages) / 2
    c = Candidates(mask, torch.zeros(2, 1), ref=ref, weight=torch.tensor(advantages)[:, None] / scale)
    assert linear(a_lol.METHOD, logps, c) == pytest.approx(sum(printed) / scale, rel=1e-6)


@pytest.mark.parametrize(("weights", "printed"), [((1.0, -0.6), 0.6279616885), ((0.0, -1.0), 0.6648150092)])
def test_unlikelihood_is_what_official_code_printed(weights: tuple[float, float], printed: float) -> None:
    """tomekkorbak/pretraining-with-human-feedback@152e6b6 apo/objectives.py Unlikelihood, alpha 0.6; and ul_seq of

    facebookresearch/unlikelihood_training@9444655 custom/gpt2/run_gpt2.py, which has the bad tokens alone.
    """
    c = Candidates(torch.ones(2, 1, 2, dtype=torch.bool), ALIKE, weight=torch.tensor(weights)[:, None])
    assert mean(unlikelihood.METHOD, PROBABLE[..., :2], c) == pytest.approx(printed, rel=1e-6)


def test_gedi_is_what_its_authors_printed_with_their_sum_or_their_scale() -> None:
    """salesforce/GeDi@2346c7e train_GeDi.py train, gen_weight 0.8, over 0.8: first --sum_loss, then --logit_scale of 2.

    The second divides a response's log-probability by its length.
    """
    mask = torch.tensor([[[True, True, True]] * 2, [[True, True, False]] * 2])
    logps = -torch.tensor([[[1.0, 0.25, 0.5], [2, 0.125, 1]], [[0.75, 2, 9], [0.5, 1.5, 9]]])
    c = Candidates(mask, torch.zeros(2, 2))
    assert mean(gedi.METHOD, logps, c, weight=0.25) == pytest.approx(0.9195616991 / 0.8, rel=1e-6)
    scaled = logps * torch.tensor([2 / 3, 2 / 2])[:, None, None]
    posterior = mean(gedi.METHOD, scaled, c, weight=0.25) - mean(gedi.METHOD, scaled, c, weight=0.0)
    assert mean(gedi.METHOD, logps, c, weight=0.0) + posterior == pytest.approx(0.9306569181 / 0.8, rel=1e-6)


def test_quark_is_what_its_authors_printed_with_the_divergence_the_other_way_round() -> None:
    """GXimingLu/Quark@30c9a0f main.py ConditionTrainer.loss, kl_coef 0.4 and entropy_coef 0.3.

    tatsu-lab/alpaca_farm@30717dd rl/quark_trainer.py compute_loss prints 3/4 of it: its mean is over padding too.
    """
    policy = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], [[0.2, 0.2, 0.6], [0.9, 0.05, 0.05]]])[:, None]
    start = torch.tensor([[[0.4, 0.4, 0.2], [0.25, 0.25, 0.5]], [[0.3, 0.1, 0.6], [0.2, 0.4, 0.4]]])[:, None]
    p, p0 = Categorical(policy), Categorical(start)
    mask = torch.tensor([[[True, True]], [[True, False]]])
    c = Candidates(mask, ALIKE, kl=kl_divergence(p, p0), entropy=p.entropy())
    logps = p.log_prob(torch.tensor([[[0, 2]], [[1, 0]]]))
    printed, alpaca_farm = 0.9294934447, 0.6971200835
    assert mean(quark.METHOD, logps, c, kl=0.4, entropy=0.3) == pytest.approx(printed, rel=1e-6)
    assert alpaca_farm == pytest.approx(printed * 3 / 4, rel=1e-6)


def test_rloo_has_the_advantages_and_the_gradient_that_trl_printed() -> None:
    """huggingface/trl@f2cd577 trainer/rloo_trainer.py: advantages of _generate_and_score_completions, beta 0.2, and

    the gradient of _compute_loss, which is -a / 6 on every token of six responses.
    """
    mask = torch.tensor([[[t < n for t in range(3)] for n in lengths] for lengths in ((2, 1, 3), (2, 1, 3))])
    old = torch.tensor([[[-1.0, -2, 9], [-3, 9, 9], [-1, -1, -1]], [[-0.5, -0.5, 9], [-2, 9, 9], [-1, -0.25, -0.75]]])
    ref = torch.tensor([[[-1.5, -1, 7], [-2, 7, 7], [-1, -2, -3]], [[-1, -0.5, 7], [-2.5, 7, 7], [-1, -1, -1]]])
    s = rloo.Settings(k=3, kl=0.2)
    c = rloo.weigh(Candidates(mask, torch.tensor([[1.0, 3, -2], [0.5, -1, 2]]), ref, old=old), s)
    assert c.weight is not None
    assert c.weight.flatten().tolist() == pytest.approx([0.8, 3.95, -4.75, 0.05, -2.2, 2.15], rel=1e-5)
    logps = old.clone().requires_grad_()
    (rloo.METHOD.total(logps, c, s) / 6).backward()
    assert logps.grad is not None
    printed = [-0.1333333333, -0.6583333333, 0.7916666667, -0.0083333333, 0.3666666667, -0.3583333333]
    expected = torch.tensor(printed).view(2, 3, 1) * mask
    torch.testing.assert_close(logps.grad, expected)


def test_ppo_is_what_alpaca_farm_printed_where_its_penalty_is_not_clamped() -> None:
    """tatsu-lab/alpaca_farm@30717dd rl/ppo_trainer.py _shape_reward, _estimate_advantage and compute_loss.

    kl_coef 0.5, gamma = lam = 1, cliprange 0.2, vf_coef 0.2; eight responses of two tokens. It clamps the KL of a token
    at 0, as if the reference were no likelier than the policy.
    """
    k = torch.arange(8.0)
    old = torch.stack([-1 - 0.125 * k, -0.5 - 0.25 * k], 1)[:, None]
    ref = old - torch.stack([0.25 * k - 1, 0.5 + 0 * k], 1)[:, None]
    value = torch.stack([0.25 * k - 1, 0.5 - 0.125 * k], 1)[:, None]
    reward = torch.tensor([1.0, -1, 2, 0, 0.5, -2, 3, 1])[:, None]
    s = ppo.Settings(clip=0.2, vf=0.1, kl=0.5)
    c = Candidates(torch.ones(8, 1, 2, dtype=torch.bool), reward, ref.minimum(old), old=old, value=value)
    c = ppo.weigh(c, s)
    assert c.advantage is not None
    assert c.returns is not None
    assert c.returns.flatten().tolist() == pytest.approx(PPO_RETURNS)
    assert c.advantage.flatten().tolist() == pytest.approx(PPO_ADVANTAGES, rel=1e-5)
    step = [0.5, -0.5, 0.1, -0.1, -0.3, 0.3, 0, 0.25, -0.25, 0, 0.2, 0.4, -0.4, -0.2, 0.05, 0.15]
    c = c._replace(value=value + 0.1)
    total = ppo.METHOD.total(old + torch.tensor(step).view(8, 1, 2), c, s)
    assert float(total) / 16 == pytest.approx(0.3564502907, rel=1e-5)


def test_the_goal_of_the_worse_response_turns_the_pair_as_in_official_code() -> None:
    """shenao-zhang/reward-augmented-preference@47f0b8d scripts/reward_augmentation.py add_pos_goal and add_neg_goal.

    add_neg_goal_nosys, for models without a system prompt, leaves the better response in front under the goal 3.5.
    """
    rows = [row | {"levels": {"overall": round(row["reward"])}} for row in rows_of(a=[8.0, 3.5])]
    groups = reward_augmented.groups(rows, reward_augmented.Settings())
    found = [([row["levels"]["overall"] for row in g.rows], ids_of([g])) for g in groups]
    assert found == [([8, 8], ["a0", "a1"]), ([4, 4], ["a1", "a0"])]
    assert METHODS["reward-augmented"].loss is METHODS["dpo"].loss


# The test that holds each method; those of golden.json are in the tests of the method.
HELD: dict[str, Callable[..., None] | Path] = {
    **{name.split("_")[0]: GOLDEN for name in json.loads(GOLDEN.read_text())["official"]},
    **{name.split()[0]: test_pairs_have_the_loss_that_official_code_printed for name in PAIRS},
    "mle": test_likelihoods_are_the_cross_entropy_that_official_code_printed,
    "conditional": test_likelihoods_are_the_cross_entropy_that_official_code_printed,
    "coh": test_a_chain_of_hindsight_is_what_official_code_printed,
    "filtered": test_filtered_keeps_what_percent_bc_keeps_where_lengths_are_equal,
    "raft": test_the_best_response_is_the_one_that_official_code_chose,
    "expert-iteration": test_the_best_response_is_the_one_that_official_code_chose,
    "awr": test_awr_has_the_weights_that_its_authors_printed_scaled_to_mean_1,
    "a-lol": test_a_lol_is_what_its_authors_printed_for_responses_divided_by_tokens,
    "unlikelihood": test_unlikelihood_is_what_official_code_printed,
    "orpo": test_the_odds_ratio_is_that_of_trl,
    "rebel": test_rebel_of_its_authors_is_the_same_times_eta_squared,
    "sppo": test_sppo_of_the_best_and_the_worst_draw_is_what_its_authors_printed,
    "kto": test_kto_is_what_official_code_printed,
    "bco": test_bco_is_what_official_code_printed_for_the_same_shift,
    "rloo": test_rloo_has_the_advantages_and_the_gradient_that_trl_printed,
    "grpo": test_the_loss_of_grpo_and_dapo_is_that_of_verl,
    "ppo": test_ppo_is_what_alpaca_farm_printed_where_its_penalty_is_not_clamped,
    "gedi": test_gedi_is_what_its_authors_printed_with_their_sum_or_their_scale,
    "quark": test_quark_is_what_its_authors_printed_with_the_divergence_the_other_way_round,
    "reward-augmented": test_the_goal_of_the_worse_response_turns_the_pair_as_in_official_code,
    "c-rlft": test_c_rlft_weighs_tokens_as_openchat_does,
    "steerlm2": test_steerlm2_is_what_nemo_printed_times_the_tokens_of_a_response,
}


def test_the_page_names_the_methods_whose_code_was_not_released() -> None:
    page = " ".join((Path(__file__).parents[1] / "docs" / "methods.md").read_text().split())
    [sentence] = re.findall(r"whose code was not released: (.*?)\.", page)
    named = set(re.findall("`(.*?)`", sentence))
    assert named == METHODS.keys() - HELD.keys()
    assert HELD.keys() <= METHODS.keys()
    for name in named:
        assert "released" in (importlib.import_module(f"steer.methods.{name.replace('-', '_')}").__doc__ or ""), name
