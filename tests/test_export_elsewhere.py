"""Exports for llama.cpp, Ollama, other readers of classifiers, and the hub."""

from __future__ import annotations

import json
import os
import re
from fnmatch import fnmatch
from inspect import signature
from pathlib import Path
from tempfile import gettempdir
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steer.config.export import ExportConfig
from steer.config.labelling import FitConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.export import gguf, ollama
from steer.export.command import export_command
from steer.labelling.command import fit_command
from steer.labelling.scorer import load_scorer
from steer.models.card import Card
from steer.models.policy import load_policy
from steer.rows import read_rows
from steer.rows.labelled import Labelled
from steer.run_folder import read_json
from steer.training.command import train_command

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "tell me about bees"},
    {"role": "assistant", "content": "bees give honey."},
    {"role": "user", "content": "and cows?"},
]


def converter(folder: Path, text: str) -> Path:
    """A program that stands for llama.cpp's converter."""
    path = folder / gguf.CONVERTER
    path.write_text(f"import json, pathlib, sys\n{text}\n")
    return path


WRITES = "pathlib.Path(sys.argv[sys.argv.index('--outfile') + 1]).write_text(json.dumps(sys.argv[1:]))"


def interpreted(template: str, chat: list[dict[str, str]]) -> str:
    """What Go makes of a template that only tests roles, the last message, and whether there is a system turn."""
    system = next((turn["content"] for turn in chat if turn["role"] == "system"), "")
    tokens = re.split(r"(\{\{.*?\}\})", template)

    def block(i: int, on: bool, turn: dict[str, str], last: bool) -> tuple[int, str, str]:
        out = ""
        while i < len(tokens):
            token, i = tokens[i], i + 1
            inner = token[2:-2].strip() if token.startswith("{{") else None
            if inner is None:
                out += token if on else ""
            elif inner.startswith("if "):
                done, shown, condition = False, "", inner[3:]
                while True:
                    truth = {"not .System": not system, "$last": last, "not $last": not last}.get(condition)
                    truth = condition == f'eq .Role "{turn.get("role")}"' if truth is None else truth
                    i, text, stop = block(i, truth and not done, turn, last)
                    shown, done = shown + text, done or truth
                    if stop == "end":
                        break
                    condition = stop.removeprefix("else").removeprefix(" if ") or "not done"
                    if condition == "not done":
                        i, text, _ = block(i, not done, turn, last)
                        shown += text
                        break
                out += shown if on else ""
            elif inner == "end" or inner.startswith("else"):
                return i, out, inner
            elif inner.startswith("range"):
                body = i
                for n, each in enumerate(chat):
                    i, text, _ = block(body, True, each, n == len(chat) - 1)
                    out += text
            elif inner == ".Content":
                out += turn["content"] if on else ""
            elif inner == '"{{"':
                out += "{{" if on else ""
            else:
                assert inner.startswith("$last :=")
        return i, out, ""

    return block(0, True, {}, False)[1]


