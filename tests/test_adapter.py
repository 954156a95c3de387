"""Tokens for the levels of a condition: their rows are trained, saved, and never written by the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import stopped
from safetensors.torch import load_file

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.engines import respond
from steer.generation.generate import held_out_prompts
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.models.lora import add_control_tokens
from steer.models.policy import load_policy
from steer.run_folder import read_json
from steer.training.command import train_command

LEVELS = [["<warmth>0", "<warmth>1", "<warmth>2"], ["<length>1", "<length>10"]]
NAMES = [name for levels in LEVELS for name in levels]


@pytest.mark.parametrize("tied", [True, False])
def test_every_level_is_one_token_and_the_rows_lie_on_a_line(base: Path, tied: bool) -> None:
    policy = load_policy(str(base))
    model, tokenizer = policy.model, policy.tokenizer
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(2 * model.lm_head.weight.detach())
    before = model.get_input_embeddings().weight.detach().clone()
    head = model.lm_head.weight.detach().clone()
    ids = add_control_tokens(model, tokenizer, LEVELS, seed=3)
    assert tokenizer(" ".join(NAMES), add_special_tokens=False)["input_ids"][::2] == ids
    rows = model.get_input_embeddings().weight.detach()
    assert torch.equal(rows[: len(before)], before)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    if not tied:
        torch.testing.assert_close(model.lm_head.weight[ids], head.mean(0).expand(len(ids), -1))
    low, middle, high = rows[ids[:3]]
    torch.testing.assert_close(middle, (low + high) / 2)
    assert (high - low).norm() > 0.1 * before.norm(dim=1).mean()
    again = rows.clone()
    assert add_control_tokens(model, tokenizer, LEVELS, seed=4) == ids
    assert torch.equal(model.get_input_embeddings().weight, again), "tokens that are known keep their rows"


def test_a_tokenizer_that_would_lose_the_tokens_is_refused(base: Path) -> None:
    policy = load_policy(str(base))
    with pytest.raises(SteerError, match=r"does not keep '<warmth>0' as one token\. Use --condition-tokens text\.$"):
        add_control_tokens(policy.model, _Deaf(policy.tokenizer), LEVELS, seed=0)


class _Deaf:
    """A tokenizer that takes new tokens and does not use them."""

    def __init__(self, tokenizer: object) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> object:
        return getattr(self.tokenizer, name)

    def __len__(self) -> int:
        return len(self.tokenizer)  # type: ignore[arg-type]

    def __call__(self, texts: list[str], **more: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0, 1] for _ in texts]}


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_policy_with_control_tokens_survives_saving(adapter: str, labels: Path, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    config = TrainConfig(
        str(labels),
        str(base),
        str(folder),
        adapter=adapter,
        condition_tokens="special",
        max_steps=30,
        learning_rate=1e-2,
        batch_size=8,
    )
    train_command(config)
    policy = load_policy(str(folder))
    assert policy.card is not None
    assert policy.card.condition_tokens == "special"
    tokens = [t for levels in policy.card.control_tokens() for t in levels]
    ids = policy.tokenizer.convert_tokens_to_ids(tokens)
    fresh = load_policy(str(base))
    add_control_tokens(fresh.model, fresh.tokenizer, policy.card.control_tokens(), seed=0)
    with torch.no_grad():
        shown = policy.model.get_input_embeddings()(torch.tensor(ids))
        start = fresh.model.get_input_embeddings()(torch.tensor(ids))
    assert ids == fresh.tokenizer.convert_tokens_to_ids(tokens)
    assert (shown - start).abs().max() > 1e-3, "the rows of the tokens were trained"
    if adapter == "lora":
        saved = load_file(folder / "adapter_model.safetensors")
        assert not any(name.endswith("embed_tokens.weight") for name in saved), "only the trained rows are saved"
        written = read_json(folder / "adapter_config.json")
        assert written["trainable_token_indices"] == ids
        assert written["target_modules"] == sorted(written["target_modules"])  # the same in every process
        assert [v.shape[0] for n, v in saved.items() if "trainable_tokens" in n] == [len(ids)]
    rows = held_out_prompts(str(labels), 0.1, 0, 4, "train")
    drawn = respond(policy, [Request(r, {"warmth": 4}) for r in rows for _ in range(8)], Sampling(max_new_tokens=30))
    assert all("<warmth>" not in r.text for r in drawn)
    assert [policy.pieces[i] for i in ids] == tokens, "the text that generation rules out"


def test_resuming_with_control_tokens_gives_the_same_weights(labels: Path, base: Path, tmp_path: Path) -> None:
    more = {"condition_tokens": "special", "max_steps": 6, "learning_rate": 1e-2, "batch_size": 8, "save_steps": 3}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_command(TrainConfig(str(labels), str(base), str(whole), **more))  # type: ignore[arg-type]
    stopped(TrainConfig(str(labels), str(base), str(cut), **more), 4)  # type: ignore[arg-type]
    train_command(TrainConfig(str(labels), str(base), str(cut), **more))  # type: ignore[arg-type]
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_layout_of_steerlm_stays_text(labels: Path, base: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        str(labels), str(base), str(tmp_path / "run"), template="steerlm", condition_tokens="special", max_steps=1
    )
    with pytest.raises(SteerError, match=r"template 'steerlm' is plain text by its layout\. Use --condition-tokens"):
        train_command(config)
    assert not (tmp_path / "run").exists()
