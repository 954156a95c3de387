"""The Python API: every public name is there, lazy, typed and documented, and a notebook needs no folder."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import steer

GOLD = "data_recipes.world_text:Gold"
FUNCTIONS = [name for name in steer.__all__ if inspect.isfunction(getattr(steer, name))]


def test_importing_steer_imports_nothing_heavy() -> None:
    code = "import steer, sys, json; print(json.dumps(sorted(sys.modules))); steer.SteerError"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert not {"torch", "transformers", "datasets", "numpy", "click"} & set(modules)
    assert [name for name in modules if name.startswith("steer")] == ["steer"]


def test_type_checkers_and_python_find_the_same_names() -> None:
    tree = ast.parse(Path(steer.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert typed == steer._MODULES
    assert sorted(typed) == sorted(steer.__all__)
    assert set(steer.__all__) <= set(dir(steer))
    with pytest.raises(AttributeError, match="module 'steer' has no attribute 'trian'"):
        _ = steer.trian  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in steer.__all__ if name != "METHODS"])
def test_every_public_name_is_documented(name: str) -> None:
    value: Any = getattr(steer, name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}("), "the docstring that dataclass writes"
    public = [m for m in vars(value).values() if inspect.isfunction(m)] if inspect.isclass(value) else [value]
    fields = {f.name for f in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    for function in public:
        if not function.__name__.startswith("_") and function.__name__ not in fields:
            assert function.__doc__, f"{name}.{function.__name__}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_names_its_parameters_types_and_errors(name: str) -> None:
    function: Any = getattr(steer, name)
    text, parameters = function.__doc__, inspect.signature(function).parameters
    assert "SteerError" in text or name == "write_rows"
    assert "return" in function.__annotations__
    assert all(parameter.annotation is not parameter.empty for parameter in parameters.values())
    for parameter in list(parameters)[1:] if len(parameters) > 2 else ():  # the first is what the first line is about
        assert f"`{parameter}`" in text, f"{name}: {parameter} is not documented"
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 2


def test_a_setting_is_no_second_name_of_an_argument(policy: steer.Policy, labels: Path) -> None:
    """Else one of the two would win in silence."""
    for wrong in (
        lambda: steer.generate(policy, ["hi"], target="verbosity=0"),
        lambda: steer.generate(policy, ["hi"], targets="best", target="verbosity=0"),
    ):
        with pytest.raises(steer.SteerError, match="unknown setting 'target'; it is `targets=` here"):
            wrong()
    with pytest.raises(steer.SteerError, match="unknown setting 'targets'; it is `target=` here"):
        policy.generate("hi", targets="verbosity=0")
    with pytest.raises(steer.SteerError, match="unknown setting 'method'; it is `methods=` here"):
        steer.compare(str(labels), model="model", methods=["mle"], method=["dpo"])
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    for name in FUNCTIONS:
        arguments = inspect.signature(getattr(steer, name)).parameters
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        settings = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert not {f"{setting}s" for setting in settings} & {*arguments}, name


def test_a_notebook_needs_no_folder(tiny: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = steer.read_rows(labels, limit=200)
    labelled = steer.label(rows, scorer=GOLD, min_support=1)
    assert labelled.support
    policy = steer.train(labelled, model=str(tiny), adapter="none", max_steps=2, learning_rate=1e-3)
    assert policy.facts["steps"] == 2
    text = policy.generate("tell me about bees.", target="verbosity=0", max_new_tokens=8)
    answers = steer.generate(policy, rows[:3], targets=("best", "none"), n=2, max_new_tokens=8)
    assert isinstance(text, str)
    assert len(answers) == len({row["prompt"][0]["content"] for row in rows[:3]}) * 2 * 2
    sizes = {"num_prompts": 6, "grid": 6, "resamples": 20, "max_new_tokens": 8}
    evaluation = steer.evaluate(policy, prompts=labelled, gold=GOLD, **sizes)
    assert evaluation.table
    assert evaluation.dial
    assert not list(tmp_path.iterdir())