@pytest.mark.parametrize("target", ["", "helpfulness=low"])
def test_gguf_and_a_modelfile_that_writes_what_the_template_writes(
    target: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = converter(tmp_path, WRITES)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    script.chmod(0o755)
    folder = tmp_path / "out"
    said = export_command(ExportConfig(str(trained), str(folder), format="gguf", target=target))
    given = json.loads((folder / "model.gguf").read_text())
    assert given[0] == str(folder)
    assert given[-2:] == ["--outtype", "auto"]
    assert "ollama create NAME -f" in said
    file = (folder / "Modelfile").read_text()
    assert file.startswith('FROM ./model.gguf\nTEMPLATE """')
    assert 'PARAMETER stop "<|end|>"' in file
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = file.split('"""')[1]
    options = {"attributes": target} if target else {}
    for chat in (CHAT, CHAT[1:], CHAT[1:2], CHAT[:2]):
        expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **options)
        assert interpreted(template, chat) == expected
    assert "<helpfulness>" in interpreted(template, CHAT)
    assert json.loads((folder / "model.gguf").read_text()) == given
    assert export_command(ExportConfig(str(trained), str(folder), format="gguf", target=target)) == said


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}",
        "{{ bos_token }}{% if messages[0].role != 'system' %}[sys]Be {{ '{{' }} good[/sys]{% endif %}"
        "{% for m in messages %}"
        "{% if m.role == 'system' %}[sys]{{ m.content }}[/sys]{% elif m.role == 'user' %}[u]{{ m.content | trim }}[/u]"
        "{% else %}{{ m.content | trim }}</s>{% endif %}{% endfor %}",
    ],
)
def test_other_shapes_of_turns(template: str, tiny: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.bos_token, tokenizer.chat_template = "<|pad|>", template
    turns = ollama.Turns.of(tokenizer, None)
    assert turns is not None
    for chat in (CHAT, CHAT[1:], CHAT[1:2]):
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert turns.begin + interpreted(turns.go, chat) == text


def test_a_template_that_is_more_than_turns_has_no_modelfile(tiny: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    # the system's text stands in the last turn of the user
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>"
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
        "{{ m.content }}<|end|>{% endfor %}"
    )
    assert ollama.Turns.of(tokenizer, None) is None


def test_a_converter_that_is_missing_or_fails_is_named(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SteerError, match=r"is not on PATH. Get llama.cpp .*--converter llama.cpp"):
        export_command(ExportConfig(str(trained), str(tmp_path / "out"), format="gguf"))
    with pytest.raises(SteerError, match="no such file"):
        gguf.converter(str(tmp_path / "x.py"))
    script = converter(tmp_path, "sys.exit('NotImplementedError: BPE pre-tokenizer was not recognized')")
    with pytest.raises(SteerError, match=r"it says: NotImplementedError: BPE .*the rest of the export is whole"):
        export_command(ExportConfig(str(trained), str(tmp_path / "out"), format="gguf", converter=str(script)))
    assert load_policy(str(tmp_path / "out")).model is not None
    assert not list((tmp_path / "out").glob("*gguf*"))


@pytest.fixture(scope="module")
def rated(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose scores are those that were predicted."""
    path = tmp_path_factory.mktemp("rated") / "rows.jsonl"
    lines = [{**row, "scores": {n: row["predicted"][n] for n in ("warmth", "verbosity")}} for row in read_rows(labels)]
    path.write_text("\n".join(json.dumps({k: r[k] for k in ("id", "prompt", "response", "scores")}) for r in lines))
    return path


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_regression_is_exported_whole(adapter: str, rated: Path, tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    settings = (f"adapter={adapter}", "num_train_epochs=1", "learning_rate=1e-2")
    fit = FitConfig(
        str(rated), str(tmp_path / "fit"), kind="regression", model=str(tiny), set=settings, calibration="none"
    )
    fit_command(fit)
    said = export_command(ExportConfig(str(tmp_path / "fit"), str(tmp_path / "plain")))
    assert "its logits are the scores of warmth, verbosity, not clipped to their ranges" in said
    rows = read_rows(rated)[:20]
    scorer = load_scorer(str(tmp_path / "fit"))
    expected = scorer.model.model.score(rows)
    found = load_scorer(f"classifier:{tmp_path / 'plain'}").score(rows, ["warmth", "verbosity"])
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.clip(found, 0, 4) == pytest.approx(scorer.score(rows, ["warmth", "verbosity"]), abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    chat = [*rows[0]["prompt"], {"role": "assistant", "content": rows[0]["response"]}]
    ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        assert model(ids).logits[0].numpy() == pytest.approx(expected[0], abs=1e-5)
    assert export_command(ExportConfig(str(tmp_path / "fit"), str(tmp_path / "plain"))) == said


def test_other_scorers_and_curves_are_named(rated: Path, tiny: Path, tmp_path: Path) -> None:
    fit_command(FitConfig(str(rated), str(tmp_path / "linear")))
    with pytest.raises(SteerError, match="kind linear, which no other program reads"):
        export_command(ExportConfig(str(tmp_path / "linear"), str(tmp_path / "out")))
    settings = ("adapter=none", "num_train_epochs=1")
    fit_command(FitConfig(str(rated), str(tmp_path / "fit"), kind="regression", model=str(tiny), set=settings))
    said = export_command(ExportConfig(str(tmp_path / "fit"), str(tmp_path / "plain")))
    assert "before calibration (quantile), which its head cannot hold" in said


class Hub:
    """What would be sent to the hub."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    real: Any = None

    def _check(self, method: str, *arguments: Any, **options: Any) -> None:
        """Raise TypeError for what the method of `huggingface_hub.HfApi` does not take."""
        signature(getattr(self.real, method)).bind(self, *arguments, **options)

    def create_repo(self, name: str, **options: Any) -> str:
        self._check("create_repo", name, **options)
        self.calls.append((name, options))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, **options: Any) -> None:
        self._check("upload_folder", **options)
        files = {path.name for path in Path(options["folder_path"]).rglob("*") if path.is_file()}
        readme = (Path(options["folder_path"]) / "README.md").read_text()
        for path in Path(options["folder_path"]).glob("*.json*"):
            if not any(fnmatch(path.name, pattern) for pattern in options["ignore_patterns"]):
                assert gettempdir() not in path.read_text(), f"{path.name} names a folder of this machine"
        self.calls.append(("upload", {**options, "files": files, "readme": readme}))

    def upload_file(self, **options: Any) -> None:
        self._check("upload_file", **options)
        self.calls.append(("file", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    import huggingface_hub

    Hub.calls, Hub.real = [], huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub.calls


def test_a_policy_is_uploaded_with_what_was_measured(trained: Path, tmp_path: Path, hub: Any) -> None:
    (tmp_path / "evaluation").mkdir()
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    figures = {"attributes": {"warmth": {"partial_slope": interval, "spearman": {**interval, "mean": None}}}}
    report = {"gold": "people", "dials": [{"name": "policy", "targets": 9, "result": figures}]}
    (tmp_path / "evaluation" / "report.json").write_text(json.dumps(report))
    config = ExportConfig(
        str(trained), str(tmp_path / "out"), push_to_hub="me/policy", evaluation=str(tmp_path / "evaluation")
    )
    said = export_command(config)
    assert said.endswith("Uploaded to https://huggingface.co/me/policy.")
    (name, created), (_, sent), (_, file) = hub
    assert name == "me/policy"
    assert created == {"repo_type": "model", "private": None, "exist_ok": True}
    assert {"steer.json", "model.safetensors", "README.md"} <= sent["files"]
    readme = sent["readme"]
    assert readme.startswith("---\nlibrary_name: transformers\ntags:\n- steer\n- conditional\n---\n")
    assert "Trained by `conditional`" in readme
    assert "| training rows | " in readme
    assert "| warmth | higher | 0: " in readme
    asked = re.search(r"attributes=(\{.*?\}), \.\.\.", readme)
    assert asked
    assert f"attributes: {asked[1]}" in said, "the card asks for what the command says is supported"
    assert "| warmth | 0.50 [0.40, 0.60] | - |" in readme
    assert str(tmp_path) not in readme
    assert str(trained) not in readme
    card, sent_card = read_json(tmp_path / "out" / "steer.json"), json.loads(file["path_or_fileobj"])
    assert file["path_in_repo"] == "steer.json"
    assert Path(card["base"]).is_absolute()
    assert sent_card == {**card, "base": Path(card["base"]).name}
    folder = str(tmp_path / "fit")
    for spec, kept in (
        (folder, ""),
        (f"judge:{folder}", ""),
        ("countable:words", "countable:words"),
        ("human", "human"),
    ):
        assert Card(folder, "", "lora", "mle", scorer_spec=spec).without_paths().scorer_spec == kept
    hub.clear()
    export_command(ExportConfig(str(trained), str(tmp_path / "out"), push_to_hub="me/policy", private=True))
    assert hub[0][1]["private"] is True
    assert "has not been measured here" in hub[1][1]["readme"]


def test_rows_and_scorers_are_uploaded(labels: Path, rated: Path, tiny: Path, tmp_path: Path, hub: Any) -> None:
    said = export_command(ExportConfig(str(labels), str(tmp_path / "rows"), push_to_hub="me/rows"))
    assert "300 labelled rows" in said
    assert hub[0][1]["repo_type"] == "dataset"
    assert {"data.jsonl", "schema.json", "README.md"} <= hub[1][1]["files"]
    assert {"config.json", "done.json"} <= {*hub[1][1]["ignore_patterns"]}  # with paths of this machine
    assert "300 rows (" in hub[1][1]["readme"]
    assert Labelled.of(tmp_path / "rows" / "data.jsonl").rows == Labelled.of(labels).rows
    hub.clear()
    settings = ("adapter=none", "num_train_epochs=1")
    fit_command(FitConfig(str(rated), str(tmp_path / "fit"), kind="regression", model=str(tiny), set=settings))
    export_command(ExportConfig(str(tmp_path / "fit"), str(tmp_path / "plain"), push_to_hub="me/scorer"))
    assert "# Attribute model `regression`" in hub[1][1]["readme"]
    assert "its logits are the scores of" in hub[1][1]["readme"]


def test_a_refusal_of_the_hub_is_one_sentence(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError

    for error, message in [
        (HFValidationError("no such\nname"), "the hub does not take it .no such name"),
        (LocalTokenNotFoundError("no token"), 'nobody is logged in to the hub. Run "hf auth login"'),
        (HTTPError("no network"), "the hub does not take it .no network"),
    ]:

        def refused(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(huggingface_hub, "HfApi", lambda refused=refused: SimpleNamespace(create_repo=refused))
        with pytest.raises(SteerError, match=message) as found:
            export_command(ExportConfig(str(trained), str(tmp_path / "out"), push_to_hub="me/x"))
        assert "\n" not in str(found.value)


def test_flags_of_policies_are_refused_elsewhere(labels: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="--format gguf: is for policies"):
        export_command(ExportConfig(str(labels), str(tmp_path / "out"), format="gguf"))
    settings: dict[str, Any] = {"method": "mle", "adapter": "none", "max_steps": 1}
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "mle"), **settings))
    script = converter(tmp_path, WRITES)
    config = ExportConfig(
        str(tmp_path / "mle"), str(tmp_path / "out"), format="gguf", converter=str(script), target="a=1"
    )
    with pytest.raises(SteerError, match="the policy takes none"):
        export_command(config)
