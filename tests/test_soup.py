"""Rewarded soups: the mean of what adapters add to one base, and what has no mean."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steer.config.export import SoupConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.export.command import soup_command
from steer.export.soup import mixed, soup
from steer.models.policy import load_policy
from steer.run_folder import read_json, write_json
from steer.training.command import train_command


@pytest.fixture(scope="module")
def two(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of different methods, ranks and scales."""
    folder, folders = tmp_path_factory.mktemp("soups"), []
    for name, more in (("mle", {"lora_r": 4}), ("filtered", {"lora_r": 2, "lora_alpha": 16, "use_rslora": True})):
        config: dict[str, Any] = {"method": name, "max_steps": 3, "learning_rate": 1e-2, **more}
        train_command(TrainConfig(str(labels), str(base), str(folder / name), **config))
        folders.append(folder / name)
    return folders


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    """What the adapter adds to the weights of each layer."""
    model = load_policy(str(folder), device="cpu").model
    return {n: m.get_delta_weight("default").detach() for n, m in model.named_modules() if hasattr(m, "lora_A")}


@pytest.mark.parametrize("shares", [(), (3.0, 1.0), (1.0, 0.0)])
def test_what_is_added_to_the_base_is_the_weighted_mean(
    two: list[Path], tmp_path: Path, shares: tuple[float, ...]
) -> None:
    soup(two, tmp_path / "soup", shares=shares)
    w = [x / sum(shares or (1.0, 1.0)) for x in shares or (1.0, 1.0)]
    one, other, both = (deltas(f) for f in (*two, tmp_path / "soup"))
    assert max(float(x.abs().max()) for x in one.values()) > 1e-3
    for name, found in both.items():
        assert torch.allclose(found, w[0] * one[name] + w[1] * other[name], atol=1e-6)


def test_the_command_says_what_is_in_it_and_answers(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "soup"
    told = soup_command(SoupConfig(tuple(map(str, two)), output=str(out), share=("3", "1")))
    assert told == f"soup of 0.75 of mle, 0.25 of filtered -> {out}"
    assert read_json(out / "steer.json")["settings"] == {"mle": 0.75, "filtered": 0.25}
    assert isinstance(load_policy(str(out)).generate("Hello.", max_new_tokens=4), str)
    with pytest.raises(SteerError, match="holds another export"):
        soup(two, out)


def test_policies_whose_folders_have_one_name_are_told_by_their_paths(two: list[Path], tmp_path: Path) -> None:
    paths = [tmp_path / name / "policy" for name in "ab"]
    for path, policy in zip(paths, two):
        shutil.copytree(policy, path)
    card = soup(paths, tmp_path / "soup", shares=(3, 1))
    assert card.settings == {str(paths[0]): 0.75, str(paths[1]): 0.25}


def test_what_has_no_mean_is_refused(two: list[Path], trained: Path, tmp_path: Path) -> None:
    for policies, shares, told in (
        (two[:1], (), "a soup is made of two policies or more"),
        (two, (1.0,), "1 shares for 2 policies"),
        (two, (0.0, 0.0), "shares 0, 0: wanted 0 or more"),
        ([two[0], trained], (), "is no finished policy with an adapter"),
        ([two[0], two[0]], (0.3, 0.7), "mle: is named twice"),
    ):
        with pytest.raises(SteerError, match=told):
            soup(policies, tmp_path / "soup", shares=shares)
    assert not (tmp_path / "soup").exists()


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("adapter_config.json", {"use_dora": True}, "has use_dora, .*Train it with .* without --use-dora"),
        ("steer.json", {"base": "other", "base_hash": "other"}, r"no mean\. Train both from one --model\."),
        (
            "steer.json",
            {"template": "words"},
            "no prompt suits both. Train both on labels of one schema, with the same --",
        ),
    ],
)
def test_policies_that_do_not_go_together_are_refused_with_what_would(
    two: list[Path], file: str, change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    shutil.copytree(two[1], tmp_path / "other")
    write_json(tmp_path / "other" / file, {**read_json(tmp_path / "other" / file), **change})
    with pytest.raises(SteerError, match=told):
        soup([two[0], tmp_path / "other"], tmp_path / "soup")


def test_adapters_on_other_layers_are_refused_with_the_flag(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        save_file({f"{name}.lora_A.weight": torch.zeros(2, 5)}, tmp_path / name / "adapter_model.safetensors")
        write_json(tmp_path / name / "adapter_config.json", {"r": 2, "lora_alpha": 2})
    with pytest.raises(SteerError, match=r"other layers .*Train both with the same --target-modules\."):
        mixed([tmp_path / "one", tmp_path / "other"], (0.5, 0.5))


@pytest.mark.parametrize("shared", [True, False])
def test_matrices_averaged_each_by_itself_are_the_mean_policy_only_if_they_share_one(
    shared: bool, tmp_path: Path
) -> None:
    """alexrame/rewardedsoups@1f4aef4 llama/utils/inference_utils.py average_weights is the former."""
    draw, folders, adapters = torch.Generator().manual_seed(0), [], []
    down = torch.randn(2, 5, generator=draw)
    for name in ("one", "other"):
        state = {"layer.lora_A.weight": down if shared else torch.randn(2, 5, generator=draw)}
        state["layer.lora_B.weight"] = torch.randn(3, 2, generator=draw)
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        save_file(state, folders[-1] / "adapter_model.safetensors")
        write_json(folders[-1] / "adapter_config.json", {"r": 2, "lora_alpha": 2})
        adapters.append(state)
    _, found = mixed(folders, (0.75, 0.25))
    a, b = (0.75 * x + 0.25 * y for x, y in (zip(*(s.values() for s in adapters))))
    same = torch.allclose(found["layer.lora_B.weight"] @ found["layer.lora_A.weight"], b @ a, atol=1e-6)
    assert same is shared
