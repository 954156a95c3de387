"""Models in GGUF files are loaded dequantised, wherever a model is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")

import gguf_files

from attribute_models import bases
from attribute_models.bases import Weights
from attribute_models.embeddings import Embeddings, EmbeddingsSettings
from steer.config.generation import GenerateConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.export.policy import export_policy
from steer.generation.command import generate_command
from steer.labelling.scorer import load_scorer
from steer.models.policy import load_policy
from steer.training.command import train_command


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_files.plain(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def whole(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_files.converted(plain, tmp_path_factory.mktemp("gguf") / "toy.F32.gguf")


def logps(policy: Any, text: str = "the thing is\n") -> torch.Tensor:
    with torch.no_grad():
        ids = policy.tokenizer(text, return_tensors="pt")["input_ids"]
        found: torch.Tensor = policy.model(ids).logits.log_softmax(-1)
    return found


def test_a_file_or_its_folder_is_the_model_it_was_made_of(
    plain: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = load_policy(str(plain))
    for name in (whole, whole.parent):
        policy = load_policy(str(name), dtype="float32")
        assert policy.tokenizer.chat_template == gguf_files.TEMPLATE
        assert policy.tokenizer.eos_token == "<|end|>"
        assert logps(policy) == pytest.approx(logps(origin), abs=1e-5)
        said = capsys.readouterr().err.splitlines()
        assert [line for line in said if "load" not in line] == [Weights.of(str(name)).note(f"steer: {name}")]
        weightless = load_policy(str(name), device="meta")
        assert weightless.model.config.hidden_size == 32
        assert weightless.end == policy.end


def test_quantised_weights_are_those_that_the_file_holds(plain: Path, tmp_path: Path) -> None:
    import gguf

    path = gguf_files.converted(plain, tmp_path / "toy.Q8_0.gguf", "Q8_0")
    policy, origin = load_policy(str(path)), load_policy(str(plain))
    for name, weight in origin.model.state_dict().items():
        expected = weight.numpy()
        if weight.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            expected = gguf.dequantize(gguf.quantize(expected, kind), kind)
        assert policy.model.state_dict()[name].numpy() == pytest.approx(expected, abs=1e-6)


def test_a_policy_is_trained_on_a_file_and_used_and_exported(
    labels: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-3, "limit": 60, "batch_size": 4}
    train_command(TrainConfig(str(labels), str(whole), str(tmp_path / "policy"), **settings))
    policy = load_policy(str(tmp_path / "policy"))
    assert policy.card is not None
    assert policy.card.base == str(whole)
    generate_command(
        GenerateConfig(str(tmp_path / "policy"), prompt=("one?",), max_new_tokens=4, output=str(tmp_path / "g"))
    )
    export_policy(tmp_path / "policy", tmp_path / "exported")
    exported = load_policy(str(tmp_path / "exported"))
    assert exported.model.dtype == torch.float32
    assert logps(exported) == pytest.approx(logps(policy), abs=1e-4)
    moved = shutil.copy(whole, tmp_path / "moved.gguf")
    with Path(moved).open("ab") as file:
        file.write(b"x")
    with pytest.raises(SteerError, match="cannot be quantised again"):
        load_policy(str(whole), quantised="nf4")


def test_a_scorer_reads_with_a_file(whole: Path, plain: Path, tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": "a"}], "response": x} for x in ("this", "that thing")]
    by_file, by_folder = (
        Embeddings(("a",), EmbeddingsSettings(str(name), cache="none")).embed(rows)[0] for name in (whole, plain)
    )
    assert by_file == pytest.approx(by_folder, abs=1e-5)
    assert bases.digest(str(whole)) == bases.digest(str(shutil.copy(whole, tmp_path / whole.name)))
    with pytest.raises(SteerError, match="lack 1 weights, such as score"):
        load_scorer(f"classifier:{whole}")


def test_several_files_must_be_told_apart(whole: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(whole, tmp_path / name)
    for read in (load_policy, lambda name: load_scorer(f"classifier:{name}")):
        with pytest.raises(SteerError) as error:
            read(str(tmp_path))
        assert f"holds several GGUF files (a.gguf, b.gguf). Name one of them: {tmp_path / 'a.gguf'}." in str(
            error.value
        )
    assert load_policy(str(tmp_path / "b.gguf")).model is not None


def test_a_file_on_the_hub_is_named_behind_its_repository() -> None:
    assert bases.Weights.of("org/name-GGUF/sub/x.Q4.gguf") == ("org/name-GGUF", "sub/x.Q4.gguf")
    assert bases.Weights.of("org/name-GGUF") == ("org/name-GGUF", "")


def test_without_the_package_it_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "find_spec", lambda name: None)
    with pytest.raises(SteerError, match="reading GGUF needs a package: pip install gguf"):
        load_policy(str(whole))


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(SteerError, match=r"cannot be read|can be read"):
        load_policy(str(tmp_path / "x.gguf"))
