"""Losses against the numbers that official code printed for these inputs, each function run at the commit named."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch

from steer.methods import METHODS, c_rlft, cpo, grpo, kto, odpo, orpo, rebel, rpo, simpo, spin, steerlm2
from steer.methods.base import Candidates
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


def test_steerlm2_is_what_nemo_printed_times_the_tokens_of_a_response() -> None:
    """NVIDIA/NeMo-Aligner@af2b3bd gpt_steerlm_model.py compute_baselilne_weights and weight_loss_func."""
    lengths, sums, drawn = (3, 2, 5), (-6.0, -4.0, -9.0), (-5.0, -5.0, -8.0)
    mask = torch.tensor([[[t < n for t in range(5)] for n in lengths]])
    logps, old = (
        torch.tensor([[[x / n if t < n else 9.0 for t in range(5)] for n, x in zip(lengths, xs)]])
        for xs in (sums, drawn)
    )
    w = torch.tensor([[0.4995177298, 0.1114574711, 0.3890247991]])  # softmax of 0.5, -1, 0.25, from a file there
    found = steerlm2.loss(logps, Candidates(mask, torch.zeros(1, 3), weight=w, old=old), steerlm2.Settings())
    assert found.tolist() == pytest.approx([0.6595831809 * sum(lengths) / 3], rel=1e-4)
