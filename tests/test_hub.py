"""What a run reads of the hub: one commit from its beginning to its end, whatever is published meanwhile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_recipes import hub as sets
from steer import hub
from steer.config.generation import GenerateConfig
from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.command import generate_command
from steer.labelling.command import label_command
from steer.models.card import Card
from steer.models.policy import load_policy
from steer.rows import read_rows
from steer.run_folder import Run, fingerprint, origin_of, stage
from steer.training.command import train_command

ONE, TWO = "1" * 40, "2" * 40


def put(path: Path, count: int = 20) -> list[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": f"q {i}", "response": "word " * (i + 1)}) + "\n" for i in range(count)]
    path.write_text("".join(lines))
    return lines


def test_a_local_set_that_is_named_like_one_of_the_hub_is_known_by_its_content(tmp_path: Path) -> None:
    lines = put(tmp_path / "set" / "train.jsonl")
    asked: dict[str, Any] = {"rows": f"hf:{tmp_path / 'set'}", "scorer": "countable:words", "shard_size": 5}
    label_command(LabelConfig(**asked, output=str(tmp_path / "out"), shard="1/2"))
    (tmp_path / "set" / "train.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(SteerError, match=r"holds a run with other settings \(inputs\.rows\)"):
        label_command(LabelConfig(**asked, output=str(tmp_path / "out"), shard="2/2"))
    (tmp_path / "set" / "train.jsonl").write_text("".join(lines))
    label_command(LabelConfig(**asked, output=str(tmp_path / "out"), shard="2/2"))
    for row in read_rows(tmp_path / "out"):
        assert row["predicted"]["words"] == len(row["response"].split())


def test_a_run_goes_on_with_the_commit_of_a_model_that_it_began_with(
    published: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "prompts.jsonl", 8)
    asked: dict[str, Any] = {"policy": "org/toy", "input": str(tmp_path / "prompts.jsonl"), "max_new_tokens": 8}
    asked |= {"shard_size": 2, "temperature": 1.0}
    for name in ("one", "half"):
        generate_command(GenerateConfig(**asked, output=str(tmp_path / name), shard="" if name == "one" else "1/2"))
    published(TWO, 0.5)
    capsys.readouterr()
    generate_command(GenerateConfig(**asked, output=str(tmp_path / "half"), shard="2/2"))
    assert "org/toy: this run goes on with commit 1111111, which it began with; the hub has 2222222." in (
        capsys.readouterr().err
    )
    drawn = [(tmp_path / name / "rows.jsonl").read_text().replace('"half/', '"one/') for name in ("one", "half")]
    generate_command(GenerateConfig(**asked, output=str(tmp_path / "new")))
    texts = [[row["response"] for row in read_rows(tmp_path / name)] for name in ("one", "half", "new")]
    assert drawn[0].count("\n") == drawn[1].count("\n") == 8
    assert texts[0] == texts[1] != texts[2]
    assert load_policy("org/toy").revision == TWO, "what is held is let go at the end of the run"


def test_a_training_goes_on_with_the_commit_that_it_began_with(
    published: Any, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    config = TrainConfig(str(labels), "org/toy", str(tmp_path / "run"), max_steps=4, save_steps=1, lora_r=2)
    stopped = pytest.MonkeyPatch()
    stopped.setattr("steer.training.command.Run.finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_command(config)
    stopped.undo()
    published(TWO, 30.0)
    train_command(config)
    assert Card.load(tmp_path / "run").base_revision == ONE
    shutil.rmtree(tmp_path / "run")
    train_command(config)
    assert Card.load(tmp_path / "run").base_revision == TWO


def test_rows_of_the_hub_are_known_by_their_commit_and_read_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits, read = {"main": ONE, "v2": TWO}, []
    monkeypatch.setattr(hub, "online", lambda: True)
    found = "huggingface_hub.HfApi.repo_info"
    monkeypatch.setattr(found, lambda self, name, repo_type, revision: SimpleNamespace(sha=commits[revision]))
    monkeypatch.setattr(sets, "_loaded", lambda *place: iter(read.append(place[1:]) or ()))
    spec = "hf:me/set/part:small#train"
    assert fingerprint(spec) == f"rows {spec} at commit {ONE}"
    assert fingerprint("hf:me/set@v2").endswith(f" at commit {TWO}")

    @stage
    def work(config: LabelConfig) -> str:
        Run(config.output, config, {"rows": fingerprint(config.rows)}).start()
        return hub.at_commit(config.rows)

    config = LabelConfig(spec, str(tmp_path / "run"))
    assert work(config) == f"hf:me/set/part:small@{ONE}#train"
    commits["main"] = TWO
    assert work(config) == f"hf:me/set/part:small@{ONE}#train"
    assert hub.at_commit(spec) == spec
    assert fingerprint(spec).endswith(TWO)
    list(sets.records(hub.at_commit(spec)))
    assert read == [("me/set", "small", "part", None, "train")]


def test_a_file_of_a_repository_has_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "_newest", lambda name, *_: asked.append(name) or ONE)
    assert hub.origin("me/toy/toy-q4.gguf") == f"model me/toy/toy-q4.gguf at commit {ONE}"
    assert hub.origin("toy") == f"model toy at commit {ONE}"
    assert asked == ["me/toy", "toy"]


def test_what_is_no_name_of_the_hub_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "online", lambda: pytest.fail("asked"))
    assert hub.origin("s3://bucket/policy") == origin_of("") == origin_of("/no/such/folder") == ""
